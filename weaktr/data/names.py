"""Names in VOC's and COCO's layouts: of classes in whatever spelling, lists of classes, and the files of an image."""

import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError
from .spelling import means_no_class, plain

PICTURES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG")  # endings, the first that is there counts
MASKS = (".png", ".PNG")
ANNOTATIONS = (".xml", ".XML")


def alike(name: str) -> str:
    """What names of one class have in common: as `plain`, and `potted plant` is `pottedplant`."""
    return plain(name).replace(" ", "")


def check_classes(names: Iterable[str], source: str) -> None:
    """Refuse names that cannot be told apart, or that are none of a class.

    Args:
        names: The classes, each once.
        source: Where they stand, as the message calls it.

    Raises:
        DataError: Two are one name in two spellings, or a name means the background or void.
    """
    seen: dict[str, str] = {}
    for name in names:
        if means_no_class(name):
            raise DataError(
                f"{source} has {name!r} as a class; background is 0 in masks and void 255, without a name: take it out"
            )
        first = seen.setdefault(alike(name), name)
        if first != name:
            raise DataError(f"{source} has {first!r} and {name!r}, which are one name; write it in one way")


def read_classes(path: Path) -> list[str]:
    """The classes of a text file, a class a line, in the order of their values in masks from 1 on.

    Names of the background or of void before them, as tools write them, are left out.

    Raises:
        DataError: The file is not text, names no class, or names one twice, in whatever spelling.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8, a class a line") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); write a class a line") from error
    names = [line.strip() for line in text.splitlines()]
    names = list(itertools.dropwhile(means_no_class, filter(None, names)))
    if not names:
        raise DataError(f"{path} names no class; write a class a line, in the order of their values in masks")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} holds {twice[0]!r} twice; remove one")
    check_classes(names, str(path))
    return names


def find(folders: Sequence[Path], names: Iterable[str], endings: Sequence[str]) -> Path:
    """The file of one of the names in one of the folders.

    Args:
        folders: Where to look; the first first.
        names: The names without ending, in any Unicode form; the first first.
        endings: Of the files; an earlier ending counts before an earlier name.

    Returns:
        The file; where there is none, the path of the first name with the first ending in the first folder.
    """
    spelt = [form for name in names for form in _forms(name)]
    for ending in endings:
        for name in spelt:
            for folder in folders:
                path = folder / f"{name}{ending}"
                if path.is_file():
                    return path
    return folders[0] / f"{spelt[0]}{endings[0]}"


def _forms(name: str) -> Iterable[str]:
    """The name as it is given, and in the two forms in which file systems keep letters with accents."""
    if name.isascii():
        return (name,)
    return dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)))

"""How people spell things: names of classes that mean the same, lists of classes, and files under a near name."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError

PICTURES = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG")  # endings, the first that is there counts
MASKS = (".png", ".PNG")
ANNOTATIONS = (".xml", ".XML")
BACKGROUND = ("background", "_background_", "__background__")  # names of the value 0 in annotation tools
VOIDS = ("void", "ignore", "_ignore_", "__ignore__", "unlabeled", "unlabelled")  # of pixels that count for nothing


def alike(name: str) -> str:
    """What names of one class have in common: neither case, nor white space, nor Unicode form counts."""
    return "".join(unicodedata.normalize("NFC", name).casefold().split())


def is_class(name: str) -> bool:
    """Whether a name is that of a class, not one of the background or of void pixels."""
    return alike(name) not in (*BACKGROUND, *VOIDS)


def check_classes(names: Sequence[str], source: str) -> None:
    """Refuse names that cannot be told apart, or that are none of a class.

    Args:
        names: The classes.
        source: Where they stand, as the message calls it.

    Raises:
        DataError: Two are one name in two spellings, or a name means the background or void.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not is_class(name):
            raise DataError(
                f"{source} has {name!r} as a class; background is 0 in masks and void 255, without a name: take it out"
            )
        first = seen.setdefault(alike(name), name)
        if first != name:
            raise DataError(f"{source} has {first!r} and {name!r}, which are one name; write it in one way")


def read_classes(path: Path) -> list[str]:
    """The classes of a text file, a class a line, in the order of their values in masks from 1 on.

    A first line that names the background stands for the value 0 and is none of them.

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
    names = [name for name in names if name]
    if names and alike(names[0]) in BACKGROUND:
        del names[0]
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

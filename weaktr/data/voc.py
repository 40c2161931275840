"""Data sets in VOC12's layout: the VOC devkit itself, the embedded `synthetic` one, and classes of one's own.

The classes are those of classes.txt beside the folders, a class a line. Without that file they are VOC's twenty where
the annotations name these, else the names in the annotations, sorted.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import released
from .dataset import Dataset, Remark
from .lists import read_list
from .names import ANNOTATIONS, MASKS, PICTURES, alike, check_classes, find, read_classes
from .spelling import listed

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
KNOWN = {alike(name): name for name in VOC_CLASSES}
ENCODING = re.compile(rb"""encoding\s*=\s*["']([\w.-]+)""", re.ASCII)  # as an XML file declares it
FOLDERS = ("JPEGImages", "SegmentationClass", "SegmentationClassAug")  # of pictures and masks


class VOC(Dataset):
    """`VOCdevkit/VOC2012` below a root (or the root itself): JPEGImages, SegmentationClass, Annotations, ImageSets.

    Image labels come from the XML annotations (all objects, difficult ones too), masks from SegmentationClass, else
    from SegmentationClassAug. Images of a test list need neither; they can be predicted.

    Args:
        root: The folder that holds the devkit, the devkit's own, or VOC2012.
        classes: The C foreground names, in the order of their mask values 1…C; None for those that the files name.

    Raises:
        DataError: There is no folder JPEGImages, or the classes cannot be told.
    """

    name = "voc12"

    def __init__(self, root: Path | str, classes: Sequence[str] | None = None) -> None:
        root = Path(root)
        folder = devkit(root)
        if folder is None:
            raise DataError(_no_devkit(root))
        self._notes: tuple[str, ...] = ()
        if classes is None:
            classes, self._notes = _own_classes(folder)
        super().__init__(root, folder, classes)
        self._named = {alike(name): name for name in classes}

    def ids(self, list_name: str) -> list[str]:
        """The image ids of ImageSets/Segmentation/<list_name>.txt, see `read_list`.

        Where train_aug is asked for and does not exist, it is trainaug, as the released list file is called. Where
        there is no folder Segmentation, as without masks, lists lie in ImageSets/Main.
        """
        lists = self.folder / "ImageSets" / "Segmentation"
        if not lists.is_dir() and (lists.parent / "Main").is_dir():
            lists = lists.parent / "Main"
        name, colon, count = list_name.partition(":")
        if name == "train_aug" and not (lists / "train_aug.txt").is_file() and (lists / "trainaug.txt").is_file():
            name = "trainaug"
        return read_list(lists, name + colon + count, _composed)

    def image_path(self, image_id: str) -> Path:
        """Where the picture of an image lies, a JPEG before a PNG."""
        return find((self.folder / "JPEGImages",), (image_id,), PICTURES)

    def mask_path(self, image_id: str) -> Path:
        """Where the mask of an image lies: VOC's own before SBD's in SegmentationClassAug, whose outlines differ."""
        return find([self.folder / place for place in FOLDERS[1:]], (image_id,), MASKS)

    @cached_property
    def has_masks(self) -> bool:
        """Whether any image has a mask."""
        places = [self.folder / place for place in FOLDERS[1:]]
        return any(path.suffix in MASKS for place in places if place.is_dir() for path in place.iterdir())

    def _read_labels(self, image_id: str) -> NDArray[np.float32]:
        path = find((self.folder / "Annotations",), (image_id,), ANNOTATIONS)
        names = read_names(path)
        unknown = sorted(name for name in names if alike(name) not in self._named)
        if unknown:
            raise DataError(
                f"annotation {path} names {unknown[0]!r}; correct it, the classes are {listed(self.classes)}; "
                "classes of one's own stand in classes.txt beside the folder Annotations, a class a line"
            )
        shown = {self._named[alike(name)] for name in names}
        return np.array([name in shown for name in self.classes], np.float32)

    def noticed(self) -> Sequence[str]:
        """Where classes of one's own come from."""
        return self._notes

    def compare_released(self, list_name: str, ids: Sequence[str], counts: NDArray[np.int64]) -> Iterable[Remark]:
        """Compare a complete list of VOC12 with what is known of it, see `released.compare`."""
        if self.classes != VOC_CLASSES:
            return ()
        return released.compare(self.folder, list_name, ids, counts)

    def fingerprint(self) -> str:
        """Hex digest of the class names, the annotations, and all images' and masks' names and sizes; not of lists."""
        return self._digest(FOLDERS, whole=_annotations(self.folder))


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def devkit(root: Path) -> Path | None:
    """The folder with JPEGImages: VOCdevkit/VOC2012 or VOC2012 below `root`, or `root`; None where there is none."""
    places = (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root)
    return next((place for place in places if (place / "JPEGImages").is_dir()), None)


def _no_devkit(root: Path) -> str:
    """What is said of a root without a devkit, with a folder of another name that has one."""
    others = sorted(path.parent for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/JPEGImages"))
    missing = root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    remedy = "unpack the devkit there or give its folder with data_root"
    such = f"; {others[0]} has one" if others else ""
    return f"no VOC data set in {root}: {missing} does not exist; {remedy}{such}"


def _composed(image_id: str) -> str:
    """The id in the form in which letters and their accents are one."""
    return unicodedata.normalize("NFC", image_id)


def _annotations(folder: Path) -> list[Path]:
    """All XML annotations, in the order of their names."""
    return sorted(path for path in (folder / "Annotations").glob("*") if path.suffix in ANNOTATIONS)


def read_names(path: Path) -> set[str]:
    """The names of all objects in an XML annotation, as they are spelt, without the white space around them.

    Raises:
        DataError: The file is missing or is no XML.
    """
    try:
        content = path.read_bytes()
        names = [name.text or "" for name in _parsed(content).iterfind("object/name")]
    except FileNotFoundError as error:
        raise DataError(
            f"annotation {path} does not exist; image labels are read from it: restore it, or take the image off its "
            "list; without labels it can be predicted, and nothing else"
        ) from error
    except (ElementTree.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        raise DataError(
            f"annotation {path} is not well-formed XML ({error}); restore the file, or save it in UTF-8"
        ) from error
    return {name.strip() for name in names}


def _parsed(content: bytes) -> ElementTree.Element:
    """The root of an XML file, in any encoding that Python knows; the parser itself knows none of several bytes."""
    try:
        return ElementTree.fromstring(content)
    except ValueError:  # ElementTree.ParseError is none: it is a SyntaxError
        declared = ENCODING.search(content[:200])
        if declared is None:
            raise
        return ElementTree.fromstring(content.decode(declared[1].decode()))


# ── Classes of one's own ──────────────────────────────────────────────────────────────────────────────────────────
def _own_classes(folder: Path) -> tuple[Sequence[str], tuple[str, ...]]:
    """The classes that the files name, and a sentence on where they stand unless they are VOC's."""
    given = folder / "classes.txt"
    if given.is_file():
        classes = read_classes(given)
        if [alike(name) for name in classes] == list(KNOWN):
            return VOC_CLASSES, ()
        return classes, (f"classes of classes.txt, in its order: {listed(classes)}",)
    spelt = _spelt(folder)
    foreign = [name for name in spelt if alike(name) not in KNOWN]
    if len(foreign) <= len(spelt) / 2:  # a few others are mistakes, which `labels` names with their file
        return VOC_CLASSES, ()
    classes = sorted(spelt)
    source = f"{folder / 'Annotations'} (classes.txt beside it would be the list of classes, a class a line)"
    check_classes(classes, source)
    remedy = "another order, as masks may have it, is that of a file classes.txt"
    return classes, (f"classes as the annotations name them, sorted: {listed(classes)}; {remedy}",)


def _spelt(folder: Path) -> set[str]:
    """The names of objects in the annotations; where all of VOC's are among them, of the first files that show so."""
    spelt: set[str] = set()
    for path in _annotations(folder):
        try:
            spelt |= read_names(path)
        except DataError:
            continue  # named with its image, where that is used
        if len(spelt) >= len(KNOWN) and {alike(name) for name in spelt} >= KNOWN.keys():
            break
    return spelt - {""}

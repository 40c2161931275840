"""COCO's layout: images/, annotations/instances_*.json, voc_format/class_labels/ (masks) and voc_format/<list>.txt.

COCO14 and COCO 2017 are read alike, and so are instance annotations of one's own: a JSON whose categories are all
called as COCO's are has these classes, whatever its ids; any other has its own categories as classes, numbered from 1
in the order of their ids, or in that of voc_format/classes.txt, which `write_masks` writes.

COCO's masks number the classes as COCO does, 1 to 90, and leave ten of those ids unused; published models have all 90
classes. `coco14` keeps that numbering, `coco14_80` closes the gaps. One id map serves both ways.

The released lists, images and masks name an image by 12 digits (000000057870), as COCO 2017 does, COCO14's own images
and annotations by its split as well (COCO_train2014_000000057870). COCO numbers the images of all splits and years
together, so the digits tell which image is meant: lists, images, masks and annotations may each be in either spelling,
or in both.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import atomic, remove_leftovers
from . import images as pictures
from . import instances
from .dataset import Dataset
from .images import VOID, read_label_png, write_label_png
from .instances import read_annotations
from .lists import is_id, read_list
from .names import MASKS, PICTURES, alike, check_classes, find, read_classes
from .spelling import listed, means_no_class

NAMES = tuple(
    """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra,
giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard,
sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate,
wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza,
donut, cake, chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock,
vase, scissors, teddy bear, hair drier, toothbrush""".replace("\n", " ").split(", ")
)
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids of classes that were planned and never annotated
USED = tuple(i for i in range(1, 91) if i not in UNUSED)  # COCO id of contiguous class 1, 2, … 80
PREFIXES = ("", "COCO_train2014_", "COCO_val2014_")  # of the 12 digits of an image
SPELT = re.compile(f"({'|'.join(PREFIXES)})([0-9]{{12}})")
IDS = {alike(NAMES[i - 1]): i for i in USED}  # of the classes, by their names
YEARS = ("2014", "2017")
SPLITS = ("train", "val", "test")
COMPLETE = {  # images with at least one object in the whole of COCO
    "instances_train2014.json": ("COCO14", 82081),
    "instances_val2014.json": ("COCO14", 40137),
    "instances_train2017.json": ("COCO 2017", 117266),
    "instances_val2017.json": ("COCO 2017", 4952),
}


def to_contiguous(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A 91-id mask (H,W) in the classes 1…80; background and void stay.

    Raises:
        ValueError: The mask holds an id that COCO does not use.
    """
    return _renumber(mask, USED, range(1, 81), "COCO id")


def from_contiguous(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `to_contiguous`."""
    return _renumber(mask, range(1, 81), USED, "contiguous COCO class")


def _renumber(mask: NDArray[np.uint8], old: Sequence[int], new: Sequence[int], what: str) -> NDArray[np.uint8]:
    """The mask with `new` values in place of `old` ones; ValueError for a value that is not `what`."""
    table = np.full(256, -1, np.int16)
    table[[0, VOID, *old]] = [0, VOID, *new]
    found = table[mask]
    strange = mask[found < 0]
    if len(strange):
        raise ValueError(f"{int(strange[0])} is not a {what}")
    return found.astype(np.uint8)


def image_number(image_id: str) -> str:
    """What the spellings of an image's id have in common: its 12 digits; a name of another form as it is."""
    spelt = SPELT.fullmatch(image_id)
    return spelt[2] if spelt else image_id


def spellings(image_id: str) -> list[str]:
    """The names that an image's files may have, the given one first."""
    spelt = SPELT.fullmatch(image_id)
    others = [prefix for prefix in PREFIXES if prefix != spelt[1]] if spelt else []
    return [image_id, *(prefix + image_number(image_id) for prefix in others)]


def _values(mask: NDArray[np.uint8]) -> set[int]:
    """The classes of a mask, without background and void."""
    return set(pictures.pixels_by_value(mask)) - {0, VOID}


class COCO(Dataset):
    """images/, annotations/ and voc_format/ below a root.

    Image labels come from annotations/instances_*.json where there are some, else they are the classes of the image's
    mask, all pixels forgotten.

    Args:
        root: The folder with all of them.
        contiguous: 80 classes instead of 90; classes of one's own have no gaps anyway.

    Raises:
        DataError: A folder is missing, or the classes cannot be told.
    """

    name = "coco14"

    def __init__(self, root: Path | str, contiguous: bool = False) -> None:
        root = Path(root)
        self._images = image_folders(root)
        if not self._images:
            raise _no_coco(root, "images", "")
        if not (root / "voc_format").is_dir():
            raise _no_coco(root, "voc_format", "; `weaktr data coco-masks` makes it from annotations/instances_*.json")
        self.contiguous = contiguous
        self._classes = Numbering(root)
        own = self._classes.own
        self._numbers = range(1, len(own) + 1) if own else USED if contiguous else range(1, len(NAMES) + 1)
        super().__init__(root, root, own or [NAMES[i - 1] for i in self._numbers])

    def ids(self, list_name: str) -> list[str]:
        """The image ids of voc_format/<list_name>.txt as they are spelt there, see `read_list`.

        Raises:
            DataError: The list cannot be used, or holds both spellings of an image.
        """
        folder, split = self.root / "voc_format", list_name.partition(":")[0]
        if not (folder / f"{split}.txt").is_file() and annotation_file(self.root, split).is_file():
            raise DataError(
                f"list {folder / f'{split}.txt'} does not exist; `weaktr data coco-masks {self.root} --split {split}` "
                f"makes it, and the masks, from {annotation_file(self.root, split).name}"
            )
        return read_list(folder, list_name, image_number)

    def image_path(self, image_id: str) -> Path:
        """Where the picture of an image lies: images/, or the folder of a split in it or beside it."""
        return find(self._images, spellings(image_id), PICTURES)

    def mask_path(self, image_id: str) -> Path:
        """Where the mask of an image lies."""
        return _mask_path(self.root, image_id)

    def _read_mask(self, image_id: str) -> NDArray[np.uint8]:
        """In this reader's numbering; DataError for a mask that numbers COCO's 80 classes."""
        path = self.mask_path(image_id)
        if self._classes.own:
            return read_label_png(path, len(self.classes) + 1)
        mask = read_label_png(path, len(NAMES) + 1)
        strange = _values(mask) & set(UNUSED)
        if strange:
            raise _eighty(path, min(strange), "COCO's 91 ids leave unused")
        return to_contiguous(mask) if self.contiguous else mask

    def check_numbering(self, image_id: str, mask: NDArray[np.uint8]) -> None:
        """Where all ids of an image are used in both numberings, its annotations tell which one the mask has."""
        if self._classes.own:
            return
        present = _values(from_contiguous(mask) if self.contiguous else mask)
        annotated = self._annotated.get(image_number(image_id), present)
        lacked = present - annotated
        if lacked and max(present) <= len(USED) and {USED[i - 1] for i in present} <= annotated:
            raise _eighty(self.mask_path(image_id), min(lacked), "its annotations lack")

    def _read_labels(self, image_id: str) -> NDArray[np.float32]:
        number = image_number(image_id)
        if not self._annotated:
            present = _values(read_label_png(self.mask_path(image_id), max(self._numbers) + 1))
        elif number in self._annotated:
            present = self._annotated[number]
        else:
            raise DataError(f"image {image_id} is not in any annotations/instances_*.json; take it off the list")
        return np.array([i in present for i in self._numbers], np.float32)

    def warm(self) -> None:
        """Read the annotations now, see `Dataset.warm`."""
        _ = self._annotated

    @cached_property
    def _annotated(self) -> dict[str, set[int]]:
        """{image number: values in masks} from the instance annotations."""
        found: dict[str, set[int]] = {}
        for path in self._classes.files:
            for name, present in instances.shown_classes(path, self._classes.values(path)).items():
                number = image_number(name)
                before = found.setdefault(number, present)
                if before != present and (self._classes.own or not SPELT.fullmatch(name)):
                    raise DataError(
                        f"annotations {path}: image {name} is in another file of annotations as well, with other "
                        "classes; an image needs a name of its own"
                    )
                before |= present
        return found

    def noticed(self) -> Sequence[str]:
        """Where classes of one's own come from, and whether COCO's have other ids."""
        return self._classes.noticed()

    def fingerprint(self) -> str:
        """Hex digest of the class names, and the names and sizes of images, masks and annotations; not of the lists.

        Of annotations with ids of their own the content counts, too.
        """
        images = ["images"] if (self.root / "images").is_dir() else [folder.name for folder in self._images]
        whole = self._classes.files if self._classes.noticed() else ()
        return self._digest([*images, "voc_format/class_labels", "annotations"], whole)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def image_folders(root: Path) -> list[Path]:
    """The folders of a data set that hold its pictures: images/ and those of splits in it, or beside it."""
    images = root / "images"
    splits = [f"{split}{year}" for year in (*YEARS, "") for split in SPLITS]
    splits += [path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json")]
    place = images if images.is_dir() else root
    found = [place / split for split in dict.fromkeys(splits) if (place / split).is_dir()]
    return [images, *found] if images.is_dir() else found


def _no_coco(root: Path, place: str, more: str) -> DataError:
    return DataError(
        f"no COCO data set in {root}: {root / place} does not exist; give the folder that holds images/ and "
        f"voc_format/ with data_root{more}"
    )


def _mask_path(root: Path, image_id: str) -> Path:
    return find((root / "voc_format" / "class_labels",), spellings(image_id), MASKS)


def annotation_files(root: Path) -> list[Path]:
    """The instance annotations: of one year where it is COCO's, 2014 unless only 2017's pictures are there; else all.

    Both years hold the same images and objects, split in two ways.
    """
    folder = root / "annotations"
    names = {place.name for place in image_folders(root)}
    pictured = sorted(YEARS, key=lambda year: not names & {f"train{year}", f"val{year}"})
    for pattern in (*(f"instances_*{year}.json" for year in pictured), "instances_*.json"):
        files = sorted(folder.glob(pattern))
        if files:
            return files
    return []


def annotation_file(root: Path, split: str) -> Path:
    """The instance annotations of a split; where there are none, where COCO14's would lie."""
    wanted = [f"instances_{split}{year}.json" for year in (*YEARS, "")]
    found = [path for path in annotation_files(root) if path.name in wanted]
    return found[0] if found else root / "annotations" / wanted[0]


# ── Classes ───────────────────────────────────────────────────────────────────────────────────────────────────────
class Numbering:
    """Which value in masks each category of the instance annotations has.

    Args:
        root: The folder of the data set.

    Attributes:
        files: the instance annotations.
        own: the classes where they are one's own, in the order of their values 1, 2, …; none where they are COCO's.

    Raises:
        DataError: Categories cannot be read or told apart, or are not those of classes.txt.
    """

    def __init__(self, root: Path) -> None:
        self.files = annotation_files(root)
        self._categories = {path.name: instances.read_categories(path) for path in self.files}
        self._list = root / "voc_format" / "classes.txt"
        self.own = self._own_classes()

    def _own_classes(self) -> list[str]:
        """Those of classes.txt, else of the files; none where all are COCO's."""
        named = list(dict.fromkeys(name for names in self._categories.values() for name in (names or {}).values()))
        named = [name for name in named if not means_no_class(name)]
        if self._list.is_file():
            classes = read_classes(self._list)
            strange = {alike(name): name for name in named}
            for name in classes:
                strange.pop(alike(name), None)
            if strange:
                raise DataError(
                    f"{self._list} lacks {next(iter(strange.values()))!r}, a category of the annotations; add it at "
                    "the end, so that masks stay as they are"
                )
            return classes
        if all(alike(name) in IDS for name in named):
            return []
        check_classes(named, f"annotations {self.files[0].parent}: `categories`")
        return named

    def values(self, path: Path) -> dict[Any, int]:
        """The value in masks of each category id of an annotation file."""
        categories = self._categories[path.name]
        if categories is None:
            if self.own:
                raise DataError(f"annotations {path} have no `categories`, and others have their own; add them")
            return {i: i for i in range(1, len(NAMES) + 1)}
        of_name = {alike(name): value for value, name in enumerate(self.own, start=1)} or IDS
        return {number: of_name[alike(name)] for number, name in categories.items() if alike(name) in of_name}

    def noticed(self) -> Sequence[str]:
        """A sentence where the classes or their ids are not COCO's own."""
        if self.own:
            source = "voc_format/classes.txt" if self._list.is_file() else "the annotations, in the order of their ids"
            return (f"classes of {source}: {listed(self.own)}",)
        strange = next(self._renamed(), "")
        return (f"the annotations' categories are COCO's by name, with other ids: {strange}",) if strange else ()

    def _renamed(self) -> Iterator[str]:
        """COCO's classes that have another id in a file than COCO gives them, with both ids."""
        for categories in self._categories.values():
            for number, name in (categories or {}).items():
                known = IDS.get(alike(name), number)
                if known != number:
                    yield f"{name} is {number}, {known} in masks"

    def write(self) -> None:
        """Fix the classes of one's own, and so the values of masks, in classes.txt."""
        if self.own and not self._list.is_file():
            with atomic(self._list) as aside:
                aside.write_text("".join(f"{name}\n" for name in self.own), encoding="utf-8")


def _eighty(path: Path, value: int, reason: str) -> DataError:
    """The error for a mask that numbers 80 classes, as its `value` shows."""
    return DataError(
        f"mask {path} holds {value}, which {reason}: these masks number the 80 classes without gaps; convert them with "
        "weaktr.data.coco.from_contiguous, or delete them and make new ones from the annotations with `weaktr data "
        "coco-masks`"
    )


# ── Masks from annotations ────────────────────────────────────────────────────────────────────────────────────────
def write_masks(root: Path | str, split: str) -> int:
    """Make the masks and the list of a split from its instance annotations: 91-id masks, or of classes of one's own.

    Painted from the largest object to the smallest, so that small ones stay visible before large ones; regions of
    crowds are void where no object covers them. The list names the images with at least one object. Masks that exist
    already stay, in either spelling. Objects that cannot be drawn are named and left out.

    Args:
        root: The folder with annotations/; voc_format/ is made in it.
        split: "train", "val", or what else stands in the name of a file instances_<split>.json.

    Returns:
        The number of images in the list.

    Raises:
        DataError: The annotations cannot be read, or nothing in them can be drawn.
    """
    root = Path(root)
    path = annotation_file(root, split)
    annotations = read_annotations(path)
    numbering = Numbering(root)
    numbering.write()
    remove_leftovers(root / "voc_format")
    painter = Painter(root, path, numbering.values(path))
    objects: dict[Any, list[dict[str, Any]]] = {}
    for thing in annotations["annotations"]:
        objects.setdefault(thing["image_id"], []).append(thing)
    names = instances.image_names(path, annotations)
    listed = [
        names[image["id"]]
        for image in annotations["images"]
        if image["id"] in objects and painter.paint(names[image["id"]], image, objects[image["id"]])
    ]
    if painter.faults:
        print(instances.in_words(painter.faults, path), flush=True)
    if not listed:
        raise DataError(f"annotations {path} have no object that can be drawn; masks need polygons or run lengths")
    with atomic(root / "voc_format" / f"{split}.txt") as aside:
        aside.write_text("".join(f"{image_id}\n" for image_id in listed), encoding="utf-8")
    return len(listed)


def complete(root: Path | str, split: str) -> str:
    """Of how many images the whole of COCO is whose annotations a split has, in words; "" for any other."""
    root = Path(root)
    name, size = COMPLETE.get(annotation_file(root, split).name, ("", 0))
    return f"all of {name} are {size}" if name and not Numbering(root).own else ""


class Painter:
    """Makes the masks of a file of annotations.

    Args:
        root: The folder of the data set.
        path: The annotations.
        values: {category id: value in masks}.
    """

    def __init__(self, root: Path, path: Path, values: Mapping[Any, int]) -> None:
        self._root = root
        self._path = path
        self._values = values
        self._folders = image_folders(root) or [root]
        self.faults: dict[str, list[str]] = {}  # why: objects that cannot be drawn

    def paint(self, name: str, image: Mapping[str, Any], objects: Sequence[instances.Thing]) -> bool:
        """Write the mask of an image, unless there is one; whether any of its objects can be drawn."""
        if not SPELT.fullmatch(name):
            self._check_name(name)
        height, width = instances.image_size(image) or self._measured(name)
        sound = [thing for thing in objects if self._can_be_drawn(thing, height, width)]
        path = _mask_path(self._root, name)
        if sound and not path.is_file():
            write_label_png(path, self._painted(sound, height, width))
        return bool(sound)

    def _check_name(self, name: str) -> None:
        """A name that is not COCO's can stand in a list, and is that of one picture."""
        if not is_id(name):
            raise DataError(
                f"annotations {self._path}: image {name!r} has a name that no list can hold; rename it, with letters, "
                "digits, - and _"
            )
        places = [place for place in self._folders if find((place,), (name,), PICTURES).is_file()]
        if len(places) > 1:
            raise DataError(
                f"annotations {self._path}: {name} is a picture in {places[0]} and in {places[1]}; an image needs a "
                "name of its own: rename one"
            )

    def _measured(self, name: str) -> tuple[int, int]:
        """Height and width of an image whose annotations do not say so."""
        return pictures.image_size(find(self._folders, spellings(name), PICTURES))

    def _can_be_drawn(self, thing: instances.Thing, height: int, width: int) -> bool:
        if thing["category_id"] not in self._values:
            raise instances.unknown_category(self._path, thing)
        fault = instances.shape_fault(thing, height, width)
        if fault:
            self.faults.setdefault(fault, []).append(instances.called(thing))
        return not fault

    def _painted(self, objects: Sequence[instances.Thing], height: int, width: int) -> NDArray[np.uint8]:
        """The mask (H,W) of an image: crowds first, then the objects from the largest to the smallest."""
        mask = np.zeros((height, width), np.uint8)
        for thing, shape in instances.drawn_objects(objects, height, width):
            mask[shape] = VOID if instances.is_crowd(thing) else self._values[thing["category_id"]]
        return mask

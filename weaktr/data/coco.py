"""COCO14 in the layout of the released code: images/, voc_format/class_labels/ (91-id masks), voc_format/<list>.txt.

The masks number the classes as COCO does, 1 to 90, and leave ten of those ids unused; published models have all 90
classes. `coco14` keeps that numbering, `coco14_80` closes the gaps. One id map serves both ways.

The released lists, images and masks name an image by 12 digits (000000057870), COCO's own images and annotations by
its split as well (COCO_train2014_000000057870). COCO numbers the images of all splits together, so the digits tell
which image is meant: lists, images, masks and annotations may each be in either spelling, or in both.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import atomic, remove_leftovers
from .dataset import Dataset
from .images import VOID, read_label_png, write_label_png
from .lists import read_list

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
SIZES = {"train": 82081, "val": 40137}  # images with at least one object in all of COCO14


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


def _find(folders: Sequence[Path], image_id: str, ending: str) -> Path:
    """The file of an image in any spelling, that of the id first; without a file, the id's path in the first folder."""
    for name in spellings(image_id):
        for folder in folders:
            path = folder / f"{name}{ending}"
            if path.is_file():
                return path
    return folders[0] / f"{image_id}{ending}"


def _values(mask: NDArray[np.uint8]) -> set[int]:
    """The classes of a mask, without background and void."""
    return set(np.unique(mask).tolist()) - {0, VOID}


class COCO(Dataset):
    """images/ and voc_format/ below a root.

    Image labels come from annotations/instances_{train,val}2014.json where one of them exists, else they are the
    classes of the image's mask, all pixels forgotten.

    Args:
        root: The folder with both.
        contiguous: 80 classes instead of 90.

    Raises:
        DataError: A folder is missing.
    """

    name = "coco14"

    def __init__(self, root: Path | str, contiguous: bool = False) -> None:
        root = Path(root)
        for place in ("images", "voc_format"):
            if not (root / place).is_dir():
                raise DataError(
                    f"no COCO data set in {root}: {root / place} does not exist; give the folder that holds "
                    "images/ and voc_format/ with data_root"
                )
        self.contiguous = contiguous
        self._coco_ids = USED if contiguous else tuple(range(1, len(NAMES) + 1))  # of the classes, in their order
        super().__init__(root, root, [NAMES[i - 1] for i in self._coco_ids])

    def ids(self, list_name: str) -> list[str]:
        """The image ids of voc_format/<list_name>.txt as they are spelt there, see `read_list`.

        Raises:
            DataError: The list cannot be used, or holds both spellings of an image.
        """
        return read_list(self.root / "voc_format", list_name, image_number)

    def image_path(self, image_id: str) -> Path:
        """Where the JPEG of an image lies: images/, or below it the folder of a split."""
        images = self.root / "images"
        return _find((images, images / "train2014", images / "val2014"), image_id, ".jpg")

    def mask_path(self, image_id: str) -> Path:
        """Where the 91-id mask of an image lies."""
        return _find((self.root / "voc_format" / "class_labels",), image_id, ".png")

    def _read_mask(self, image_id: str) -> NDArray[np.uint8]:
        """In this reader's numbering; DataError for a mask that numbers 80 classes."""
        path = self.mask_path(image_id)
        mask = read_label_png(path, len(NAMES) + 1)
        strange = _values(mask) & set(UNUSED)
        if strange:
            raise _eighty(path, min(strange), "COCO's 91 ids leave unused")
        return to_contiguous(mask) if self.contiguous else mask

    def check_numbering(self, image_id: str, mask: NDArray[np.uint8]) -> None:
        """Where all ids of an image are used in both numberings, its annotations tell which one the mask has."""
        present = _values(from_contiguous(mask) if self.contiguous else mask)
        annotated = self._annotated.get(image_number(image_id), present)
        lacked = present - annotated
        if lacked and max(present) <= len(USED) and {USED[i - 1] for i in present} <= annotated:
            raise _eighty(self.mask_path(image_id), min(lacked), "its annotations lack")

    def _read_labels(self, image_id: str) -> NDArray[np.float32]:
        if not self._annotated:
            present = _values(read_label_png(self.mask_path(image_id), len(NAMES) + 1))
        elif image_number(image_id) in self._annotated:
            present = self._annotated[image_number(image_id)]
        else:
            raise DataError(f"image {image_id} is not in any annotations/instances_*.json; take it off the list")
        return np.array([i in present for i in self._coco_ids], np.float32)

    def warm(self) -> None:
        """Read the annotations now, see `Dataset.warm`."""
        _ = self._annotated

    @cached_property
    def _annotated(self) -> dict[str, set[int]]:
        """{image number: set of COCO ids} from the instance annotations that exist."""
        found: dict[str, set[int]] = {}
        for path in sorted((self.root / "annotations").glob("instances_*2014.json")):
            annotations = read_annotations(path)
            numbers = {image["id"]: image_number(Path(image["file_name"]).stem) for image in annotations["images"]}
            for number in numbers.values():
                found.setdefault(number, set())
            for thing in annotations["annotations"]:
                found[numbers[thing["image_id"]]].add(thing["category_id"])
        return found

    def fingerprint(self) -> str:
        """Hex digest of the class names, and the names and sizes of images, masks and annotations; not of the lists."""
        return self._digest(("images", "voc_format/class_labels", "annotations"))


def _eighty(path: Path, value: int, reason: str) -> DataError:
    """The error for a mask that numbers 80 classes, as its `value` shows."""
    return DataError(
        f"mask {path} holds {value}, which {reason}: these masks number the 80 classes without gaps; convert them with "
        "weaktr.data.coco.from_contiguous, or delete them and make new ones from the annotations with `weaktr data "
        "coco-masks`"
    )


def read_annotations(path: Path | str) -> dict[str, Any]:
    """The content of an instances JSON.

    Raises:
        DataError: The file is missing, is not such a file, or has objects on images that it lacks.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if not {"images", "annotations"} <= set(content):
            raise KeyError("images, annotations")
        listed = {image["id"] for image in content["images"]}
        lost = {thing["image_id"] for thing in content["annotations"]} - listed
        if lost:
            raise KeyError(f"image {min(lost)}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"annotations {path} cannot be read ({error!r}); fetch instances_*2014.json again") from error
    return content


def write_masks(root: Path | str, split: str) -> int:
    """Make the 91-id masks and the list of a split from its instance annotations.

    Painted from the largest object to the smallest, so that small ones stay visible before large ones; regions of
    crowds are void where no object covers them. The list names the images with at least one object. Masks that exist
    already stay, in either spelling.

    Args:
        root: The folder with annotations/ and voc_format/.
        split: "train" or "val".

    Returns:
        The number of images in the list.

    Raises:
        DataError: The annotations cannot be read.
    """
    from pycocotools import coco

    root = Path(root)
    annotations = read_annotations(root / "annotations" / f"instances_{split}2014.json")
    objects: dict[int, list[dict[str, Any]]] = {}
    for thing in annotations["annotations"]:
        objects.setdefault(thing["image_id"], []).append(thing)
    images = [image for image in annotations["images"] if image["id"] in objects]
    reader = coco.COCO()
    reader.imgs = {image["id"]: image for image in images}
    remove_leftovers(root / "voc_format")
    for image in images:
        path = _find((root / "voc_format" / "class_labels",), Path(image["file_name"]).stem, ".png")
        if not path.is_file():
            write_label_png(path, _painted(image, objects[image["id"]], reader))
    with atomic(root / "voc_format" / f"{split}.txt") as aside:
        aside.write_text("".join(f"{Path(image['file_name']).stem}\n" for image in images))
    return len(images)


def _painted(image: dict[str, Any], objects: list[dict[str, Any]], reader: Any) -> NDArray[np.uint8]:
    """The mask (H,W) of an image: crowds first, then the objects from the largest to the smallest."""
    mask = np.zeros((image["height"], image["width"]), np.uint8)
    for thing in sorted(objects, key=lambda thing: (not thing["iscrowd"], -thing["area"])):
        mask[reader.annToMask(thing) > 0] = VOID if thing["iscrowd"] else thing["category_id"]
    return mask

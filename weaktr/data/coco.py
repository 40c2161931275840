"""COCO14 in the layout of the released code: images/, voc_format/class_labels/ (91-id masks), voc_format/<list>.txt.

The masks number the classes as COCO does, 1 to 90, and leave ten of those ids unused; published models have all 90
classes. `coco14` keeps that numbering, `coco14_80` closes the gaps. One id map serves both ways.
"""

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import atomic, remove_leftovers
from .images import VOID, read_label_png, write_label_png
from .lists import read_list
from .voc import VOC

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
SIZES = {"train": 82081, "val": 40137}  # images with at least one object in all of COCO14


def to_contiguous(mask):
    """91-id mask → classes 1…80, background and void unchanged. Raises ValueError for an id that COCO does not use."""
    return _renumber(mask, USED, range(1, 81), "COCO id")


def from_contiguous(mask):
    """The inverse of `to_contiguous`."""
    return _renumber(mask, range(1, 81), USED, "contiguous COCO class")


def _renumber(mask, old, new, what):
    table = np.full(256, -1, np.int16)
    table[[0, VOID, *old]] = [0, VOID, *new]
    found = table[mask]
    if (found < 0).any():
        raise ValueError(f"{int(mask[found < 0][0])} is no {what}")
    return found.astype(np.uint8)


class COCO(VOC):
    """images/ and voc_format/ below a root. contiguous: 80 classes instead of 90.

    Image labels come from annotations/instances_{train,val}2014.json where that is there, else they are the classes
    of the image's mask, all pixels forgotten. Raises DataError when a folder is missing.
    """

    name = "coco14"

    def __init__(self, root, contiguous=False):
        self.root = self.folder = Path(root)
        self.contiguous = contiguous
        self.classes = tuple(NAMES[i - 1] for i in USED) if contiguous else NAMES
        for place in ("images", "voc_format"):
            if not (self.root / place).is_dir():
                raise DataError(
                    f"no COCO data set in {self.root}: {self.root / place} does not exist; give the folder that holds "
                    "images/ and voc_format/ with data_root"
                )

    def ids(self, list_name):
        """The image ids of voc_format/<list_name>.txt, see `read_list`. Raises DataError for a bad list."""
        return read_list(self.root / "voc_format", list_name)

    def image_path(self, image_id):
        """Where the JPEG of an image lies: images/, or below it the folder of its split."""
        flat = self.root / "images" / f"{image_id}.jpg"
        split = self.root / "images" / image_id.removeprefix("COCO_").split("_")[0] / f"{image_id}.jpg"
        return split if split.is_file() else flat

    def mask_path(self, image_id):
        """Where the 91-id mask of an image lies."""
        return self.root / "voc_format" / "class_labels" / f"{image_id}.png"

    def mask(self, image_id):
        """Pixel truth (H,W) uint8 in this reader's numbering. Raises DataError for masks that number 80 classes."""
        path = self.mask_path(image_id)
        mask = read_label_png(path, len(NAMES) + 1)
        if strange := sorted(set(np.unique(mask).tolist()) & set(UNUSED)):
            raise _eighty(path, strange[0], "COCO's 91 ids leave unused")
        return to_contiguous(mask) if self.contiguous else mask

    def check_numbering(self, image_id, mask):
        """Where all ids of an image are used in both numberings, its annotations tell which one the mask has."""
        present = set(np.unique(from_contiguous(mask) if self.contiguous else mask).tolist()) - {0, VOID}
        annotated = self._annotated.get(image_id, present)
        lacked = sorted(present - annotated)
        if lacked and max(present) <= len(USED) and {USED[i - 1] for i in present} <= annotated:
            raise _eighty(self.mask_path(image_id), lacked[0], "its annotations lack")

    def _read_labels(self, image_id):
        if self._annotated:
            if image_id not in self._annotated:
                raise DataError(f"image {image_id} is in no annotations/instances_*.json; take it off the list")
            present = self._annotated[image_id]
        else:
            present = set(np.unique(read_label_png(self.mask_path(image_id), len(NAMES) + 1)).tolist()) - {0, VOID}
        ids = USED if self.contiguous else range(1, len(NAMES) + 1)
        return np.float32([i in present for i in ids])

    @cached_property
    def _annotated(self):
        """{image id: set of COCO ids} from the instance annotations that are there."""
        found = {}
        for path in sorted((self.root / "annotations").glob("instances_*2014.json")):
            annotations = read_annotations(path)
            files = {image["id"]: Path(image["file_name"]).stem for image in annotations["images"]}
            found |= {name: set() for name in files.values()}
            for thing in annotations["annotations"]:
                found[files[thing["image_id"]]].add(thing["category_id"])
        return found

    def fingerprint(self):
        """Hex digest of the class names, and the names and sizes of images, masks and annotations; not of the lists."""
        return self._digest(("images", "voc_format/class_labels", "annotations"))


def _eighty(path, value, reason):
    """The DataError for a mask that numbers 80 classes, as its `value` shows."""
    return DataError(
        f"mask {path} holds {value}, which {reason}: these masks number the 80 classes without gaps; convert them with "
        "weaktr.data.coco.from_contiguous, or delete them and make new ones from the annotations with `python -m "
        "weaktr data coco-masks`"
    )


def read_annotations(path):
    """An instances JSON. Raises DataError when it is missing, no such file, or has objects on images it lacks."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not {"images", "annotations"} <= set(content):
            raise KeyError("images, annotations")
        if lost := {thing["image_id"] for thing in content["annotations"]} - {one["id"] for one in content["images"]}:
            raise KeyError(f"image {min(lost)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"annotations {path} cannot be read ({error!r}); fetch instances_*2014.json again") from error
    return content


def write_masks(root, split):
    """Make the 91-id masks and the list of a split ("train" or "val") from its instance annotations → number of images.

    Painted from the largest object to the smallest, so that small ones stay visible before large ones; regions of
    crowds are void where no object covers them. The list names the images with at least one object. Masks that are
    there already stay.
    """
    from pycocotools import coco

    root = Path(root)
    annotations = read_annotations(root / "annotations" / f"instances_{split}2014.json")
    objects = {}
    for thing in annotations["annotations"]:
        objects.setdefault(thing["image_id"], []).append(thing)
    images = [image for image in annotations["images"] if image["id"] in objects]
    reader = coco.COCO()
    reader.imgs = {image["id"]: image for image in images}
    remove_leftovers(root / "voc_format")
    for image in images:
        path = root / "voc_format" / "class_labels" / f"{Path(image['file_name']).stem}.png"
        if not path.is_file():
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for thing in sorted(objects[image["id"]], key=lambda thing: (not thing["iscrowd"], -thing["area"])):
                mask[reader.annToMask(thing) > 0] = VOID if thing["iscrowd"] else thing["category_id"]
            write_label_png(path, mask)
    with atomic(root / "voc_format" / f"{split}.txt") as aside:
        aside.write_text("".join(f"{Path(image['file_name']).stem}\n" for image in images))
    return len(images)

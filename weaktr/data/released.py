"""What is known of the complete VOC12 as the released code used it, to compare the data on disk with.

The released code reads its image labels from a file of its own, and all masks from SegmentationClassAug.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .dataset import Remark
from .images import VOID, read_label_png

SIZES = {"train": 1464, "val": 1449, "train_aug": 10582}  # images of the lists

# class: images of train, val and train_aug by the released labels
COUNTS = {
    "aeroplane": (88, 90, 590),
    "bicycle": (65, 79, 504),
    "bird": (105, 103, 705),
    "boat": (78, 72, 468),
    "bottle": (87, 96, 714),
    "bus": (78, 74, 393),
    "car": (128, 127, 1150),
    "cat": (131, 119, 1005),
    "chair": (148, 123, 1228),
    "cow": (64, 71, 267),
    "diningtable": (82, 75, 613),
    "dog": (121, 128, 1188),
    "horse": (68, 79, 445),
    "motorbike": (81, 76, 492),
    "person": (442, 445, 4155),
    "pottedplant": (82, 85, 522),
    "sheep": (63, 57, 300),
    "sofa": (93, 90, 649),
    "train": (83, 84, 503),
    "tvmonitor": (84, 74, 567),
}
NAMED = 5  # images that a sentence names


def compare(voc: Path, list_name: str, ids: Sequence[str], counts: NDArray[np.int64]) -> Iterator[Remark]:
    """Compare a list with what is known of it, which is nothing where it is not complete.

    Args:
        voc: The folder VOC2012.
        list_name: Its name; the released name of train_aug is trainaug.
        ids: Its images.
        counts: Its images per class (C,), in VOC's order.

    Yields:
        What is as released, and what differs.
    """
    name = "train_aug" if list_name == "trainaug" else list_name
    if len(ids) != SIZES.get(name):
        return
    yield from _compare_counts(list_name, list(SIZES).index(name), counts)
    if name in ("train", "val"):  # of the rest of train_aug VOC itself has no masks
        yield from _compare_masks(voc, list_name, ids)


def _compare_counts(list_name: str, column: int, counts: NDArray[np.int64]) -> Iterator[Remark]:
    """Compare images per class (C,) with a column of COUNTS."""
    as_released = True
    for (name, known), found in zip(COUNTS.items(), counts, strict=True):
        if found != known[column]:
            as_released = False
            yield Remark(
                f"{list_name}: {int(found)} images show {name}, {known[column]} by the released labels",
                fault="classes whose number of images is not that of the released labels",
            )
    if as_released:
        yield Remark(f"{list_name}: the images per class are those of the released labels")


@dataclass
class MaskDifferences:
    """How the masks in SegmentationClass, VOC's own, and those in SegmentationClassAug differ, summed over a list."""

    compared: int = 0  # masks
    pixels: int = 0  # of them
    void_in_own: int = 0  # pixels that are void in VOC's own mask alone
    void_in_augmented: int = 0  # pixels that are void in the other mask alone
    other_class: int = 0  # pixels that have two different classes
    ids: list[str] = field(default_factory=list)  # images with a difference

    def add(self, image_id: str, own: NDArray[np.uint8], augmented: NDArray[np.uint8]) -> None:
        """Compare the two masks (H,W) of an image; masks of two sizes differ in every pixel."""
        self.compared += 1
        self.pixels += own.size
        if own.shape != augmented.shape:
            self.ids.append(image_id)
            self.other_class += own.size
            return
        differing = own != augmented
        if differing.any():
            self.ids.append(image_id)
            self.void_in_own += int((differing & (own == VOID)).sum())
            self.void_in_augmented += int((differing & (augmented == VOID)).sum())
            self.other_class += int((differing & (own != VOID) & (augmented != VOID)).sum())

    def in_words(self) -> str:
        """One sentence with the numbers and the first images."""
        total = self.void_in_own + self.void_in_augmented + self.other_class
        named = ", ".join(self.ids[:NAMED]) + (", …" if len(self.ids) > NAMED else "")
        return (
            f"{len(self.ids)} of {self.compared} masks ({named}) in {100 * total / self.pixels:.2f} % of all pixels: "
            f"{self.void_in_own} are void in SegmentationClass alone, {self.void_in_augmented} in SegmentationClassAug "
            f"alone, {self.other_class} have another class; the released code measures on SegmentationClassAug, this "
            "one on SegmentationClass"
        )


def _compare_masks(voc: Path, list_name: str, ids: Sequence[str]) -> Iterator[Remark]:
    """Compare the masks of a list that both folders have, pixel by pixel."""
    differences = MaskDifferences()
    missing = 0
    for image_id in ids:
        own = voc / "SegmentationClass" / f"{image_id}.png"
        augmented = voc / "SegmentationClassAug" / f"{image_id}.png"
        if not (own.is_file() and augmented.is_file()):
            missing += 1
            continue
        try:
            differences.add(image_id, read_label_png(own), read_label_png(augmented))
        except DataError as error:
            yield Remark(str(error), fault="masks that cannot be compared")
    if differences.ids:
        yield Remark(
            f"{list_name}: {differences.in_words()}",
            fault="lists whose masks in SegmentationClass and SegmentationClassAug differ",
        )
    elif differences.compared:
        yield Remark(
            f"{list_name}: {differences.compared} masks in SegmentationClassAug are those in SegmentationClass"
        )
    if missing:
        yield Remark(
            f"{list_name}: {missing} of {len(ids)} masks are not in both SegmentationClass and SegmentationClassAug, "
            "and were not compared"
        )

"""Data sets in VOC12's layout: the VOC devkit itself, and the embedded `synthetic` one."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from . import released
from .dataset import Dataset, Remark
from .lists import read_list

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


class VOC(Dataset):
    """`VOCdevkit/VOC2012` below a root (or the root itself): JPEGImages, SegmentationClass, Annotations, ImageSets.

    Image labels come from the XML annotations (all objects, difficult ones too), masks from SegmentationClass, else
    from SegmentationClassAug.

    Args:
        root: The folder that holds the devkit, the devkit's own, or VOC2012.
        classes: The C foreground names, in the order of their mask values 1…C.

    Raises:
        DataError: There is no folder JPEGImages.
    """

    name = "voc12"

    def __init__(self, root: Path | str, classes: Sequence[str] = VOC_CLASSES) -> None:
        root = Path(root)
        places = [root / "VOCdevkit" / "VOC2012", root / "VOC2012", root]
        folder = next((place for place in places if (place / "JPEGImages").is_dir()), None)
        if folder is None:
            raise DataError(
                f"no VOC data set in {root}: {places[0] / 'JPEGImages'} does not exist; "
                "unpack the devkit there or give its folder with data_root"
            )
        super().__init__(root, folder, classes)

    def ids(self, list_name: str) -> list[str]:
        """The image ids of ImageSets/Segmentation/<list_name>.txt, see `read_list`.

        Where train_aug is asked for and does not exist, it is trainaug, as the released list file is called.
        """
        lists = self.folder / "ImageSets" / "Segmentation"
        name, colon, count = list_name.partition(":")
        if name == "train_aug" and not (lists / "train_aug.txt").is_file() and (lists / "trainaug.txt").is_file():
            name = "trainaug"
        return read_list(lists, name + colon + count)

    def image_path(self, image_id: str) -> Path:
        """Where the JPEG of an image lies."""
        return self.folder / "JPEGImages" / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """Where the mask of an image lies: VOC's own before SBD's in SegmentationClassAug, whose outlines differ."""
        own = self.folder / "SegmentationClass" / f"{image_id}.png"
        augmented = self.folder / "SegmentationClassAug" / f"{image_id}.png"
        return augmented if augmented.is_file() and not own.is_file() else own

    def _read_labels(self, image_id: str) -> NDArray[np.float32]:
        path = self.folder / "Annotations" / f"{image_id}.xml"
        try:
            names = [name.text or "" for name in ElementTree.parse(path).iterfind("object/name")]
        except FileNotFoundError as error:
            raise DataError(
                f"annotation {path} does not exist; image labels are read from it: restore it, or take the image off "
                "its list"
            ) from error
        except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # of letters it cannot decode, too
            raise DataError(f"annotation {path} is not well-formed XML ({error}); restore the file") from error
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise DataError(
                f"annotation {path} names {unknown[0]!r}; correct it, the classes are {', '.join(self.classes)}"
            )
        return np.array([name in names for name in self.classes], np.float32)

    def compare_released(self, list_name: str, ids: Sequence[str], counts: NDArray[np.int64]) -> Iterable[Remark]:
        """Compare a complete list of VOC12 with what is known of it, see `released.compare`."""
        if self.classes != VOC_CLASSES:
            return ()
        return released.compare(self.folder, list_name, ids, counts)

    def fingerprint(self) -> str:
        """Hex digest of the class names, the annotations, and all images' and masks' names and sizes; not of lists."""
        return self._digest(("JPEGImages", "SegmentationClass", "SegmentationClassAug"), "Annotations/*.xml")

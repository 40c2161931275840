"""Data sets in VOC12's layout: the VOC devkit itself, and the embedded `synthetic` one."""

import hashlib
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ..errors import DataError
from .images import read_image, read_label_png
from .lists import read_list

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VOC:
    """`VOCdevkit/VOC2012` below a root (or the root itself): JPEGImages, SegmentationClass, Annotations, ImageSets.

    classes: the C foreground names, in the order of their mask values 1…C. Image labels come from the XML
    annotations (all objects, difficult ones too), masks from SegmentationClass, else
    SegmentationClassAug. Raises DataError when a folder is missing.
    """

    name = "voc12"
    has_masks = True  # whether anything can be measured

    def __init__(self, root, classes=VOC_CLASSES):
        self.root = Path(root)
        self.classes = tuple(classes)
        places = [self.root / "VOCdevkit" / "VOC2012", self.root / "VOC2012", self.root]
        self.folder = next((place for place in places if (place / "JPEGImages").is_dir()), None)
        if self.folder is None:
            raise DataError(
                f"no VOC data set in {self.root}: {places[0] / 'JPEGImages'} does not exist; "
                "unpack the devkit there or give its folder with data_root"
            )

    def ids(self, list_name):
        """The image ids of ImageSets/Segmentation/<list_name>.txt, see `read_list`. Raises DataError for a bad list."""
        return read_list(self.folder / "ImageSets" / "Segmentation", list_name)

    def image_path(self, image_id):
        """Where the JPEG of an image lies."""
        return self.folder / "JPEGImages" / f"{image_id}.jpg"

    def mask_path(self, image_id):
        """Where the mask of an image lies: VOC's own before SBD's in SegmentationClassAug, whose outlines differ."""
        augmented = self.folder / "SegmentationClassAug" / f"{image_id}.png"
        own = self.folder / "SegmentationClass" / f"{image_id}.png"
        return augmented if augmented.is_file() and not own.is_file() else own

    def image(self, image_id):
        """RGB pixels (H,W,3) uint8."""
        return read_image(self.image_path(image_id))

    def mask(self, image_id):
        """Pixel truth (H,W) uint8: 0 background, c + 1 class c, 255 void. Weak supervision never reads it."""
        return read_label_png(self.mask_path(image_id), len(self.classes) + 1)

    def labels(self, image_id):
        """Image-level label: 0/1 per foreground class, float32 (C,). Read once per image."""
        if image_id not in self._labels:
            self._labels[image_id] = self._read_labels(image_id)
        return self._labels[image_id]

    @cached_property
    def _labels(self):
        return {}

    def _read_labels(self, image_id):
        path = self.folder / "Annotations" / f"{image_id}.xml"
        try:
            names = [name.text or "" for name in ElementTree.parse(path).iterfind("object/name")]
        except FileNotFoundError as error:
            raise DataError(
                f"annotation {path} does not exist; image labels are read from it: restore it, or take the image off "
                "its list"
            ) from error
        except (ElementTree.ParseError, OSError) as error:
            raise DataError(f"annotation {path} is no well-formed XML ({error}); restore the file") from error
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise DataError(
                f"annotation {path} names {unknown[0]!r}; correct it, the classes are {', '.join(self.classes)}"
            )
        return np.float32([name in names for name in self.classes])

    def check_image(self, image_id, mask_list=None):
        """Read every file of an image → image (H,W,3), mask (H,W), None where there is none.

        mask_list: the list that needs it; one that exists must fit its image and hold known values. Raises DataError.
        """
        path, image = self.mask_path(image_id), read_image(self.image_path(image_id))
        size = image.shape[:2]
        if min(size) < 16:
            raise DataError(f"{self.image_path(image_id)} is {size[1]}×{size[0]} pixels; at least 16 a side are needed")
        self.labels(image_id)
        if not path.is_file():
            if mask_list:
                remedy = f"add it, take it off list {mask_list}, or give eval_list and val_list lists with masks"
                raise DataError(f"image {image_id} has no mask {path}; {remedy}")
            return image, None
        mask = self.mask(image_id)
        if mask.shape != size:
            raise DataError(
                f"mask {path} is {mask.shape[1]}×{mask.shape[0]} pixels, "
                f"its image {size[1]}×{size[0]}; export the mask at the image's size"
            )
        self.check_numbering(image_id, mask)
        return image, mask

    def check_numbering(self, image_id, mask):
        """Raises DataError for a mask (H,W) that numbers its classes in another way; VOC knows one way only."""

    def fingerprint(self):
        """Hex digest of the class names, the annotations, and all images' and masks' names and sizes; not of lists."""
        places = ("JPEGImages", "SegmentationClass", "SegmentationClassAug")
        return self._digest(places, "Annotations/*.xml")

    def _digest(self, sizes, whole=None):
        """Over names and sizes in the folders `sizes`, and over the files that the pattern `whole` matches."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for path in sorted(self.folder.glob(whole)) if whole else ():
            digest.update(path.name.encode() + path.read_bytes())
        for place in sizes:
            for path in sorted(path for path in (self.folder / place).rglob("[!.]*") if path.is_file()):
                digest.update(f"{place}/{path.name}:{path.stat().st_size}".encode())
        return digest.hexdigest()[:16]

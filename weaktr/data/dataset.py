"""The contract of a data set: what loops, notebooks and reports may ask of one, wherever its files lie."""

import contextlib
import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .images import (
    VOID,
    Picture,
    image_size,
    is_deep,
    largest_value,
    read_label_png,
    read_picture,
    turned_on_its_side,
    white_of,
)
from .lists import evenly
from .spelling import files_below

SMALLEST_SIDE = 16  # pixels: one patch of the published networks
MOST_CLASSES = 254  # in masks of eight bits, beside background and void
DEEP_SAMPLE = 200  # files of more than eight bits, whose largest value says what is white


@dataclass(frozen=True)
class Remark:
    """What a reader knows of one of its lists, in words."""

    text: str
    fault: str = ""  # the kind of fault that it is; none where all is as expected
    refused: bool = False  # whether it can only be a mistake, with which no run is started


class Dataset(ABC):
    """Images with image-level labels, with pixel masks where there are some, and with named lists of image ids.

    A reader of one source says where its files lie (`ids`, `image_path`, `mask_path`), how labels are read
    (`_read_labels`) and what its files are recognised by (`fingerprint`). The rest is the same for all.

    Attributes:
        name: the name of the source, see `open_dataset`.
        root: the folder that was given as the data set's.
        folder: the folder with images and masks: `root`, or one below it.
        classes: the names of the C foreground classes; class c from 0 has the value c + 1 in masks.
    """

    name: str

    def __init__(self, root: Path, folder: Path, classes: Sequence[str]) -> None:
        if len(classes) > MOST_CLASSES:
            raise DataError(
                f"{root} has {len(classes)} classes, and masks hold {MOST_CLASSES} at most; join or leave out some"
            )
        self.root = root
        self.folder = folder
        self.classes = tuple(classes)
        self._labels: dict[str, NDArray[np.float32]] = {}
        self._white = 0  # of the pictures of more than eight bits; 0 before one was asked for

    # ── What a reader says ────────────────────────────────────────────────────────────────────────────────────────
    @abstractmethod
    def ids(self, list_name: str) -> list[str]:
        """The image ids of a list, in order; `name:500` is 500 of them, evenly spread.

        Raises:
            DataError: The list does not exist or cannot be used.
        """

    @abstractmethod
    def image_path(self, image_id: str) -> Path:
        """Where an image lies."""

    @abstractmethod
    def mask_path(self, image_id: str) -> Path:
        """Where the mask of an image lies, or would lie if there were one."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what the classes, images, masks and labels are; not of the lists, and not of the place."""

    @abstractmethod
    def _read_labels(self, image_id: str) -> NDArray[np.float32]:
        """What `labels` gives, from the files."""

    def _read_mask(self, image_id: str) -> NDArray[np.uint8]:
        """What `mask` gives, from a file that has to exist."""
        return read_label_png(self.mask_path(image_id), len(self.classes) + 1)

    @property
    def has_masks(self) -> bool:
        """Whether any image has a mask, so that something can be measured."""
        return True

    def warm(self) -> None:  # noqa: B027 (most readers have nothing to read beforehand)
        """Read now what the labels of all images share, such as COCO's annotations.

        To be called before labels are asked for in threads or processes, each of which would read it on its own.
        Copies that are sent to processes do not do so by themselves: a process that reads masks alone does not need
        annotations, and those of COCO are large.
        """

    def noticed(self) -> Sequence[str]:
        """What is read in a way that is worth a word before work starts, a sentence each."""
        return ()

    def check_numbering(self, image_id: str, mask: NDArray[np.uint8]) -> None:  # noqa: B027 (most know one way only)
        """Compare the classes of a mask (H,W) with what else is known of its image.

        Raises:
            DataError: The mask numbers its classes in another way than this reader.
        """

    def remarks(self) -> Iterable[Remark]:
        """What the reader sees in its tables and folders that a person should know, see `inspection.inspect`."""
        return ()

    def _pictures(self, beside: Path) -> list[Path]:
        """The files that share what is white with the picture `beside`, in an order that never changes."""
        return sorted(path for path in beside.parent.iterdir() if path.is_file())

    def compare_released(self, list_name: str, ids: Sequence[str], counts: NDArray[np.int64]) -> Iterable[Remark]:
        """Compare a list with what is known of the data set that published numbers are of.

        Args:
            list_name: The name of the list.
            ids: Its images.
            counts: Its images per class (C,).
        """
        return ()

    # ── What is the same for all ──────────────────────────────────────────────────────────────────────────────────
    def image(self, image_id: str) -> NDArray[np.uint8]:
        """RGB pixels (H,W,3). Those of more than eight bits have one white in the whole set, see `white`."""
        return self.picture(image_id).pixels

    def picture(self, image_id: str, coarse: bool = False) -> Picture:
        """What `image` gives, and how it is stored; coarse: whether fewer pixels will do, see `read_picture`."""
        path = self.image_path(image_id)
        return read_picture(path, lambda: self.white(path), coarse)

    def white(self, path: Path) -> int:
        """The value that is white in the pictures of more than eight bits, of which `path` is one."""
        if not self._white:
            deep = [str(other) for other in self._pictures(path) if is_deep(other)] or [str(path)]
            largest = 0.0
            for other in evenly(deep, str(min(len(deep), DEEP_SAMPLE)), "of pictures"):
                with contextlib.suppress(DataError):  # a broken one is named where it is read
                    largest = max(largest, largest_value(other))
            self._white = white_of(largest)
        return self._white

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Pixel truth (H,W): 0 background, c + 1 class c, 255 void. Weak supervision never reads it."""
        return self._read_mask(image_id)

    def mask_or_void(self, image_id: str) -> NDArray[np.uint8]:
        """Pixel truth (H,W) as `mask` gives it; all void for an image without a mask."""
        if self.mask_path(image_id).is_file():
            return self._read_mask(image_id)
        return np.full(image_size(self.image_path(image_id)), VOID, np.uint8)

    def labels(self, image_id: str) -> NDArray[np.float32]:
        """Image-level label: 0 or 1 per foreground class (C,). Read once per image."""
        if image_id not in self._labels:
            self._labels[image_id] = self._read_labels(image_id)
        return self._labels[image_id]

    def check_image(
        self, image_id: str, mask_list: str | None = None, coarse: bool = False
    ) -> tuple[Picture, NDArray[np.uint8] | None]:
        """Read every file of an image.

        Args:
            image_id: The image.
            mask_list: The list for which a mask is required; a mask that exists must be right in any case.
            coarse: Whether the picture may come with a part of its pixels, see `read_picture`.

        Returns:
            The picture and its mask (H,W), None where it has none.

        Raises:
            DataError: A file is missing or unreadable, the image is too small, or the mask does not fit it.
        """
        picture = self.picture(image_id, coarse)
        height, width = picture.size
        if min(height, width) < SMALLEST_SIDE:
            raise DataError(
                f"{self.image_path(image_id)} is {width}×{height} pixels; at least {SMALLEST_SIDE} a side are needed"
            )
        self.labels(image_id)
        path = self.mask_path(image_id)
        if path.is_file():
            return picture, self._checked_mask(image_id, height, width)
        if mask_list:
            raise DataError(
                f"image {image_id} has no mask {path}; add it, take it off list {mask_list}, or give eval_list and "
                "val_list lists with masks"
            )
        return picture, None

    def _checked_mask(self, image_id: str, height: int, width: int) -> NDArray[np.uint8]:
        """The mask of an image of this size, in pixels; DataError for one of another size or numbering."""
        mask = self.mask(image_id)
        if mask.shape != (height, width):
            sizes = f"mask {self.mask_path(image_id)} is {mask.shape[1]}×{mask.shape[0]} pixels, its image"
            if mask.shape == (width, height) and turned_on_its_side(self.image_path(image_id)):
                raise DataError(
                    f"{sizes} {width}×{height} once it is turned upright by its EXIF note, as viewers do; the mask was "
                    "drawn on the stored pixels: turn it as well, or take the note out of the image"
                )
            raise DataError(f"{sizes} {width}×{height}; export the mask at the image's size")
        self.check_numbering(image_id, mask)
        return mask

    def _digest(self, folders: Sequence[str], whole: Iterable[Path] = ()) -> str:
        """Hex digest of the classes, of the names and sizes of the files in `folders`, and of whole files.

        folders: below `self.folder`. whole: the files whose content counts.
        """
        digest = hashlib.sha256(repr(self.classes).encode())
        for path in whole:
            digest.update(path.name.encode() + _content(path))
        for place in folders:
            names = sorted(files_below(self.folder / place), key=lambda below: below.split("/"))
            for below in names:
                found = _status(f"{self.folder}/{place}/{below}")
                if found and stat.S_ISREG(found.st_mode):
                    digest.update(f"{place}/{below.rpartition('/')[2]}:{found.st_size}".encode())
        return digest.hexdigest()[:16]


def _status(path: str) -> os.stat_result | None:
    """What the file system says of a file, by name, for it is asked of every one; None for a link to nowhere."""
    try:
        return os.stat(path)
    except OSError:
        return None


def _content(path: Path) -> bytes:
    """What a file holds; DataError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or take it away") from error

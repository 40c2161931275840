"""Images and label masks, read with errors that name the file, what is wrong and what to do."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps

from ..errors import DataError
from ..files import atomic

VOID = 255  # in masks: pixels without a class, which count for nothing
SIXTEEN_BIT = ("I", "I;16", "I;16B", "F")  # modes that PIL cuts off at 255, instead of scaling them, for RGB
PIXELS_A_BYTE = 10_000  # that a file can hold at most: a PNG of one bit and one colour has 8,250
TURNED = 5  # EXIF orientations from here on exchange height and width


@contextlib.contextmanager
def _errors_that_name(path: Path) -> Iterator[None]:
    """What PIL raises about a file becomes a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path, or data_root and the list that names it") from error
    except Exception as error:  # PIL's readers raise many kinds about damaged files
        raise DataError(f"{path} cannot be read as an image ({error}); restore it, or take it off its list") from error


def _opened(path: Path) -> Image.Image:
    """The image of a file, of which the head is read.

    Raises:
        OSError: Its head promises more pixels than such a file can hold, which would only take memory.
    """
    image = Image.open(path)
    if image.width * image.height > PIXELS_A_BYTE * path.stat().st_size:
        raise OSError(f"{image.width}×{image.height} pixels cannot be in {path.stat().st_size} bytes")
    return image


def _open(path: Path) -> Image.Image:
    """The image of a file, read to its end."""
    with _errors_that_name(path):
        image = _opened(path)
        image.load()
        return image


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Any image file as RGB (H,W,3), turned upright by its EXIF note.

    Raises:
        DataError: The file is missing or unreadable.
    """
    image = _open(Path(path))
    with _errors_that_name(Path(path)):
        image = ImageOps.exif_transpose(image)
        if image.mode in SIXTEEN_BIT:
            grey = np.asarray(image, np.float64)
            factor = 257 if grey.max() > 255 else 1  # 65,535 becomes 255; some 16-bit files hold eight bits
            image = Image.fromarray(np.clip(grey / factor, 0, 255).astype(np.uint8))
        return np.array(image.convert("RGB"))


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width as `read_image` gives them, from the head of the file alone.

    Raises:
        DataError: The file is missing or unreadable.
    """
    path = Path(path)
    with _errors_that_name(path), _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= TURNED
        return (width, height) if turned else (height, width)


def read_label_png(path: Path | str, num_classes: int | None = None) -> NDArray[np.uint8]:
    """A label mask, a palette or grey PNG, as labels (H,W).

    Args:
        path: The file.
        num_classes: K with background, to check the labels: 0…K−1, and 255 for void. None: any are right.

    Raises:
        DataError: The file is missing, unreadable or a colour image, or holds another value.
    """
    image = _open(Path(path))
    if image.mode not in ("P", "L"):
        raise DataError(f"mask {path} is a {image.mode} image; masks are palette or grey PNGs whose values are classes")
    mask = np.array(image)
    if num_classes is not None:
        wrong = np.unique(mask[(mask >= num_classes) & (mask != VOID)])
        if len(wrong):
            raise DataError(
                f"mask {path} holds the value {wrong[0]}, but the data set has the classes 0…{num_classes - 1} "
                "and 255 for void; check the class list or the mask's numbering"
            )
    return mask


def read_label(folder: Path | str, image_id: str) -> NDArray[np.uint8]:
    """The label mask (H,W) of an image in a folder of <image_id>.png files."""
    return read_label_png(Path(folder) / f"{image_id}.png")


def write_label_png(path: Path | str, labels: ArrayLike) -> None:
    """Write labels (H,W) as a PNG with VOC's palette, whole or not at all."""
    image = Image.fromarray(np.asarray(labels, np.uint8))
    image.putpalette(palette())
    with atomic(path) as aside:
        image.save(aside, format="PNG")


def palette() -> list[int]:
    """VOC's palette: 256 RGB triples in one list.

    Bits 0, 3 and 6 of a label become the highest bits of its red, bits 1, 4 and 7 of its green, 2 and 5 of its blue.
    """
    labels = np.arange(256, dtype=np.uint8)
    bits = np.unpackbits(labels[:, None], axis=1, count=9, bitorder="little").reshape(256, 3, 3)
    weights = np.array([[128], [64], [32]])
    return [int(value) for value in (bits * weights).sum(1).ravel()]

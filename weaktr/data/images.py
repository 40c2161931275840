"""Reading images and label masks with errors that name the file, what is wrong and what to do."""

import contextlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from ..files import atomic

VOID = 255


def _open(path):
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path, or data_root and the list that names it") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); restore it, or take it off its list") from error
    return image


def read_image(path):
    """Any image file → uint8 RGB (H,W,3), turned upright by its EXIF note. Raises DataError when unreadable."""
    image = ImageOps.exif_transpose(_open(Path(path)))
    if image.mode in ("I", "I;16", "I;16B", "F"):  # PIL cuts 16-bit grey off at 255 instead of scaling it
        grey = np.asarray(image, np.float64)
        image = Image.fromarray(np.uint8(np.clip(grey / (257 if grey.max() > 255 else 1), 0, 255)))
    return np.array(image.convert("RGB"))


def image_size(path):
    """(H,W) as `read_image` gives them, from the head of the file alone; (1, 1) where that cannot be read."""
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size if turned else image.size[::-1]
    return 1, 1


def read_label_png(path, num_classes=None):
    """A label mask (palette or grey PNG) → uint8 (H,W). num_classes: K with background; 255 is void.

    Raises DataError for an unreadable file, a colour image, and values outside 0…K−1 and 255.
    """
    image = _open(Path(path))
    if image.mode not in ("P", "L"):
        raise DataError(f"mask {path} is a {image.mode} image; masks are palette or grey PNGs whose values are classes")
    mask = np.array(image)
    if num_classes is not None:
        wrong = np.unique(mask[(mask >= num_classes) & (mask != 255)])
        if len(wrong):
            raise DataError(
                f"mask {path} holds the value {wrong[0]}, but the data set has the classes 0…{num_classes - 1} "
                "and 255 for void; check the class list or the mask's numbering"
            )
    return mask


def read_label(folder, image_id):
    """The label mask of an image in a folder of <image_id>.png files."""
    return read_label_png(Path(folder) / f"{image_id}.png")


def write_label_png(path, labels):
    """Write labels (H,W) uint8 as a PNG with VOC's palette, whole or not at all."""
    image = Image.fromarray(np.asarray(labels, np.uint8))
    image.putpalette(palette())
    with atomic(path) as aside:
        image.save(aside, format="PNG")


def palette():
    """VOC's palette, 256 RGB triples in one list: the bits of the label spread over the three channels."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1, 9, "little").reshape(256, 3, 3)
    return (bits * np.array([[128], [64], [32]])).sum(1).ravel().tolist()

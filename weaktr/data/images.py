"""Images and label masks, read with errors that name the file, what is wrong and what to do."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ..errors import DataError
from ..files import atomic
from .spelling import beside

VOID = 255  # in masks: pixels without a class, which count for nothing
SIXTEEN_BIT = ("I", "I;16", "I;16B", "F")  # modes that PIL cuts off at 255, instead of scaling them, for RGB
WHITE = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 32)))  # of cameras and programs; 1 of fractions
NOTE = "weaktr"  # keyword of the text chunk in a PNG that says how a mask was made
PIXELS_A_BYTE = 10_000  # that a file can hold at most: a PNG of one bit and one colour has 8,250
TURNED = 5  # EXIF orientations from here on exchange height and width
EXIF_OF_PNG = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}
GREY_STEPS = {"L;2": 85, "L;4": 17}  # by which PIL spreads the values of two and four bits over 0…255


@contextlib.contextmanager
def _errors_that_name(path: Path) -> Iterator[None]:
    """What PIL raises about a file becomes a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        there = f", there is {' and '.join(beside(path))}" if beside(path) else ""
        raise DataError(
            f"{path} does not exist{there}; check the path, or data_root and the list that names it"
        ) from error
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


class Picture(NamedTuple):
    """An image file as it was read."""

    pixels: NDArray[np.uint8]  # (H,W,3) RGB, upright; smaller where it was read as `coarse`
    size: tuple[int, int]  # height and width, upright
    turned: bool  # by its EXIF note, which may be a mirror's
    stored: str  # PIL's name of the form of its pixels in the file, such as "RGB" or "I;16B"
    largest: float  # value of a file that `white` scales, as it is stored; 0 of others


def read_image(path: Path | str, white: Callable[[], int] | None = None) -> NDArray[np.uint8]:
    """Any image file as RGB (H,W,3), turned upright by its EXIF note.

    Args:
        path: The file.
        white: Gives the value that is white in files of more than eight bits, which is asked for these alone. None: as
            `white_of` says of this file.

    Raises:
        DataError: The file is missing or unreadable.
    """
    return read_picture(path, white).pixels


def read_picture(path: Path | str, white: Callable[[], int] | None = None, coarse: bool = False) -> Picture:
    """What `read_image` gives, and how it was stored.

    Args:
        path: The file.
        white: As for `read_image`.
        coarse: Whether an eighth of the pixels a side is enough. A JPEG is read to its end all the same, and found
            damaged where it is, in a third of the time.

    Raises:
        DataError: The file is missing or unreadable.
    """
    image: Image.Image
    with _errors_that_name(Path(path)):
        image = _opened(Path(path))
        stored = _stored(image)
        width, height = image.size
        smaller = coarse and image.draft(None, (1, 1)) is not None
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation in range(2, 9)
        if turned:
            image = ImageOps.exif_transpose(image)
    size = (width, height) if turned and orientation >= TURNED else (height, width)
    largest = 0.0
    if image.mode in SIXTEEN_BIT:
        grey = _finite(image)
        largest = float(grey.max())
        factor = (white() if white else white_of(largest)) / 255
        image = Image.fromarray(np.clip(grey / factor, 0, 255).astype(np.uint8))
    pixels = np.array(image.convert("RGB"))
    return Picture(pixels, size if smaller else pixels.shape[:2], turned, stored, largest)


def _finite(image: Image.Image) -> NDArray[np.float64]:
    """The values of a grey image (H,W); 0 for what is no number, as files of fractions may hold."""
    return np.nan_to_num(np.asarray(image, np.float64), nan=0, posinf=0, neginf=0)


def white_of(brightest: float) -> int:
    """The value that is white where `brightest` is the largest one: files of 16 bits often hold 8, 10, 12 or 14."""
    return next((white for white in WHITE if brightest <= white), WHITE[-1])


def largest_value(path: Path | str) -> float:
    """The largest value of a file of more than eight bits, as it is stored; 0 for another file.

    Raises:
        DataError: The file is missing or unreadable.
    """
    with _errors_that_name(Path(path)), _opened(Path(path)) as image:
        return float(_finite(image).max()) if image.mode in SIXTEEN_BIT else 0


def is_deep(path: Path) -> bool:
    """Whether a file is a picture of more than eight bits, by its head; a broken one is not."""
    try:
        with _opened(path) as image:
            return image.mode in SIXTEEN_BIT
    except Exception:  # it is named where it is read
        return False


def colours_of(path: Path | str, values: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """The colours of some values in the palette of an image file; none of those that it lacks."""
    with _errors_that_name(Path(path)), _opened(Path(path)) as image:
        mode, flat = image.palette.getdata() if image.mode == "P" and image.palette else ("", b"")
    if mode != "RGB":
        return {}
    return {value: tuple(flat[3 * value : 3 * value + 3]) for value in values if 3 * value < len(flat)}


def turned_on_its_side(path: Path | str) -> bool:
    """Whether an image file's EXIF note exchanges its height and its width.

    Raises:
        DataError: The file is missing or unreadable.
    """
    with _errors_that_name(Path(path)), _opened(Path(path)) as image:
        return _orientation(image) >= TURNED


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation of an image that is not read yet."""
    if image.format == "PNG" and not image.info.keys() & EXIF_OF_PNG:
        return 1  # `getexif` would read all pixels to look behind them
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _stored(image: Image.Image) -> str:
    """PIL's name of the form of the pixels of an image whose file was opened and not read yet, such as "L;4"."""
    tiles = getattr(image, "tile", None) or [("", (), 0, "")]
    form = tiles[0][3]
    return str(form[0] if isinstance(form, tuple) and form else form)


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width as `read_image` gives them, from the head of the file alone.

    Raises:
        DataError: The file is missing or unreadable.
    """
    path = Path(path)
    with _errors_that_name(path), _opened(path) as image:
        width, height = image.size
        turned = _orientation(image) >= TURNED
        return (width, height) if turned else (height, width)


def read_label_png(path: Path | str, num_classes: int | None = None) -> NDArray[np.uint8]:
    """A label mask, a palette or grey PNG of 1 to 16 bits, as labels (H,W): the values that are stored.

    Args:
        path: The file.
        num_classes: K with background, to check the labels: 0…K−1, and 255 for void. None: any are right.

    Raises:
        DataError: The file is missing, unreadable or a colour image, or holds another value.
    """
    mask = _stored_values(Path(path))
    most = VOID + 1 if num_classes is None else num_classes
    strange = (mask >= most) & (mask != VOID)
    if strange.any():
        raise DataError(
            f"mask {path} holds the value {mask[strange].min()}, but the data set has the classes 0…{most - 1} "
            "and 255 for void; check the class list or the mask's numbering"
        )
    return mask.astype(np.uint8, copy=False)


def _stored_values(path: Path) -> NDArray[np.integer[Any]]:
    """The values (H,W) that a palette or grey PNG stores; DataError for another image."""
    with _errors_that_name(path), _opened(Path(path)) as image:
        step = GREY_STEPS.get(_stored(image), 1)
        image.load()
        mask = np.array(image)
    if image.mode in ("RGB", "LA", "RGBA") and _is_grey(mask, image.mode):
        return mask[..., 0]
    if image.mode not in ("P", "L", "1", "I;16", "I;16B"):
        raise DataError(f"mask {path} is a {image.mode} image; masks are palette or grey PNGs whose values are classes")
    return mask // step if step > 1 else mask


def _is_grey(pixels: NDArray[np.integer[Any]], mode: str) -> bool:
    """Whether the colours of an image (H,W,channels) are greys, none of them transparent."""
    opaque = mode == "RGB" or bool((pixels[..., -1] == 255).all())
    colours = pixels[..., :1] if mode == "LA" else pixels[..., :3]
    return opaque and bool((colours == pixels[..., :1]).all())


def pixels_by_value(mask: NDArray[np.uint8]) -> dict[int, int]:
    """How many pixels of a mask (H,W) have each value that it holds."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])  # of runs: far fewer than pixels
    counts = np.bincount(flat[starts], np.diff(starts, append=flat.size))
    return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}


def read_label(folder: Path | str, image_id: str) -> NDArray[np.uint8]:
    """The label mask (H,W) of an image in a folder of <image_id>.png files."""
    return read_label_png(Path(folder) / f"{image_id}.png")


def write_label_png(path: Path | str, labels: ArrayLike, note: Mapping[str, Any] | None = None) -> None:
    """Write labels (H,W) as a PNG with VOC's palette, whole or not at all.

    Args:
        path: Of the file.
        labels: 0 background, c + 1 class c, 255 void.
        note: How they were made, as JSON holds it; the file keeps it beside its pixels, for `read_note`.
    """
    image = Image.fromarray(np.asarray(labels, np.uint8))
    image.putpalette(palette())
    notes = PngInfo()
    if note:
        notes.add_itxt(NOTE, json.dumps(note))
    with atomic(path) as aside:
        image.save(aside, format="PNG", pnginfo=notes)


def read_note(path: Path | str) -> dict[str, Any]:
    """How a mask was made, as `write_label_png` noted it; empty for a file without a note. Reads its head alone.

    Raises:
        DataError: The file is missing or unreadable.
    """
    path = Path(path)
    with _errors_that_name(path), _opened(Path(path)) as image:
        note = json.loads(image.info.get(NOTE, "{}"))
        return note if isinstance(note, dict) else {}


def palette() -> list[int]:
    """VOC's palette: 256 RGB triples in one list.

    Bits 0, 3 and 6 of a label become the highest bits of its red, bits 1, 4 and 7 of its green, 2 and 5 of its blue.
    """
    labels = np.arange(256, dtype=np.uint8)
    bits = np.unpackbits(labels[:, None], axis=1, count=9, bitorder="little").reshape(256, 3, 3)
    weights = np.array([[128], [64], [32]])
    return [int(value) for value in (bits * weights).sum(1).ravel()]

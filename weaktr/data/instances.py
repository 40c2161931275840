"""Instance annotations in COCO's JSON, as COCO and other tools write it: read, and drawn as masks.

Whatever is wrong in a file is told by the file's name and the annotation's id. Left out by a tool may be `iscrowd`
(then it is 0) and `area` (then it is the pixels that the object covers). What the classes are called, and which value
they have in masks, is `coco`'s part.
"""

import json
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ijson
import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Thing = Mapping[str, Any]  # an annotation: one object
FARTHEST = 100_000  # pixels: no image is so large, and a polygon that goes farther was written in another unit
LARGEST_NUMBER = 1e15  # of pixels; neither infinite nor not-a-number is below it
LARGEST_SIDE = 65_535  # pixels, of a JPEG
LONGEST_LIST = 4_000_000  # bytes of categories; of COCO they take 6,000, of LVIS 600,000
NAMED = 5  # annotations that a sentence names


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────
def read_annotations(path: Path | str) -> dict[str, Any]:
    """The content of an instances JSON.

    Raises:
        DataError: The file is missing, is not such a file, or has objects on images that it lacks.
    """
    path = Path(path)
    if not path.is_file():
        there = ", ".join(sorted(other.name for other in path.parent.glob("*.json"))) or "nothing of the kind"
        raise DataError(
            f"annotations {path} do not exist, {path.parent} has {there}; give the folder that holds annotations/, and "
            "as the split what stands between instances_ and .json"
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, repr(error)) from error
    try:
        sound = _is_sound(content)
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise _unreadable(path, _fault(content))
    return content


def read_categories(path: Path) -> dict[Any, str] | None:
    """The categories of an instances JSON, {id: name} in the order of the ids; None where it has none.

    They are looked for without reading the rest, which may be hundreds of megabytes.

    Raises:
        DataError: The file cannot be read, or its categories are no list of ids and names.
    """
    found = _found_categories(path) or read_annotations(path).get("categories")
    if not found:
        return None
    try:
        names = _by_id(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"a category has no id or no name, or one of another kind: {error!r}") from error
    if len(names) < len(found):
        raise _unreadable(path, "two categories have one id")
    return names


def _found_categories(path: Path) -> list[Any] | None:
    """The last list of the file under the key "categories"; None where it cannot be found without reading all."""
    key = b'"categories"'
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.rfind(key)
            after = content[start + len(key) : start + LONGEST_LIST] if start >= 0 else b""
        value = after.decode("utf-8", "ignore").lstrip().removeprefix(":").lstrip()
        found: list[Any] = json.JSONDecoder().raw_decode(value)[0]
        _by_id(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # what is wrong is told when all is read
    return found


def _by_id(categories: list[Any]) -> dict[Any, str]:
    """The names of categories, {id: name} in the order of the ids."""
    names = {entry["id"]: entry["name"].strip() for entry in categories}
    return {number: names[number] for number in sorted(names)}


def _is_sound(content: dict[str, Any]) -> bool:
    """Whether images and objects have what is needed, and every object lies on an image; errors where they do not."""
    names = {image["id"]: image["file_name"] for image in content["images"]}
    shown = {thing["image_id"] for thing in content["annotations"]}
    {thing["category_id"] for thing in content["annotations"]}  # each has one, which can be looked up
    return (
        isinstance(content["images"], list)
        and isinstance(content["annotations"], list)
        and len(names) == len(content["images"])
        and shown <= names.keys()
        and all(isinstance(name, str) for name in names.values())
    )


def _fault(content: Any) -> str:
    """What `_is_sound` stumbled over, in words."""
    for part in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            return f"it has no list {part!r}"
    ids = set()
    for number, image in enumerate(content["images"], start=1):
        fault = _lacks(image, id=(int, str), file_name=(str,))
        if fault:
            return f"image number {number}: {fault}"
        if image["id"] in ids:
            return f"image {image['id']} stands there twice"
        ids.add(image["id"])
    for number, thing in enumerate(content["annotations"], start=1):
        fault = _lacks(thing, image_id=(int, str), category_id=(int, str))
        if fault:
            return f"{called(thing, number)}: {fault}"
        if thing["image_id"] not in ids:
            return f"{called(thing, number)} is on image {thing['image_id']}, which it does not list"
    return "an id is of another kind than the others"


def _lacks(entry: Any, **kinds: tuple[type, ...]) -> str:
    """Which of the keys an entry lacks, or has of another kind; "" for none."""
    for key, kind in kinds.items():
        if not isinstance(entry, dict) or key not in entry:
            return f"it has no {key!r}"
        if not isinstance(entry[key], kind):
            return f"its {key!r} is {entry[key]!r}"
    return ""


def called(thing: Any, number: int = 0) -> str:
    """What a message calls an annotation; `number`: its place in the file, where it has no id."""
    known = thing.get("id") if isinstance(thing, dict) else None
    return f"annotation number {number}" if known is None and number else f"annotation {known}"


def _unreadable(path: Path, fault: str) -> DataError:
    return DataError(f"annotations {path} cannot be read ({fault}); restore the file: export it, or fetch it, again")


def shown_classes(path: Path, values: Mapping[Any, int]) -> dict[str, set[int]]:
    """What the objects of each image are.

    Args:
        path: An instances JSON.
        values: {category id: value in masks}.

    Returns:
        {name of the image's file, without folder and ending: the values of its objects}.

    Raises:
        DataError: As from `read_annotations`; an object has another category, or two images have one name.
    """
    try:
        return _shown_entry_by_entry(path, values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ijson.JSONError):
        content = read_annotations(path)  # whatever is wrong is told when all is read
    images = image_names(path, content)
    found: dict[str, set[int]] = {name: set() for name in images.values()}
    for thing in content["annotations"]:
        category = thing["category_id"]
        if category not in values:
            raise unknown_category(path, thing)
        found[images[thing["image_id"]]].add(values[category])
    return found


def _shown_entry_by_entry(path: Path, values: Mapping[Any, int]) -> dict[str, set[int]]:
    """What `shown_classes` gives, of a file without a fault; an error of any kind for another.

    COCO14's 893,000 objects, read at once with all their corners, take 2.2 GB of memory.
    """
    names: dict[Any, str] = {}
    images = 0
    for image in _entries(path, "images"):
        names[image["id"]] = stem(image["file_name"])
        images += 1
    shown: dict[Any, set[int]] = {}
    for thing in _entries(path, "annotations"):
        shown.setdefault(thing["image_id"], set()).add(values[thing["category_id"]])
    if not shown or not shown.keys() <= names.keys() or not len(set(names.values())) == len(names) == images:
        raise ValueError("no objects, or images that are there twice or not at all")
    return {name: shown.get(number, set()) for number, name in names.items()}


def _entries(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The entries of a list of a JSON object, one at a time."""
    with open(path, "rb") as file:
        yield from ijson.items(file, f"{key}.item", use_float=True)


def image_names(path: Path, content: Mapping[str, Any]) -> dict[Any, str]:
    """The names of the images' files, without folders and endings: {image id: name}.

    Raises:
        DataError: Two images have one name.
    """
    names = {image["id"]: stem(image["file_name"]) for image in content["images"]}
    if len(set(names.values())) < len(names):
        twice = Counter(names.values()).most_common(1)[0][0]
        raise _unreadable(path, f"two images are called {twice}")
    return names


def unknown_category(path: Path, thing: Thing) -> DataError:
    """The error for an object whose category is none of the file's."""
    return DataError(
        f"annotations {path}: {called(thing)} is of category {thing['category_id']!r}, which is no class; list it "
        "with a name under `categories`, or take the annotation out"
    )


def stem(file_name: str) -> str:
    """The name of an image's file without folders, of whatever system, and without its ending."""
    return Path(file_name.replace("\\", "/")).stem


# ── Drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────
def is_crowd(thing: Thing) -> bool:
    """Whether the annotation is of a crowd; one that does not say is of an object."""
    return thing.get("iscrowd") in (1, "1")


def drawn_objects(objects: Iterable[Thing], height: int, width: int) -> Iterator[tuple[Thing, NDArray[np.bool_]]]:
    """Objects and their shapes (H,W), from crowds over the largest to the smallest.

    Args:
        objects: Of one image, each of which can be drawn, see `shape_fault`.
        height: Of the image.
        width: Of the image.
    """
    for thing in sorted(objects, key=lambda thing: (not is_crowd(thing), -_area(thing, height, width))):
        yield thing, draw(thing, height, width)


def _area(thing: Thing, height: int, width: int) -> float:
    """The area of an object in pixels, as the file says, else as it is drawn."""
    area: Any = thing.get("area")
    return float(area) if _is_number(area) else float(draw(thing, height, width).sum())


def shape_fault(thing: Thing, height: int, width: int) -> str:
    """Why an object cannot be drawn on an image of this size, in words; "" where it can be."""
    shape = thing.get("segmentation")
    if isinstance(shape, dict):
        try:
            _runs(shape, height, width)
        except (KeyError, TypeError, ValueError) as error:
            return f"its run lengths are not of {width}×{height} pixels ({error})"
        return ""
    if not isinstance(shape, list) or not shape:
        return "it has no shape"
    return "" if _polygons(shape) else "no polygon of it has three points"


def draw(thing: Thing, height: int, width: int) -> NDArray[np.bool_]:
    """The shape (H,W) of an object that can be drawn: of a polygon those parts that have three points."""
    from pycocotools import mask

    shape = thing["segmentation"]
    if isinstance(shape, dict):
        runs = _runs(shape, height, width)
        inside = np.arange(len(runs)) % 2 == 1
        return np.repeat(inside, runs).reshape(width, height).T
    parts = mask.frPyObjects(_polygons(shape), height, width)
    return np.asarray(mask.decode(mask.merge(parts)) > 0)


def _polygons(shape: Sequence[Any]) -> list[list[float]]:
    """The polygons of a shape that can be drawn; one that stands there without a list around it is one, too."""
    parts = shape if any(isinstance(part, list) for part in shape) else [shape]
    return [corners for corners in map(_corners, parts) if corners]


def _corners(part: Any) -> list[float]:
    """The corners of a polygon, x and y in turn; none where they are not three at least, in pixels."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        return []
    try:
        corners = np.array(part, np.float64)
    except (TypeError, ValueError, OverflowError):
        return []
    return corners.tolist() if corners.ndim == 1 and (np.abs(corners) < FARTHEST).all() else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST_NUMBER


def _runs(shape: Mapping[str, Any], height: int, width: int) -> NDArray[np.int64]:
    """The lengths of a shape's runs, outside and inside in turn, column by column; ValueError where they do not fit."""
    counts = shape["counts"]
    if isinstance(counts, str):
        counts = _unpacked(counts.encode())
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"they are of size {shape['size']}")
    if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != height * width:
        raise ValueError("they do not add up")
    return np.array(counts, np.int64)


def _unpacked(packed: bytes) -> list[int]:
    """Run lengths from their packed form: five bits a letter, from the third on as differences to the last but one."""
    runs: list[int] = []
    value = bits = 0
    for letter in packed:
        code = letter - 48
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    return runs


def image_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of an image as the file gives them; None where it does not."""
    size = (image.get("height"), image.get("width"))
    if all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in size):
        return size  # type: ignore[return-value]
    return None


def in_words(faults: Mapping[str, Sequence[str]], path: Path) -> str:
    """One sentence for objects that cannot be drawn: {why: annotations}."""
    every = [f"{name} ({why})" for why, names in faults.items() for name in names]
    named = ", ".join(every[:NAMED]) + (", …" if len(every) > NAMED else "")
    left_out = "cannot be drawn and are left out, and images that show nothing else"
    return f"{path}: {len(every)} of its objects {left_out}: {named}"

"""The embedded data set: animals in patterned fur, written to disk in VOC12's own layout.

Made so that it has the two difficulties of weak supervision, and that they are known:

* **A class is told by a part.** Two classes share each body shape. Each has a favourite fur, but once in ten times
  it has any; only the head is certain. That a network leans on the head is not given: a coarse CAM of the demo was
  0.67 on bodies and 0.56 on heads, with its peak on the head in 2 % of 87 animals (60 scenes of val).
* **Backgrounds co-occur.** Where one of four classes comes first in a scene, the scene is its own background
  six times in ten and else any, so the background is evidence for the class.

Headless cushions in textures like those of the furs, stones, bushes and balls are scattered about as distractors.
Everything is drawn with PIL at twice the size and reduced; scene number `i` depends on `(SEED, i)` alone.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..files import lock as locked
from ..processes import spawned
from .drawing import (
    BACKGROUNDS,
    SUPERSAMPLING,
    Brush,
    draw_background,
    draw_body,
    draw_distractor,
    draw_head,
    finish,
    random_cloth,
    to_canvas,
)
from .images import VOID, write_label_png
from .voc import VOC

VERSION = 5
SEED = 504
STAMP = "synthetic.json"  # beside the data: which version it is
SIZES = ((128, 112), (112, 128), (120, 120), (128, 104))  # (width, height) in pixels
LENGTHS = {1: (84, 112), 2: (70, 88), 3: (58, 70)}  # least and most pixels of each of one, two or three animals
TRIES = 60  # placings of which the one with the most distance is taken
MIN_VISIBLE = 0.45  # an animal hidden behind another to more than this share is drawn again elsewhere
HEAD_SIZE = 0.34  # radius of a head, in half lengths of its animal

Animal = tuple[str, str | None, str, int]

# class → (body shape, background it co-occurs with or None, texture and colours of its favourite fur)
ANIMALS: dict[str, Animal] = {
    "bear": ("block", "snow", "stripes", 0),
    "cat": ("sitting", None, "dots", 3),
    "elephant": ("block", None, "plain", 7),
    "lion": ("standing", "desert", "checks", 1),
    "owl": ("perched", None, "hoops", 6),
    "parrot": ("perched", "forest", "patches", 2),
    "pig": ("standing", "barn", "dots", 4),
    "rabbit": ("sitting", None, "stripes", 5),
}
CLASSES = tuple(ANIMALS)


@dataclass(frozen=True)
class SceneStyle:
    """How scenes are drawn; the defaults are those of the data set, pretraining has its own."""

    counts: tuple[float, float, float] = (0.6, 0.3, 0.1)  # shares of the scenes with one, two and three animals
    co_occurrence: float = 0.6  # how often the first animal's own background is drawn for it, else any
    favourite: float = 0.9  # how often an animal has its class' favourite fur, else any
    periods: tuple[float, float] = (5.5, 8.5)  # least and most pixels from stripe to stripe, finer than a patch
    contrast: float = 0.4  # of the two colours of a fur, as a share of what CLOTHES has
    trim: float = 0.85  # brightness of feet and tail, as a share of the fur's


STYLE = SceneStyle()


# ── Scenes ────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Figure:
    """An animal of a scene, all but its place."""

    name: Any  # of its class, as NumPy draws it
    shape: str
    cloth: Image.Image
    fur: NDArray[np.float64]  # RGB
    angle: float
    mirror: bool


def place(
    rng: np.random.Generator, count: int, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places for animals that keep apart as well as chance allows.

    Args:
        rng: Where sizes and places are drawn from.
        count: Of the animals, 1 to 3.
        width: Of the scene, in pixels.
        height: Of the scene, in pixels.

    Returns:
        Their centres (count, 2) and lengths (count,), in pixels.
    """
    lengths = rng.uniform(*LENGTHS[count], count)
    margin = lengths[:, None] * 0.42
    free = np.maximum(np.array([width, height]) - 2 * margin, 1)
    tries = margin + rng.uniform(size=(TRIES, count, 2)) * free
    distances = [_least_distance(centres) for centres in tries]
    return tries[int(np.argmax(distances))], lengths


def _least_distance(centres: NDArray[np.float64]) -> float:
    """Between any two of the centres (n, 2); 0 for a single one."""
    distances = [np.linalg.norm(centres[i] - centres[j]) for i in range(len(centres)) for j in range(i)]
    return float(min(distances, default=0))


def render_scene(
    rng: np.random.Generator,
    animals: Mapping[Any, Animal] = ANIMALS,
    draw_head: Callable[..., None] = draw_head,
    style: SceneStyle = STYLE,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[Any, ...]]:
    """Draw one scene.

    Args:
        rng: Where everything is drawn from.
        animals: The classes, as in `ANIMALS`.
        draw_head: Draws the head of a class, see `drawing.draw_head`.
        style: Shares, sizes and colours.

    Returns:
        The image (H,W,3), its instance map (H,W) with 0 for background and 1… for the animals, and their classes.
    """
    width, height = SIZES[rng.integers(len(SIZES))]
    names = rng.choice(list(animals), rng.choice((1, 2, 3), p=style.counts), replace=False)
    background = animals[names[0]][1]
    if background is None or rng.uniform() > style.co_occurrence:
        background = str(rng.choice(BACKGROUNDS))
    scene = to_canvas(draw_background(rng, background, height, width))
    for _ in range(rng.integers(0, 4)):
        cloth = random_cloth(rng, width, height, periods=style.periods)[0]
        draw_distractor(rng, scene, Image.new("L", scene.size), cloth)
    figures = [_dress(rng, name, animals[name], width, height, style) for name in names]
    while True:
        centres, lengths = place(rng, len(names), width, height)
        image, instances, visible = _draw_figures(scene, figures, centres, lengths, draw_head, style.trim)
        if min(visible) >= MIN_VISIBLE:
            return finish(rng, image), instances[1::2, 1::2].copy(), tuple(name.item() for name in names)


def _dress(rng: np.random.Generator, name: Any, animal: Animal, width: int, height: int, style: SceneStyle) -> Figure:
    """An animal in its favourite fur or in any, turned a little, half of the time the other way round."""
    shape, _, texture, colours = animal
    fabric = (texture, colours) if rng.uniform() < style.favourite else (None, None)
    cloth, fur = random_cloth(rng, width, height, *fabric, periods=style.periods, contrast=style.contrast)
    angle = rng.uniform(-0.22, 0.22)
    return Figure(name, shape, cloth, fur, angle, mirror=bool(rng.uniform() < 0.5))


def _draw_figures(
    scene: Image.Image,
    figures: Sequence[Figure],
    centres: NDArray[np.float64],
    lengths: NDArray[np.float64],
    draw_head: Callable[..., None],
    trim: float,
) -> tuple[Image.Image, NDArray[np.uint8], list[float]]:
    """A copy of the canvas with the animals, its instance map, and which share of each is not hidden by later ones."""
    image = scene.copy()
    labels = Image.new("L", scene.size)
    drawn = []
    for value, (figure, centre, length) in enumerate(zip(figures, centres, lengths, strict=True), start=1):
        scale = length * SUPERSAMPLING / 2
        brush = Brush(image, labels, value, centre * SUPERSAMPLING, scale, figure.angle, figure.mirror)
        x, y = draw_body(brush, figure.shape, figure.cloth, figure.fur * trim)
        draw_head(brush, figure.name, x, y, HEAD_SIZE, figure.fur)
        drawn.append((np.asarray(labels) == value).sum())
    instances = np.asarray(labels)
    visible = [(instances == value).sum() / area for value, area in enumerate(drawn, start=1)]
    return image, instances, visible


# ── On disk ───────────────────────────────────────────────────────────────────────────────────────────────────────
# train is part of train_aug, as in VOC12; the smoke lists are the first images of train and val
LIST_SIZES = {"train": 300, "val": 200, "train_aug": 2000, "smoke": 48, "smoke_val": 24}


class Synthetic(VOC):
    """The embedded data set, as it lies on disk."""

    name = "synthetic"

    def __init__(self, root: Path | str) -> None:
        super().__init__(root, CLASSES)


def segmentation_mask(instances: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
    """The class mask of an instance map, both (H,W), as VOC draws it: c + 1 inside, 255 along outlines (2 pixels)."""
    values = np.array([0, *(CLASSES.index(name) + 1 for name in names)], np.uint8)
    mask = values[instances]
    padded = np.pad(instances, 1, mode="edge")
    height, width = instances.shape
    shifts = [padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    mask[np.min(shifts, 0) != np.max(shifts, 0)] = VOID
    return mask


def annotation(image_id: str, instances: NDArray[np.uint8], names: Sequence[str]) -> bytes:
    """VOC12's XML for a scene: the objects with their boxes."""
    height, width = instances.shape
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "VOC2012"
    ElementTree.SubElement(root, "filename").text = f"{image_id}.jpg"
    _add_texts(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    ElementTree.SubElement(root, "segmented").text = "1"
    for value, name in enumerate(names, start=1):
        thing = ElementTree.SubElement(root, "object")
        _add_texts(thing, {"name": name, "pose": "Unspecified", "truncated": 0, "difficult": 0})
        rows, columns = np.nonzero(instances == value)
        box = {"xmin": columns.min(), "ymin": rows.min(), "xmax": columns.max(), "ymax": rows.max()}
        from_one = {corner: number + 1 for corner, number in box.items()}  # VOC counts pixels from 1
        _add_texts(ElementTree.SubElement(thing, "bndbox"), from_one)
    ElementTree.indent(root)
    return ElementTree.tostring(root)


def _add_texts(parent: ElementTree.Element, texts: Mapping[str, object]) -> None:
    """An element with a text for each entry."""
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def write_scene(folder: Path, image_id: str, key: Sequence[int]) -> None:
    """Draw the scene that belongs to `key` and write image, mask and annotation below `folder`."""
    pixels, instances, names = render_scene(np.random.default_rng(key))
    Image.fromarray(pixels).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=92)
    write_label_png(folder / "SegmentationClass" / f"{image_id}.png", segmentation_mask(instances, names))
    (folder / "Annotations" / f"{image_id}.xml").write_bytes(annotation(image_id, instances, names))


def _version() -> str:
    return json.dumps({"version": VERSION, "seed": SEED, "sizes": LIST_SIZES})


def _is_current(root: Path) -> bool:
    """Whether the whole data set is there, in this version."""
    stamp = root / STAMP
    return stamp.is_file() and stamp.read_text() == _version()


def _is_foreign(root: Path) -> bool:
    """Whether there is something that weaktr did not make."""
    if not root.exists() or (root / STAMP).is_file():
        return False
    return root.is_file() or any(root.iterdir())


def write_dataset(root: Path, workers: int | None = None) -> None:
    """Write the whole data set below `root` in VOC12's layout, or nothing. Takes some 20 seconds on two cores."""
    aside = root.with_name(f".{root.name}.{os.getpid()}.part")
    try:
        _write_files(aside / "VOCdevkit" / "VOC2012", workers)
        (aside / STAMP).write_text(_version())
        shutil.rmtree(root, ignore_errors=True)
        aside.replace(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_files(folder: Path, workers: int | None) -> None:
    """All lists, images, masks and annotations."""
    for below in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (folder / below).mkdir(parents=True)
    train = [f"scene_{i:06d}" for i in range(LIST_SIZES["train_aug"])]
    val = [f"scene_{900000 + i:06d}" for i in range(LIST_SIZES["val"])]
    for name, size in LIST_SIZES.items():
        members = val if name.endswith("val") else train
        text = "".join(f"{image_id}\n" for image_id in members[:size])
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(text)
    ids = train + val
    keys = [(SEED, int(image_id.removeprefix("scene_"))) for image_id in ids]
    with spawned(workers or os.cpu_count() or 1) as pool:
        list(pool.map(write_scene, [folder] * len(ids), ids, keys, chunksize=100))


def open_synthetic(root: Path) -> Synthetic:
    """Open the embedded data set at `root`; drawn first where it does not exist, or is of another version.

    Raises:
        DataError: `root` is a folder that weaktr did not make; it is never overwritten.
    """
    if not _is_current(root):
        if _is_foreign(root):
            raise DataError(f"{root} holds other files; give the synthetic data set a folder of its own with data_root")
        _draw_once(root)
    return Synthetic(root)


def _draw_once(root: Path) -> None:
    """Draw the data set, unless another process is doing so: then wait for it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = root.with_name(f".{root.name}.lock")
    try:
        with locked(lock):
            if not _is_current(root):  # another process may have drawn it in the meantime
                print(f"drawing the synthetic data set into {root} (once, some 20 s on two cores)", flush=True)
                write_dataset(root)
    finally:
        lock.unlink(missing_ok=True)

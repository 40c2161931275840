"""The embedded data set: animals in patterned fur, written to disk in VOC12's own layout.

Made so that the two difficulties of weak supervision are there, and known:

* **A class is told by a part.** Two classes share each body shape. Each has a favourite fur, but once in ten times
  it has any; only the head is certain. What a network leans on is measured, not given: the demo's CAMs light the
  patterned body more than the head (LOG.md).
* **Backgrounds co-occur.** Where one of four classes comes first in a scene, the scene is its own background
  six times in ten and else any, so the background is evidence for the class.

Headless cushions in textures like those of the furs, stones, bushes and balls are scattered about as distractors.
Everything is drawn with PIL at twice the size and reduced; scene number `i` depends on `(SEED, i)` alone.
"""

import json
import os
import shutil
from xml.etree import ElementTree

import numpy as np
from filelock import FileLock
from PIL import Image

from ..errors import DataError
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
from .images import write_label_png
from .voc import VOC

VERSION = 5
SEED = 504
STAMP = "synthetic.json"  # beside the data: which version it is
SIZES = ((128, 112), (112, 128), (120, 120), (128, 104))  # (width, height) in pixels
MIN_VISIBLE = 0.45  # an animal hidden behind another to more than this share is drawn again elsewhere


# class → (body shape, background it co-occurs with or None, texture and colours of its favourite fur)
ANIMALS = {
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
COUNTS = (0.6, 0.3, 0.1)  # shares of the scenes with one, two and three animals
CO_OCCURRENCE = 0.6  # how often the first animal's own background is drawn for it, else any
FAVOURITE = 0.9  # how often an animal has its class' favourite fur, else any
PERIODS = (5.5, 8.5)  # least and most pixels from stripe to stripe, finer than a patch
CONTRAST = 0.4  # of the two colours of a fur, as a share of what CLOTHES has
TRIM = 0.85  # brightness of feet and tail, as a share of the fur's


# ── Scenes ────────────────────────────────────────────────────────────────────────────────────────────────────────
def place(rng, count, width, height):
    """Centres (count, 2) and sizes (count,) in pixels of `count` animals that keep apart as well as chance allows."""
    longest = {1: (84, 112), 2: (70, 88), 3: (58, 70)}[count]
    sizes = rng.uniform(*longest, count)
    margin = sizes[:, None] * 0.42
    tries = margin + rng.uniform(size=(60, count, 2)) * np.maximum(np.array([width, height]) - 2 * margin, 1)
    distances = [min([np.linalg.norm(t[i] - t[j]) for i in range(count) for j in range(i)], default=0) for t in tries]
    return tries[int(np.argmax(distances))], sizes


def render_scene(
    rng,
    animals=ANIMALS,
    draw_head=draw_head,
    counts=COUNTS,
    co_occurrence=CO_OCCURRENCE,
    favourite=FAVOURITE,
    periods=PERIODS,
    contrast=CONTRAST,
    trim=TRIM,
):
    """One scene: image (H, W, 3) uint8, instance map (H, W) uint8 (0 background, 1… animals), class names.

    The defaults are those of the data set; pretraining has its own.
    """
    width, height = SIZES[rng.integers(len(SIZES))]
    names = rng.choice(list(animals), rng.choice((1, 2, 3), p=counts), replace=False)
    background = animals[names[0]][1]
    if background is None or rng.uniform() > co_occurrence:
        background = rng.choice(BACKGROUNDS)
    scene = to_canvas(draw_background(rng, background, height, width))
    for _ in range(rng.integers(0, 4)):
        draw_distractor(rng, scene, Image.new("L", scene.size), random_cloth(rng, width, height, periods=periods)[0])
    dress = []
    for name in names:
        kind = animals[name][2:] if rng.uniform() < favourite else ()
        fur = random_cloth(rng, width, height, *kind, periods=periods, contrast=contrast)
        dress.append((fur, rng.uniform(-0.22, 0.22), rng.uniform() < 0.5))
    while True:
        image, labels = scene.copy(), Image.new("L", scene.size)
        centres, sizes = place(rng, len(names), width, height)
        drawn = []
        for value, (name, centre, size, ((cloth, fur), angle, mirror)) in enumerate(
            zip(names, centres, sizes, dress, strict=True), start=1
        ):
            brush = Brush(image, labels, value, centre * SUPERSAMPLING, size * SUPERSAMPLING / 2, angle, mirror)
            x, y = draw_body(brush, animals[name][0], cloth, fur * trim)
            draw_head(brush, name, x, y, 0.34, fur)
            drawn.append((np.asarray(labels) == value).sum())
        instances = np.asarray(labels)
        visible = [(instances == value).sum() / area for value, area in enumerate(drawn, start=1)]
        if min(visible) >= MIN_VISIBLE:
            return finish(rng, image), instances[1::2, 1::2].copy(), tuple(name.item() for name in names)


# ── On disk ───────────────────────────────────────────────────────────────────────────────────────────────────────
# train is part of train_aug, as in VOC12; the smoke lists are the first images of train and val
LIST_SIZES = {"train": 300, "val": 200, "train_aug": 2000, "smoke": 48, "smoke_val": 24}


def segmentation_mask(instances, names):
    """Instance map → class mask as VOC draws it: c + 1 inside, 255 along every outline (2 pixels)."""
    values = np.array([0, *(CLASSES.index(name) + 1 for name in names)], np.uint8)
    mask = values[instances]
    padded = np.pad(instances, 1, mode="edge")
    height, width = instances.shape
    shifts = [padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    mask[np.min(shifts, 0) != np.max(shifts, 0)] = 255
    return mask


def annotation(image_id, instances, names):
    """VOC12's XML for a scene: the objects with their boxes."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "VOC2012"
    ElementTree.SubElement(root, "filename").text = f"{image_id}.jpg"
    size = ElementTree.SubElement(root, "size")
    for name, value in zip(("width", "height", "depth"), (*instances.shape[::-1], 3), strict=True):
        ElementTree.SubElement(size, name).text = str(value)
    ElementTree.SubElement(root, "segmented").text = "1"
    for value, name in enumerate(names, start=1):
        thing = ElementTree.SubElement(root, "object")
        for key, text in (("name", name), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(thing, key).text = text
        rows, columns = np.nonzero(instances == value)
        box = ElementTree.SubElement(thing, "bndbox")
        for key, number in zip(
            ("xmin", "ymin", "xmax", "ymax"), (columns.min(), rows.min(), columns.max(), rows.max()), strict=True
        ):
            ElementTree.SubElement(box, key).text = str(number + 1)  # VOC counts pixels from 1
    ElementTree.indent(root)
    return ElementTree.tostring(root)


def write_scene(folder, image_id, key):
    """Draw the scene that belongs to `key` and write image, mask and annotation below `folder`."""
    pixels, instances, names = render_scene(np.random.default_rng(key))
    Image.fromarray(pixels).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=92)
    write_label_png(folder / "SegmentationClass" / f"{image_id}.png", segmentation_mask(instances, names))
    (folder / "Annotations" / f"{image_id}.xml").write_bytes(annotation(image_id, instances, names))


def _version():
    return json.dumps({"version": VERSION, "seed": SEED, "sizes": LIST_SIZES})


def write_dataset(root, workers=None):
    """Write the whole data set below `root` in VOC12's layout, or nothing. Takes some 20 seconds on two cores."""
    aside = root.with_name(f".{root.name}.{os.getpid()}.part")
    try:
        _write_files(aside / "VOCdevkit" / "VOC2012", workers)
        (aside / STAMP).write_text(_version())
        shutil.rmtree(root, ignore_errors=True)
        aside.replace(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_files(folder, workers):
    for place in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (folder / place).mkdir(parents=True)
    train = [f"scene_{i:06d}" for i in range(LIST_SIZES["train_aug"])]
    val = [f"scene_{900000 + i:06d}" for i in range(LIST_SIZES["val"])]
    for name, size in LIST_SIZES.items():
        ids = (val if name.endswith("val") else train)[:size]
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))
    ids = train + val
    keys = [(SEED, int(image_id.removeprefix("scene_"))) for image_id in ids]
    with spawned(workers or os.cpu_count()) as pool:
        list(pool.map(write_scene, [folder] * len(ids), ids, keys, chunksize=100))


def open_synthetic(root):
    """The embedded data set at `root`, written first when it is not there or of another version → VOC reader.

    Raises DataError when `root` is a folder that weaktr did not make: it is never overwritten.
    """
    stamp = root / STAMP
    if not stamp.is_file() or stamp.read_text() != _version():
        if root.exists() and not stamp.is_file() and (root.is_file() or any(root.iterdir())):
            raise DataError(f"{root} holds other files; give the synthetic data set a folder of its own with data_root")
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = root.with_name(f".{root.name}.lock")
        try:
            with FileLock(lock):
                if not stamp.is_file() or stamp.read_text() != _version():  # another run may have drawn it by now
                    print(f"drawing the synthetic data set into {root} (once, some 20 s on two cores)", flush=True)
                    write_dataset(root)
        finally:
            lock.unlink(missing_ok=True)
    dataset = VOC(root, CLASSES)
    dataset.name = "synthetic"
    return dataset

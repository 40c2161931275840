"""Data of VOC12's and of COCO14's size without the data: lists of any length, whose files are links to a few scenes.

    .venv/bin/python benchmarks/large_lists.py coco14 FOLDER [TRAIN VAL]

SCENES photographs are drawn, of the size in pixels and about as many bytes as real ones have, with masks, XML
annotations (VOC12) or instance annotations (COCO14: 600,217 objects on the 82,081 training images, 28 corners each).
Every image of the lists `drawn_train` and `drawn_val` (VOC12), `train` and `val` (COCO14) is a hard link to one of
them: a reader has to open as many files as the real data have, and the disk holds a few. COCO14 then takes 0.6 GB.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from weaktr.data.coco import NAMES, USED
from weaktr.data.images import write_label_png
from weaktr.data.voc import VOC_CLASSES

SCENES = 16
SIZES = {"voc12": (10_582, 1_449), "coco14": (82_081, 40_137)}  # images of the training list and of val
LISTS = {"voc12": ("drawn_train", "drawn_val"), "coco14": ("train", "val")}  # a list of VOC's own name has known counts
VOC_OBJECTS = (1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4)  # of each scene, 2.4 in the mean
COCO_OBJECTS = (1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 9, 10, 11, 12, 12, 13)  # 7.3 in the mean
CELLS = (3, 5)  # rows and columns of places, each with one object at most, so that all can be seen
CORNERS = 28  # of an object; COCO's polygons have about as many
GRAIN = 22  # of 255, so that a JPEG has some 0.5 bytes a pixel, as COCO's have


@dataclass(frozen=True)
class Scene:
    """A drawn photograph, its mask, and what is on it."""

    picture: Path
    mask: Path
    values: list[int]  # in the mask, of each object
    polygons: list[NDArray[np.float64]]  # (CORNERS,2) x and y in pixels, of each object


def draw_scenes(folder: Path, values: Sequence[int], objects: Sequence[int], height: int, width: int) -> list[Scene]:
    """Draw a scene for each number of objects, as JPEG and PNG in `folder`; objects take `values` in turns."""
    folder.mkdir(parents=True, exist_ok=True)
    first = np.cumsum([0, *objects])
    scenes = []
    for number in range(len(objects)):
        own = [values[i % len(values)] for i in range(first[number], first[number + 1])]
        scenes.append(_draw(folder / f"scene_{number:02d}", own, height, width, np.random.default_rng(number)))
    return scenes


def _draw(stem: Path, values: list[int], height: int, width: int, rng: np.random.Generator) -> Scene:
    coarse = Image.fromarray(rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8))
    picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
    mask = Image.new("L", (width, height))
    polygons = []
    for cell, value in zip(rng.permutation(CELLS[0] * CELLS[1]), values, strict=False):
        row, column = divmod(int(cell), CELLS[1])
        cell_size = np.array((width / CELLS[1], height / CELLS[0]))
        corners = ((_blob(rng) + np.array((column, row))) * cell_size).round(2)
        ImageDraw.Draw(picture).polygon(corners.ravel().tolist(), fill=tuple(rng.integers(0, 256, 3).tolist()))
        ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=value)
        polygons.append(corners)
    grainy = np.asarray(picture) + rng.normal(0, GRAIN, (height, width, 1))
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(stem.with_suffix(".jpg"), quality=90)
    write_label_png(stem.with_suffix(".png"), np.asarray(mask))
    return Scene(stem.with_suffix(".jpg"), stem.with_suffix(".png"), values, polygons)


def _blob(rng: np.random.Generator) -> NDArray[np.float64]:
    """The corners (CORNERS,2) of a shape in the unit square, around its middle."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = rng.uniform(0.25, 0.45, CORNERS)
    return 0.5 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def write_voc12(root: Path, train: int, val: int) -> None:
    """Data in VOC12's layout below an empty folder; train, val: how many images the lists have."""
    folder = root / "VOCdevkit" / "VOC2012"
    scenes = draw_scenes(root / "scenes", range(1, len(VOC_CLASSES) + 1), VOC_OBJECTS, 375, 500)
    annotations = [scene.picture.with_suffix(".xml") for scene in scenes]
    for scene, annotation in zip(scenes, annotations, strict=True):
        annotation.write_text(_xml(scene), encoding="utf-8")
    for place in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (folder / place).mkdir(parents=True)
    names = [f"drawn_{number:06d}" for number in range(train + val)]
    for number, name in enumerate(names):
        scene = scenes[number % SCENES]
        os.link(scene.picture, folder / "JPEGImages" / f"{name}.jpg")
        os.link(scene.mask, folder / "SegmentationClass" / f"{name}.png")
        os.link(annotations[number % SCENES], folder / "Annotations" / f"{name}.xml")
    for own, part in zip(LISTS["voc12"], (names[:train], names[train:]), strict=True):
        _write_list(folder / "ImageSets/Segmentation" / f"{own}.txt", part)


def _xml(scene: Scene) -> str:
    """The annotation of a scene, as VOC writes it."""
    objects = []
    for value, corners in zip(scene.values, scene.polygons, strict=True):
        (left, top), (right, bottom) = corners.min(0).astype(int).tolist(), corners.max(0).astype(int).tolist()
        box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        facts = "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        objects.append(f"<object><name>{VOC_CLASSES[value - 1]}</name>{facts}<bndbox>{box}</bndbox></object>")
    size = "<size><width>500</width><height>375</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2012</folder>{size}{''.join(objects)}</annotation>\n"


def write_coco14(root: Path, train: int, val: int) -> None:
    """Data in COCO14's layout below an empty folder; train, val: how many images the lists have."""
    scenes = draw_scenes(root / "scenes", USED, COCO_OBJECTS, 480, 640)
    for place in ("images", "annotations", "voc_format/class_labels"):
        (root / place).mkdir(parents=True)
    first = 0
    for split, count in zip(LISTS["coco14"], (train, val), strict=True):
        numbers = range(first, first + count)
        names = [f"COCO_{split}2014_{number:012d}" for number in numbers]
        for number, name in zip(numbers, names, strict=True):
            scene = scenes[number % SCENES]
            os.link(scene.picture, root / "images" / f"{name}.jpg")
            os.link(scene.mask, root / "voc_format/class_labels" / f"{name}.png")
        _write_list(root / "voc_format" / f"{split}.txt", names)
        _write_instances(root / "annotations" / f"instances_{split}2014.json", scenes, numbers, names)
        first += count


def _write_instances(path: Path, scenes: Sequence[Scene], numbers: Iterable[int], names: Sequence[str]) -> None:
    """Instance annotations of images that show the scenes in turns, with the keys that COCO's have."""
    texts = [[json.dumps(thing)[1:-1] for thing in _things(scene)] for scene in scenes]
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info": {"year": 2014}, "licenses": [], "images": [')
        for place, (number, name) in enumerate(zip(numbers, names, strict=True)):
            image = {"license": 1, "file_name": f"{name}.jpg", "height": 480, "width": 640, "id": number}
            file.write(", " * bool(place) + json.dumps(image))
        file.write('], "annotations": [')
        written = 0
        for number in numbers:
            for text in texts[number % SCENES]:
                file.write(f'{", " * bool(written)}{{{text}, "image_id": {number}, "id": {written + 1}}}')
                written += 1
        categories = [{"supercategory": "drawn", "id": i, "name": NAMES[i - 1]} for i in USED]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _things(scene: Scene) -> Iterable[dict[str, object]]:
    """The objects of a scene, as COCO describes them, without the ids of image and object."""
    for value, corners in zip(scene.values, scene.polygons, strict=True):
        low, high = corners.min(0), corners.max(0)
        yield {
            "segmentation": [corners.ravel().tolist()],
            "area": float((high - low).prod().round(4)),
            "iscrowd": 0,
            "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
            "category_id": value,
        }


def _write_list(path: Path, names: Iterable[str]) -> None:
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


WRITERS = {"voc12": write_voc12, "coco14": write_coco14}


def main(name: str, folder: str, *sizes: str) -> None:
    """Write the data set of a name, of its own size unless other sizes are given."""
    train, val = map(int, sizes) if sizes else SIZES[name]
    WRITERS[name](Path(folder), train, val)
    print(f"{folder}: {name}, lists {', '.join(LISTS[name])} of {train} and {val} images")


if __name__ == "__main__":
    main(*sys.argv[1:])

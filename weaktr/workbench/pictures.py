"""Many pictures through a trained network: which ones are meant, where their masks go, and what lies there already.

A mask keeps a note of the network, the settings and the picture that it was made from. So a folder of masks can be
filled by several calls, after an interruption or at once, and what another network made is never taken for this one's.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from ..data.dataset import Dataset
from ..data.images import read_image, read_label_png, read_note
from ..errors import DataError, UserError, counted
from ..files import atomic, writing
from ..method.segmentation import Task, segment_to_files
from ..plots import mask_over
from ..processes import cores
from ..progress import Progress
from .predict import Network, digest

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of pictures in a folder
LONGEST_NAME = 230  # bytes of a mask's name: file systems take 255, and `atomic` adds to it


class Picture(NamedTuple):
    """A picture to be segmented."""

    path: Path
    name: str  # of its mask, without ending, below the folder of masks
    read: Callable[[], np.ndarray]  # gives its pixels, (H,W,3) uint8 RGB


@dataclass
class Predicted:
    """What came of the pictures."""

    made: int = 0
    there: int = 0  # masks that lay there already, of the same network and picture
    broken: dict[Path, str] = field(default_factory=dict)  # pictures without a mask: why


# ── Which pictures ────────────────────────────────────────────────────────────────────────────────────────────────
def find_pictures(given: Sequence[str | Path], output: Path) -> list[Picture]:
    """The pictures that a command names, each once.

    Args:
        given: Pictures, folders, of which all pictures below are taken, and .txt files with a picture's path a line.
            Masks of a folder keep its folders, the others are called by the picture's name alone.
        output: The folder of masks, which is no source of pictures.

    Raises:
        DataError: A path does not exist or names no picture, or two pictures would have one mask.
    """
    found: dict[Path, Picture] = {}
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            named = _in_folder(path, output)
        elif not path.exists():
            raise DataError(f"{path} does not exist; give pictures, folders, or a .txt file with a path a line")
        else:
            files = _listed(path) if path.suffix.lower() == ".txt" else [path]
            named = {file: file.stem for file in files}
        for file, name in named.items():
            found.setdefault(file.resolve(), Picture(file, name, partial(read_image, file)))
    return list(found.values())


def pictures_of(dataset: Dataset, list_name: str) -> list[Picture]:
    """The images of a list; neither labels nor masks are asked for.

    Raises:
        DataError: The list cannot be used.
    """
    return [Picture(dataset.image_path(i), i, partial(dataset.image, i)) for i in dataset.ids(list_name)]


def _in_folder(folder: Path, output: Path) -> dict[Path, str]:
    """{picture: name of its mask} of all below a folder, but hidden ones, those in `output` and a data set's masks."""
    if folder.resolve().is_relative_to(output.resolve()):
        raise DataError(f"{folder} is to be read, and lies in --output {output}; give the masks another folder")
    masks = folder / "masks"
    of_masks = [masks] if (folder / "labels.csv").is_file() and masks.is_dir() else []
    there = list(_files_below(folder, leave_out=[output, *of_masks]))
    pictures = [path for path in there if path.suffix.lower() in ENDINGS]
    others = [path for path in there if path.suffix.lower() not in ENDINGS]
    if not pictures:
        but = f", but {others[0].name}" if others else ""
        raise DataError(f"{folder} holds no picture{but}; pictures in a folder end in {', '.join(ENDINGS)}")
    if others:
        more = f" and {counted(len(others) - 1, 'more files')}" if len(others) > 1 else ""
        print(f"{folder}: {others[0].name}{more} left out, pictures end in {', '.join(ENDINGS)}")
    if of_masks:
        print(f"{folder}: masks/ left out, which beside labels.csv holds masks; give it by itself for pictures")
    return {path: str(path.relative_to(folder).with_suffix("")) for path in pictures}


def _files_below(folder: Path, leave_out: Sequence[Path]) -> Iterator[Path]:
    """All files below a folder in order, also in linked folders, each of which is entered once."""
    entered = {path.resolve() for path in leave_out}
    for place, folders, files in os.walk(folder, followlinks=True):
        entered.add(Path(place).resolve())
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(place, name).resolve() not in entered
        )
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _listed(path: Path) -> list[Path]:
    """The pictures that a text file names, a path a line, seen from here or from the file's folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list {path} cannot be read ({error}); write a picture's path a line, in UTF-8") from error
    files = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        places = [folder / line.strip() for folder in (Path(), path.parent)]
        there = list({place.resolve(): place for place in places if place.is_file()}.values())
        if not there:
            raise DataError(
                f"list {path}, line {number}: no file {line.strip()!r}, seen from here or from the list's folder; "
                "write a picture's path a line, or give --dataset and --list where these are the ids of a data set"
            )
        if len(there) > 1:
            raise DataError(f"list {path}, line {number}: {there[0]} or {there[1]}? Write the whole path")
        files += there
    if not files:
        raise DataError(f"list {path} is empty; write a picture's path a line")
    return files


# ── Masks ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def predict_pictures(
    network: Network, pictures: Sequence[Picture], output: Path, *, crf: str = "", overlays: bool = False
) -> Predicted:
    """Write the mask of every picture; masks of the same network and picture that are there already stay.

    Args:
        network: As from `open_network`.
        pictures: As from `find_pictures` or `pictures_of`.
        output: The folder of masks, <name>.png, and of overlays/<name>.jpg.
        crf: The dense CRF after the network: "voc" or "coco"; "" for none.
        overlays: Also draw each mask over its picture.

    Raises:
        UserError: Before anything is computed, for a folder that cannot be used and for masks in it that are not of
            this network and these pictures; later, where a mask cannot be written.
    """
    masks = {picture: output / f"{picture.name}.png" for picture in pictures}
    notes = {"model": network.digest, "inference": network.inference, "crf": crf, "classes": network.names}
    _refuse_clashes(masks)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    missing = []
    for picture, mask in masks.items():
        if os.path.lexists(mask):
            _refuse_another(mask, notes, picture)
        else:
            missing.append(picture)
    outcome = Predicted(there=len(masks) - len(missing))
    device = next(network.model.parameters()).device
    print(f"{counted(len(masks), 'pictures')}, {outcome.there} with their masks already, on {device}", flush=True)
    if missing:
        progress = Progress("predict", len(missing), "pictures")
        tasks = _tasks(network, missing, masks, notes, outcome, progress)
        with writing(output):
            segment_to_files(network.model, tasks, crf=crf, workers=cores(), progress=progress, **network.inference)
        outcome.made = len(missing) - len(outcome.broken)
    if overlays:
        new = set(missing)
        for picture, mask in masks.items():
            drawn = output / "overlays" / f"{picture.name}.jpg"
            if picture.path not in outcome.broken and (picture in new or not drawn.is_file()):
                with writing(output):
                    _draw_overlay(picture, mask, drawn)
    return outcome


def _tasks(
    network: Network,
    pictures: Iterable[Picture],
    masks: Mapping[Picture, Path],
    notes: Mapping[str, Any],
    outcome: Predicted,
    progress: Progress,
) -> Iterator[Task]:
    """The pictures that can be read; of the others it is said why not, and they go to `outcome.broken`."""
    for picture in pictures:
        try:
            image = picture.read()
            _refuse_too_large(network, picture.path, image)
            note = {**notes, "picture": digest(picture.path)}
        except (DataError, OSError) as error:
            outcome.broken[picture.path] = str(error)
            print(f"left out: {error}", flush=True)
            progress.update(1)
            continue
        place = {"refined" if notes["crf"] else "plain": masks[picture]}
        yield Task(image, note=note, **place)


def _draw_overlay(picture: Picture, mask: Path, path: Path) -> None:
    """The mask over its picture, as a JPEG."""
    drawn = Image.fromarray(mask_over(picture.read(), read_label_png(mask)))
    with atomic(path) as aside:
        drawn.save(aside, format="JPEG", quality=90)


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────────
def _refuse_clashes(masks: Mapping[Picture, Path]) -> None:
    """Each mask has a place of its own, which is no picture's, and a name that a file system takes."""
    taken: dict[Path, Picture] = {}
    sources = {picture.path.resolve() for picture in masks}
    for picture, mask in masks.items():
        if mask in taken:
            raise DataError(
                f"{taken[mask].path} and {picture.path} would both have the mask {mask}; rename one, give the folder "
                "above both, whose folders the masks keep, or another --output for one of them"
            )
        taken[mask] = picture
        if mask.resolve() in sources:
            raise DataError(f"the mask of {picture.path} would replace the picture {mask}; give another --output")
        if len(os.fsencode(mask.name)) > LONGEST_NAME:
            raise DataError(f"{picture.path}: the name is longer than {LONGEST_NAME} bytes; shorten it")


def _refuse_another(mask: Path, notes: Mapping[str, Any], picture: Picture) -> None:
    """A mask that is there was made by this network, in this way, of this picture."""
    try:
        before = read_note(mask)
    except DataError:
        before = {}
    if not before:
        raise UserError(
            f"{mask} is there, and `weaktr predict` did not make it, or it is damaged; move it away, or give another "
            "--output"
        )
    wanted = json.loads(json.dumps(dict(notes)))
    if picture.path.is_file():
        wanted["picture"] = digest(picture.path)
    words = {"model": "network", "inference": "inference settings", "crf": "CRF", "classes": "class names"}
    other = [words.get(name, name) for name, value in wanted.items() if before.get(name) != value]
    if other:
        raise UserError(
            f"{mask} is there, and was made with another {' and another '.join(other)}; give another --output, or "
            "delete it"
        )


def _refuse_too_large(network: Network, path: Path, image: np.ndarray) -> None:
    """The class scores of a picture fit the free memory: four arrays at a time, twice as many with early masks."""
    height, width = image.shape[:2]
    arrays = 8 if network.inference.get("early_weight") else 4
    needed = arrays * 4 * len(network.names) * height * width  # bytes
    device = next(network.model.parameters()).device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        percent = 100 * (free / needed) ** 0.5
        raise DataError(
            f"{path} is {width}×{height} pixels: its scores of {len(network.names)} classes take {needed / 1e9:.1f} "
            f"GB, {free / 1e9:.1f} GB are free; shrink it to {percent:.0f} %"
        )

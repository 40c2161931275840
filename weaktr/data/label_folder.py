"""Labels that another method made: a folder with a palette or grey PNG for each image, in place of our pseudo labels.

Values are those of masks: 0 background, c + 1 class c, 255 void.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, named
from ..processes import in_shares
from .dataset import Dataset
from .images import VOID, image_size, read_label_png

NAMED = 5  # faults that a message names


def label_file(image_id: str, *, folder: Path, dataset: Dataset) -> Path | None:
    """Where the label of an image lies: by its id, by its path below the data's folder, or by its file's stem.

    Args:
        image_id: of the image.
        folder: of the labels.
        dataset: tells where the image lies.

    Returns:
        The first of them that is there, None where none is.
    """
    image = dataset.image_path(image_id).with_suffix(".png")
    below = image.relative_to(dataset.folder) if image.is_relative_to(dataset.folder) else image.name
    places = [folder / f"{image_id}.png", folder / below, folder / image.name]
    return next((place for place in places if place.is_file()), None)


def read_given_label(image_id: str, *, folder: Path, dataset: Dataset) -> NDArray[np.uint8]:
    """The label (H,W) of an image: 0 background, c + 1 class c, 255 void.

    Raises:
        DataError: The folder has none, or one that cannot be used.
    """
    path = label_file(image_id, folder=folder, dataset=dataset)
    if path is None:
        raise DataError(_missing(image_id, folder, dataset))
    label = read_label_png(path, len(dataset.classes) + 1)
    height, width = image_size(dataset.image_path(image_id))
    if label.shape == (height, width):
        return label
    sizes = f"label {path} is {label.shape[1]}×{label.shape[0]} pixels, its image {width}×{height}"
    if label.shape == (width, height):
        raise DataError(f"{sizes}: it is turned by a quarter; images are read upright, by the note in their EXIF")
    raise DataError(f"{sizes}; export the label at the image's size")


def label_or_void(image_id: str, *, folder: Path, dataset: Dataset) -> NDArray[np.uint8]:
    """The label (H,W) as `read_given_label` gives it; all void for an image without one."""
    if label_file(image_id, folder=folder, dataset=dataset):
        return read_given_label(image_id, folder=folder, dataset=dataset)
    return np.full(image_size(dataset.image_path(image_id)), VOID, np.uint8)


def _missing(image_id: str, folder: Path, dataset: Dataset) -> str:
    """That an image has no label, and what lies there instead."""
    stems = {image_id, dataset.image_path(image_id).stem}
    others = sorted(path.name for path in folder.iterdir() if path.stem in stems)
    if others:
        return f"image {image_id} has no label {image_id}.png, but {others[0]}; save it as a palette or grey PNG"
    return f"image {image_id} has no label {image_id}.png; add it, or take the image off its list"


def check_labels(folder: Path, dataset: Dataset, ids: Sequence[str], workers: int = 1) -> NDArray[np.int64]:
    """Read the labels of a list.

    Args:
        folder: of the labels.
        dataset: gives the sizes of the images.
        ids: of the images.
        workers: processes that read.

    Returns:
        (n,256) how many pixels of each image have each value.

    Raises:
        DataError: The folder is none, labels are missing or cannot be used, or none of them holds a class.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist or is not a folder; give one with a PNG for each image")
    _refuse_shared(folder, dataset, ids)
    shares = in_shares(partial(_read, folder=folder, dataset=dataset), ids, workers)
    faults = [fault for _, found in shares for fault in found]
    if faults:
        raise DataError(f"{folder}: {len(faults)} of {len(ids)} labels cannot be used{named(faults, NAMED)}")
    counts = np.concatenate([counts for counts, _ in shares])
    if not counts[:, 1:VOID].any():
        raise DataError(f"{folder}: no label holds a class, 0 (background) and 255 (void) only; write class c as c + 1")
    return counts


def _refuse_shared(folder: Path, dataset: Dataset, ids: Sequence[str]) -> None:
    """Refuse a label that would serve two images, whose files have one stem in different folders."""
    serves: dict[Path, str] = {}
    for image_id in ids:
        path = label_file(image_id, folder=folder, dataset=dataset)
        if path is not None:
            first = serves.setdefault(path, image_id)
            if first != image_id:
                raise DataError(
                    f"label {path} would serve both {first} and {image_id}; call the labels {first}.png and "
                    f"{image_id}.png"
                )


def _read(ids: Sequence[str], *, folder: Path, dataset: Dataset) -> tuple[NDArray[np.int64], list[str]]:
    """Pixels by value (n,256) of some images, and what is wrong with labels."""
    counts = np.zeros((len(ids), VOID + 1), np.int64)
    faults = []
    for row, image_id in enumerate(ids):
        try:
            label = read_given_label(image_id, folder=folder, dataset=dataset)
        except DataError as error:
            faults.append(str(error))
        else:
            counts[row] = np.bincount(label.ravel(), minlength=VOID + 1)
    return counts, faults

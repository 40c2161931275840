"""Labels of another method, read before step 2 learns from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import open_dataset
from ..data.dataset import Dataset
from ..data.label_folder import check_labels, label_file, read_given_label
from ..errors import DataError
from ..evaluation.agreement import numbered_otherwise, placed_otherwise
from ..files import resolve

MOST_COMPARED = 60  # masks that labels are compared with, evenly spread


def check_given_labels(values: Mapping[str, Any], dataset: Dataset | None = None) -> None:
    """Read the labels in `label_folder`, and print where they grossly disagree with names and masks.

    There has to be one for each image of `train_list`; of `eval_list` those that are there are read.

    Args:
        values: {name: value} of a run or a stage.
        dataset: that they name, where it is open.

    Raises:
        DataError: labels are missing or cannot be used.
    """
    dataset = dataset or open_dataset(values["dataset"], values["data_root"])
    folder = resolve(values["label_folder"])
    ids = dataset.ids(values["train_list"])
    measured = dataset.ids(values["eval_list"])
    ids += [i for i in measured if i not in set(ids) and label_file(i, folder=folder, dataset=dataset)]
    try:
        counts = check_labels(folder, dataset, ids, values.get("workers", 1))
    except DataError as error:
        raise DataError(f"parameter label_folder: {error}") from error
    for finding in disagreements(folder, dataset, ids, counts):
        print(f"label_folder {values['label_folder']}: {finding}", flush=True)


def disagreements(folder: Path, dataset: Dataset, ids: Sequence[str], counts: np.ndarray) -> list[str]:
    """Where the labels in a folder grossly disagree with the names of their images and with masks, in words.

    Args:
        folder: of the labels.
        dataset: gives names and masks.
        ids: of the images.
        counts: as from `data.label_folder.check_labels`.
    """
    names = np.array([dataset.labels(image_id) for image_id in ids])
    found = numbered_otherwise(counts, names, dataset.classes) if names.any() else []
    known = [image_id for image_id in ids if dataset.mask_path(image_id).is_file()]
    some = known[:: -(-len(known) // MOST_COMPARED)] if known else []
    both = [(read_given_label(i, folder=folder, dataset=dataset), dataset.mask(i)) for i in some]
    pairs = [(label, mask) for label, mask in both if label.shape == mask.shape]  # a mask of another size says its own
    if pairs:
        found.append(placed_otherwise(pairs, len(dataset.classes) + 1))
    return [finding for finding in found if finding]

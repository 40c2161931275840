"""The labels that step 2 learns from: those of notebook 03, noisy masks, or those of another method."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.images import read_label
from ..data.label_folder import label_file, label_or_void, read_given_label
from ..evaluation.agreement import score_labels, without_an_error
from ..evaluation.metrics import strongest
from ..evaluation.scores import save_counts
from ..files import read_json, resolve
from ..method.cams import read_cams
from ..method.pseudo_labels import noisy_truth, read_seed
from ..plots import heat
from .stage import Stage

CAMS, LABELS = "02_cam_generation", "03_pseudo_labels"  # the stages that make ours

Picture = Callable[[str], np.ndarray]  # id → image (H,W,3) or label (H,W)


# ── What step 2 learns from ───────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Labels:
    """What step 2 learns from.

    Attributes:
        read: id → label (H,W); None where a network is given and nothing is learned.
        shown: ids of the images that are watched, those of eval_list first.
        oracle: whether masks had a part in the labels.
        records: how good labels of another method are, where eval_list has masks; ours have theirs in notebook 03.
    """

    read: Picture | None
    shown: list[str]
    oracle: bool
    records: list[dict[str, Any]] = field(default_factory=list)


def labels_to_learn(stage: Stage, dataset: Dataset) -> Labels:
    """The labels for notebook 04, by its parameters: of `label_folder`, noisy masks, or those of notebook 03."""
    values = stage.parameters
    measured = dataset.ids(values["eval_list"])
    if values["trained_segmenter"]:
        return Labels(None, [], oracle=False)
    if values["label_folder"]:
        return _labels_of_another_method(stage, dataset, measured)
    if values["oracle_noise"] >= 0:
        noisy = partial(noisy_truth, dataset=dataset, share=values["oracle_noise"], seed=values["seed"])
        return Labels(noisy, measured, oracle=True)
    chosen = read_json(stage.input(CAMS) / "threshold.json")
    return Labels(partial(read_label, stage.input(LABELS) / "labels"), measured, oracle=chosen["oracle"])


def _labels_of_another_method(stage: Stage, dataset: Dataset, measured: list[str]) -> Labels:
    """The labels in `label_folder`, compared with the masks of eval_list where it has all of both."""
    values = stage.parameters
    theirs: dict[str, Any] = {"folder": resolve(values["label_folder"]), "dataset": dataset}
    read = partial(read_given_label, **theirs)
    labelled = [image_id for image_id in measured if label_file(image_id, **theirs)]
    shown = labelled or dataset.ids(values["train_list"])
    if labelled != measured or not dataset.has_masks:
        return Labels(read, shown, oracle=False)
    score = score_labels(dataset, measured, read, values["workers"])
    save_counts(stage.folder / "counts.npz", {"label": score})
    oracle = without_an_error(score)  # labels that are the masks
    on = {"on": values["eval_list"], "size": len(measured), "oracle": oracle}
    return Labels(read, shown, oracle, [stage.record("mIoU of label", score.miou, **on, counts="label")])


# ── What the masks of step 2 are shown beside ─────────────────────────────────────────────────────────────────────
def earlier_records(stage: Stage) -> list[dict[str, Any]]:
    """The records of what step 2 learned from, for notebook 05: of CAM (seed) and CAM label, or of a given label."""
    given = stage.parameters["label_folder"] or stage.parameters["trained_segmenter"]
    source = stage.input("04_online_retraining" if given else LABELS)
    records = read_json(source / "metrics.json", list)
    return [record for record in records if record["metric"].startswith("mIoU of ")]


def earlier_pictures(stage: Stage, dataset: Dataset) -> dict[str, Picture]:
    """What step 2 learned from, for notebook 05, by title: the CAM, the seed and its label, or a given label."""
    if stage.parameters["label_folder"]:
        folder = resolve(stage.parameters["label_folder"])
        return {"label": partial(label_or_void, folder=folder, dataset=dataset)}
    if stage.parameters["trained_segmenter"]:
        return {}
    cams = stage.input(CAMS) / "cams"
    threshold = read_json(stage.input(CAMS) / "threshold.json")["threshold"]
    return {
        "CAM": partial(_strongest_cam, dataset=dataset, cams=cams),
        "CAM (seed)": partial(read_seed, dataset=dataset, cams=cams, threshold=threshold),
        "CAM label": partial(read_label, stage.input(LABELS) / "labels"),
    }


def _strongest_cam(image_id: str, *, dataset: Dataset, cams: Path) -> np.ndarray:
    """The image (H,W,3) with the strongest CAM at each pixel over it."""
    image = dataset.image(image_id)
    return heat(image, strongest(read_cams(image_id, cams), image.shape[:2])[1])

"""The four numbers that sum a run up, what each means, and how sure it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..evaluation import intervals
from ..evaluation.intervals import Estimate
from .finished import FinishedStages, records_of
from .published import as_published, published

Record = Mapping[str, Any]
CEILING = "mIoU of ceiling (true masks)"
SHARE = "share of the ceiling (%)"
MASK = "mIoU of mask"


class Wanted(NamedTuple):
    """A headline before a run is looked at."""

    name: str
    stages: tuple[str, ...]  # in which its record may stand, the first that has it
    metric: str
    meaning: str
    if_missing: str  # why a finished stage has no such record


NO_MASKS = "Not measured: the data have no masks."
SEED = Wanted(
    name="CAM seed",
    stages=("03_pseudo_labels", "02_cam_generation"),
    metric="mIoU of CAM (seed)",
    meaning="The class activation maps, cut at the background score: where a network that was told names alone sees "
    "each class.",
    if_missing=NO_MASKS,
)
LABEL = Wanted(
    name="CAM label",
    stages=("03_pseudo_labels",),
    metric="mIoU of CAM label",
    meaning="The seed after the CRF has drawn its outlines along the edges of the image: what the segmenter learns "
    "from.",
    if_missing=NO_MASKS,
)
MASK_ON_VAL = Wanted(
    name="Mask on val",
    stages=("05_evaluation",),
    metric=MASK,
    meaning="What the segmenter draws, without CRF, on images that it never saw and whose names it is not told.",
    if_missing=NO_MASKS,
)
CEILING_SHARE = Wanted(
    name="Share of the ceiling",
    stages=("05_evaluation",),
    metric=SHARE,
    meaning="The mask's mIoU in percent of that of the same segmenter trained on true masks: the rest is the price of "
    "having names alone.",
    if_missing="No ceiling: no segmenter was trained on true masks.",
)
WANTED = (SEED, LABEL, MASK_ON_VAL, CEILING_SHARE)


class Headline(NamedTuple):
    """A number that sums a run up."""

    name: str
    meaning: str
    value: float | None = None  # percent
    missing: str = ""  # why there is no value
    on: str = ""  # the list of images, as it is named
    images: int = 0
    interval: Estimate | None = None  # over images; None where the pixels of each image are not known
    notes: tuple[str, ...] = ()
    counts: np.ndarray | None = None  # (n,3,K), the pixels behind the value
    ceiling: np.ndarray | None = None  # (n,3,K), those that a share refers to
    data: str = ""  # fingerprint of the data set


def headlines(stages: FinishedStages) -> list[Headline]:
    """The four headlines of a run, in order; those that were not measured say why.

    Args:
        stages: Of the run, as from `finished_stages`.
    """
    return [_headline(stages, wanted) for wanted in WANTED]


def _headline(stages: FinishedStages, wanted: Wanted) -> Headline:
    finished = {folder.name: folder for folder in stages.folders}
    for name in wanted.stages:
        if name in finished:
            records = records_of(finished[name])
            record = _find(records, wanted.metric, _list_of(stages, wanted))
            if record is not None:
                return _measured(stages, wanted, finished[name], record)
    first = wanted.stages[0]
    reason = wanted.if_missing if first in finished else f"Not yet: {first} is not finished."
    if wanted is CEILING_SHARE and first in finished and not records_of(finished[first]):
        reason = NO_MASKS
    return Headline(wanted.name, wanted.meaning, missing=reason)


def _list_of(stages: FinishedStages, wanted: Wanted) -> str | None:
    """The list on which a headline is measured; None where there is only one."""
    return stages.parameters.get("val_list") if wanted is MASK_ON_VAL else None


def _find(records: list[dict[str, Any]], metric: str, on: str | None = None) -> dict[str, Any] | None:
    """The first record of a metric, on a list where one is given, and without CRF where there are both."""
    found = [record for record in records if record["metric"] == metric and on in (None, record["list"])]
    without_crf = [record for record in found if not record["crf"]]
    return next(iter(without_crf or found), None)


def _measured(stages: FinishedStages, wanted: Wanted, folder: Path, record: Record) -> Headline:
    """The headline of a record."""
    counts = _counts(folder, record)
    ceiling = None
    notes = ["oracle: true masks had a part in it"] if record["oracle"] and wanted is not CEILING_SHARE else []
    if wanted is MASK_ON_VAL:
        notes += _other_masks(stages, records_of(folder), record["list"])
    if wanted is LABEL:
        notes += _published(stages, record)
    if wanted is CEILING_SHARE:
        made = records_of(folder)
        mask, against = _find(made, MASK, record["list"]), _find(made, CEILING)
        if mask and against:
            counts, ceiling = _counts(folder, mask), _counts(folder, against)
            notes.append(f"ceiling {against['value']:.1f} %")
    return Headline(
        name=wanted.name,
        meaning=wanted.meaning,
        value=record["value"],
        on=record["list"],
        images=record["list_size"],
        interval=_interval(counts, ceiling, is_share=wanted is CEILING_SHARE),
        notes=tuple(notes),
        counts=counts,
        ceiling=ceiling,
        data=stages.manifests[folder.name].get("data_fingerprint", "").partition("-")[0],
    )


def _counts(folder: Path, record: Record) -> np.ndarray | None:
    """The pixels of each image behind a record (n,3,K); None where the stage did not keep them."""
    name = record.get("counts")
    if not name or not (folder / "counts.npz").is_file():
        return None
    with np.load(folder / "counts.npz") as arrays:
        return arrays.get(name)


def _interval(counts: np.ndarray | None, ceiling: np.ndarray | None, *, is_share: bool) -> Estimate | None:
    if counts is None:
        return None
    if not is_share:
        return intervals.estimate(counts[None])
    return None if ceiling is None else intervals.share(counts[None], ceiling[None])


def _other_masks(stages: FinishedStages, records: list[dict[str, Any]], on: str) -> list[str]:
    """The masks of the same list after the CRF, in words."""
    notes = []
    for record in records:
        if record["metric"].startswith(MASK) and record["list"] == on and record["crf"]:
            how = record["metric"].removeprefix(MASK).removeprefix(", ")
            notes.append(" and ".join(filter(None, [f"{record['value']:.1f} % with CRF", how])))
            notes += _published(stages, record)
    return notes


def _published(stages: FinishedStages, record: Record) -> list[str]:
    """What the paper has for a record, in words; nothing where the run is not to be held against it."""
    preset = stages.manifests[stages.folders[-1].name].get("preset", "")
    if not as_published(preset, stages.parameters):
        return []
    value = published(preset, record)
    return [] if value is None else [f"published {value:.1f} %"]


def difference(of: Headline, against: Headline) -> Estimate | float | None:
    """How far a headline of one run is from that of another, in points.

    Returns:
        With its interval where both are of the same images; the bare difference where that is not known; None where
        one of them has no value.
    """
    if of.value is None or against.value is None:
        return None
    same_list = (of.on, of.data) == (against.on, against.data)
    known = of.counts is not None and against.counts is not None and of.counts.shape == against.counts.shape
    if not same_list or not known or of.ceiling is not None or against.ceiling is not None:
        return of.value - against.value
    return intervals.difference(of.counts[None], against.counts[None])  # type: ignore[index] # `known` says so

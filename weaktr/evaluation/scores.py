"""How good the masks or CAMs of a list are: pixels counted in one pass over the images, in several processes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..data.dataset import Dataset
from ..data.images import VOID
from ..files import atomic
from ..processes import in_shares
from .metrics import (
    Cams,
    confusion_matrix,
    curve_table,
    iou,
    iou_of_counts,
    mean_iou,
    mean_of_known,
    pixel_counts,
    threshold_counts,
)

FEW = 20  # pixels, of which a share says nothing


def measurable(dataset: Dataset, ids: Sequence[str]) -> bool:
    """Whether masks or CAMs of a list can be measured: the truth of an image at least has a pixel that is not void."""
    if not dataset.has_masks:
        return False
    return any(dataset.mask_path(i).is_file() and (dataset.mask(i) != VOID).any() for i in ids)


# ── Masks ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass
class ListScore:
    """How the masks of a list agree with the truth."""

    ids: list[str]  # of the n images
    confusion: np.ndarray  # int64 (K,K), the list's, rows truth
    counts: np.ndarray  # int32 (n,3,K), each image's, see `metrics.pixel_counts`

    @property
    def miou(self) -> float:
        """The list's mIoU in percent."""
        return mean_iou(self.confusion)

    def per_image(self) -> pd.Series:
        """Each image's own mIoU in percent, by id, NaN where all is void; their mean is not the list's."""
        own = [100 * mean_of_known(ious) for ious in iou_of_counts(self.counts)]
        return pd.Series(own, index=pd.Index(self.ids, name="image"))

    def per_class(self, names: Sequence[str]) -> pd.Series:
        """IoU of each class in percent, by name, "background" first; names: of the data set's K − 1 classes."""
        return pd.Series(100 * iou(self.confusion), index=pd.Index(["background", *names], name="class"))


def score_list(
    dataset: Dataset, ids: Sequence[str], predict: Callable[[str], np.ndarray], workers: int = 1
) -> ListScore:
    """Compare masks with the truth, image by image.

    Args:
        dataset: has the true masks.
        ids: the list.
        predict: id → labels (H,W); picklable where there are several workers.
        workers: how many processes at most, each of which takes a share of the list.
    """
    confusion = partial(_confusion, dataset=dataset, predict=predict)
    return add_up(ids, confusion, len(dataset.classes) + 1, workers)


def _confusion(image_id: str, *, dataset: Dataset, predict: Callable[[str], np.ndarray]) -> np.ndarray:
    return confusion_matrix(predict(image_id), dataset.mask(image_id), len(dataset.classes) + 1)


def add_up(ids: Sequence[str], confusion: Callable[[str], np.ndarray], num_classes: int, workers: int = 1) -> ListScore:
    """The score of a list from the confusion matrices of its images.

    Args:
        ids: the list.
        confusion: id → (K,K) truth × prediction; picklable where there are several workers.
        num_classes: K, with background.
        workers: how many processes at most, each of which takes a share of the list.
    """
    shares = in_shares(partial(_add_up_share, confusion=confusion, num_classes=num_classes), ids, workers)
    total = np.sum([confusions for confusions, _ in shares], 0)
    counts = np.concatenate([counts for _, counts in shares])
    return ListScore(list(ids), total, counts)


def _add_up_share(
    ids: Sequence[str], *, confusion: Callable[[str], np.ndarray], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """`ListScore.confusion` and `ListScore.counts` of some images."""
    total = np.zeros((num_classes, num_classes), np.int64)
    counts = np.zeros((len(ids), 3, num_classes), np.int32)
    for row, image_id in enumerate(ids):
        own = confusion(image_id)
        total += own
        counts[row] = pixel_counts(own)
    return total, counts


def save_counts(path: str | Path, scores: Mapping[str, ListScore]) -> None:
    """Write the per-image counts of {name: score} as one npz, atomically; `intervals` resamples them."""
    counts: dict[str, Any] = {name: score.counts for name, score in scores.items()}
    with atomic(path) as aside:
        np.savez_compressed(aside, **counts)


def object_table(dataset: Dataset, score: ListScore) -> pd.DataFrame:
    """The objects of a list, large and small: a row per image and class of its truth.

    Returns:
        `image`, `class`, `size` (share of the image's known pixels, %), `iou` (%).
    """
    rows = []
    for image_id, counts, ious in zip(score.ids, score.counts, 100 * iou_of_counts(score.counts), strict=True):
        truth = counts[1]
        present = 1 + np.flatnonzero(truth[1:])
        for c in present.tolist():
            size = 100 * truth[c] / truth.sum()
            rows.append({"image": image_id, "class": dataset.classes[c - 1], "size": size, "iou": ious[c]})
    return pd.DataFrame(rows, columns=["image", "class", "size", "iou"])


class Extremes(NamedTuple):
    """Ids of images, each part in the order from good to bad."""

    best: list[str]
    middle: list[str]
    worst: list[str]


def extremes(series: pd.Series, n: int) -> Extremes:
    """The `n` best, middle and worst images by a number that is better when larger; series: by id, NaN left out."""
    order = list(series.dropna().sort_values(ascending=False).index)
    middle = len(order) // 2
    return Extremes(best=order[:n], middle=order[middle : middle + n], worst=order[-n:])


# ── CAMs ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def score_cams(
    dataset: Dataset,
    ids: Sequence[str],
    read: Callable[[str], Cams],
    thresholds: Sequence[float] | np.ndarray,
    workers: int = 1,
) -> pd.DataFrame:
    """The `metrics.threshold_curve` of a list, in one pass.

    Each worker counts its share of the list and holds one image and one table of integers, whatever the list's length.
    Sums of integers are the same in any order.

    Args:
        dataset: has the true masks.
        ids: the list.
        read: id → {class from 0: (H,W)}, such as `partial(method.cams.read_cams, folder=…)`; picklable where there are
            several workers.
        thresholds: background scores.
        workers: how many processes at most.
    """
    job = partial(_count, dataset=dataset, read=read, thresholds=thresholds)
    return curve_table(np.sum(in_shares(job, ids, workers), 0), thresholds)


def _count(
    ids: Sequence[str], *, dataset: Dataset, read: Callable[[str], Cams], thresholds: Sequence[float] | np.ndarray
) -> np.ndarray:
    """`metrics.threshold_counts` of some images."""
    samples = ((read(image_id), dataset.mask(image_id)) for image_id in ids)
    return threshold_counts(samples, len(dataset.classes) + 1, thresholds)


# ── Gradient clipping ─────────────────────────────────────────────────────────────────────────────────────────────
def wrong_and_clipped(view: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What clipping did to a view: its void pixels, its wrong labels and the clipped pixels, as masks (h,w).

    Args:
        view: with `label`, `truth` (h,w) integers and `clipped` (h,w) bool. Void pixels of either are neither wrong nor
            clipped.
    """
    void = (view["truth"] == VOID) | (view["label"] == VOID)
    wrong = (view["label"] != view["truth"]) & ~void
    clipped = view["clipped"] & ~void
    return void, wrong, clipped


def clipping_scores(views: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """How well clipping finds wrong labels.

    Args:
        views: as for `wrong_and_clipped`.

    Returns:
        A row per view, in 0…1: `wrong` (share of its known pixels), `precision` (of the clipped pixels, those with a
        wrong label) and `recall` (of the wrong labels, those clipped). NaN where they are shares of fewer than FEW
        pixels.
    """
    rows = []
    for view in views:
        void, wrong, clipped = wrong_and_clipped(view)
        rows.append(
            {
                "wrong": _share(wrong, ~void, at_least=1),
                "precision": _share(wrong, clipped, at_least=FEW),
                "recall": _share(clipped, wrong, at_least=FEW),
            }
        )
    return pd.DataFrame(rows)


def _share(part: np.ndarray, whole: np.ndarray, at_least: int) -> float:
    """The share of the pixels of `whole` that are in `part`; NaN where `whole` has fewer than `at_least`."""
    return part[whole].mean() if whole.sum() >= at_least else np.nan

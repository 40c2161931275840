"""Evaluation of arrays: one integer confusion matrix per list, seeds from CAMs, the threshold curve in one pass.

A confusion matrix has the truth in its rows and the prediction in its columns. K counts the classes with background,
which is 0; a class c of the image labels, counted from 0, has the value c + 1 in a mask.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data.images import VOID

if TYPE_CHECKING:
    import pandas as pd

Cams = Mapping[int, np.ndarray]  # {class from 0: (H,W) float32 in 0…1} of the classes that an image shows


# ── Confusion matrix and IoU ──────────────────────────────────────────────────────────────────────────────────────
def confusion_matrix(prediction: np.ndarray, truth: np.ndarray, num_classes: int, ignore: int = VOID) -> np.ndarray:
    """Count the pixels of each pair of classes.

    Args:
        prediction: integers 0…K−1, of any shape; where the truth is ignored, anything.
        truth: integers 0…K−1 of the same shape.
        num_classes: K, with background.
        ignore: value of the truth that is left out.

    Returns:
        int64 (K,K), rows truth, columns prediction.

    Raises:
        ValueError: The shapes differ, or a value is outside 0…K−1.
    """
    prediction = np.asarray(prediction)
    truth = np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
    valid = truth != ignore
    prediction = prediction[valid]
    truth = truth[valid]
    for name, values in (("prediction", prediction), ("truth", truth)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{name} holds {values.min()}…{values.max()}, outside 0…{num_classes - 1}")
    pair = truth.astype(np.int64) * num_classes + prediction.astype(np.int64)
    counts = np.bincount(pair, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def pixel_counts(confusion: np.ndarray) -> np.ndarray:
    """What IoU needs of confusion matrices (…,K,K).

    Returns:
        (…,3,K): per class the pixels that are hit, those of the truth and those of the prediction.
    """
    confusion = np.asarray(confusion)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth = confusion.sum(-1)
    predicted = confusion.sum(-2)
    return np.stack([hits, truth, predicted], -2)


def iou_of_counts(counts: np.ndarray) -> np.ndarray:
    """Intersection over union per class, hits / (truth + predicted − hits), from `pixel_counts` (…,3,K).

    Returns:
        float64 (…,K) in 0…1; NaN for a class that is neither in the truth nor in the prediction.
    """
    hits, truth, predicted = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = truth + predicted - hits
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union per class of confusion matrices (…,K,K), as `iou_of_counts` gives it."""
    return iou_of_counts(pixel_counts(confusion))


def mean_of_known(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN where all are, without a warning."""
    return np.nan if np.isnan(values).all() else float(np.nanmean(values))


def mean_iou(confusion: np.ndarray) -> float:
    """Mean of `iou` over the classes present in truth or prediction, background included, in percent."""
    return 100 * mean_of_known(iou(confusion))


# ── Seeds ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def strongest(cams: Cams, shape: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The class with the largest CAM at every pixel.

    Args:
        cams: {class from 0: (H,W)}; without any, everything is background with the value 0.
        shape: (H,W), needed where there are no CAMs.

    Returns:
        Class plus one (H,W) uint8, the lower class at a tie, and the value of its CAM (H,W) float32.

    Raises:
        ValueError: There is neither a CAM nor a shape.
    """
    if not cams:
        if shape is None:
            raise ValueError("there are no CAMs to take the size from; give shape")
        return np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    first, *others = sorted(cams, key=int)
    value = np.asarray(cams[first], np.float32)
    label = np.full(value.shape, int(first) + 1, np.uint8)
    for name in others:
        cam = np.asarray(cams[name], np.float32)
        label = np.where(cam > value, np.uint8(int(name) + 1), label)
        value = np.maximum(value, cam)
    return label, value


def seed_mask(cams: Cams, threshold: float, shape: Sequence[int] | None = None) -> np.ndarray:
    """The seed: at every pixel the class with the largest CAM, or background where that is not above the threshold.

    Args:
        cams: {class from 0: (H,W)}.
        threshold: the background score, in 0…1.
        shape: (H,W), needed where there are no CAMs.

    Returns:
        Labels (H,W) uint8.
    """
    label, value = strongest(cams, shape)
    return np.where(value > np.float32(threshold), label, 0).astype(np.uint8)


# ── Threshold curve ───────────────────────────────────────────────────────────────────────────────────────────────
# The seeds of all thresholds come from one histogram. With the thresholds sorted, let a pixel "pass" those that are
# below its largest CAM value:
#   1. it is foreground, of its strongest class, at the threshold t (from 0) if and only if it passes more than t;
#   2. at every threshold, the pixels of the truth that are not foreground are background.
# So a confusion matrix per threshold follows from how many pixels of each pair (truth, strongest class) pass how many
# thresholds, whatever the number of thresholds and images.


def threshold_curve(
    samples: Iterable[tuple[Cams, np.ndarray]], num_classes: int, thresholds: Iterable[float]
) -> "pd.DataFrame":
    """The quality of the seeds at every threshold, in one pass over the images (docs/method.md, "Evaluation").

    Args:
        samples: yields ({class from 0: (H,W)}, truth (H,W)).
        num_classes: K, with background.
        thresholds: background scores in any order.

    Returns:
        A row per threshold, in the order given: `threshold`, `miou`, `false_positive`, `false_negative`, `precision`,
        `recall` (means over classes) and a column per class 0…K−1 with its IoU, all in percent, NaN where a class is
        absent.

    Raises:
        ValueError: CAMs and truth differ in size, or one of them has a class outside 0…K−1.
    """
    thresholds = list(thresholds)
    return curve_table(threshold_counts(samples, num_classes, thresholds), thresholds)


def threshold_counts(
    samples: Iterable[tuple[Cams, np.ndarray]], num_classes: int, thresholds: Sequence[float] | np.ndarray
) -> np.ndarray:
    """The histogram behind `threshold_curve`, with the same arguments.

    Returns:
        int64 (K,K,T+1): truth × strongest class × number of the T thresholds that its CAM passes. The counts of two
        sets of images added up are the counts of both.
    """
    ordered = np.sort(np.asarray(thresholds, np.float32))
    shape = (num_classes + 1, num_classes, len(ordered) + 1)  # of the truth, void comes last
    counts = np.zeros(np.prod(shape), np.int64)
    for cams, truth in samples:
        truth = np.asarray(truth)
        label, value = strongest(cams, truth.shape)
        void = truth == VOID
        _check_sample(label, truth, void, num_classes)
        pair = np.where(void, num_classes, truth).astype(np.int32) * num_classes + label
        passed = thresholds_below(value, ordered)
        counts += np.bincount((pair * shape[2] + passed).ravel(), minlength=len(counts))
    return counts.reshape(shape)[:-1]


def _check_sample(label: np.ndarray, truth: np.ndarray, void: np.ndarray, num_classes: int) -> None:
    """Raise ValueError where the strongest classes of an image and its truth cannot be compared."""
    if label.shape != truth.shape:
        raise ValueError(f"CAMs {label.shape} and truth {truth.shape} differ in size")
    outside = ~void & ((truth < 0) | (truth >= num_classes))
    if outside.any():
        raise ValueError(f"truth holds {truth[outside][0]}, outside 0…{num_classes - 1}")
    if label.size and label.max() >= num_classes:
        raise ValueError(f"a CAM is of class {label.max() - 1}, outside 0…{num_classes - 2}")


def thresholds_below(values: np.ndarray, thresholds: np.ndarray, cells: int = 4096) -> np.ndarray:
    """`np.searchsorted(thresholds, values)`: how many of the thresholds are strictly below each value.

    A table replaces the binary search, which saves 0.10 s of the 0.37 that 20 images of 500×375 take for 100
    thresholds. 0…1 is divided into cells of equal width. All thresholds in the cells before a value's own are below it,
    which is looked up; with those in its own cell it is compared one after the other.

    Args:
        values: float32, of any shape.
        thresholds: float32 (T,), sorted.
        cells: how many cells.

    Returns:
        int32, of the values' shape.
    """

    def cell(x: np.ndarray) -> np.ndarray:
        """Monotonic whatever the rounding, so different cells order their values."""
        return (np.clip(x, 0, 1) * np.float32(cells)).astype(np.int32)

    occupied = cell(thresholds)
    in_earlier_cells = np.searchsorted(occupied, np.arange(cells + 1, dtype=np.int32)).astype(np.int32)
    below = in_earlier_cells.take(cell(values), mode="clip")  # all indices are valid: "clip" only spares their check
    and_an_end = np.append(thresholds, np.float32(np.inf))
    most_in_a_cell = np.bincount(occupied, minlength=1).max()
    for _ in range(most_in_a_cell):
        below += values > and_an_end.take(below, mode="clip")
    return below


def cumulative_from_the_end(x: np.ndarray) -> np.ndarray:
    """Sums along the last axis, each of an element and all that follow."""
    return x[..., ::-1].cumsum(-1)[..., ::-1]


def curve_table(counts: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> "pd.DataFrame":
    """The table of `threshold_curve`.

    Args:
        counts: (K,K,T+1) from `threshold_counts`.
        thresholds: those of the counts, in the order of the table's rows.
    """
    import pandas as pd  # half a second, which every process that refines labels would wait for

    passing_more_than = cumulative_from_the_end(counts)[..., 1:]  # t thresholds, for each t
    foreground_TKK = np.moveaxis(passing_more_than, -1, 0)
    truth_K = counts.sum((1, 2))
    confusions_TKK = foreground_TKK.copy()
    confusions_TKK[..., 0] += truth_K - foreground_TKK.sum(-1)  # background

    hits, truth, predicted = np.moveaxis(pixel_counts(confusions_TKK), -2, 0)
    union = truth + predicted - hits
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = {
            "false_positive": (predicted - hits) / union,
            "false_negative": (truth - hits) / union,
            "precision": hits / predicted,
            "recall": hits / truth,
        }
    per_class = 100 * iou(confusions_TKK)

    ascending = np.argsort(np.asarray(thresholds, np.float32))
    columns: dict[str | int, np.ndarray] = {
        "threshold": np.asarray(thresholds, np.float64)[ascending],
        "miou": np.nanmean(per_class, -1),
    }
    columns |= {name: 100 * np.nanmean(share, -1) for name, share in shares.items()}
    columns |= {c: per_class[:, c] for c in range(len(counts))}
    as_given = np.argsort(ascending)
    return pd.DataFrame(columns).iloc[as_given].reset_index(drop=True)

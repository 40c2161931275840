"""How good the masks or CAM files of a list are: pixels counted in one pass over the images, in several processes."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from ..files import atomic
from ..processes import in_shares
from .metrics import confusion_matrix, curve_table, iou_of_counts, mean_iou, pixel_counts, threshold_counts

FEW = 20  # pixels, of which a share says nothing


@dataclass
class ListScore:
    """How the masks of a list agree with the truth."""

    ids: list  # of the n images
    confusion: np.ndarray  # int64 (K,K), the list's, rows truth
    counts: np.ndarray  # int32 (n,3,K), each image's, see `metrics.pixel_counts`

    @property
    def miou(self):
        """mIoU of the list, in percent."""
        return mean_iou(self.confusion)

    def per_image(self):
        """Each image's own mIoU in percent → Series by id."""
        return pd.Series(100 * np.nanmean(iou_of_counts(self.counts), 1), index=pd.Index(self.ids, name="image"))


def score_list(dataset, ids, predict, workers=1):
    """Compare masks with the truth, image by image → ListScore.

    predict: function id → (H,W) labels; with several workers each reads its share of the ids, and the function goes
    to their processes.
    """
    job = partial(_score, dataset=dataset, predict=predict)
    confusion, counts = zip(*in_shares(job, ids, workers))
    return ListScore(list(ids), sum(confusion), np.concatenate(counts))


def score_cams(dataset, ids, read, thresholds, workers=1):
    """`metrics.threshold_curve` of the CAMs of a list, in one pass → DataFrame.

    read: function id → {class from 0: (H,W)}, such as `partial(method.cams.read_cams, folder=…)`.

    Each worker counts its share of the ids and holds one image and one table of integers, whatever the list's length;
    sums of integers are the same in any order.
    """
    job = partial(_count, dataset=dataset, read=read, thresholds=thresholds)
    return curve_table(sum(in_shares(job, ids, workers)), thresholds)


def _score(ids, *, dataset, predict):
    classes = len(dataset.classes) + 1
    total, counts = np.zeros((classes, classes), np.int64), np.zeros((len(ids), 3, classes), np.int32)
    for row, image_id in enumerate(ids):
        confusion = confusion_matrix(predict(image_id), dataset.mask(image_id), classes)
        total += confusion
        counts[row] = pixel_counts(confusion)
    return total, counts


def _count(ids, *, dataset, read, thresholds):
    samples = ((read(image_id), dataset.mask(image_id)) for image_id in ids)
    return threshold_counts(samples, len(dataset.classes) + 1, thresholds)


def save_counts(path, scores):
    """Write the per-image counts of {name: ListScore} as one npz, whole; `statistics` resamples them."""
    with atomic(path) as aside:
        np.savez_compressed(aside, **{name: score.counts for name, score in scores.items()})


def object_table(dataset, score):
    """One row per image and class of its truth: `image`, `class`, `size` (share of the image, %), `iou` (%)."""
    rows = []
    for image_id, counts, ious in zip(score.ids, score.counts, 100 * iou_of_counts(score.counts), strict=True):
        truth = counts[1]
        for c in np.flatnonzero(truth[1:]) + 1:
            size = 100 * truth[c] / truth.sum()
            rows.append({"image": image_id, "class": dataset.classes[c - 1], "size": size, "iou": ious[c]})
    return pd.DataFrame(rows)


def wrong_and_clipped(row):
    """Void, wrong and clipped pixels of a view as `plots.clipped_pixels` draws it → three boolean arrays (h,w)."""
    void = (row["truth"] == 255) | (row["label"] == 255)
    return void, (row["label"] != row["truth"]) & ~void, row["clipped"] & ~void


def clipping_scores(rows):
    """How well clipping finds wrong labels, a row for each of the rows that `clipped_pixels` draws.

    → DataFrame of shares in 0..1: wrong (of the pixels), precision and recall; NaN where they are those of fewer than
    FEW clipped or wrong pixels.
    """
    found = []
    for row in rows:
        void, wrong, clipped = wrong_and_clipped(row)
        parts = {"wrong": (wrong, ~void, 1), "precision": (wrong, clipped, FEW), "recall": (clipped, wrong, FEW)}
        found.append({name: part[of].mean() if of.sum() >= few else np.nan for name, (part, of, few) in parts.items()})
    return pd.DataFrame(found)

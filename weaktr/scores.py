"""How good the masks or CAM files of a list are: pixels counted in one pass over the images, in several processes."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from .cams import load_cams
from .files import atomic
from .metrics import confusion_matrix, curve_table, iou_of_counts, mean_iou, pixel_counts, threshold_counts
from .pseudo_labels import keep_freed_memory, parallel

WORTH_A_PROCESS = 200  # images: reading them takes about as long as starting another process


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


def score_cams(dataset, ids, cams, thresholds, workers=1):
    """`metrics.threshold_curve` of the CAM files of a list in folder `cams`, in one pass → DataFrame.

    Each worker counts its share of the ids and holds one image and one table of integers, whatever the list's length;
    sums of integers are the same in any order.
    """
    job = partial(_count, dataset=dataset, cams=cams, thresholds=thresholds)
    return curve_table(sum(in_shares(job, ids, workers)), thresholds)


def in_shares(function, ids, workers):
    """[function(share of the ids)], one share for each process, in order. A short list stays in this process."""
    processes = max(1, min(workers, len(ids) // WORTH_A_PROCESS))
    shares = [ids[len(ids) * n // processes : len(ids) * (n + 1) // processes] for n in range(processes)]
    keep_freed_memory()
    return parallel(function, shares, processes) if processes > 1 else [function(ids)]


def _score(ids, *, dataset, predict):
    classes = len(dataset.classes) + 1
    total, counts = np.zeros((classes, classes), np.int64), np.zeros((len(ids), 3, classes), np.int32)
    for row, image_id in enumerate(ids):
        confusion = confusion_matrix(predict(image_id), dataset.mask(image_id), classes)
        total += confusion
        counts[row] = pixel_counts(confusion)
    return total, counts


def _count(ids, *, dataset, cams, thresholds):
    samples = ((load_cams(cams / f"{image_id}.npz"), dataset.mask(image_id)) for image_id in ids)
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

"""Evaluation: one integer confusion matrix per list, seeds from CAMs, the threshold curve in one pass."""

import numpy as np
import pandas as pd

VOID = 255


def confusion_matrix(prediction, truth, num_classes, ignore=VOID):
    """Count pixels → int64 (K,K), rows truth, columns prediction; truth `ignore` is left out.

    prediction, truth: integer arrays of one shape. Raises ValueError for other shapes and for values outside 0…K−1.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
    valid = truth != ignore
    prediction, truth = prediction[valid].astype(np.int64), truth[valid].astype(np.int64)
    for name, values in (("prediction", prediction), ("truth", truth)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{name} holds {values.min()}…{values.max()}, outside 0…{num_classes - 1}")
    counts = np.bincount(truth * num_classes + prediction, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def pixel_counts(confusion):
    """What IoU needs of confusion matrices (…,K,K): pixels hit, in the truth and predicted, per class → (…,3,K)."""
    confusion = np.asarray(confusion)
    return np.stack([np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)], -2)


def iou_of_counts(counts):
    """Intersection over union per class, TP/(T+P−TP) in 0…1, of `pixel_counts` → float (…,K); NaN for a class in
    neither."""
    hits, truth, predicted = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = truth + predicted - hits
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def iou(confusion):
    """Intersection over union per class of confusion matrices (…,K,K) → float (…,K), see `iou_of_counts`."""
    return iou_of_counts(pixel_counts(confusion))


def mean_iou(confusion):
    """Mean of `iou` over the classes present in truth or prediction, background included, in percent."""
    return 100 * float(np.nanmean(iou(confusion)))


def strongest(cams, shape=None):
    """{class from 0: H×W} → class of the largest CAM plus one (H,W) int64, and its value (H,W) float32.

    No class at all gives background with value 0; `shape` is needed then.
    """
    if not cams:
        return np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    classes = np.array(sorted(int(name) for name in cams))
    stack = np.stack([np.asarray(cams[c] if c in cams else cams[str(c)], np.float32) for c in classes])
    return classes[stack.argmax(0)] + 1, stack.max(0)


def seed_mask(cams, threshold, shape=None):
    """Seed from CAMs {class from 0: H×W}: class + 1 where its CAM is the largest and > threshold, else 0 → uint8."""
    label, value = strongest(cams, shape)
    return np.where(value > np.float32(threshold), label, 0).astype(np.uint8)


def threshold_curve(samples, num_classes, thresholds):
    """Quality of the seeds at every threshold, in one pass over the images (METHOD, "CAM generation and seeds").

    samples: yields ({class from 0: H×W}, truth (H,W)); num_classes: K with background. → DataFrame with a row per
    threshold: `threshold`, `miou`, `false_positive`, `false_negative`, `precision`, `recall` (means over classes)
    and a column per class 0…K−1, all in percent, NaN where a class is absent.

    A pixel's seed changes at one threshold only, its largest CAM value: a histogram of those values holds every curve.
    """
    thresholds = list(thresholds)
    return curve_table(threshold_counts(samples, num_classes, thresholds), thresholds)


def threshold_counts(samples, num_classes, thresholds):
    """What `curve_table` needs of the samples of `threshold_curve` → int64 (K,K,T+1): truth × strongest class ×
    number of thresholds that its CAM passes. The counts of two sets of images are the counts of both, added up.
    """
    thresholds = np.sort(np.asarray(thresholds, np.float32))
    bins = len(thresholds) + 1
    counts = np.zeros(num_classes * num_classes * bins, np.int64)  # truth × strongest class × thresholds passed
    for cams, truth in samples:
        truth = np.asarray(truth)
        label, value = strongest(cams, truth.shape)
        if label.shape != truth.shape:
            raise ValueError(f"CAMs {label.shape} and truth {truth.shape} differ in size")
        valid = truth != VOID
        label, value, truth = label[valid], value[valid], truth[valid].astype(np.int64)
        if truth.size and not 0 <= truth.min() <= truth.max() < num_classes:
            raise ValueError(f"truth holds {truth.min()}…{truth.max()}, outside 0…{num_classes - 1}")
        if label.size and label.max() >= num_classes:
            raise ValueError(f"a CAM is of class {label.max() - 1}, outside 0…{num_classes - 2}")
        passed = np.searchsorted(thresholds, value, side="left")  # thresholds strictly below the value
        counts += np.bincount((truth * num_classes + label) * bins + passed, minlength=len(counts))
    return counts.reshape(num_classes, num_classes, bins)


def curve_table(counts, thresholds):
    """`threshold_counts` → the DataFrame of `threshold_curve`."""
    order, num_classes = np.argsort(np.asarray(thresholds, np.float32)), len(counts)
    above = counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]  # pixels that are still foreground at each threshold
    rows = []
    for position, index in enumerate(order):
        confusion = above[..., position].copy()
        confusion[:, 0] += counts.sum((1, 2)) - confusion.sum(1)
        hits, truth, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            union = truth + predicted - hits
            shares = np.stack([(predicted - hits) / union, (truth - hits) / union, hits / predicted, hits / truth])
        per_class = 100 * iou(confusion)
        rows.append((index, [thresholds[index], np.nanmean(per_class), *(100 * np.nanmean(shares, 1)), *per_class]))
    names = ["threshold", "miou", "false_positive", "false_negative", "precision", "recall", *range(num_classes)]
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda pair: pair[0])], columns=names)

"""Evaluation: one integer confusion matrix per list, seeds from CAMs, the threshold curve in one pass."""

import numpy as np

from ..data.images import VOID


def confusion_matrix(prediction, truth, num_classes, ignore=VOID):
    """Count pixels → int64 (K,K), rows truth, columns prediction; truth `ignore` is left out.

    prediction, truth: integer arrays of one shape. Raises ValueError for other shapes and for values outside 0…K−1.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
    valid = truth != ignore
    prediction, truth = prediction[valid], truth[valid]
    for name, values in (("prediction", prediction), ("truth", truth)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f"{name} holds {values.min()}…{values.max()}, outside 0…{num_classes - 1}")
    index = truth.astype(np.int64) * num_classes + prediction.astype(np.int64)
    counts = np.bincount(index, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def pixel_counts(confusion):
    """What IoU needs of confusion matrices (…,K,K): pixels hit, in the truth and predicted, per class → (…,3,K)."""
    confusion = np.asarray(confusion)
    return np.stack([np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)], -2)


def iou_of_counts(counts):
    """Intersection over union per class, TP/(T+P−TP) in 0…1, of `pixel_counts` → float (…,K), NaN where in neither."""
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
    """{class from 0: H×W} → class of the largest CAM plus one (H,W) uint8, and its value (H,W) float32.

    No class at all gives background with value 0; `shape` is needed then.
    """
    if not cams:
        return np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    first, *others = sorted(cams, key=int)
    value = np.asarray(cams[first], np.float32)
    label = np.full(value.shape, int(first) + 1, np.uint8)
    for name in others:
        cam = np.asarray(cams[name], np.float32)
        label = np.where(cam > value, np.uint8(int(name) + 1), label)  # a tie goes to the lower class
        value = np.maximum(value, cam)
    return label, value


def seed_mask(cams, threshold, shape=None):
    """Seed from CAMs {class from 0: H×W}: class + 1 where its CAM is the largest and > threshold, else 0 → uint8."""
    label, value = strongest(cams, shape)
    return np.where(value > np.float32(threshold), label, 0).astype(np.uint8)


def thresholds_below(values, thresholds, cells=4096):
    """`np.searchsorted(thresholds, values)`: how many of the sorted thresholds are strictly below each value → int32.

    values, thresholds: float32. Values in 0…1 fall into cells of equal width: the thresholds of the cells before a
    value's are below it, those of its own cell are compared with it one after the other.
    """

    def cell(x):  # never falls as x grows, however it is rounded: where cells differ, they tell which x is larger
        return (np.clip(x, 0, 1) * np.float32(cells)).astype(np.int32)

    occupied, following = cell(thresholds), np.append(thresholds, np.float32(np.inf))
    passed = np.searchsorted(occupied, np.arange(cells + 1, dtype=np.int32)).astype(np.int32)
    found = passed.take(cell(values), mode="clip")  # spares the check of the indices, which all lie inside
    for _ in range(np.bincount(occupied, minlength=1).max()):
        found += values > following.take(found, mode="clip")
    return found


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
    shape = (num_classes + 1, num_classes, bins)  # truth, void being the last, × strongest class × thresholds passed
    counts = np.zeros(np.prod(shape), np.int64)
    for cams, truth in samples:
        truth = np.asarray(truth)
        label, value = strongest(cams, truth.shape)
        if label.shape != truth.shape:
            raise ValueError(f"CAMs {label.shape} and truth {truth.shape} differ in size")
        void = truth == VOID
        if (outside := ~void & ((truth < 0) | (truth >= num_classes))).any():
            raise ValueError(f"truth holds {truth[outside][0]}, outside 0…{num_classes - 1}")
        if label.size and label.max() >= num_classes:
            raise ValueError(f"a CAM is of class {label.max() - 1}, outside 0…{num_classes - 2}")
        pair = np.where(void, num_classes, truth).astype(np.int32) * num_classes + label
        passed = thresholds_below(value, thresholds)
        counts += np.bincount((pair * bins + passed).ravel(), minlength=len(counts))
    return counts.reshape(shape)[:-1]


def curve_table(counts, thresholds):
    """`threshold_counts` → the DataFrame of `threshold_curve`."""
    import pandas as pd  # half a second, which every process that refines labels would wait for

    order, num_classes = np.argsort(np.asarray(thresholds, np.float32)), len(counts)
    above = counts[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]  # pixels that are still foreground at each threshold
    confusions = np.moveaxis(above, -1, 0).copy()
    confusions[..., 0] += counts.sum((1, 2)) - confusions.sum(-1)
    hits, truth, predicted = np.moveaxis(pixel_counts(confusions), -2, 0)
    union, per_class = truth + predicted - hits, 100 * iou(confusions)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [(predicted - hits) / union, (truth - hits) / union, hits / predicted, hits / truth]
    means = [np.nanmean(per_class, -1), *(100 * np.nanmean(share, -1) for share in shares)]
    names = ["threshold", "miou", "false_positive", "false_negative", "precision", "recall", *range(num_classes)]
    table = pd.DataFrame(np.column_stack([np.asarray(thresholds)[order], *means, per_class]), columns=names)
    return table.iloc[np.argsort(order)].reset_index(drop=True)

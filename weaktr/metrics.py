"""A stable name for code outside the package: confusion matrices, IoU, seeds and the threshold curve."""

from .data.images import VOID
from .evaluation.metrics import (
    confusion_matrix,
    curve_table,
    iou,
    iou_of_counts,
    mean_iou,
    pixel_counts,
    seed_mask,
    strongest,
    threshold_counts,
    threshold_curve,
    thresholds_below,
)

__all__ = [
    "VOID",
    "confusion_matrix",
    "curve_table",
    "iou",
    "iou_of_counts",
    "mean_iou",
    "pixel_counts",
    "seed_mask",
    "strongest",
    "threshold_counts",
    "threshold_curve",
    "thresholds_below",
]

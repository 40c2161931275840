"""A stable name for code outside the package: what it holds lives in the rooms below."""

from .data.images import VOID  # noqa: F401
from .evaluation.metrics import confusion_matrix, iou, mean_iou, seed_mask, threshold_curve  # noqa: F401

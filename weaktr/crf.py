"""A stable name for code outside the package: the dense CRF."""

from .method.crf import (
    LABEL_SETTINGS,
    PREDICTION_SETTINGS,
    refine_labels,
    refine_probabilities,
    refine_to_file,
)

__all__ = ["LABEL_SETTINGS", "PREDICTION_SETTINGS", "refine_labels", "refine_probabilities", "refine_to_file"]

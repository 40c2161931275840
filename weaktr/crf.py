"""A stable name for code outside the package: what it holds lives in the rooms below."""

from .method.crf import LABEL_SETTINGS, PREDICTION_SETTINGS, refine_labels, refine_probabilities  # noqa: F401

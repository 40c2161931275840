"""A stable name for code outside the package: what it holds lives in the rooms below."""

from .data.transforms import normalise  # noqa: F401
from .method.segmentation import predict_probabilities, segment, segment_on_device  # noqa: F401
from .workbench.predict import predict  # noqa: F401

"""A stable name for code outside the package: CAMs of step 1, masks of step 2, a photograph through a finished run."""

from .data.transforms import normalise
from .method.cam_generation import (
    generate_cams,
    generate_grids,
    generate_variants,
    head_correlation,
    mirrored_views,
    rescale,
)
from .method.segmentation import (
    at_least,
    image_views,
    predict_probabilities,
    segment,
    segment_on_device,
    window_logits,
    window_starts,
)
from .workbench.predict import predict

__all__ = [
    "at_least",
    "generate_cams",
    "generate_grids",
    "generate_variants",
    "head_correlation",
    "image_views",
    "mirrored_views",
    "normalise",
    "predict",
    "predict_probabilities",
    "rescale",
    "segment",
    "segment_on_device",
    "window_logits",
    "window_starts",
]

"""Models of the two steps, and how they are saved."""

from .cam import CamModel, CamOutput, cam_variant, create_cam_model
from .checkpoints import load_model, save_model
from .segmenter import Segmenter, create_segmenter

__all__ = [
    "CamModel",
    "CamOutput",
    "Segmenter",
    "cam_variant",
    "create_cam_model",
    "create_segmenter",
    "load_model",
    "save_model",
]

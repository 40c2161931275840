"""Models of the two steps, and how they are saved."""

from .cam import create_cam_model
from .checkpoints import load_model, save_model
from .segmenter import create_segmenter

__all__ = ["create_cam_model", "create_segmenter", "load_model", "save_model"]

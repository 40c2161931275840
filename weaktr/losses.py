"""A stable name for code outside the package: the losses of both steps."""

from .method.cam_training import cam_losses
from .method.clipping import SCOPES, ClippedLoss, gradient_clipping

__all__ = ["SCOPES", "ClippedLoss", "cam_losses", "gradient_clipping"]

"""A stable name for code outside the package: what it holds lives in the rooms below."""

from .method.cam_training import cam_losses  # noqa: F401
from .method.clipping import SCOPES, ClippedLoss, gradient_clipping  # noqa: F401

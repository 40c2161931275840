"""What notebooks and `weaktr run` need: parameters, presets, stages, the runner. It knows no sweep."""

from .explorer import explore
from .stage import open_stage

__all__ = ["explore", "open_stage"]

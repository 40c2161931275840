"""The workbench: what notebooks and `weaktr run` need to turn parameters into the folder of a run.

Parameters cells and presets, checks before a run, stage folders with keys and manifests, the runner and its kernels,
reports of finished runs. It uses the method as the notebooks do. It does not know that there are sweeps, nor the
command line; and it holds nothing of the method: a formula belongs in `method`, a figure in `plots`.
"""

from .explorer import explore, explore_attention
from .stage import open_stage

__all__ = ["explore", "explore_attention", "open_stage"]

"""Presets: named sets of parameter overrides. What a preset leaves out has the notebooks' own default.

Each is a function that returns {parameter: value}; its docstring says what it is, what it costs, what to expect and
how to run it. To add one, write the function and name it in `PRESETS`.
"""

from typing import NamedTuple

from .errors import ParameterError
from .parameters import near


class Preset(NamedTuple):
    """A preset's overrides with the facts of its docstring."""

    name: str
    parameters: dict
    summary: str
    cost: str


def demo():
    """The whole pipeline on the embedded data set.

    Cost: 12 minutes and 1.6 GB on two CPU cores.
    Expected: the figures of papermill_runs/reference: 65.8 % mIoU on val, 76.1 % with true masks, seed 504.
    Command: make demo, or python -m weaktr run --preset demo
    """
    return {}


def smoke():
    """All notebooks with next to no training, to see that everything runs.

    Cost: under 90 seconds on two CPU cores.
    Expected: poor masks.
    Command: python -m weaktr run --preset smoke
    """
    return {
        "train_list": "smoke",
        "eval_list": "smoke",
        "val_list": "smoke_val",
        "cam_epochs": 1,
        "cam_batch_size": 16,
        "variant_images": 16,
        "seg_epochs": 1,
        "seg_batch_size": 8,
        "seg_scales": [1.0],
    }


def voc_mini():
    """Real photographs in VOC12's layout with the small backbone, to see that the path is whole.

    Cost: a few minutes on two CPU cores for some dozens of photographs.
    Expected: poor masks; for real ones the method needs an ImageNet backbone and all of VOC12.
    Command: python -m weaktr run --preset voc_mini --set data_root=<the folder that holds VOCdevkit>
    """
    return {
        "dataset": "voc12",
        "train_list": "train",
        "cam_epochs": 2,
        "cam_batch_size": 14,
        "cam_scales": [0.25],
        "threshold": 0.4,
        "variant_images": 14,
        "seg_epochs": 2,
        "seg_batch_size": 4,
        "seg_scales": [1.0],
    }


PRESETS = {function.__name__: function for function in (demo, smoke, voc_mini)}


def get(name):
    """The Preset `name`. Raises ParameterError for an unknown one, with the nearest known ones."""
    if name not in PRESETS:
        raise ParameterError(f"unknown preset {name!r}{near(name, PRESETS)}; there are {', '.join(PRESETS)}")
    lines = [line.strip() for line in PRESETS[name].__doc__.splitlines()]
    cost = next(line.removeprefix("Cost: ").rstrip(".") for line in lines if line.startswith("Cost: "))
    return Preset(name, PRESETS[name](), lines[0].rstrip("."), cost)

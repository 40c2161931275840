"""The networks of both steps, their pretrained weights and their checkpoints.

- `cam`, `segmenter`: the two networks whole; `fusion`, `decoder`: their own parts
- `encoders`, `attention`: a plain ViT in each step, and its attention maps, kept or recomputed
- `backbones`, `weights`: ViTs of timm and pretrained weights
- `checkpoints`, `released`: our files, and those of the authors' code
- `trained`: such a file as the network of a run

A network is made from its sizes and turns normalised images into maps or logits. This room knows nothing of data sets,
runs, losses or training: whoever trains a network, or makes masks with it, does so from outside.
"""

from torch import nn

from .cam import create_cam_model
from .checkpoints import load_model, save_model
from .segmenter import create_segmenter
from .trained import load_trained_cam, load_trained_segmenter

__all__ = [
    "create_cam_model",
    "create_segmenter",
    "load_model",
    "load_trained_cam",
    "load_trained_segmenter",
    "million_parameters",
    "save_model",
]


def million_parameters(model: nn.Module) -> float:
    """How many parameters a network has, in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6

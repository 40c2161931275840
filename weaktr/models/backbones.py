"""Backbones: plain ViTs of timm and the small ones shipped with the embedded data set."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, cast

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import UserError, near

# A timm name, ours, or keyword arguments for timm's `VisionTransformer` (`Eva` with `use_rot_pos_emb`), as released
# checkpoints need; the key `normalise` names one of NORMALISATIONS.
Backbone = str | dict[str, Any]
ImageSize = int | tuple[int, int]  # pixels: a side, or height and width
Channels = tuple[float, ...]  # one number per RGB channel

IMAGENET_MEAN = IMAGENET_DEFAULT_MEAN
IMAGENET_STD = IMAGENET_DEFAULT_STD
NORMALISATIONS: dict[str, tuple[Channels, Channels]] = {  # mean and standard deviation
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}


class PlainViT(Protocol):
    """What the encoders use of a ViT, as timm's `VisionTransformer` and `Eva` have it (the latter also `rope`)."""

    embed_dim: int
    num_prefix_tokens: int  # class token and registers
    no_embed_class: bool  # whether these have no position embedding
    patch_embed: Any
    cls_token: Any  # (1,1,D)
    reg_token: Any  # (1,registers,D), or None
    pos_embed: Any  # (1,prefix and patches,D)
    norm_pre: Any
    blocks: Any  # with their attention as `attn`
    norm: Any

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take over all of them."""
        ...


@register_model
def weaktr_tiny_patch8_96(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> VisionTransformer:
    """The small backbone of the embedded data set (1.2 M parameters), made by `python tools/pretrain.py`.

    timm hands every model its own arguments on pretrained weights; ours are loaded by `pretrained_state`.
    """
    sizes = {"img_size": 96, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "reg_tokens": 4}
    return VisionTransformer(**(sizes | kwargs))


@register_model
def weaktr_tiny4_patch8_96(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The first four blocks of `weaktr_tiny_patch8_96`, to see what depth is worth."""
    return weaktr_tiny_patch8_96(**({"depth": 4} | kwargs))


@register_model
def weaktr_tiny2_patch8_96(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The first two blocks of `weaktr_tiny_patch8_96`."""
    return weaktr_tiny_patch8_96(**({"depth": 2} | kwargs))


def make_vit(
    backbone: Backbone,
    *,
    image_size: ImageSize,
    patch_size: int | None = None,
    eps: float = 1e-6,
    drop_path: float = 0.0,
) -> PlainViT:
    """A plain ViT without head and pooling, with random weights.

    Args:
        backbone: See Backbone.
        image_size: Pixels, one side or (height, width), for which it has position embeddings.
        patch_size: Pixels; None keeps the backbone's own.
        eps: Of every LayerNorm.
        drop_path: Rate in the last block; it grows linearly from 0 in the first.

    Raises:
        UserError: For a name timm does not know, and for a model that is not a plain ViT, saying what it lacks.
    """
    options: dict[str, Any] = {
        "img_size": image_size,
        "num_classes": 0,
        "global_pool": "",
        "norm_layer": partial(nn.LayerNorm, eps=eps),
        "dynamic_img_size": True,
        "drop_path_rate": drop_path,
    }
    if patch_size is not None:
        options["patch_size"] = patch_size
    if isinstance(backbone, dict):
        family = Eva if backbone.get("use_rot_pos_emb") else VisionTransformer
        sizes = {name: value for name, value in backbone.items() if name != "normalise"}
        return cast(PlainViT, family(**(sizes | options)))
    refuse_unfit(backbone)
    return cast(PlainViT, timm.create_model(backbone, **options))


def refuse_unfit(name: str) -> None:
    """Raise UserError for a name timm does not know, and for a model of timm that is not a plain ViT."""
    if not timm.is_model(name):
        plain = timm.list_models(["deit*patch*", "vit_*patch*"], exclude_filters=["*distilled*", "*dinov3*", "*rope*"])
        hint = near(name, plain) or "; one is deit_small_patch16_224"
        raise UserError(f"backbone {name!r} is not known to timm {timm.__version__}{hint}")
    with torch.device("meta"):  # shapes only, without our arguments: other models would not know them
        model = timm.create_model(name)
    if reason := not_plain(model):
        raise UserError(f"backbone {name!r} is not a plain ViT: {reason}; use one such as deit_small_patch16_224")


def not_plain(model: nn.Module) -> str:
    """Why a timm model cannot serve as the encoder, in words; "" for a plain ViT."""
    kinds = {type(module).__name__ for module in model.modules()}
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    parameters = [name for name, _ in model.named_parameters()]
    blocks: Any = getattr(model, "blocks", ())
    block = next(iter(blocks), None)
    windowed = any("Window" in kind or "MaskUnit" in kind for kind in kinds) or bool(getattr(block, "window_size", 0))
    relative_bias = any("rel_pos" in name or "relative_position" in name for name in parameters)
    no_class_token = hasattr(model, "blocks_token_only") or getattr(model, "cls_token", None) is None
    reasons = {
        "it has windowed attention": windowed,
        "it has convolutional stages": convolutions > 1,
        "its attention has a relative position bias": relative_bias,
        "it has no class token path through its blocks": no_class_token,
        "it has a distillation token beside the class token": hasattr(model, "dist_token"),
        "it has no absolute position embedding": getattr(model, "pos_embed", None) is None,
        "its blocks run several layers in parallel": not hasattr(block, "attn"),
        "its rotary embedding is learned for each block": getattr(model, "rope_mixed", False),
        f"timm builds it as {type(model).__name__}": not isinstance(model, VisionTransformer | Eva),
    }
    return next((reason for reason, found in reasons.items() if found), "")


def normalisation(backbone: Backbone) -> tuple[Channels, Channels]:
    """Mean and standard deviation per RGB channel that a backbone's pretraining used."""
    if isinstance(backbone, dict):
        default = "clip" if backbone.get("use_rot_pos_emb") else "imagenet"
        return NORMALISATIONS[backbone.get("normalise") or default]
    known = timm.get_pretrained_cfg(backbone)
    if known is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(known.mean), tuple(known.std)

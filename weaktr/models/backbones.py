"""Backbones: plain ViTs of timm and the small ones shipped with the embedded data set."""

from functools import partial

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..errors import UserError, near

IMAGENET_MEAN, IMAGENET_STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
NORMALISATIONS = {  # mean and standard deviation per RGB channel
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}


@register_model
def weaktr_tiny_patch8_96(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    """The small backbone of the embedded data set (1.2 M parameters), made by `python tools/pretrain.py`.

    timm hands every model its own arguments on pretrained weights; ours are loaded by `pretrained_state`.
    """
    return VisionTransformer(
        **({"img_size": 96, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "reg_tokens": 4} | kwargs)
    )


@register_model
def weaktr_tiny4_patch8_96(pretrained=False, **kwargs):
    """The first four blocks of `weaktr_tiny_patch8_96`, to see what depth is worth."""
    return weaktr_tiny_patch8_96(**({"depth": 4} | kwargs))


@register_model
def weaktr_tiny2_patch8_96(pretrained=False, **kwargs):
    """The first two blocks of `weaktr_tiny_patch8_96`."""
    return weaktr_tiny_patch8_96(**({"depth": 2} | kwargs))


def make_vit(backbone, *, image_size, patch_size=None, eps=1e-6, drop_path=0.0):
    """A plain ViT without head and pooling.

    backbone: a timm name, ours, or a dict of keyword arguments for timm's `VisionTransformer` (`Eva` with
    `use_rot_pos_emb`), as released checkpoints need. image_size: pixels, one side or (height, width).
    Raises UserError for a name timm does not know and for a model that is no plain ViT, saying what it lacks.
    """
    kwargs = {
        "img_size": image_size,
        "num_classes": 0,
        "global_pool": "",
        "norm_layer": partial(nn.LayerNorm, eps=eps),
        "dynamic_img_size": True,
        "drop_path_rate": drop_path,
    }
    if patch_size is not None:
        kwargs["patch_size"] = patch_size
    if isinstance(backbone, dict):
        family = Eva if backbone.get("use_rot_pos_emb") else VisionTransformer
        return family(**({name: value for name, value in backbone.items() if name != "normalise"} | kwargs))
    if not timm.is_model(backbone):
        plain = timm.list_models(["deit*patch*", "vit_*patch*"], exclude_filters=["*distilled*", "*dinov3*", "*rope*"])
        known = near(backbone, plain) or "; one is deit_small_patch16_224"
        raise UserError(f"backbone {backbone!r} is not known to timm {timm.__version__}{known}")
    try:
        vit = timm.create_model(backbone, **kwargs)
    except (TypeError, AssertionError):  # it does not know our arguments: look at it as timm makes it
        with torch.device("meta"):
            vit = timm.create_model(backbone)
    if reason := not_plain(vit):
        raise UserError(f"backbone {backbone!r} is no plain ViT: {reason}; use one such as deit_small_patch16_224")
    return vit


def not_plain(model):
    """Why a timm model cannot serve as the encoder, in words; "" for a plain ViT."""
    kinds = {type(module).__name__ for module in model.modules()}
    names = {name for name, _ in model.named_parameters()}
    block = next(iter(getattr(model, "blocks", ())), None)
    if any("Window" in kind or "MaskUnit" in kind for kind in kinds) or getattr(block, "window_size", 0):
        return "it has windowed attention"
    if sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1:
        return "it has convolutional stages"
    if any("rel_pos" in name or "relative_position" in name for name in names):
        return "its attention has a relative position bias"
    if hasattr(model, "blocks_token_only") or getattr(model, "cls_token", None) is None:
        return "it has no class token path through its blocks"
    if hasattr(model, "dist_token"):
        return "it has a distillation token beside the class token"
    if getattr(model, "pos_embed", None) is None:
        return "it has no absolute position embedding"
    if not hasattr(block, "attn"):
        return "its blocks run several layers in parallel"
    if getattr(model, "rope_mixed", False):
        return "its rotary embedding is learned for each block"
    return "" if isinstance(model, VisionTransformer | Eva) else f"timm builds it as {type(model).__name__}"


def normalisation(backbone):
    """Mean and standard deviation per RGB channel that a backbone's pretraining used."""
    if isinstance(backbone, dict):
        return NORMALISATIONS[backbone.get("normalise") or ("clip" if backbone.get("use_rot_pos_emb") else "imagenet")]
    known = timm.get_pretrained_cfg(backbone)
    return (tuple(known.mean), tuple(known.std)) if known else (IMAGENET_MEAN, IMAGENET_STD)

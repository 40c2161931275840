"""Backbones: plain ViTs of timm and the small ones shipped with the embedded data set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.layers import DiffAttention
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UserError, near
from .hubs import timm_names

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
# The released code gives every LayerNorm of step 2 this epsilon, where these models have 1e-6 by themselves.
RELEASED_EPS = 1e-5
PUBLISHED = ("deit_small_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_384", "eva02_small_patch14_224")
SHIPPED = ("weaktr_tiny_patch8_96", "weaktr_tiny4_patch8_96", "weaktr_tiny2_patch8_96")  # they stand in for those


class PlainViT(Protocol):
    """What the encoders use of a ViT, as timm's `VisionTransformer` and `Eva` have it.

    The latter also has `rope`, None or the rotary embedding, and `rope_mixed`, whether that is learned for each block.
    """

    embed_dim: int
    num_prefix_tokens: int  # class token and registers
    no_embed_class: bool  # whether these have no position embedding
    patch_embed: Any
    cls_token: Any  # (1,1,D), or None
    reg_token: Any  # (1,registers,D), or None
    pos_embed: Any  # (1,prefix and patches,D), or None
    norm_pre: Any
    blocks: Any  # with their attention as `attn`, unless they run several layers in parallel
    norm: Any  # LayerNorm or RmsNorm, with the epsilon of its pretraining

    def modules(self) -> Iterator[nn.Module]:
        """All modules, itself included."""
        ...

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
    eps: float | None = None,
    drop_path: float = 0.0,
    step: int = 1,
) -> PlainViT:
    """A plain ViT without head and pooling, with random weights and its own kind of norm.

    Args:
        backbone: See Backbone.
        image_size: Pixels, one side or (height, width), for which it has position embeddings.
        patch_size: Pixels; None keeps the backbone's own.
        eps: Of every LayerNorm; None keeps the backbone's own.
        drop_path: Rate in the last block; it grows linearly from 0 in the first.
        step: The step in which it is to serve: step 1 needs the attention map of every block.

    Raises:
        UserError: For a name timm does not know, and for a model that does not fit, saying what it lacks.
    """
    options: dict[str, Any] = {
        "img_size": image_size,
        "num_classes": 0,
        "global_pool": "",
        "dynamic_img_size": True,
        "drop_path_rate": drop_path,
    }
    if patch_size is not None:
        options["patch_size"] = patch_size
    if isinstance(backbone, dict):
        family = Eva if backbone.get("use_rot_pos_emb") else VisionTransformer
        sizes = {name: value for name, value in backbone.items() if name != "normalise"}
        vit = cast(PlainViT, family(**(sizes | options)))
    else:
        refuse_unfit(backbone, step)
        vit = cast(PlainViT, timm.create_model(backbone, **options))
    if eps is not None:
        for module in vit.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
    return vit


def released_eps(backbone: Backbone) -> float | None:
    """The epsilon of step 2's encoder where a published preset says one; None where a model keeps its own.

    A backbone that is given by its sizes is that of a released checkpoint.
    """
    if isinstance(backbone, dict) or untagged(backbone) in PUBLISHED + SHIPPED:
        return RELEASED_EPS
    return None


def untagged(name: str) -> str:
    """A name of timm without its tag, which says what weights were trained on: "a.b" → "a"."""
    return name.split(".")[0]


# ── What fits ─────────────────────────────────────────────────────────────────────────────────────────────────────
def refuse_unfit(name: str, step: int = 1) -> None:
    """Raise UserError for a name timm does not know, and for a model of timm that cannot serve in this step."""
    model = _shapes_of(name)
    if reason := not_plain(model):
        raise UserError(f"backbone {name!r} is not a plain ViT: {reason}; use one such as deit_small_patch16_224")
    if step == 1 and (reason := without_maps(model)):
        raise UserError(f"backbone {name!r} cannot serve in step 1: {reason}; it can in step 2, with seg_backbone=")


def _shapes_of(name: str) -> nn.Module:
    """A model of timm without its numbers; UserError for a name that is none of timm's."""
    if not timm.is_model(name):
        raise UserError(f"backbone {name!r} is not known to timm {timm.__version__}{_suggestion(name)}")
    with torch.device("meta"), _WithoutNumbers():
        return timm.create_model(name)  # without our arguments: other models would not know them


class _WithoutNumbers(TorchFunctionMode):
    """Skips operations in place: of a tensor on the meta device they change nothing but numbers that are not there.

    They are most of the time that a model takes there: ViT-B 14 ms instead of 95.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):
            return next(iter((*args, *kwargs.values())))
        return function(*args, **kwargs)


def _suggestion(name: str) -> str:
    """What a message about an unknown name says of names that are known."""
    if names := timm_names(name):
        return f"; its name there is {' or '.join(names)}"
    plain = timm.list_models(["deit*patch*", "vit_*patch*"], exclude_filters=["*distilled*"])
    return near(name, plain) or "; one is deit_small_patch16_224"


def not_plain(model: nn.Module) -> str:
    """Why a timm model cannot serve as the encoder of any step, in words; "" for a plain ViT."""
    kinds = {type(module).__name__ for module in model.modules()}
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    parameters = [name for name, _ in model.named_parameters()]
    blocks: Any = getattr(model, "blocks", ())
    block = next(iter(blocks), None)
    windowed = any("Window" in kind or "MaskUnit" in kind for kind in kinds) or bool(getattr(block, "window_size", 0))
    relative_bias = any("rel_pos" in name or "relative_position" in name for name in parameters)
    reasons = {
        "it has windowed attention": windowed,
        "it has convolutional stages": convolutions > 1,
        "its attention has a relative position bias": relative_bias,
        "it has no class token path through its blocks": hasattr(model, "blocks_token_only"),
        "it has a distillation token beside the class token": hasattr(model, "dist_token"),
        f"timm builds it as {type(model).__name__}": not isinstance(model, VisionTransformer | Eva),
    }
    return next((reason for reason, found in reasons.items() if found), "")


def without_maps(model: Any) -> str:
    """Why a plain ViT has no attention map for each head of each block, as step 1 needs them; "" for one that has."""
    if not all(hasattr(block, "attn") for block in model.blocks):
        return "its blocks run several layers in parallel"
    if any(isinstance(block.attn, DiffAttention) for block in model.blocks):
        return "its attention is the difference of two maps"
    return ""


# ── What there is ─────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class BackboneFacts:
    """A model of timm, for those who choose one."""

    name: str
    millions: float  # parameters without the head
    patch: str  # side in pixels
    image: str  # side in pixels, or height×width, of its pretraining
    normalisation: str  # one of NORMALISATIONS, or mean and standard deviation
    licence: str  # of its weights, as timm has it
    steps: tuple[int, ...]  # in which it can serve
    note: str  # why it cannot, or what is special in step 1


def backbone_facts(name: str) -> BackboneFacts:
    """What there is to know of a model of timm, without its weights.

    Raises:
        UserError: For a name timm does not know.
    """
    model: Any = _shapes_of(name)
    heads = ("head", "attn_pool")
    parameters = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith(heads))
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    known = timm.get_pretrained_cfg(name)
    steps: tuple[int, ...] = (1, 2)
    if note := not_plain(model):
        steps = ()
    elif note := without_maps(model):
        steps = (2,)
    elif model.cls_token is None:
        note = NO_CLASS_TOKEN
    return BackboneFacts(
        name=name,
        millions=parameters / 1e6,
        patch=str(patch[0] if isinstance(patch, tuple) else patch or "–"),
        image=_image_size(known),
        normalisation=_normalisation_name(normalisation(name)),
        licence=(known and known.license) or "–",
        steps=steps,
        note=note,
    )


NO_CLASS_TOKEN = "no class token: step 1 gives it one per class, random at first, which the paper did not try"


def _image_size(known: Any) -> str:
    if known is None:
        return "–"
    height, width = known.input_size[1:]
    return str(height) if height == width else f"{height}×{width}"


def _normalisation_name(values: tuple[Channels, Channels]) -> str:
    for name, known in NORMALISATIONS.items():
        if known == values:
            return name
    return " ".join(f"{number:g}" for numbers in values for number in numbers)


def matching_names(pattern: str = "") -> list[str]:
    """Names of timm and of ours, sorted as people count.

    Args:
        pattern: Part of a name, or with * and ? for the whole of it; with a dot it is held against names with their
            tags. "" stands for the families of plain ViTs.

    Raises:
        UserError: Where no name matches.
    """
    if not pattern:
        families = ("vision_transformer", "eva", "deit", __name__.rpartition(".")[2])
        return [name for family in families for name in timm.list_models(module=family)]
    whole = pattern if any(sign in pattern for sign in "*?") else f"*{pattern}*"
    names: list[str] = timm.list_models(whole, include_tags="." in pattern)
    if not names:
        raise UserError(f"backbone {pattern!r} matches no name of timm {timm.__version__}{_suggestion(pattern)}")
    return names


def normalisation(backbone: Backbone) -> tuple[Channels, Channels]:
    """Mean and standard deviation per RGB channel that a backbone's pretraining used."""
    if isinstance(backbone, dict):
        default = "clip" if backbone.get("use_rot_pos_emb") else "imagenet"
        return NORMALISATIONS[backbone.get("normalise") or default]
    known = timm.get_pretrained_cfg(backbone)
    if known is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(known.mean), tuple(known.std)

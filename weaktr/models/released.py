"""Checkpoints of the authors' released code: names translated, sizes read off the tensors."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .backbones import ImageSize, PlainViT
from .cam import CamModel, create_cam_model
from .encoders import rotary
from .segmenter import Segmenter, create_segmenter
from .weights import State, refuse_misshapen

FUSION = "adaptive_attention_fusion."
# How the documented commands evaluate step 2 (docs/method.md, "Evaluation"): keywords of `method.segmentation.segment`.
RELEASED_INFERENCE = {
    "scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
    "mirror": True,
    "base_size": 520,
    "window": 480,
    "stride": 320,
    "early_weight": 0.8,
}
FUSION_LAYERS = (
    "attn_feat_ffn.0.weight",
    "attn_feat_ffn.0.bias",
    "attn_feat_ffn.1.weight",
    "attn_feat_ffn.1.bias",
    "attn_head_ffn.0.weight",
    "attn_head_ffn.2.weight",
)
SIZES = r"cls_token|cls_emb|pos_embed|patch_embed.proj.weight|(^|encoder.)blocks.0.mlp.(fc1|w12).weight|ffn.0.weight"

# Pattern in the names of our parameters and what stands in its place in the authors' files, applied in this order.
CAM_RULES = [
    (r"^encoder\.(cls_token|pos_embed)$", r"\1"),
    (r"^encoder\.vit\.", ""),
    (r"^fusion\.feature_ffn\.", f"{FUSION}attn_feat_ffn."),
    (r"^fusion\.head_ffn\.", f"{FUSION}attn_head_ffn."),
]
SEGMENTER_RULES = [(r"^encoder\.vit\.", "encoder.")]
EVA_RULES = [
    (r"(encoder\.blocks.*)\.mlp\.fc1\.", r"\1.mlp.w12."),
    (r"(encoder\.blocks.*)\.mlp\.fc2\.", r"\1.mlp.w3."),
]


def import_released_model(
    state_dict: Mapping[str, Any],
    *,
    num_heads: int = 0,
    pool: str = "max",
    decoder_heads: int | None = None,
    image_size: ImageSize | None = None,
) -> CamModel | Segmenter:
    """The network of a released state dict of either step.

    Args:
        state_dict: The file's content, or what it has under the key `model`.
        num_heads: Of the encoder; 0 reads them off the fusion of step 1 or EVA-02's rotary tables, and means
            width / 64 where neither tells.
        pool: Of step 1, see `import_released_cam`.
        decoder_heads: Of step 2, see `import_released_segmenter`.
        image_size: See `import_released_cam`.

    Raises:
        UserError: As `import_released_cam` and `import_released_segmenter`.
    """
    state = state_dict.get("model", state_dict)
    segmenter = _is_segmenter(state)
    class_token = "encoder.cls_token" if segmenter else "cls_token"
    _require(state, class_token, 3)
    num_heads = num_heads or max(1, state[class_token].shape[2] // _head_width(state))
    if segmenter:
        return import_released_segmenter(state, num_heads=num_heads, decoder_heads=decoder_heads, image_size=image_size)
    return import_released_cam(state, num_heads=num_heads, pool=pool, image_size=image_size)


def import_released_cam(
    state_dict: Mapping[str, Any], *, num_heads: int, pool: str = "max", image_size: ImageSize | None = None
) -> CamModel:
    """The CAM network from a released step-1 state dict (DeiT). Sizes are read off the tensors.

    Args:
        state_dict: The file's content, or what it has under the key `model`.
        num_heads: Of the encoder.
        pool: "max" or "avg", over the tokens of an attention output; a file does not tell.
        image_size: Training size in pixels, needed where the positions are not those of a square.

    Raises:
        UserError: Naming missing, unknown and misshapen keys; for a fusion of an older layout, and for a step-2 file.
    """
    state = state_dict.get("model", state_dict)
    if _is_segmenter(state):
        raise UserError("this is a step-2 checkpoint (it has a decoder); use import_released_segmenter")
    _check_fusion(state)
    feature = f"{FUSION}attn_feat_ffn.0.weight"
    hidden = f"{FUSION}attn_head_ffn.0.weight"
    _require(state, feature, 2)
    _require(state, hidden, 2)
    backbone, image_size = _sizes(state, "", num_heads, image_size)
    head_width = state[feature].shape[1]
    if head_width * num_heads != backbone["embed_dim"]:
        raise UserError(f"num_heads {num_heads} does not fit {feature}, whose heads have {head_width} channels")
    model = create_cam_model(
        backbone,
        state["cls_token"].shape[1],
        pretrained=False,
        image_size=image_size,
        patch_size=backbone["patch_size"],
        pool=pool,
        reduction=_reduction(state[hidden]),
        feat_reduction=_reduction(state[feature]),
    )
    _load_released(model, state, unused=r"norm\.(weight|bias)")
    return model


def import_released_segmenter(
    state_dict: Mapping[str, Any],
    *,
    num_heads: int,
    decoder_heads: int | None = None,
    image_size: ImageSize | None = None,
) -> Segmenter:
    """The segmenter from a released step-2 state dict (DeiT, ViT, DINOv2 or EVA-02). Sizes are read off the tensors.

    EVA-02's stored rotary tables are compared with the computed ones and dropped.

    Args:
        state_dict: The file's content, or what it has under the key `model`.
        num_heads: Of the encoder.
        decoder_heads: None means D/64.
        image_size: Training crop in pixels, needed where the positions are not those of a square.

    Raises:
        UserError: Naming missing, unknown and misshapen keys, and for a step-1 file.
    """
    state = state_dict.get("model", state_dict)
    if not _is_segmenter(state):
        raise UserError("this is not a step-2 checkpoint (it has no decoder); use import_released_cam for step 1")
    _require(state, "decoder.cls_emb", 3)
    backbone, image_size = _sizes(state, "encoder.", num_heads, image_size)
    model = create_segmenter(
        backbone,
        state["decoder.cls_emb"].shape[1],
        pretrained=False,
        image_size=image_size,
        patch_size=backbone["patch_size"],
        decoder_heads=decoder_heads,
        decoder_depth=_depth(state, "decoder.blocks."),
    )
    unused = r"encoder\.head\.(weight|bias)"
    if "use_rot_pos_emb" in backbone:
        unused += r"|encoder\.(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)"
        _check_rotary(model.encoder.vit, state)
    _load_released(model, state, unused)
    return model


def released_names(model: CamModel | Segmenter) -> dict[str, str]:
    """{parameter or buffer name of our model: its name in the released code's state dict}."""
    rules = list(CAM_RULES if model.config["step"] == "cam" else SEGMENTER_RULES)
    backbone = model.config["backbone"]
    if isinstance(backbone, dict) and backbone.get("use_rot_pos_emb"):
        rules += EVA_RULES
    names = {}
    for name in model.state_dict():
        released = name
        for pattern, replacement in rules:
            released = re.sub(pattern, replacement, released)
        names[name] = released
    return names


def _is_segmenter(state: Mapping[str, Any]) -> bool:
    return any(name.startswith("decoder.") for name in state)


# ── Sizes ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _require(state: State, name: str, dimensions: int, prefix: str = "") -> None:
    """Refuse a state dict from which a size cannot be read: `name` is missing or has other than `dimensions`."""
    if name not in state:
        raise UserError(f"the checkpoint lacks {prefix}{name}")
    if state[name].ndim != dimensions:
        shape = tuple(state[name].shape)
        raise UserError(f"the checkpoint's {prefix}{name} {shape} does not have {dimensions} dimensions")


def _depth(state: State, prefix: str) -> int:
    """How many blocks stand under `prefix`."""
    numbers = [int(found[1]) for name in state if (found := re.match(re.escape(prefix) + r"(\d+)\.", name))]
    if not numbers:
        raise UserError(f"the checkpoint lacks {prefix}0")
    return 1 + max(numbers)


def _sizes(state: State, prefix: str, num_heads: int, image_size: ImageSize | None) -> tuple[dict[str, Any], ImageSize]:
    """Backbone description and image size, read off the tensors of a released encoder under `prefix`."""
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    for name, dimensions in (("cls_token", 3), ("pos_embed", 3), ("patch_embed.proj.weight", 4)):
        _require(state, name, dimensions, prefix)
    width = state["cls_token"].shape[2]
    if num_heads < 1 or width % num_heads:
        raise UserError(f"num_heads {num_heads} does not divide the checkpoint's width {width} ({prefix}cls_token)")
    patch = state["patch_embed.proj.weight"].shape[-1]
    backbone: dict[str, Any] = {
        "embed_dim": width,
        "depth": _depth(state, "blocks."),
        "num_heads": num_heads,
        "patch_size": patch,
    }
    eva = any(".mlp.w12." in name for name in state)
    first_layer = "blocks.0.mlp.w12.weight" if eva else "blocks.0.mlp.fc1.weight"
    _require(state, first_layer, 2, prefix)
    hidden = len(state[first_layer]) // (2 if eva else 1)  # SwiGLU: gate and value in one layer
    backbone["mlp_ratio"] = (hidden + 0.5) / width  # timm rounds down
    if eva:
        backbone |= {"use_rot_pos_emb": True, "ref_feat_shape": [16, 16], "swiglu_mlp": True}
    if any(".ls1." in name or ".ls2." in name for name in state):
        backbone["init_values"] = 1.0
    if image_size is None:
        image_size = patch * _square_side(state, prefix)
    return backbone, image_size


def _square_side(state: State, prefix: str) -> int:
    """Patches along a side, where the positions are those of a square."""
    patches = state["pos_embed"].shape[1] - state["cls_token"].shape[1]
    side = round(patches**0.5)
    if side * side != patches:
        raise UserError(f"{prefix}pos_embed holds {patches} patches, not a square; give image_size=(height, width)")
    return side


def _head_width(state: State) -> int:
    """Channels of a head, from the fusion of step 1 or the rotary tables of EVA-02; 64 where nothing tells."""
    for name in (f"{FUSION}attn_feat_ffn.0.weight", "encoder.rope.freqs_cos", "encoder.blocks.0.attn.rope.freqs_cos"):
        if name in state and state[name].ndim == 2:
            return max(1, state[name].shape[1])
    return 64


def _reduction(weight: Tensor) -> float:
    """The factor that made a linear layer's outputs from its inputs, which was rounded down."""
    outputs, inputs = weight.shape
    return inputs // outputs if inputs % outputs == 0 else inputs / (outputs + 0.5)


# ── Checks and loading ────────────────────────────────────────────────────────────────────────────────────────────
def _check_fusion(state: State) -> None:
    """Refuse a step-1 state dict whose fusion has other layers than the released one."""
    found = [name.removeprefix(FUSION) for name in state if name.startswith(FUSION)]
    problems = [f"lacks {FUSION}{name}" for name in FUSION_LAYERS if name not in found]
    problems += [f"holds {FUSION}{name}" for name in found if name not in FUSION_LAYERS]
    if problems:
        raise UserError(
            f"the checkpoint {', '.join(problems[:6])}: its fusion has a layout from before the released code, which "
            "would be read wrongly; use a checkpoint of the release"
        )


def _check_rotary(vit: PlainViT, state: State) -> None:
    """Refuse stored rotary tables that are not those of the encoder's grid."""
    grid = vit.patch_embed.grid_size
    sin, cos = rotary(vit, grid)[0]["rope"].chunk(2, -1)
    for name, tensor in state.items():
        if name.endswith(("freqs_cos", "freqs_sin")):
            table = cos if name.endswith("cos") else sin
            if tensor.shape != table.shape or not torch.allclose(tensor, table, atol=1e-5):
                raise UserError(f"the checkpoint's {name} is not the rotary table of a {grid[0]}×{grid[1]} grid")


def _load_released(model: CamModel | Segmenter, state: State, unused: str) -> None:
    """Copy a released state dict into `model`, which goes into eval mode; refuse unfit keys by name.

    unused: pattern of the names that are not needed.
    """
    names = released_names(model)
    own = model.state_dict()
    needed = set(names.values())
    missing = [name for name in names.values() if name not in state]
    unknown = [name for name in state if name not in needed and not re.fullmatch(unused, name)]
    for problem, found in (("lacks", missing), ("holds unknown", unknown)):
        if found:
            raise UserError(f"the checkpoint {problem} {', '.join(found[:6])}{' …' if len(found) > 6 else ''}")
    try:
        refuse_misshapen({released: (state[released], own[name]) for name, released in names.items()})
    except UserError as error:
        sources = [name for name in state if re.search(SIZES, name)]
        raise UserError(f"{error}; sizes were read off {', '.join(sources)}") from error
    model.load_state_dict({name: state[released] for name, released in names.items()})
    model.eval()

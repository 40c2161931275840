"""Checkpoints of the authors' released code: names translated, sizes read off the tensors."""

import re

import torch

from ..errors import UserError
from .cam import create_cam_model
from .segmenter import create_segmenter
from .weights import refuse_misshapen

FUSION = "adaptive_attention_fusion."
FUSION_LAYERS = (
    *("attn_feat_ffn.0.weight", "attn_feat_ffn.0.bias", "attn_feat_ffn.1.weight", "attn_feat_ffn.1.bias"),
    *("attn_head_ffn.0.weight", "attn_head_ffn.2.weight"),
)
SIZES = r"cls_token|cls_emb|pos_embed|patch_embed.proj.weight|(^|encoder.)blocks.0.mlp.(fc1|w12).weight|ffn.0.weight"


# ── The authors' checkpoints ──────────────────────────────────────────────────────────────────────────────────────
def released_names(model):
    """{parameter or buffer name of our model: its name in the released code's state dict}."""
    cam = model.config["step"] == "cam"
    rules = (
        [
            (r"^encoder\.(cls_token|pos_embed)$", r"\1"),
            (r"^encoder\.vit\.", ""),
            (r"^fusion\.feature_ffn\.", "adaptive_attention_fusion.attn_feat_ffn."),
            (r"^fusion\.head_ffn\.", "adaptive_attention_fusion.attn_head_ffn."),
        ]
        if cam
        else [(r"^encoder\.vit\.", "encoder.")]
    )
    if isinstance(model.config["backbone"], dict) and model.config["backbone"].get("use_rot_pos_emb"):
        rules += [
            (r"(encoder\.blocks.*)\.mlp\.fc1\.", r"\1.mlp.w12."),
            (r"(encoder\.blocks.*)\.mlp\.fc2\.", r"\1.mlp.w3."),
        ]
    names = {}
    for name in model.state_dict():
        released = name
        for pattern, replacement in rules:
            released = re.sub(pattern, replacement, released)
        names[name] = released
    return names


def _require(state, name, dimensions, prefix=""):
    """Refuse a state dict from which a size cannot be read: `name` is missing or has other than `dimensions`."""
    if name not in state:
        raise UserError(f"the checkpoint lacks {prefix}{name}")
    if state[name].ndim != dimensions:
        raise UserError(f"the checkpoint's {prefix}{name} {tuple(state[name].shape)} has not {dimensions} dimensions")


def _depth(state, prefix):
    """How many blocks stand under `prefix`."""
    numbers = [int(found[1]) for name in state if (found := re.match(re.escape(prefix) + r"(\d+)\.", name))]
    if not numbers:
        raise UserError(f"the checkpoint lacks {prefix}0")
    return 1 + max(numbers)


def _sizes(state, prefix, num_heads, image_size):
    """Backbone description and image size, read off the tensors of a released encoder under `prefix`."""
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    for name, dimensions in (("cls_token", 3), ("pos_embed", 3), ("patch_embed.proj.weight", 4)):
        _require(state, name, dimensions, prefix)
    width = state["cls_token"].shape[2]
    if num_heads < 1 or width % num_heads:
        raise UserError(f"num_heads {num_heads} does not divide the checkpoint's width {width} ({prefix}cls_token)")
    patch = state["patch_embed.proj.weight"].shape[-1]
    backbone = {"embed_dim": width, "depth": _depth(state, "blocks."), "num_heads": num_heads, "patch_size": patch}
    rotary = any(".mlp.w12." in name for name in state)
    _require(state, hidden := f"blocks.0.mlp.{'w12' if rotary else 'fc1'}.weight", 2, prefix)
    backbone["mlp_ratio"] = (len(state[hidden]) // (2 if rotary else 1) + 0.5) / width  # timm rounds down
    if rotary:
        backbone |= {"use_rot_pos_emb": True, "ref_feat_shape": [16, 16], "swiglu_mlp": True}
    if any(".ls1." in name or ".ls2." in name for name in state):
        backbone["init_values"] = 1.0
    patches = state["pos_embed"].shape[1] - state["cls_token"].shape[1]
    if image_size is None:
        side = round(patches**0.5)
        if side * side != patches:
            raise UserError(f"{prefix}pos_embed holds {patches} patches, no square; give image_size=(height, width)")
        image_size = side * patch
    return backbone, image_size


def _reduction(weight):
    """The factor that made a linear layer's outputs from its inputs, which was rounded down."""
    outputs, inputs = weight.shape
    return inputs // outputs if inputs % outputs == 0 else inputs / (outputs + 0.5)


def _load_released(model, state, unused):
    """Copy a released state dict into `model`, refusing missing, unknown and misshapen keys by name."""
    names = released_names(model)
    own = model.state_dict()
    missing = [name for name in names.values() if name not in state]
    unknown = [name for name in state if name not in set(names.values()) and not re.fullmatch(unused, name)]
    for problem, found in (("lacks", missing), ("holds unknown", unknown)):
        if found:
            raise UserError(f"the checkpoint {problem} {', '.join(found[:6])}{' …' if len(found) > 6 else ''}")
    try:
        refuse_misshapen({released: (state[released], own[name]) for name, released in names.items()})
    except UserError as error:
        sources = [name for name in state if re.search(SIZES, name)]
        raise UserError(f"{error}; sizes were read off {', '.join(sources)}") from error
    model.load_state_dict({name: state[released] for name, released in names.items()})
    return model.eval()


def _check_fusion(state):
    """Refuse a step-1 state dict whose fusion has other layers than the released one."""
    found = [name.removeprefix(FUSION) for name in state if name.startswith(FUSION)]
    problems = [f"lacks {FUSION}{name}" for name in FUSION_LAYERS if name not in found]
    problems += [f"holds {FUSION}{name}" for name in found if name not in FUSION_LAYERS]
    if problems:
        raise UserError(
            f"the checkpoint {', '.join(problems[:6])}: its fusion has a layout from before the released code, which "
            "would be read wrongly; use a checkpoint of the release"
        )


def import_released_cam(state_dict, *, num_heads, pool="max", image_size=None):
    """The CAM network from a released step-1 state dict (DeiT; key `model` of the file). Sizes are read off the
    tensors. Raises UserError naming missing, unknown and misshapen keys, for a fusion of an older layout, and for a
    step-2 file.
    """
    state = state_dict.get("model", state_dict)
    if any(name.startswith("decoder.") for name in state):
        raise UserError("this is a step-2 checkpoint (it has a decoder); use import_released_segmenter")
    _check_fusion(state)
    feature, hidden = (f"{FUSION}{name}.0.weight" for name in ("attn_feat_ffn", "attn_head_ffn"))
    for name in (feature, hidden):
        _require(state, name, 2)
    backbone, image_size = _sizes(state, "", num_heads, image_size)
    if (size := state[feature].shape[1]) * num_heads != backbone["embed_dim"]:
        raise UserError(f"num_heads {num_heads} does not fit {feature}, whose heads have {size} channels")
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
    return _load_released(model, state, unused=r"norm\.(weight|bias)")


def import_released_segmenter(state_dict, *, num_heads, decoder_heads=None, image_size=None):
    """The segmenter from a released step-2 state dict (DeiT, ViT, DINOv2 or EVA-02). Sizes are read off the tensors.

    EVA-02's stored rotary tables are compared with the computed ones and dropped. Raises UserError naming missing,
    unknown and misshapen keys, and for a step-1 file.
    """
    state = state_dict.get("model", state_dict)
    if not any(name.startswith("decoder.") for name in state):
        raise UserError("this is no step-2 checkpoint (it has no decoder); use import_released_cam for step 1")
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
    return _load_released(model, state, unused)


def _head_width(state):
    """Channels of a head, from the fusion of step 1 or the rotary tables of EVA-02; 64 where nothing tells."""
    for name in (f"{FUSION}attn_feat_ffn.0.weight", "encoder.rope.freqs_cos", "encoder.blocks.0.attn.rope.freqs_cos"):
        if name in state and state[name].ndim == 2:
            return max(1, state[name].shape[1])
    return 64


def _check_rotary(vit, state):
    grid = vit.patch_embed.grid_size
    sin, cos = vit.rope.get_embed(shape=grid).chunk(2, -1)
    for name, tensor in state.items():
        if name.endswith(("freqs_cos", "freqs_sin")):
            table = cos if name.endswith("cos") else sin
            if tensor.shape != table.shape or not torch.allclose(tensor, table, atol=1e-5):
                raise UserError(f"the checkpoint's {name} is not the rotary table of a {grid[0]}×{grid[1]} grid")

"""Checkpoints: ours (safetensors that carry their configuration) and those of the authors' released code."""

import json
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import UserError
from ..files import atomic
from .cam import create_cam_model
from .encoder import NORMALISATIONS
from .segmenter import create_segmenter

FORMAT = 1
BUILDERS = {"cam": create_cam_model, "segmenter": create_segmenter}


def save_model(model, path, **details):
    """Write a model with its configuration and `details` (classes, seed … as JSON) to one safetensors file, whole."""
    header = {"format": FORMAT, "config": model.config, "details": details}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as aside:
        save_file(weights, aside, metadata={"weaktr": json.dumps(header)})


def load_model(path, **expected):
    """Read what save_model wrote → model in eval mode, with `.config` and `.details`.

    expected: configuration the caller needs, for example step="cam" or num_classes=20. Raises UserError for a missing
    or truncated file, one that weaktr did not write, and a configuration that contradicts what is expected.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; run the stage that trains it first")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("weaktr", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iteration over the file)
    except SafetensorError as error:
        raise UserError(
            f"checkpoint {path} cannot be read ({error}); it is truncated or no safetensors file"
        ) from error
    if header is None or header["format"] != FORMAT:
        raise UserError(f"checkpoint {path} was not written by this version of weaktr; import released files first")
    config = dict(header["config"])
    for name, value in expected.items():
        if config.get(name) != value:
            raise UserError(f"checkpoint {path} has {name} {config.get(name)!r}, but {value!r} is needed")
    model = BUILDERS[config.pop("step")](**config, pretrained=False)
    model.load_state_dict(state)
    model.details = header["details"]
    return model.eval()


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


def _sizes(state, prefix, num_heads, image_size):
    """Backbone description and image size, read off the tensors of a released encoder under `prefix`."""
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight"):
        if name not in state:
            raise UserError(f"the checkpoint lacks {prefix}{name}")
    width = state["cls_token"].shape[2]
    if width % num_heads:
        raise UserError(f"num_heads {num_heads} does not divide the checkpoint's width {width}")
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    patch = state["patch_embed.proj.weight"].shape[-1]
    backbone = {"embed_dim": width, "depth": depth, "num_heads": num_heads, "patch_size": patch}
    if "blocks.0.mlp.w12.weight" in state:
        hidden = state["blocks.0.mlp.w12.weight"].shape[0] // 2
        backbone |= {"use_rot_pos_emb": True, "ref_feat_shape": [16, 16], "swiglu_mlp": True}
        backbone["mlp_ratio"] = (hidden + 0.5) / width  # timm rounds down
    elif "blocks.0.mlp.fc1.weight" in state:
        backbone["mlp_ratio"] = (state["blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / width
    if "blocks.0.ls1.gamma" in state:
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
    shapes = [
        f"{released} {tuple(state[released].shape)} instead of {tuple(own[name].shape)}"
        for name, released in names.items()
        if released in state and state[released].shape != own[name].shape
    ]
    for problem, found in (("lacks", missing), ("holds unknown", unknown), ("holds misshapen", shapes)):
        if found:
            raise UserError(f"the checkpoint {problem} {', '.join(found[:6])}{' …' if len(found) > 6 else ''}")
    model.load_state_dict({name: state[released] for name, released in names.items()})
    return model.eval()


def import_released_cam(state_dict, *, num_heads, pool="max", image_size=None):
    """The CAM network from a released step-1 state dict (DeiT; key `model` of the file). Sizes are read off the
    tensors. Raises UserError naming missing, unknown and misshapen keys, and for a step-2 file."""
    state = state_dict.get("model", state_dict)
    if any(name.startswith("decoder.") for name in state):
        raise UserError("this is a step-2 checkpoint (it has a decoder); use import_released_segmenter")
    feature = "adaptive_attention_fusion.attn_feat_ffn.0.weight"
    hidden = "adaptive_attention_fusion.attn_head_ffn.0.weight"
    if "cls_token" in state and not any(name.startswith("adaptive_attention_fusion.") for name in state):
        raise UserError(
            "this step-1 checkpoint holds no adaptive_attention_fusion: its fusion has a layout from before the "
            "released code, which would be read wrongly; use a checkpoint of the release"
        )
    for name in (feature, hidden, "head.weight"):
        if name not in state:
            raise UserError(f"the checkpoint lacks {name}")
    backbone, image_size = _sizes(state, "", num_heads, image_size)
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
    if "decoder.cls_emb" not in state:
        raise UserError("the checkpoint lacks decoder.cls_emb: no step-2 file; use import_released_cam for step 1")
    backbone, image_size = _sizes(state, "encoder.", num_heads, image_size)
    model = create_segmenter(
        backbone,
        state["decoder.cls_emb"].shape[1],
        pretrained=False,
        image_size=image_size,
        patch_size=backbone["patch_size"],
        decoder_heads=decoder_heads,
        decoder_depth=1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.blocks.")),
    )
    unused = r"encoder\.head\.(weight|bias)"
    if "use_rot_pos_emb" in backbone:
        unused += r"|encoder\.(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)"
        _check_rotary(model.encoder.vit, state)
    return _load_released(model, state, unused)


def import_released(path, output=None, *, num_heads=0, normalise="", pool="max", decoder_heads=None):
    """Turn a released checkpoint, step 1 or 2, into one of ours → model, path of the new file.

    Read with weights_only=True: a file that would run code is refused. num_heads: 0 means width / 64. normalise:
    "imagenet", "half" (ViT-S) or "clip"; "" is what the tensors suggest, which cannot tell ViT-S from DeiT-S. pool,
    decoder_heads: see import_released_cam and import_released_segmenter. Raises UserError for a file that is none.
    """
    path = Path(path)
    output = Path(output) if output else path.with_suffix(".safetensors")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state)
        width = state["encoder.cls_token" if "decoder.cls_emb" in state else "cls_token"].shape[2]
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} is damaged, or holds code beside its weights: refused") from error
    except (OSError, RuntimeError, EOFError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"checkpoint {path} cannot be read as a released one ({error!r})") from error
    num_heads = num_heads or max(1, width // 64)
    if "decoder.cls_emb" in state:
        model = import_released_segmenter(state, num_heads=num_heads, decoder_heads=decoder_heads)
    else:
        model = import_released_cam(state, num_heads=num_heads, pool=pool)
    if normalise:
        if normalise not in NORMALISATIONS:
            raise UserError(f"normalise {normalise!r} is unknown; one of {', '.join(NORMALISATIONS)}")
        model.config["backbone"]["normalise"] = normalise
        model.mean, model.std = NORMALISATIONS[normalise]
    save_model(model, output, imported_from=path.name)
    return model, output


def _check_rotary(vit, state):
    grid = vit.patch_embed.grid_size
    sin, cos = vit.rope.get_embed(shape=grid).chunk(2, -1)
    for name, tensor in state.items():
        if name.endswith(("freqs_cos", "freqs_sin")):
            table = cos if name.endswith("cos") else sin
            if tensor.shape != table.shape or not torch.allclose(tensor, table, atol=1e-5):
                raise UserError(f"the checkpoint's {name} is not the rotary table of a {grid[0]}×{grid[1]} grid")

"""Pretrained weights: fetched or read, found in a file, fitted to another patch size or grid."""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError, counted
from ..files import shipped_weights, weights_file
from .backbones import Backbone, PlainViT

State = dict[str, Tensor]

# What the authors of a network call some of its tensors, and what timm calls them.
OTHER_NAMES = {
    "fc_norm.": "norm.",  # timm's own name of EVA-02's final norm in a classifier
    ".mlp.w12.": ".mlp.fc1.",  # EVA-02, DINOv2-g: two layers in one
    ".mlp.w1.": ".mlp.fc1_g.",  # EVA-02-B and -L: apart
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
    ".mlp.ffn_ln.": ".mlp.norm.",
    ".attn.inner_attn_ln.": ".attn.norm.",
    ".attn.q_bias": ".attn.q_proj.bias",
    ".attn.v_bias": ".attn.v_proj.bias",
    "register_tokens": "reg_token",  # DINOv2
    "storage_tokens": "reg_token",  # DINOv3
    ".ls1.gamma": ".gamma_1",
    ".ls2.gamma": ".gamma_2",
    ".gamma_1": ".ls1.gamma",  # DeiT-3
    ".gamma_2": ".ls2.gamma",
}
# Names within a network that hold nothing learned, or nothing that is used.
UNUSED = r"(^|.*\.)(rope\b.*|rope_embed\..*|bias_mask|k_bias|relative_position_index)$"
KERNEL = "patch_embed.proj.weight"  # every plain ViT has it

# What checkpoints of training programs hold beside tensors: numbers, paths, options. All of it is read as `Unread`.
BESIDE_TENSORS = (
    "argparse.Namespace",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)


class Unread:
    """Stands in for an object of a foreign file, so that no code of its class runs; it keeps nothing."""

    def __new__(cls, *_: Any) -> "Unread":
        """Whatever it would be made from."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def pretrained_state(backbone: Backbone, weights: str | Path = "") -> State:
    """The pretrained weights of a backbone at its native size: of a file, shipped with weaktr, or fetched by timm.

    Args:
        backbone: Name of a backbone; not used where there is a file.
        weights: Path of a safetensors or .pth file, see `read_tensors`; a relative one starts at the repository's root.
            "FILE#PART" takes what the file has under names that start with PART and a dot.

    Returns:
        Tensors by name, of a file all that it has: `load_pretrained` finds the network in them.

    Raises:
        UserError: For a file that is missing or holds no weights, and where nothing can be fetched.
    """
    if weights:
        path, part = weights_file(weights)
        if not path.is_file():
            raise UserError(f"weights file {path} does not exist; give a safetensors or .pth file, or leave it empty")
        return _part(read_tensors(path), part, path)
    if isinstance(backbone, dict):
        raise UserError("a backbone given by its sizes has no pretrained weights; give a file with weights=")
    shipped = shipped_weights(backbone)
    if shipped.is_file():
        state = {name: tensor.float() for name, tensor in load_file(shipped).items()}
        cut = re.match(r"weaktr_tiny(\d)_", backbone)  # the first blocks of one network
        return _first_blocks(state, int(cut[1])) if cut else state
    try:
        return timm.create_model(backbone, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # the hub, requests and timm raise many kinds
        raise UserError(
            f"the pretrained weights of {backbone!r} could not be fetched ({type(error).__name__}: {error}); "
            "connect to the network once, or give a local file with weights=/path/to/file.safetensors"
        ) from error


def _first_blocks(state: State, depth: int) -> State:
    """A network cut behind a block."""
    numbers = {name: re.match(r"blocks\.(\d+)\.", name) for name in state}
    return {name: state[name] for name, number in numbers.items() if number is None or int(number[1]) < depth}


# ── Reading files ─────────────────────────────────────────────────────────────────────────────────────────────────
def read_tensors(path: Path) -> State:
    """All tensors of a foreign file, safetensors or written by `torch.save`; names within names are joined by dots.

    No code of the file runs: torch reads it with weights_only=True, and what is no tensor is left out.

    Raises:
        UserError: For a damaged file, one that holds code, and one without tensors.
    """
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"checkpoint {path} is damaged, holds code beside its weights, or is not a checkpoint; give a safetensors "
            f"or .pth file{f' that does without {asked[1]}' if asked else ''}"
        ) from error
    except Exception as error:  # the readers of zip files, pickles and tensors raise many kinds about damaged ones
        raise UserError(f"checkpoint {path} cannot be read ({error}); it is damaged, or not a checkpoint") from error
    tensors = dict(_tensors(content))
    if not tensors:
        raise UserError(f"checkpoint {path} holds no state dict (tensors by name)")
    return tensors


def read_weights(path: Path) -> State:
    """The state dict of a foreign file, bare or under the key `model`; else as `read_tensors`."""
    tensors = read_tensors(path)
    return _below(tensors, "model.") or tensors


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([(Unread, name) for name in BESIDE_TENSORS]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of dicts within dicts."""
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if torch.is_tensor(value):
            yield f"{prefix}{name}", value
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def _below(tensors: State, prefix: str) -> State:
    """The tensors whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _part(tensors: State, part: str, path: Path) -> State:
    """The part of a file that is asked for, all for ""; UserError for a part that is not there."""
    if not part:
        return tensors
    found = _below(tensors, f"{part.rstrip('.')}.")
    if not found:
        parts = dict.fromkeys(name.split(".")[0] for name in tensors)
        raise UserError(f"weights file {path} has no part {part!r}; it has {_some(list(parts))}")
    return found


# ── Finding a network ─────────────────────────────────────────────────────────────────────────────────────────────
def _network(vit: PlainViT, tensors: Mapping[str, Tensor], source: object) -> tuple[State, str]:
    """The network of this architecture among the tensors of a file, by timm's names.

    Returns:
        Its tensors, and which of several were taken, in words; none and "" where there is no network.

    Raises:
        UserError: Where there is none, or several that no rule tells apart.
    """
    prefixes = [name.removesuffix(KERNEL) for name in tensors if name == KERNEL or name.endswith(f".{KERNEL}")]
    networks = {
        prefix: _by_timms_names(vit, _below(dict(tensors), prefix))
        for prefix in prefixes
        if not prefix.endswith("encoder.vit.")  # a whole model that weaktr trained
    }
    if len(networks) > 1:  # else `load_pretrained` says what the only one lacks
        found = "; ".join(f"{prefix or 'at the top'} {_description(state)}" for prefix, state in networks.items())
        networks = {prefix: state for prefix, state in networks.items() if _fits(vit, state)}
        if not networks:
            raise UserError(f"{source} holds networks of other architectures: {found}; give weights of this backbone")
    ranks = sorted(networks, key=_rank)
    if not ranks:
        return {}, ""
    chosen = ranks[0]
    sign = "." if "#" in str(source) else "#"
    if len(ranks) > 1 and _rank(ranks[1]) == _rank(chosen):
        raise UserError(f"{source} holds several networks: {found}; name one, as in {source}{sign}{chosen.rstrip('.')}")
    if not chosen:
        return networks[chosen], ""
    others = [prefix.rstrip(".") for prefix in prefixes if prefix not in ("", chosen)]
    left = f"; left {', '.join(others)} (for that give {source}{sign}{others[0]})" if others else ""
    return networks[chosen], f"took {chosen.rstrip('.')}, {_description(networks[chosen])}{left}"


def _rank(prefix: str) -> int:
    """Which of several copies of a network is taken: a teacher before its student, an averaged copy where asked for."""
    words = re.split(r"[._]", prefix)
    if "ema" in words:
        return 3
    if "student" in words:
        return 2
    return 0 if "teacher" in words else 1


def _description(state: Mapping[str, Tensor]) -> str:
    """A ViT's sizes in words; without one, some names."""
    if KERNEL not in state or state[KERNEL].ndim != 4:
        return f"{len(state)} tensors such as {_some(list(state))}"
    blocks = {match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
    width, patch = state[KERNEL].shape[0], state[KERNEL].shape[-1]
    return f"a ViT of width {width}, {counted(len(blocks), 'blocks')} and patch {patch}"


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{' …' if names[4:] else ''}"


def _by_timms_names(vit: PlainViT, state: State) -> State:
    """A network under the names that timm has for its tensors; what has none keeps its name."""
    own = vit.state_dict()
    renamed = {name: tensor for name, tensor in state.items() if name in own}
    for name, tensor in state.items():
        renamed.setdefault(_timms_name(name, own), tensor)
    token, position = renamed.get("cls_token"), renamed.get("pos_embed")
    if "register_tokens" in state and vit.no_embed_class and token is not None and position is not None:
        # DINOv2's class token has a position, which timm has added to it
        renamed["cls_token"] = token + position[:, :1]
        renamed["pos_embed"] = position[:, 1:]
    for name in [name for name in renamed if name.endswith("attn.qkv.bias") and name not in own]:
        bias = renamed.pop(name)  # DINOv3: in timm keys have no bias, in its small networks queries and values neither
        for part, values in zip("qkv", bias.chunk(3), strict=True):
            own_name = name.replace("qkv.bias", f"{part}_bias")
            if own_name in own or (part != "k" and values.any()):
                renamed[own_name] = values
    return renamed


def _timms_name(name: str, own: Mapping[str, Tensor]) -> str:
    if name not in own:
        for theirs, timms in OTHER_NAMES.items():
            if theirs in name and name.replace(theirs, timms) in own:
                return name.replace(theirs, timms)
    return name


def _fits(vit: PlainViT, state: Mapping[str, Tensor]) -> bool:
    """Whether a network is of this architecture, whatever its patch and image size."""
    own = vit.state_dict()
    resized = ("pos_embed", KERNEL)
    return not _surplus(vit, state) and all(
        name in state and (name in resized or state[name].shape == tensor.shape) for name, tensor in own.items()
    )


def _surplus(vit: PlainViT, state: Mapping[str, Tensor]) -> list[str]:
    """What a network does before its head and the backbone does not: loading would leave it out and be another one."""
    own = vit.state_dict()
    body = r"(blocks\.\d+\..*|norm_pre\..*|cls_token|reg_token|pos_embed|dist_token)$"
    return [name for name in state if name not in own and re.match(body, name) and not re.match(UNUSED, name)]


# ── Loading ───────────────────────────────────────────────────────────────────────────────────────────────────────
def load_pretrained(vit: PlainViT, state: Mapping[str, Tensor], position_mode: str, source: object) -> None:
    """Load weights of the native size into `vit`, whose patch and image size may differ; say where the network stood.

    Patch kernels are resized bicubically, the positions of patches by `position_mode`, both with F.interpolate to a
    target size, align_corners false and no antialias (docs/method.md, "Step 1" and "Step 2"); the positions of class
    token and registers are kept.

    Args:
        vit: Changed in place.
        state: Its weights, of any patch and image size, alone or among others as in `pretrained_state`. Heads and other
            parts around the network are skipped.
        position_mode: "bicubic" or "bilinear".
        source: Where `state` comes from, for messages.

    Raises:
        UserError: For missing, for misshapen and for surplus tensors, by name, with what was found.
    """
    own = vit.state_dict()
    network, choice = _network(vit, state, source)
    if missing := sorted(set(own) - set(network)):
        raise UserError(
            f"{source} lacks {_some(missing)}, it holds {_description(network or state)}; give weights of this "
            "backbone, not of another architecture, nor a model that weaktr trained"
        )
    if surplus := _surplus(vit, network):
        raise UserError(
            f"{source} holds {_some(surplus)}, which this backbone does not have; give the backbone of which these are "
            f"the weights ({_description(network)}), or other weights"
        )
    fitted = {name: _at_least_single(network[name]) for name in own}
    try:
        dimensions = {name: (fitted[name], own[name]) for name in (KERNEL, "pos_embed") if name in own}
        refuse_misshapen({name: (a, b) for name, (a, b) in dimensions.items() if a.ndim != b.ndim}, source)
        fitted[KERNEL] = _fit_kernel(fitted[KERNEL], own[KERNEL].shape[-2:])
        if vit.pos_embed is not None:
            fitted["pos_embed"] = _fit_position(vit, fitted["pos_embed"], position_mode, source)
        refuse_misshapen({name: (tensor, own[name]) for name, tensor in fitted.items()}, source)
    except UserError as error:
        raise UserError(f"{error}; give weights of this backbone, these are {_description(network)}") from error
    vit.load_state_dict(fitted)
    if choice:
        print(f"{source}: {choice}", flush=True)


def _at_least_single(tensor: Tensor) -> Tensor:
    """A tensor that can be resized: half precision as float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _fit_kernel(kernel: Tensor, side: torch.Size) -> Tensor:
    """A patch kernel (D,3,·,·) at another patch size."""
    if kernel.shape[-2:] == side:
        return kernel
    return F.interpolate(kernel, side, mode="bicubic", align_corners=False)


def _fit_position(vit: PlainViT, pos_embed: Tensor, mode: str, source: object) -> Tensor:
    """Position embeddings of a square image at the grid of `vit`; unchanged where the number of patches fits."""
    prefix, patches = split_position(vit, pos_embed)
    if patches.shape[1] != vit.patch_embed.num_patches:
        side = round(patches.shape[1] ** 0.5)
        if side * side != patches.shape[1]:
            raise UserError(f"{source} has a pos_embed {tuple(pos_embed.shape)} of no square image")
        patches = resize_position(patches, (side, side), vit.patch_embed.grid_size, mode)
    return torch.cat([prefix, patches], 1)


def refuse_misshapen(pairs: Mapping[str, tuple[Tensor, Tensor]], source: object = "the checkpoint") -> None:
    """Raise UserError for tensors of another shape than the model's. pairs: {name in the file: (tensor, model's)}."""
    wrong = [
        f"{name} {tuple(found.shape)} instead of {tuple(needed.shape)}"
        for name, (found, needed) in pairs.items()
        if found.shape != needed.shape
    ]
    if wrong:
        raise UserError(f"{source} holds misshapen {', '.join(wrong[:6])}{' …' if wrong[6:] else ''}")


def split_position(vit: PlainViT, pos_embed: Tensor) -> tuple[Tensor, Tensor]:
    """Position embeddings (1, …, D) → those of the prefix tokens (may be none) and of the patches."""
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    return pos_embed[:, :prefix], pos_embed[:, prefix:]


def resize_position(patches_1PD: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str) -> Tensor:
    """Resize patch positions from grid `old` to grid `new` (h, w) by F.interpolate to a target size."""
    grid_1Dhw = patches_1PD.reshape(1, *old, -1).permute(0, 3, 1, 2)
    return F.interpolate(grid_1Dhw, tuple(new), mode=mode, align_corners=False).flatten(2).transpose(1, 2)

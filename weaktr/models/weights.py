"""Pretrained weights: fetched or read, fitted to another patch size or grid."""

import pickle
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..files import resolve, shipped_weights
from .backbones import Backbone, PlainViT

State = dict[str, Tensor]

# timm calls EVA-02's final norm `fc_norm` in a classifier; the authors of EVA-02 call its MLP `w12` and `w3`.
OTHER_NAMES = {"fc_norm.": "norm.", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def pretrained_state(backbone: Backbone, weights: str | Path = "") -> State:
    """The pretrained weights of a backbone at its native size: of a file, shipped with weaktr, or fetched by timm.

    Args:
        backbone: Name of a backbone; not used where there is a file.
        weights: Path of a safetensors or .pth file, see `read_weights`; a relative one starts at the repository's root.

    Raises:
        UserError: For a file that is missing or holds no weights, and where nothing can be fetched.
    """
    if weights:
        path = resolve(weights)
        if not path.is_file():
            raise UserError(f"weights file {path} does not exist; give a safetensors or .pth file, or leave it empty")
        return read_weights(path)
    if isinstance(backbone, dict):
        raise UserError("a backbone given by its sizes has no pretrained weights; give a file with weights=")
    shipped = shipped_weights(backbone)
    if shipped.is_file():
        return {name: tensor.float() for name, tensor in load_file(shipped).items()}
    try:
        return timm.create_model(backbone, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # the hub, requests and timm raise many kinds
        raise UserError(
            f"the pretrained weights of {backbone!r} could not be fetched ({type(error).__name__}: {error}); "
            "connect to the network once, or give a local file with weights=/path/to/file.safetensors"
        ) from error


def read_weights(path: Path) -> State:
    """The state dict of a foreign file: safetensors, or what `torch.save` wrote, bare or under the key `model`.

    No code of the file runs (weights_only=True).

    Raises:
        UserError: For a damaged file and for one that holds no weights.
    """
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is damaged, holds code beside its weights, or is not a checkpoint; give a safetensors "
            "or .pth file"
        ) from error
    except Exception as error:  # the readers of zip files, pickles and tensors raise many kinds about damaged ones
        raise UserError(f"checkpoint {path} cannot be read ({error}); it is damaged, or not a checkpoint") from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise UserError(f"checkpoint {path} holds no state dict (tensors by name, bare or under the key `model`)")
    return state


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([Namespace]):  # a training script's arguments
        return torch.load(path, map_location="cpu", weights_only=True)


def load_pretrained(vit: PlainViT, state: Mapping[str, Tensor], position_mode: str, source: object) -> None:
    """Load weights of the native size into `vit`, whose patch and image size may differ.

    Patch kernels are resized bicubically, the positions of patches by `position_mode`, both with F.interpolate to a
    target size, align_corners false and no antialias (docs/method.md, "Step 1" and "Step 2"); the positions of class
    token and registers are kept.

    Args:
        vit: Changed in place.
        state: Its weights, of any patch and image size; names it does not have are skipped.
        position_mode: "bicubic" or "bilinear".
        source: Where `state` comes from, for messages.

    Raises:
        UserError: For missing and for misshapen tensors, by name.
    """
    own = vit.state_dict()
    for theirs, ours in OTHER_NAMES.items():
        state = {name.replace(theirs, ours): tensor for name, tensor in state.items()}
    fitted = {name: tensor for name, tensor in state.items() if name in own}
    missing = sorted(set(own) - set(fitted))
    if missing:
        raise UserError(
            f"{source} lacks {', '.join(missing[:4])}{' …' if missing[4:] else ''}; give weights of this backbone, "
            "not of another architecture, nor a model that weaktr trained"
        )
    side = own["patch_embed.proj.weight"].shape[-2:]
    fitted["patch_embed.proj.weight"] = _fit_kernel(fitted["patch_embed.proj.weight"], side)
    fitted["pos_embed"] = _fit_position(vit, fitted["pos_embed"], position_mode, source)
    refuse_misshapen({name: (tensor, own[name]) for name, tensor in fitted.items()}, source)
    vit.load_state_dict(fitted)


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
            raise UserError(f"{source} has a pos_embed {tuple(pos_embed.shape)} of no square image; give another")
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

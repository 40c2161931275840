"""Pretrained weights: fetched or read, fitted to another patch size or grid."""

import pickle
from argparse import Namespace
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import UserError
from ..files import shipped_weights


def pretrained_state(backbone, weights=""):
    """The pretrained state dict of a backbone at its native size: from the file `weights` (safetensors, or a
    `torch.save` file read with weights_only=True), else shipped with weaktr, else fetched by timm.
    """
    if weights:
        path = Path(weights)
        if not path.is_file():
            raise UserError(f"weights file {path} does not exist; give a safetensors or .pth file, or leave it empty")
        return read_weights(path)
    if shipped_weights(backbone).is_file():
        return {name: tensor.float() for name, tensor in load_file(shipped_weights(backbone)).items()}
    try:
        return timm.create_model(backbone, pretrained=True, num_classes=0).state_dict()
    except Exception as error:
        raise UserError(
            f"the pretrained weights of {backbone!r} could not be fetched ({type(error).__name__}: {error}); "
            "connect to the network once, or give a local file with weights=/path/to/file.safetensors"
        ) from error


def read_weights(path):
    """The state dict of a foreign file: safetensors, or what `torch.save` wrote, bare or under the key `model`.

    No code of the file runs (weights_only=True). Raises UserError for a damaged file and for one that holds no weights.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            with torch.serialization.safe_globals([Namespace]):  # a training script's arguments
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} is damaged, holds code beside its weights, or is none; give a safetensors or .pth file"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); it is damaged, or no checkpoint") from error
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise UserError(f"checkpoint {path} holds no state dict (tensors by name, bare or under the key `model`)")
    return state


def load_pretrained(vit, state, position_mode, source="the checkpoint"):
    """Load a native state dict into `vit`, whose patch and image size may differ (METHOD: steps 1 and 2).

    Patch kernels are resized bicubically, position embeddings by `position_mode` ("bicubic" in step 1, "bilinear"
    in step 2), both with F.interpolate, align_corners false and no antialias; prefix positions are kept.
    """
    own = vit.state_dict()
    # timm calls EVA-02's final norm `fc_norm` in a classifier, the authors of EVA-02 call its MLP w12 and w3
    for theirs, ours in (("fc_norm.", "norm."), (".mlp.w12.", ".mlp.fc1."), (".mlp.w3.", ".mlp.fc2.")):
        state = {name.replace(theirs, ours): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if name in own}
    missing = sorted(set(own) - set(state))
    if missing:
        raise UserError(
            f"{source} lacks {', '.join(missing[:4])}{' …' if missing[4:] else ''}; give weights of this backbone, "
            "not of another architecture, nor a model that weaktr trained"
        )
    kernel = state["patch_embed.proj.weight"]
    side = own["patch_embed.proj.weight"].shape[-2:]
    if kernel.shape[-2:] != side:
        state["patch_embed.proj.weight"] = F.interpolate(kernel, side, mode="bicubic", align_corners=False)
    prefix, patches = split_position(vit, state["pos_embed"])
    if patches.shape[1] != vit.patch_embed.num_patches:
        old = round(patches.shape[1] ** 0.5)
        if old * old != patches.shape[1]:
            raise UserError(
                f"{source} has a pos_embed {tuple(state['pos_embed'].shape)} of no square image; give another"
            )
        patches = resize_position(patches, (old, old), vit.patch_embed.grid_size, position_mode)
    state["pos_embed"] = torch.cat([prefix, patches], 1)
    refuse_misshapen({name: (tensor, own[name]) for name, tensor in state.items()}, source)
    vit.load_state_dict(state)


def refuse_misshapen(pairs, source="the checkpoint"):
    """Raise UserError for tensors of another shape than the model's. pairs: {name in the file: (tensor, model's)}."""
    wrong = [f"{n} {tuple(x.shape)} instead of {tuple(y.shape)}" for n, (x, y) in pairs.items() if x.shape != y.shape]
    if wrong:
        raise UserError(f"{source} holds misshapen {', '.join(wrong[:6])}{' …' if wrong[6:] else ''}")


def split_position(vit, pos_embed):
    """Position embeddings (1, …, D) → those of the prefix tokens (may be none) and of the patches."""
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    return pos_embed[:, :prefix], pos_embed[:, prefix:]


def resize_position(patches_1PD, old, new, mode):
    """Resize patch positions from grid `old` to grid `new` (h, w) by F.interpolate to a target size."""
    grid = patches_1PD.reshape(1, *old, -1).permute(0, 3, 1, 2)
    return F.interpolate(grid, tuple(new), mode=mode, align_corners=False).flatten(2).transpose(1, 2)

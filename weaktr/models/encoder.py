"""Plain vision transformers from timm, prepared for the two steps of WeakTr. No fork: stock weights load.

Shape suffixes used in `weaktr.models`: B batch, C classes, N tokens (classes, registers, patches), P patches on an
h×w grid, D width, L blocks, H heads.
"""

import pickle
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from ..files import shipped_weights
from ..parameters import near

IMAGENET_MEAN, IMAGENET_STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
NORMALISATIONS = {  # mean and standard deviation per RGB channel
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}
# With more tokens than these, attention maps take more memory than all else that training keeps of a block of a plain
# ViT: H·N² floats against about 16·N·D, where D/H = 64. Inference keeps nothing else, and making maps anew costs it
# more than memory: VOC12 at 1.2 times its size has up to 1,390.
MOST_TOKENS_KEPT, MOST_TOKENS_KEPT_IN_INFERENCE = 1024, 1408
FEW_TOKENS = 512  # up to here torch's fused attention is slower in bfloat16 on a CPU, most of all its backward pass


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


def pretrained_state(backbone, weights=""):
    """The pretrained state dict of a backbone at its native size: from the file `weights` (safetensors, or a
    `torch.save` file read with weights_only=True), else shipped with weaktr, else fetched by timm."""
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


def embed_patches(vit, x):
    """x (B,3,height,width) → patch tokens (B,P,D) and their grid (h, w); a remainder right and below is dropped."""
    tokens = vit.patch_embed.proj(x)
    return vit.patch_embed.norm(tokens.flatten(2).transpose(1, 2)), tuple(tokens.shape[-2:])


def rotary(vit, grid):
    """Keyword arguments that the blocks of a ViT with rotary embedding (EVA-02) need for this grid."""
    return {"rope": vit.rope.get_embed(shape=grid)} if getattr(vit, "rope", None) is not None else {}


def attention_map(q, k):
    """Queries and keys (…,N,d) → softmax map (…,N,N), as timm's attention forms it when it is not fused."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)


class AttentionMaps(Sequence):
    """The attention maps of L blocks, each (B,H,N,N) and detached: as they were kept, or made anew when asked for.

    blocks: per block the map, or its queries and keys (B,H,N,d), which are N/2d times smaller.
    """

    def __init__(self):
        self.blocks = []

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, index):
        block = self.blocks[index]
        return block if torch.is_tensor(block) else attention_map(*block)


class AttentionTap(TorchFunctionMode):
    """While active, every scaled dot-product attention leaves its map (or queries and keys) in `attentions`.

    It stands where timm's attention classes all meet, behind rotary embedding and query norms.
    """

    def __init__(self, keep_maps):
        super().__init__()
        self.keep_maps, self.attentions = keep_maps, AttentionMaps()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = args
        if not self.keep_maps:
            self.attentions.blocks.append((q.detach(), k.detach()))
            return func(*args, **kwargs)
        attention = attention_map(q, k)
        self.attentions.blocks.append(attention.detach())
        return F.dropout(attention, kwargs["dropout_p"]) @ v


class CamEncoder(nn.Module):
    """Encoder of step 1 (paper Sec. III-A): C class tokens before the patches, every attention map to be had.

    keep_maps: hold the maps, or only what they can be made from again; None decides by the number of tokens.
    forward: x (B,3,height,width) → final tokens (B,N,D), AttentionMaps before dropout, attention branch outputs
    L×(B,N,D) after their projection, grid (h, w). The ViT's final LayerNorm is not applied.
    """

    def __init__(self, vit, num_classes, keep_maps=None):
        super().__init__()
        self.vit, self.num_classes, self.keep_maps = vit, num_classes, keep_maps
        self.grid = vit.patch_embed.grid_size
        self.registers = 0 if vit.reg_token is None else vit.reg_token.shape[1]
        prefix, patches = split_position(vit, vit.pos_embed.detach())
        cls_position = prefix[:, :1] if prefix.shape[1] else torch.zeros_like(vit.cls_token)
        self.cls_token = nn.Parameter(vit.cls_token.detach().repeat(1, num_classes, 1))
        registers = prefix[:, 1:] if prefix.shape[1] else patches.new_zeros(1, self.registers, patches.shape[2])
        self.pos_embed = nn.Parameter(torch.cat([cls_position.repeat(1, num_classes, 1), registers, patches], 1))
        vit.cls_token = vit.pos_embed = None
        vit.norm = nn.Identity()
        for block in vit.blocks:
            block.attn.fused_attn = True  # AttentionTap is where the maps are made, if they are
            block.attn.num_prefix_tokens = num_classes + self.registers  # EVA-02 turns patch tokens only
            # what the projection gives, until `forward` takes it: in the module, so that copies of it have their own
            block.attn.proj_drop.register_forward_pre_hook(lambda drop, inputs: vars(drop).update(output=inputs[0]))

    def position(self, grid, square):
        """Position embeddings (1,N,D) on a grid; with DINO's offset, whose factors set the sampling points."""
        prefix = self.num_classes + self.registers
        patches = self.pos_embed[:, prefix:]
        if square and grid[0] * grid[1] == patches.shape[1]:
            return self.pos_embed
        (h, w), (h0, w0) = grid, self.grid
        resized = F.interpolate(
            patches.reshape(1, h0, w0, -1).permute(0, 3, 1, 2),
            scale_factor=((h + 0.1) / h0, (w + 0.1) / w0),
            mode="bicubic",
            align_corners=False,
        )
        return torch.cat([self.pos_embed[:, :prefix], resized.flatten(2).transpose(1, 2)], 1)

    def forward(self, x):
        patches, grid = embed_patches(self.vit, x)
        tokens = [self.cls_token.expand(len(x), -1, -1), patches]
        if self.registers:
            tokens.insert(1, self.vit.reg_token.expand(len(x), -1, -1))
        tokens = torch.cat(tokens, 1) + self.position(grid, square=x.shape[-2] == x.shape[-1])
        tokens = self.vit.norm_pre(tokens)
        most = MOST_TOKENS_KEPT if torch.is_grad_enabled() else MOST_TOKENS_KEPT_IN_INFERENCE
        keep_maps = tokens.shape[1] <= most if self.keep_maps is None else self.keep_maps
        outputs, rope = [], rotary(self.vit, grid)
        with AttentionTap(keep_maps) as tap:
            for block in self.vit.blocks:
                tokens = block(tokens, **rope)
                outputs.append(vars(block.attn.proj_drop).pop("output"))
        return tokens, tap.attentions, outputs, grid


class SegmenterEncoder(nn.Module):
    """Encoder of step 2: x (B,3,height,width), sides multiples of the patch → patch tokens (B,P,D), grid (h, w)."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, x):
        vit = self.vit
        patches, grid = embed_patches(vit, x)
        prefix_position, position = split_position(vit, vit.pos_embed)
        if grid != tuple(vit.patch_embed.grid_size):
            position = resize_position(position, vit.patch_embed.grid_size, grid, "bilinear")
        prefix = vit.cls_token if vit.reg_token is None else torch.cat([vit.cls_token, vit.reg_token], 1)
        if prefix_position.shape[1]:
            prefix = prefix + prefix_position
        tokens = vit.norm_pre(torch.cat([prefix.expand(len(x), -1, -1), patches + position], 1))
        rope = rotary(vit, grid)
        plain = torch.is_autocast_enabled("cpu") and tokens.shape[1] <= FEW_TOKENS
        for block in vit.blocks:
            block.attn.fused_attn = not plain
            tokens = block(tokens, **rope)
        return vit.norm(tokens)[:, prefix.shape[1] :], grid

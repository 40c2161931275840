"""Plain vision transformers from timm, prepared for the two steps of WeakTr. No fork: stock weights load.

Shape suffixes used in `weaktr.models`: B batch, C classes, N tokens (classes, registers, patches), P patches on an
h×w grid, D width, L blocks, H heads, d = D/H channels of a head.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionMaps, KeptMaps, RemadeMaps, rotated, tapped
from .backbones import PlainViT
from .weights import resize_position, split_position

# Training keeps maps up to here: with more tokens, a block's maps (H·N² floats) are larger than all else that training
# keeps of it (about 16·N·D floats, D = 64·H). DeiT-S, 768 px (2,324 tokens): 3,659 MB with maps, 1,372 without.
MOST_TOKENS_KEPT = 1024
# Inference keeps nothing else, and recomputing costs time: 0.98 s an image against 0.88 at 1,057 tokens. VOC12's
# largest images have 1,390 tokens at scale 1.2.
MOST_TOKENS_KEPT_IN_INFERENCE = 1408
# In bfloat16 on a CPU, plain products are faster than torch's fused attention up to here: 4.7 ms against 30.8 forward
# and backward at 145 tokens (16 images, 4 heads), 95 against 82 at 901; the demo's step of 148 ms takes 118.
FEW_TOKENS = 512

Grid = tuple[int, int]


def embed_patches(vit: PlainViT, x: Tensor) -> tuple[Tensor, Grid]:
    """Images (B,3,height,width) → patch tokens (B,P,D) and grid (h, w); a remainder right and below is dropped."""
    tokens_BDhw = vit.patch_embed.proj(x)
    height, width = tokens_BDhw.shape[-2:]
    return vit.patch_embed.norm(tokens_BDhw.flatten(2).transpose(1, 2)), (height, width)


def rotary(vit: PlainViT, grid: Grid) -> list[dict[str, Tensor]]:
    """For each block the keyword arguments that it needs on this grid: none, or the rotary embedding as `rope`."""
    rope = getattr(vit, "rope", None)
    if rope is None:
        return [{}] * len(vit.blocks)
    embedding = rope.get_embed(shape=grid)
    of_blocks = embedding if getattr(vit, "rope_mixed", False) else [embedding] * len(vit.blocks)
    return [{"rope": of_block} for of_block in of_blocks]


def use_fused_attention(vit: PlainViT, fused: bool) -> None:
    """Have timm's blocks call torch's fused attention, or else form their maps by plain products."""
    for module in vit.blocks.modules():
        if hasattr(module, "fused_attn"):  # a block's attention; of blocks with parallel layers, several or itself
            module.fused_attn = fused


def class_tokens(vit: PlainViT, num_classes: int) -> Tensor:
    """One token for each class (1,C,D): copies of the pretrained class token, or small random numbers without one."""
    if vit.cls_token is None:
        return nn.init.trunc_normal_(torch.empty(1, num_classes, vit.embed_dim), std=0.02)
    return cast(Tensor, vit.cls_token.detach().repeat(1, num_classes, 1))


def class_positions(vit: PlainViT, num_classes: int) -> Tensor | None:
    """Position embeddings (1,N,D) of class tokens, registers and patches; None for a ViT that has none.

    Class tokens have copies of the pretrained class token's. Where class token or registers have none, it is zero.
    """
    if vit.pos_embed is None:
        return None
    prefix, patches = split_position(vit, vit.pos_embed.detach())
    width = patches.shape[2]
    if not prefix.shape[1]:
        registers = 0 if vit.reg_token is None else vit.reg_token.shape[1]
        prefix = patches.new_zeros(1, 1 + registers, width)
    elif vit.cls_token is None:
        prefix = torch.cat([patches.new_zeros(1, 1, width), prefix], 1)
    return torch.cat([prefix[:, :1].repeat(1, num_classes, 1), prefix[:, 1:], patches], 1)


class CamFeatures(NamedTuple):
    """What step 1 takes from the encoder."""

    tokens: Tensor  # (B,N,D) after the last block, without the final LayerNorm
    attentions: AttentionMaps  # of all blocks, before dropout
    outputs: list[Tensor]  # L×(B,N,D), what the attention branches give after their projection, detached
    grid: Grid


class CamEncoder(nn.Module):
    """Encoder of step 1 (paper Sec. III-A): C class tokens before the patches, with access to every attention map."""

    def __init__(self, vit: PlainViT, num_classes: int, keep_maps: bool | None = None) -> None:
        """Take over a ViT, whose class token is repeated C times; one without gets C of its own, which must be learned.

        Args:
            vit: As `make_vit` gives it; it loses its class token, position embeddings and final LayerNorm.
            num_classes: C foreground classes.
            keep_maps: Hold the attention maps, or recompute them whenever they are needed; None decides by the number
                of tokens.
        """
        super().__init__()
        self.vit = vit
        self.num_classes = num_classes
        self.keep_maps = keep_maps
        self.grid = vit.patch_embed.grid_size
        self.registers = 0 if vit.reg_token is None else vit.reg_token.shape[1]
        self.cls_token = nn.Parameter(class_tokens(vit, num_classes))
        positions = class_positions(vit, num_classes)
        self.pos_embed = None if positions is None else nn.Parameter(positions)
        vit.cls_token = None
        vit.pos_embed = None
        vit.norm = nn.Identity()
        for block in vit.blocks:
            block.attn.num_prefix_tokens = num_classes + self.registers  # rotary embeddings turn patch tokens only

    def position(self, grid: Grid, square: bool) -> Tensor:
        """Position embeddings (1,N,D) on a grid; with DINO's offset, whose factors set the sampling points.

        Only for a ViT that has any.

        Args:
            grid: Patches in height and width.
            square: Whether the image is as high as wide in pixels; only then are they left as they are where the
                number of patches is that of training.
        """
        assert self.pos_embed is not None
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

    def keeps_maps(self, tokens: int) -> bool:
        """Whether the maps of an image with this many tokens are held."""
        if self.keep_maps is not None:
            return self.keep_maps
        return tokens <= (MOST_TOKENS_KEPT if torch.is_grad_enabled() else MOST_TOKENS_KEPT_IN_INFERENCE)

    def forward(self, x: Tensor) -> CamFeatures:
        """Normalised images (B,3,height,width) → CamFeatures."""
        vit = self.vit
        patches, grid = embed_patches(vit, x)
        tokens = [self.cls_token.expand(len(x), -1, -1), patches]
        if self.registers:
            tokens.insert(1, vit.reg_token.expand(len(x), -1, -1))
        tokens_BND = torch.cat(tokens, 1)
        if self.pos_embed is not None:
            tokens_BND = tokens_BND + self.position(grid, square=x.shape[-2] == x.shape[-1])
        tokens_BND = vit.norm_pre(tokens_BND)
        ropes = rotary(vit, grid)
        keep = self.keeps_maps(tokens_BND.shape[1])
        use_fused_attention(vit, not keep)  # timm forms the maps where they are kept
        if keep:
            taps = {"inputs_of": ["attn_drop"], "outputs_of": ["proj"]}
        else:
            taps = {"outputs_of": ["q_norm", "k_norm", "proj"]}
        with tapped(vit.blocks, **taps) as seen:
            for block, rope in zip(vit.blocks, ropes, strict=True):
                tokens_BND = block(tokens_BND, **rope)
        attentions = KeptMaps(seen["attn_drop"]) if keep else self._remade(seen["q_norm"], seen["k_norm"], ropes)
        return CamFeatures(tokens_BND, attentions, seen["proj"], grid)

    @torch.no_grad()  # rotary embeddings may be learned, and maps are detached
    def _remade(self, queries: list[Tensor], keys: list[Tensor], ropes: list[dict[str, Tensor]]) -> RemadeMaps:
        """Maps from what `q_norm` and `k_norm` gave; what timm does to it before the product is done here once more."""
        for number, (block, rope) in enumerate(zip(self.vit.blocks, ropes, strict=True)):
            if rope:
                queries[number] = rotated(block.attn, queries[number], **rope)
                keys[number] = rotated(block.attn, keys[number], **rope)
            heads, key_heads = queries[number].shape[1], keys[number].shape[1]
            if key_heads < heads:  # several heads share the keys of one
                keys[number] = keys[number].repeat_interleave(heads // key_heads, dim=1)
        return RemadeMaps(queries, keys)


class SegmenterEncoder(nn.Module):
    """Encoder of step 2, with the ViT's final norm and without its class token and registers among the outputs."""

    def __init__(self, vit: PlainViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images (B,3,height,width), sides multiples of the patch → patch tokens (B,P,D) and grid (h, w)."""
        vit = self.vit
        patches, grid = embed_patches(vit, x)
        tokens = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        prefix = torch.cat(tokens, 1) if tokens else patches.new_empty(1, 0, vit.embed_dim)
        if vit.pos_embed is not None:
            prefix_position, position = split_position(vit, vit.pos_embed)
            if grid != tuple(vit.patch_embed.grid_size):
                position = resize_position(position, vit.patch_embed.grid_size, grid, "bilinear")
            patches = patches + position
            if prefix_position.shape[1]:
                prefix = prefix + prefix_position
        tokens_BND = torch.cat([prefix.expand(len(x), -1, -1), patches], 1) if tokens else patches
        tokens_BND = vit.norm_pre(tokens_BND)
        plain_products = torch.is_autocast_enabled("cpu") and tokens_BND.shape[1] <= FEW_TOKENS
        use_fused_attention(vit, not plain_products)
        for block, rope in zip(vit.blocks, rotary(vit, grid), strict=True):
            tokens_BND = block(tokens_BND, **rope)
        return vit.norm(tokens_BND)[:, prefix.shape[1] :], grid

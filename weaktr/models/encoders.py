"""Plain vision transformers from timm, prepared for the two steps of WeakTr. No fork: stock weights load.

Shape suffixes used in `weaktr.models`: B batch, C classes, N tokens (classes, registers, patches), P patches on an
h×w grid, D width, L blocks, H heads, d = D/H channels of a head.
"""

from typing import NamedTuple

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


def rotary(vit: PlainViT, grid: Grid) -> dict[str, Tensor]:
    """Keyword arguments that the blocks of a ViT with rotary embedding (EVA-02) need for this grid."""
    rope = getattr(vit, "rope", None)
    return {} if rope is None else {"rope": rope.get_embed(shape=grid)}


def use_fused_attention(vit: PlainViT, fused: bool) -> None:
    """Have timm's blocks call torch's fused attention, or else form their maps by plain products."""
    for block in vit.blocks:
        block.attn.fused_attn = fused


class CamFeatures(NamedTuple):
    """What step 1 takes from the encoder."""

    tokens: Tensor  # (B,N,D) after the last block, without the final LayerNorm
    attentions: AttentionMaps  # of all blocks, before dropout
    outputs: list[Tensor]  # L×(B,N,D), what the attention branches give after their projection, detached
    grid: Grid


class CamEncoder(nn.Module):
    """Encoder of step 1 (paper Sec. III-A): C class tokens before the patches, with access to every attention map."""

    def __init__(self, vit: PlainViT, num_classes: int, keep_maps: bool | None = None) -> None:
        """Take over a ViT, whose class token is repeated C times.

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
        prefix, patches = split_position(vit, vit.pos_embed.detach())
        if prefix.shape[1]:
            class_position = prefix[:, :1]
            register_positions = prefix[:, 1:]
        else:
            class_position = torch.zeros_like(vit.cls_token)
            register_positions = patches.new_zeros(1, self.registers, patches.shape[2])
        class_positions = class_position.repeat(1, num_classes, 1)
        self.cls_token = nn.Parameter(vit.cls_token.detach().repeat(1, num_classes, 1))
        self.pos_embed = nn.Parameter(torch.cat([class_positions, register_positions, patches], 1))
        vit.cls_token = None
        vit.pos_embed = None
        vit.norm = nn.Identity()
        for block in vit.blocks:
            block.attn.num_prefix_tokens = num_classes + self.registers  # EVA-02 rotates patch tokens only

    def position(self, grid: Grid, square: bool) -> Tensor:
        """Position embeddings (1,N,D) on a grid; with DINO's offset, whose factors set the sampling points.

        Args:
            grid: Patches in height and width.
            square: Whether the image is as high as wide in pixels; only then are they left as they are where the
                number of patches is that of training.
        """
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
        position = self.position(grid, square=x.shape[-2] == x.shape[-1])
        tokens_BND = vit.norm_pre(torch.cat(tokens, 1) + position)
        rope = rotary(vit, grid)
        keep = self.keeps_maps(tokens_BND.shape[1])
        use_fused_attention(vit, not keep)  # timm forms the maps where they are kept
        if keep:
            taps = {"inputs_of": ["attn_drop"], "outputs_of": ["proj"]}
        else:
            taps = {"outputs_of": ["q_norm", "k_norm", "proj"]}
        with tapped(vit.blocks, **taps) as seen:
            for block in vit.blocks:
                tokens_BND = block(tokens_BND, **rope)
        attentions = KeptMaps(seen["attn_drop"]) if keep else self._remade(seen["q_norm"], seen["k_norm"], **rope)
        return CamFeatures(tokens_BND, attentions, seen["proj"], grid)

    def _remade(self, queries: list[Tensor], keys: list[Tensor], rope: Tensor | None = None) -> RemadeMaps:
        """Maps from what `q_norm` and `k_norm` gave; EVA-02 rotates it before the product, so it is rotated here."""
        if rope is not None:
            for number, block in enumerate(self.vit.blocks):
                queries[number] = rotated(block.attn, queries[number], rope)
                keys[number] = rotated(block.attn, keys[number], rope)
        return RemadeMaps(queries, keys)


class SegmenterEncoder(nn.Module):
    """Encoder of step 2, with the ViT's final LayerNorm and without its class token among the outputs."""

    def __init__(self, vit: PlainViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images (B,3,height,width), sides multiples of the patch → patch tokens (B,P,D) and grid (h, w)."""
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
        plain_products = torch.is_autocast_enabled("cpu") and tokens.shape[1] <= FEW_TOKENS
        use_fused_attention(vit, not plain_products)
        for block in vit.blocks:
            tokens = block(tokens, **rope)
        return vit.norm(tokens)[:, prefix.shape[1] :], grid

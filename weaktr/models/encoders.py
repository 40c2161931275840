"""Plain vision transformers from timm, prepared for the two steps of WeakTr. No fork: stock weights load.

Shape suffixes used in `weaktr.models`: B batch, C classes, N tokens (classes, registers, patches), P patches on an
h×w grid, D width, L blocks, H heads.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .attention import AttentionTap
from .weights import resize_position, split_position

# With more tokens than these, attention maps take more memory than all else that training keeps of a block of a plain
# ViT: H·N² floats against about 16·N·D, where D/H = 64. Inference keeps nothing else, and making maps anew costs it
# more than memory: VOC12 at 1.2 times its size has up to 1,390.
MOST_TOKENS_KEPT, MOST_TOKENS_KEPT_IN_INFERENCE = 1024, 1408
FEW_TOKENS = 512  # up to here torch's fused attention is slower in bfloat16 on a CPU, most of all its backward pass


def embed_patches(vit, x):
    """x (B,3,height,width) → patch tokens (B,P,D) and their grid (h, w); a remainder right and below is dropped."""
    tokens = vit.patch_embed.proj(x)
    return vit.patch_embed.norm(tokens.flatten(2).transpose(1, 2)), tuple(tokens.shape[-2:])


def rotary(vit, grid):
    """Keyword arguments that the blocks of a ViT with rotary embedding (EVA-02) need for this grid."""
    return {"rope": vit.rope.get_embed(shape=grid)} if getattr(vit, "rope", None) is not None else {}


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

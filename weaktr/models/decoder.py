"""Mask-transformer decoder of step 2 (Strudel et al. 2021, as in paper Sec. IV). K classes with background."""

from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn


class MaskTransformer(nn.Module):
    """Class embeddings attend with the patches; masks are products of the two.

    forward: patch tokens (B,P,D), grid (h, w) → class scores (B,K,h,w).
    """

    def __init__(self, num_classes, width, heads, depth=2, dropout=0.1):
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-5)
        self.num_classes = num_classes
        self.proj_dec = nn.Linear(width, width)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, width))
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, qkv_bias=True, proj_drop=dropout, attn_drop=dropout, norm_layer=norm)
                for _ in range(depth)
            )
        )
        self.decoder_norm = norm(width)
        self.proj_patch = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.proj_classes = nn.Parameter(torch.randn(width, width) * width**-0.5)
        self.mask_norm = norm(num_classes)
        nn.init.trunc_normal_(self.cls_emb, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens_BPD, grid):
        tokens = self.proj_dec(tokens_BPD)
        tokens = torch.cat([tokens, self.cls_emb.expand(len(tokens), -1, -1)], 1)
        return self._masks(self.blocks(tokens), grid)

    def masks_of_every_block(self, tokens_BPD, grid):
        """`forward` after each block → list of (B,K,h,w), the last one being that of `forward`."""
        tokens = self.proj_dec(tokens_BPD)
        tokens = torch.cat([tokens, self.cls_emb.expand(len(tokens), -1, -1)], 1)
        masks = []
        for block in self.blocks:
            tokens = block(tokens)
            masks.append(self._masks(tokens, grid))
        return masks

    def _masks(self, tokens, grid):
        tokens = self.decoder_norm(tokens)
        patches = F.normalize(tokens[:, : -self.num_classes] @ self.proj_patch, dim=-1)
        classes = F.normalize(tokens[:, -self.num_classes :] @ self.proj_classes, dim=-1)
        masks_BPK = self.mask_norm(patches @ classes.transpose(1, 2))
        return masks_BPK.transpose(1, 2).unflatten(2, grid)

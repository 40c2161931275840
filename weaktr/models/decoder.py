"""Mask-transformer decoder of step 2 (Strudel et al. 2021, as in paper Sec. IV). K classes with background."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class MaskTransformer(nn.Module):
    """Class embeddings attend with the patches; masks are products of the two."""

    def __init__(self, num_classes: int, width: int, heads: int, depth: int = 2, dropout: float = 0.1) -> None:
        """Make the layers and draw their weights.

        Args:
            num_classes: K.
            width: D of the encoder's tokens.
            heads: Attention heads of every block.
            depth: Number of blocks.
            dropout: Rate on attention, projection and both layers of the MLPs.
        """
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=1e-5)  # timm's hint asks for a class
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

    def forward(self, patches_BPD: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens (B,P,D) of a grid (h, w) → class scores (B,K,h,w)."""
        return self._masks(self.blocks(self._tokens(patches_BPD)), grid)

    def masks_of_every_block(self, patches_BPD: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Class scores (B,K,h,w) after each block, by the same norms and products; the last are those of `forward`."""
        tokens_BND = self._tokens(patches_BPD)
        masks = []
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
            masks.append(self._masks(tokens_BND, grid))
        return masks

    def _tokens(self, patches_BPD: Tensor) -> Tensor:
        """What the blocks work on (B,P+K,D): projected patches, then class embeddings."""
        classes_BKD = self.cls_emb.expand(len(patches_BPD), -1, -1)
        return torch.cat([self.proj_dec(patches_BPD), classes_BKD], 1)

    def _masks(self, tokens_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """What a block gave (B,P+K,D) → class scores (B,K,h,w)."""
        tokens_BND = self.decoder_norm(tokens_BND)
        patches_BPD = F.normalize(tokens_BND[:, : -self.num_classes] @ self.proj_patch, dim=-1)
        classes_BKD = F.normalize(tokens_BND[:, -self.num_classes :] @ self.proj_classes, dim=-1)
        masks_BPK = self.mask_norm(patches_BPD @ classes_BKD.transpose(1, 2))
        return masks_BPK.transpose(1, 2).unflatten(2, grid)

"""The attention maps of a ViT: tapped while its blocks run, kept or recomputed."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


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

"""The attention maps of a ViT: tapped while its blocks run, kept or recomputed, and added up."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """Queries and keys (…,N,d) → softmax map (…,N,N), operation by operation as timm's attention classes form it."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)


# ── Tapping ───────────────────────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def tapped(
    blocks: Sequence[nn.Module], *, inputs_of: Sequence[str] = (), outputs_of: Sequence[str] = ()
) -> Iterator[dict[str, list[Tensor]]]:
    """While open, collect what submodules of every block's attention take in or give out.

    timm's attention classes (`Attention`, `AttentionRope`, `EvaAttention`) all have `q_norm`, `k_norm`, `attn_drop`
    and `proj`, as identities where there is nothing to do. Hooks, and no attention class of our own, because timm's
    `Eva` takes none (1.0.31); for one forward pass only, because hooks that stay would be shared by copies of a model.

    Args:
        blocks: Transformer blocks, each with its attention as `.attn`.
        inputs_of: Names of submodules whose first input is wanted.
        outputs_of: Names of submodules whose output is wanted.

    Yields:
        {submodule: one detached tensor for each block that has run}.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in (*inputs_of, *outputs_of)}
    handles = []
    for block in blocks:
        attention = block.get_submodule("attn")
        for name in inputs_of:
            hook = partial(_keep_input, kept=seen[name])
            handles.append(attention.get_submodule(name).register_forward_pre_hook(hook))
        for name in outputs_of:
            hook = partial(_keep_output, kept=seen[name])
            handles.append(attention.get_submodule(name).register_forward_hook(hook))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(_module: nn.Module, inputs: tuple[Tensor, ...], kept: list[Tensor]) -> None:
    kept.append(inputs[0].detach())


def _keep_output(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor, kept: list[Tensor]) -> None:
    kept.append(output.detach())


def rotated(attention: AttentionRope | EvaAttention, x_BHNd: Tensor, rope: Tensor) -> Tensor:
    """Queries or keys after the rotary embedding of their patch tokens, which timm applies behind `q_norm`, `k_norm`.

    Args:
        attention: Where they come from.
        x_BHNd: Its queries or keys (B,H,N,d), not rotated.
        rope: The embedding of the grid, as the blocks are given it.
    """
    prefix_BHCd = x_BHNd[:, :, : attention.num_prefix_tokens]
    patches_BHPd = x_BHNd[:, :, attention.num_prefix_tokens :]
    turned_BHPd = apply_rot_embed_cat(patches_BHPd, rope, half=attention.rotate_half)
    return torch.cat([prefix_BHCd, turned_BHPd], dim=2)


# ── Maps of all blocks ────────────────────────────────────────────────────────────────────────────────────────────
class AttentionMaps(ABC):
    """The attention maps of L blocks, each (B,H,N,N) and detached; `maps[block]` is the map of a block."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, block: int) -> Tensor: ...

    def __iter__(self) -> Iterator[Tensor]:
        return (self[block] for block in range(len(self)))

    @abstractmethod
    def weighted_sum(self, shares_BLH: Tensor) -> Tensor:
        """Σ share·A over all blocks and heads: shares (B,L,H), which alone get gradients → (B,N,N), float32 or more."""


class KeptMaps(AttentionMaps):
    """Maps that are held in memory."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps = maps

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, block: int) -> Tensor:
        return self.maps[block]

    def weighted_sum(self, shares_BLH: Tensor) -> Tensor:
        """See AttentionMaps."""
        total_BNN = torch.zeros(())
        for share_BH, map_BHNN in zip(shares_BLH.unbind(1), self.maps, strict=True):
            block_BNN = torch.einsum("bh,bhnm->bnm", share_BH.to(map_BHNN), map_BHNN)
            total_BNN = total_BNN + block_BNN.float()
        return total_BNN


class RemadeMaps(AttentionMaps):
    """Maps that are recomputed whenever they are needed, from queries and keys: N/2d times smaller than the maps."""

    def __init__(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> None:
        """Queries and keys: per block (B,H,N,d), detached, after all that precedes their product."""
        self.queries = queries
        self.keys = keys

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, block: int) -> Tensor:
        return attention_map(self.queries[block], self.keys[block])

    def empty_map(self) -> Tensor:
        """A tensor for the map of one head (B,N,N), float32 or more."""
        batch, _, tokens, _ = self.queries[0].shape
        dtype = torch.promote_types(self.queries[0].dtype, torch.float32)
        return self.queries[0].new_empty(batch, tokens, tokens, dtype=dtype)

    def each_head(self) -> Iterator[Tensor]:
        """Yield the map (B,N,N) of every head, block by block, all in one tensor: use each before taking the next.

        With a new tensor for every head, a training step at 768 px peaks at 2,418 MB instead of 1,372 (DeiT-S, batch
        1): glibc's heap does not reuse the freed ones, of 21.6 MB each.
        """
        map_BNN = self.empty_map()
        scores_BNN = torch.empty_like(map_BNN, dtype=self.queries[0].dtype)
        size = self.queries[0].shape[-1]
        for q_BHNd, k_BHNd in zip(self.queries, self.keys, strict=True):
            for q_BNd, k_BNd in zip(q_BHNd.unbind(1), k_BHNd.unbind(1), strict=True):
                torch.bmm(q_BNd * size**-0.5, k_BNd.transpose(1, 2), out=scores_BNN)
                yield torch.softmax(scores_BNN, -1, map_BNN.dtype, out=map_BNN)

    def weighted_sum(self, shares_BLH: Tensor) -> Tensor:
        """See AttentionMaps."""
        return _SumOfRemadeMaps.apply(shares_BLH, *self.queries, *self.keys)


class _SumOfRemadeMaps(torch.autograd.Function):
    """`RemadeMaps.weighted_sum`, whose backward pass makes the maps once more: one head's map is in memory at a time.

    `torch.utils.checkpoint` would need no class, but more memory: a training step at 672 px peaks at 1,077 MB this way,
    at 1,357 with a checkpoint around every block and at 1,431 with one around every head (at 448 px 688, 783 and
    864; with maps kept 2,487 and 1,032; DeiT-S, batch 1, float32 on a CPU).
    """

    @staticmethod
    def forward(ctx: Any, shares_BLH: Tensor, *queries_then_keys: Tensor) -> Tensor:
        ctx.save_for_backward(*queries_then_keys)
        maps = _remade(queries_then_keys)
        total_BNN = maps.empty_map().zero_()
        for share_B, map_BNN in zip(shares_BLH.flatten(1).unbind(1), maps.each_head(), strict=True):
            total_BNN.addcmul_(map_BNN, share_B[:, None, None].to(map_BNN))
        return total_BNN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BNN: Tensor) -> tuple[Tensor | None, ...]:
        maps = _remade(ctx.saved_tensors)
        heads = maps.queries[0].shape[1]
        grad_B1X = grad_BNN.flatten(1).unsqueeze(1)
        products = []
        for map_BNN in maps.each_head():
            map_BX1 = map_BNN.flatten(1).to(grad_BNN).unsqueeze(2)
            products.append((grad_B1X @ map_BX1).flatten())
        shares_grad_BLH = torch.stack(products, 1).unflatten(1, (-1, heads))
        return shares_grad_BLH, *[None] * len(ctx.saved_tensors)


def _remade(queries_then_keys: Sequence[Tensor]) -> RemadeMaps:
    depth = len(queries_then_keys) // 2
    return RemadeMaps(queries_then_keys[:depth], queries_then_keys[depth:])

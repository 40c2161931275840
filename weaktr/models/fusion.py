"""Adaptive attention fusion (paper Sec. III-B) and the variants that its ablation compares.

Shape suffixes are those of `encoders.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .attention import AttentionMaps

FUSIONS = ("adaptive", "mean", "random", "learned", "last-k")
POOLS = ("max", "avg")


class AttentionFusion(nn.Module):
    """Weighs every attention head of every block and adds the maps up: M = (1/(L·H)) Σ weight·A."""

    def __init__(
        self,
        depth: int,
        heads: int,
        width: int,
        *,
        variant: str = "adaptive",
        pool: str = "max",
        reduction: float = 8,
        feat_reduction: float = 8,
        last_k: int = 1,
    ) -> None:
        """Make the layers of a variant.

        Args:
            depth: L, the number of blocks.
            heads: H of each block.
            width: D of the tokens.
            variant: One of FUSIONS. Weights come from the attention outputs ("adaptive") or from a fixed random vector
                ("random"), are free parameters ("learned"), all 1 ("mean"), or equal in the last blocks ("last-k").
            pool: One of POOLS, over the tokens of an attention output.
            reduction: L·H divided by it is the hidden size of the gate.
            feat_reduction: D/H divided by it is the hidden size of the head features.
            last_k: Blocks whose maps "last-k" averages, from 1 to depth.

        Raises:
            ValueError: For an unknown variant or pool, a last_k outside the depth, a reduction that leaves no unit.
        """
        super().__init__()
        for value, choices, name in ((variant, FUSIONS, "fusion"), (pool, POOLS, "pool")):
            if value not in choices:
                raise ValueError(f"{name} {value!r} is unknown; one of {', '.join(choices)}")
        if not 1 <= last_k <= depth:
            raise ValueError(f"last_k {last_k} is outside 1…{depth}, the number of blocks")
        self.depth = depth
        self.heads = heads
        self.variant = variant
        self.pool = pool
        self.last_k = last_k
        maps = depth * heads
        hidden = int(maps / reduction)
        feature = int(width / heads / feat_reduction)
        gated = variant in ("adaptive", "random")
        if gated and min(hidden, feature) < 1:
            raise ValueError(
                f"reduction {reduction} leaves no hidden unit for {maps} heads of width {width // heads}; lower it"
            )
        if variant == "adaptive":
            self.feature_ffn = nn.Sequential(nn.Linear(width // heads, feature), nn.Linear(feature, 1))
        if variant == "random":
            self.features: Tensor
            self.register_buffer("features", torch.randn(maps))
        if gated:
            self.head_ffn = nn.Sequential(
                nn.Linear(maps, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, maps, bias=False)
            )
        if variant == "learned":
            self.logits = nn.Parameter(torch.zeros(depth, heads))

    def head_features(self, outputs: Sequence[Tensor]) -> Tensor:
        """Outputs of the attention branches L×(B,N,D) → one scalar per head and block (B, H·L), head-major."""
        pooled = []
        for output_BND in outputs:
            feature_BNdH = output_BND.unflatten(-1, (-1, self.heads))  # channel d belongs to head d mod H
            pooled.append(feature_BNdH.amax(1) if self.pool == "max" else feature_BNdH.mean(1))
        pooled_BHLd = torch.stack(pooled, 1).permute(0, 3, 1, 2)
        return self.feature_ffn(pooled_BHLd).flatten(1)

    def weights(self, outputs: Sequence[Tensor]) -> Tensor:
        """Weights (B,L,H) of all maps, from the detached outputs of the attention branches L×(B,N,D)."""
        batch = len(outputs[0])
        if self.variant == "adaptive":
            return self._gate(self.head_features(outputs))
        if self.variant == "random":
            return self._gate(self.features.expand(batch, -1))
        if self.variant == "learned":
            return self.logits.sigmoid().expand(batch, -1, -1)
        weights = torch.ones(batch, self.depth, self.heads, device=outputs[0].device)
        if self.variant == "last-k":
            weights[:, : -self.last_k] = 0
            weights[:, -self.last_k :] = self.depth / self.last_k  # so that 1/(L·H) of the sum becomes 1/(k·H)
        return weights

    def _gate(self, features: Tensor) -> Tensor:
        """Head-major features (B, H·L) → weights (B,L,H) between 0 and 1."""
        logits = self.head_ffn(features).float()  # bfloat16 has nothing between 0.998 and 1, nor a gradient there
        return logits.sigmoid().view(-1, self.heads, self.depth).transpose(1, 2)

    def forward(self, attentions: AttentionMaps, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Fuse the maps of a batch.

        Args:
            attentions: The maps of all blocks.
            outputs: What the attention branches gave after their projection, L×(B,N,D), detached: the fine loss trains
                the fusion only.

        Returns:
            Weights (B,L,H) and M (B,N,N).
        """
        weights_BLH = self.weights(outputs)
        return weights_BLH, fuse(attentions, weights_BLH)


def fuse(attentions: AttentionMaps, weights_BLH: Tensor) -> Tensor:
    """M = (1/(L·H)) Σ weight·A over all blocks and heads: weights (B,L,H) → (B,N,N)."""
    _, depth, heads = weights_BLH.shape
    return attentions.weighted_sum(weights_BLH / (depth * heads))

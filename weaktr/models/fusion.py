"""Adaptive attention fusion (paper Sec. III-B) and the variants its ablation compares. Suffixes: see encoder.py."""

import torch
from torch import nn

FUSIONS = ("adaptive", "mean", "random", "learned", "last-k")
POOLS = ("max", "avg")


class AttentionFusion(nn.Module):
    """Weighs every attention head of every block and adds the maps up: M = (1/(L·H)) Σ weight·A.

    forward: attentions L×(B,H,N,N), outputs L×(B,N,D) → weights (B,L,H), M (B,N,N). Inputs are detached: the fine
    loss trains the fusion only.
    """

    def __init__(self, depth, heads, width, *, variant="adaptive", pool="max", reduction=8, feat_reduction=8, last_k=1):
        super().__init__()
        for value, choices, name in ((variant, FUSIONS, "fusion"), (pool, POOLS, "pool")):
            if value not in choices:
                raise ValueError(f"{name} {value!r} is unknown; one of {', '.join(choices)}")
        if not 1 <= last_k <= depth:
            raise ValueError(f"last_k {last_k} is outside 1…{depth}, the number of blocks")
        self.depth, self.heads, self.variant, self.pool, self.last_k = depth, heads, variant, pool, last_k
        maps, hidden, feature = depth * heads, int(depth * heads / reduction), int(width / heads / feat_reduction)
        if min(hidden, feature) < 1 and variant in ("adaptive", "random"):
            raise ValueError(
                f"reduction {reduction} leaves no hidden unit for {maps} heads of width {width // heads}; lower it"
            )
        if variant == "adaptive":
            self.feature_ffn = nn.Sequential(nn.Linear(width // heads, feature), nn.Linear(feature, 1))
        if variant == "random":
            self.register_buffer("features", torch.randn(maps))
        if variant in ("adaptive", "random"):
            self.head_ffn = nn.Sequential(
                nn.Linear(maps, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, maps, bias=False)
            )
        if variant == "learned":
            self.logits = nn.Parameter(torch.zeros(depth, heads))

    def head_features(self, outputs):
        """Outputs of the attention branches L×(B,N,D) → one scalar per head and layer (B, H·L), head-major."""
        pooled = []
        for output_BND in outputs:
            feature_BNdH = output_BND.unflatten(-1, (-1, self.heads))  # channel d belongs to head d mod H
            pooled.append(feature_BNdH.amax(1) if self.pool == "max" else feature_BNdH.mean(1))
        pooled_BHLd = torch.stack(pooled, 1).permute(0, 3, 1, 2)
        return self.feature_ffn(pooled_BHLd).flatten(1)

    def weights(self, outputs):
        """Weights (B,L,H) of all maps."""
        batch, like = len(outputs[0]), outputs[0]
        if self.variant in ("adaptive", "random"):
            features = self.head_features(outputs) if self.variant == "adaptive" else self.features.expand(batch, -1)
            return self.head_ffn(features).sigmoid().view(batch, self.heads, self.depth).transpose(1, 2)
        if self.variant == "learned":
            return self.logits.sigmoid().expand(batch, -1, -1)
        weights = torch.ones(batch, self.depth, self.heads, device=like.device)
        if self.variant == "last-k":
            weights[:, : -self.last_k], weights[:, -self.last_k :] = 0, self.depth / self.last_k
        return weights

    def forward(self, attentions, outputs):
        weights_BLH = self.weights([output.detach() for output in outputs])
        fused_BNN = 0
        for weight_BH, attention_BHNN in zip(weights_BLH.unbind(1), attentions, strict=True):
            attention_BHNN = attention_BHNN.detach()
            fused_BNN = fused_BNN + torch.einsum("bh,bhnm->bnm", weight_BH.to(attention_BHNN), attention_BHNN)
        return weights_BLH, fused_BNN / (self.depth * self.heads)

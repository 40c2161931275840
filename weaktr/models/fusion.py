"""Adaptive attention fusion (paper Sec. III-B) and the variants its ablation compares. Suffixes: see encoder.py."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

FUSIONS = ("adaptive", "mean", "random", "learned", "last-k")
POOLS = ("max", "avg")


def head_maps(queries_and_keys):
    """q, k, q, k … of all blocks (B,H,N,d) → yields the map (B,N,N) of every head, each in the tensor of the last one.

    New tensors of this size, made and freed for every head, would leave the C library's heap three times as large.
    """
    first_BHNd = queries_and_keys[0]
    batch, _, tokens, size = first_BHNd.shape
    scores_BNN = first_BHNd.new_empty(batch, tokens, tokens)
    map_BNN = scores_BNN.new_empty(scores_BNN.shape, dtype=torch.promote_types(scores_BNN.dtype, torch.float32))
    for q_BHNd, k_BHNd in zip(queries_and_keys[::2], queries_and_keys[1::2], strict=True):
        for q_BNd, k_BNd in zip(q_BHNd.unbind(1), k_BHNd.unbind(1), strict=True):
            torch.bmm(q_BNd * size**-0.5, k_BNd.transpose(1, 2), out=scores_BNN)
            yield torch.softmax(scores_BNN, -1, map_BNN.dtype, out=map_BNN)


class WeighedMaps(torch.autograd.Function):
    """Σ weight·A over maps that were not kept: weights (B,L,H), q, k, q, k … of L blocks (B,H,N,d) → (B,N,N).

    They are made anew, forward and backward, and one head's map is all that is there at a time. Only the weights have
    a gradient.
    """

    @staticmethod
    def forward(ctx, weights_BLH, *queries_and_keys):
        ctx.save_for_backward(*queries_and_keys)
        total_BNN = None
        for weight_B, map_BNN in zip(weights_BLH.flatten(1).unbind(1), head_maps(queries_and_keys), strict=True):
            total_BNN = torch.zeros_like(map_BNN) if total_BNN is None else total_BNN
            total_BNN.addcmul_(map_BNN, weight_B[:, None, None].to(map_BNN))
        return total_BNN

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BNN):
        heads, grad_BX = ctx.saved_tensors[0].shape[1], grad_BNN.flatten(1)
        maps_BX = (map_BNN.flatten(1).to(grad_BX) for map_BNN in head_maps(ctx.saved_tensors))
        products = [(grad_BX.unsqueeze(1) @ map_BX.unsqueeze(2)).flatten() for map_BX in maps_BX]
        return torch.stack(products, 1).unflatten(1, (-1, heads)), *[None] * len(ctx.saved_tensors)


class AttentionFusion(nn.Module):
    """Weighs every attention head of every block and adds the maps up: M = (1/(L·H)) Σ weight·A.

    forward: blocks, L times the map (B,H,N,N) or the queries and keys (B,H,N,d) that make it; outputs L×(B,N,D)
    → weights (B,L,H), M (B,N,N). Inputs are detached: the fine loss trains the fusion only.
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
            logits = self.head_ffn(features).float()  # bfloat16 has nothing between 0.998 and 1, nor a gradient there
            return logits.sigmoid().view(batch, self.heads, self.depth).transpose(1, 2)
        if self.variant == "learned":
            return self.logits.sigmoid().expand(batch, -1, -1)
        weights = torch.ones(batch, self.depth, self.heads, device=like.device)
        if self.variant == "last-k":
            weights[:, : -self.last_k], weights[:, -self.last_k :] = 0, self.depth / self.last_k
        return weights

    def forward(self, blocks, outputs):
        weights_BLH = self.weights([output.detach() for output in outputs])
        shares_BLH = weights_BLH / (self.depth * self.heads)
        if not torch.is_tensor(blocks[0]):
            return weights_BLH, WeighedMaps.apply(shares_BLH, *(tensor for block in blocks for tensor in block))
        fused_BNN = 0
        for share_BH, map_BHNN in zip(shares_BLH.unbind(1), blocks, strict=True):
            map_BHNN = map_BHNN.detach()
            fused_BNN = fused_BNN + torch.einsum("bh,bhnm->bnm", share_BH.to(map_BHNN), map_BHNN).float()
        return weights_BLH, fused_BNN

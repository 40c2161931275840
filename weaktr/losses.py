"""Losses of both steps: multilabel terms of the CAM network, gradient clipping of online retraining."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SCOPES = ("batch", "image", "local", "global", "none")


def cam_losses(output, labels):
    """Multilabel soft margin losses of a CamOutput against image labels (B,C) → dict cls, coarse, fine."""
    return {
        name: F.multilabel_soft_margin_loss(getattr(output, f"{name}_logits").float(), labels)
        for name in ("cls", "coarse", "fine")
    }


@dataclass
class ClippedLoss:
    """What gradient clipping did to a batch."""

    loss: Tensor  # scalar, mean of the clipped pixel losses
    pixel_loss: Tensor  # (B,h,w) cross entropy before clipping, 0 on void pixels
    threshold: Tensor  # broadcasts to pixel_loss; inf where nothing is clipped
    kept: Tensor  # (B,h,w) bool, pixel_loss ≤ threshold: these pixels have a gradient


def gradient_clipping(logits, target, start_value, patch_size, ignore_index=255, scope="batch"):
    """Cross entropy that ignores pixels whose loss is far above their neighbourhood's (paper Sec. IV-B).

    logits (B,K,h,w); target (B,h,w) integer; start_value τ: nothing is clipped while the mean loss is above it;
    patch_size: side of the local cells in pixels, a divisor of h and w. scope: "batch" (published: cell means
    averaged over the batch, at least the global mean), "image" (cell means per image, as the paper's text has it),
    "local" or "global" (only one of the two means), "none" (plain cross entropy).
    A clipped pixel has no gradient but still counts in the mean. → ClippedLoss. Raises ValueError on unfit shapes,
    labels or names.
    """
    if scope not in SCOPES:
        raise ValueError(f"clipping scope {scope!r} is unknown; one of {', '.join(SCOPES)}")
    if logits.shape[0] != target.shape[0] or logits.shape[2:] != target.shape[1:]:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in batch or size")
    height, width = target.shape[1:]
    cellwise = scope not in ("none", "global")
    if cellwise and (patch_size < 1 or height % patch_size or width % patch_size):
        raise ValueError(f"cells of {patch_size} pixels do not divide the crop of {height}×{width}")
    outside = (target != ignore_index) & ((target < 0) | (target >= logits.shape[1]))
    if outside.any():
        raise ValueError(f"target holds {int(target[outside][0])}, outside 0…{logits.shape[1] - 1} and {ignore_index}")
    pixel_loss = F.cross_entropy(logits.float(), target.long(), ignore_index=ignore_index, reduction="none")
    detached = pixel_loss.detach()
    exact = detached.double()  # equal losses have exactly their mean, so that none of them is clipped by rounding
    mean = exact.mean().float()
    threshold = mean.expand_as(detached[:1])
    if cellwise:
        losses = exact.unsqueeze(1) if scope == "image" else exact.mean(0).view(1, 1, height, width)
        cells = losses.unflatten(-1, (-1, patch_size)).unflatten(-3, (-1, patch_size)).mean((-3, -1)).float()
        threshold = F.interpolate(cells, scale_factor=patch_size, mode="nearest").squeeze(1)
        if scope != "local":
            threshold = threshold.clamp(min=mean)
    active = (mean <= start_value) & (scope != "none")  # on the device: one more `if` would wait for a GPU once more
    threshold = torch.where(active, threshold, torch.inf)
    kept = detached <= threshold
    loss = torch.where(kept, pixel_loss, threshold).mean()  # torch.minimum would halve the gradient at a tie
    return ClippedLoss(loss, detached, threshold, kept)

"""Losses of both steps: multilabel terms of the CAM network, gradient clipping of online retraining."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SCOPES = ("batch", "image", "local", "global", "none")
COUNTS = ("labelled", "clipped", "known", "clipped_known", "wrong", "clipped_wrong")  # pixels, see `clipping_counts`
ACTIVE = ("labelled_active", "clipped", "known_active", "clipped_known", "wrong_active", "clipped_wrong")
RECORDED = tuple(dict.fromkeys(COUNTS + ACTIVE))


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


def clipping_counts(clipped, labels, truth):
    """RECORDED pixels of (B,h,w), void 255 → (9,) on their device: reading them at every step would wait for a GPU.

    COUNTS: labelled and, of these, clipped; the same two of those with a known truth, and of those with a wrong label.
    ACTIVE has the same, but no pixel of a batch in which nothing is clipped: such batches have a larger loss and more
    wrong labels, so what chance would find where clipping is at work is told by the others.
    """
    labelled = labels != 255
    known = labelled & (truth != 255)
    parts = labelled, known, known & (labels != truth)
    counts = [mask.sum() for one in parts for mask in (one, clipped & one)]
    return torch.stack([*counts, *(torch.stack(counts[::2]) * clipped.any())])


def clipping_quality(labelled, clipped, known, clipped_known, wrong, clipped_wrong):
    """Does clipping find label noise? COUNTS (or ACTIVE), added up over batches → shares in 0…1, NaN where undefined.

    clipped_share: of all labelled pixels; noise: labels that differ from the truth; precision: clipped pixels whose
    label is wrong; recall: wrong labels that were clipped.
    """
    shares = {
        "clipped_share": (clipped, labelled),
        "noise": (wrong, known),
        "precision": (clipped_wrong, clipped_known),
        "recall": (clipped_wrong, wrong),
    }
    return {name: part / whole if whole else math.nan for name, (part, whole) in shares.items()}

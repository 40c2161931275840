"""Gradient clipping, the loss of step 2: pixels whose label is probably wrong get no gradient.

docs/method.md, "Gradient clipping".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ranks
from ..data.images import VOID

SCOPES = ("batch", "image", "own", "local", "global", "none")
COUNTS = (  # pixels, see `clipping_counts`
    "labelled",
    "clipped",
    "known",
    "clipped_known",
    "wrong",
    "clipped_wrong",
    "labelled_active",
    "known_active",
    "wrong_active",
)


@dataclass(frozen=True)
class ClippedLoss:
    """What gradient clipping did to a batch."""

    loss: Tensor  # scalar, mean of the clipped pixel losses
    pixel_loss: Tensor  # (B,h,w) cross entropy before clipping, 0 on void pixels
    threshold: Tensor  # broadcasts to pixel_loss; inf where nothing is clipped
    kept: Tensor  # (B,h,w) bool, pixel_loss ≤ threshold: these pixels have a gradient


def gradient_clipping(
    logits: Tensor,
    target: Tensor,
    start_value: float,
    patch_size: int,
    ignore_index: int = VOID,
    scope: str = "batch",
) -> ClippedLoss:
    """Cross entropy that ignores pixels whose loss is far above their neighbourhood's (paper Sec. IV-B).

    While the mean loss is above `start_value`, nothing is clipped. Below it, a pixel is clipped where its loss exceeds
    both the mean of its cell and the mean of all pixels: it has no gradient, and counts in the loss with the larger
    of the two means. Means are constants, void pixels count in them with a loss of 0.

    What the means are taken over is the `scope`:

    * "batch": a cell's pixels in all images, and all pixels of the batch; as released and published for VOC12.
    * "image": a cell's pixels in the image that is clipped, and all pixels of the batch; the paper's text.
    * "own": a cell's pixels in the image that is clipped, and all pixels of this image, whose mean also decides whether
      it is clipped at all; every image is a batch of its own, as in the released command for COCO14, which gives each
      of its processes one image.
    * "local": the cell of "batch" alone.
    * "global": all pixels of the batch alone.
    * "none": nothing is clipped.

    Where several ranks share a batch, it is the whole batch that means are taken over: with means of their own, weights
    were up to 65 % of a tensor's largest entry apart from those of one process after six steps.

    Args:
        logits: (B,K,h,w).
        target: (B,h,w) integers, 0…K−1 or `ignore_index`.
        start_value: τ, the mean loss below which clipping begins.
        patch_size: side of the square cells in pixels, a divisor of h and w.
        ignore_index: label of void pixels.
        scope: one of SCOPES, see above.

    Raises:
        ValueError: For shapes that do not fit, labels outside the classes and an unknown scope.
    """
    _check(logits, target, patch_size, ignore_index, scope)
    pixel_loss = F.cross_entropy(logits.float(), target.long(), ignore_index=ignore_index, reduction="none")
    detached = pixel_loss.detach()
    threshold = _threshold(detached, start_value, patch_size, scope)
    kept = detached <= threshold
    loss = torch.where(kept, pixel_loss, threshold).mean()  # torch.minimum would halve the gradient at a tie
    return ClippedLoss(loss, detached, threshold, kept)


def _check(logits: Tensor, target: Tensor, patch_size: int, ignore_index: int, scope: str) -> None:
    """Raise ValueError for what `gradient_clipping` cannot work on."""
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


def _threshold(pixel_loss: Tensor, start_value: float, patch_size: int, scope: str) -> Tensor:
    """The loss above which a pixel is clipped, inf where none is; pixel_loss (B,h,w) → broadcasts to it."""
    if scope == "none":
        return torch.full_like(pixel_loss[:1], torch.inf)
    exact = pixel_loss.double()  # in it, the mean of equal losses is that loss, so that rounding clips none of them
    mean = exact.mean((1, 2), keepdim=True) if scope == "own" else ranks.mean(exact.mean())
    mean = mean.float()
    if scope == "global":
        threshold = mean.expand_as(pixel_loss[:1])
    else:
        if scope in ("image", "own"):
            cells = _cell_means(exact, patch_size)
        else:
            cells = ranks.mean(_cell_means(exact.mean(0, keepdim=True), patch_size))
        enlarged = F.interpolate(cells.float().unsqueeze(1), scale_factor=patch_size, mode="nearest")
        threshold = enlarged.squeeze(1)
        if scope != "local":
            threshold = threshold.clamp(min=mean)
    # Tensors instead of `if mean > start_value`: reading the mean would wait for a GPU at every step.
    return torch.where(mean <= start_value, threshold, torch.inf)


def _cell_means(losses_Bhw: Tensor, side: int) -> Tensor:
    """Means of square cells: (B,h,w) → (B,h/side,w/side).

    `F.avg_pool2d` would add up each cell in a single thread: 0.32 ms instead of 0.09 for 480 pixels in cells of 120.
    """
    cells_BhSwS = losses_Bhw.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return cells_BhSwS.mean((2, 4))


def clipping_counts(clipped: Tensor, labels: Tensor, truth: Tensor, scope: str = "batch") -> dict[str, Tensor]:
    """Pixels of a batch by what is known of their labels, to be added up over batches.

    They stay on their device: reading them at every step would wait for a GPU.

    Args:
        clipped: (B,h,w) bool.
        labels: (B,h,w) what is trained on, void 255.
        truth: (B,h,w) the same from true masks, void 255 wherever it is not known.
        scope: that of the clipping.

    Returns:
        A number for each of COUNTS. labelled: pixels with a label; known: of these, those with a known truth; wrong: of
        these, those with another label. `clipped`, `clipped_known` and `clipped_wrong`: of the three, what was clipped.
        `…_active`: the three again where clipping is at work, which leaves out a batch in which nothing is clipped, and
        with scope "own" each image in which nothing is. Those have a larger loss and more wrong labels, so what chance
        would find is told by the others.
    """
    labelled = labels != VOID
    known = labelled & (truth != VOID)
    wrong = known & (labels != truth)
    of_batch = ranks.total(clipped.any().float()) > 0
    of_images = clipped.flatten(1).any(1)[:, None, None]
    active = of_images if scope == "own" else of_batch
    return {
        "labelled": labelled.sum(),
        "clipped": (clipped & labelled).sum(),
        "known": known.sum(),
        "clipped_known": (clipped & known).sum(),
        "wrong": wrong.sum(),
        "clipped_wrong": (clipped & wrong).sum(),
        "labelled_active": (labelled & active).sum(),
        "known_active": (known & active).sum(),
        "wrong_active": (wrong & active).sum(),
    }


def clipping_quality(counts: Mapping[str, float], of: str = "") -> dict[str, float]:
    """Does clipping find label noise?

    Args:
        counts: COUNTS, added up over batches.
        of: "" for all pixels, "active" for those of the batches, or images, in which clipping is at work.

    Returns:
        Shares in 0…1, NaN where undefined. clipped_share: of all labelled pixels; noise: labels that differ from the
        truth; precision: clipped pixels whose label is wrong; recall: wrong labels that were clipped.
    """
    suffix = f"_{of}" if of else ""
    labelled, known, wrong = (counts[f"{name}{suffix}"] for name in ("labelled", "known", "wrong"))
    return {
        "clipped_share": _share(counts["clipped"], labelled),
        "noise": _share(wrong, known),
        "precision": _share(counts["clipped_wrong"], counts["clipped_known"]),
        "recall": _share(counts["clipped_wrong"], wrong),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan

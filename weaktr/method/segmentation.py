"""Inference of both steps: multi-scale mirrored CAMs, sliding windows, your own photograph."""

from collections import deque

import numpy as np
import torch
import torch.nn.functional as F

from ..data.images import write_label_png
from ..processes import spawned
from .crf import refine_probabilities, refine_to_file

WINDOW_PIXELS_AT_ONCE = 2**19  # in a batch on a CPU: 56 windows of 96 pixels, 2 of 480
WINDOWS_AT_ONCE = 16  # at least, on a GPU


# ── Step 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────
def window_starts(length, window, stride):
    """Left edges of windows along a side: every `stride` pixels, the last one flush with the border."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def at_least(view, side):
    """A view (3,h,w) whose short side is under `side` pixels, enlarged to it, the long side rounded down."""
    height, width = view.shape[-2:]
    short = min(height, width)
    if short >= side:
        return view
    size = (height * side // short, width * side // short)
    return F.interpolate(view[None], size, mode="bilinear", align_corners=False)[0]


def window_logits(model, crops):
    """Yields the logits (K,window,window) of equal crops (3,window,window), taking several at once to the model."""
    at_once = max(WINDOW_PIXELS_AT_ONCE // crops[0][0].numel(), WINDOWS_AT_ONCE if crops[0].is_cuda else 1)
    for first in range(0, len(crops), at_once):
        yield from model(torch.stack(crops[first : first + at_once])).float()


@torch.inference_mode()
def predict_probabilities(model, views, flips, size, window, stride):
    """Average of the softmax scores of several views of one image (METHOD, "Single-scale evaluation").

    views: normalised, resized tensors (3,h,w) or (1,3,h,w); flips: whether each is mirrored already; size: (H,W) of
    the result; window, stride: pixels. → (K,H,W) float32 on the model's device. Logits are averaged where windows
    overlap, and resized to `size` before the softmax. Windows of all views share batches.
    """
    device = next(model.parameters()).device
    views = [at_least(view.reshape(view.shape[-3:]).to(device), window) for view in views]
    places = [
        [
            (slice(top, top + window), slice(left, left + window))
            for top in window_starts(view.shape[1], window, stride)
            for left in window_starts(view.shape[2], window, stride)
        ]
        for view in views
    ]
    crops = [view[:, rows, columns] for view, own in zip(views, places) for rows, columns in own]
    scores, probabilities = window_logits(model, crops), 0
    for view, mirrored, own in zip(views, flips, places, strict=True):
        total, count = 0, torch.zeros(view.shape[1:], device=device)
        for (rows, columns), logits in zip(own, scores):  # in this order, zip takes no score too many
            if not torch.is_tensor(total):
                total = logits.new_zeros(len(logits), *view.shape[1:])
            total[:, rows, columns] += logits
            count[rows, columns] += 1
        logits = total / count
        if mirrored:
            logits = logits.flip(-1)
        logits = F.interpolate(logits[None], tuple(size), mode="bilinear", align_corners=False)[0]
        probabilities = probabilities + logits.softmax(0)
    return probabilities / len(views)


def image_views(model, image, scales, base_size, mirror):
    """Views of a uint8 image whose short side becomes base_size·scale pixels, each also mirrored if asked.

    → list of normalised (3,h,w) on the model's device, list of whether mirrored.
    """
    height, width = image.shape[:2]
    device = next(model.parameters()).device
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float()[None]
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (model.mean, model.std))
    views, flips = [], []
    for scale in scales:
        factor = base_size * scale / min(height, width)
        size = (int(height * factor + 0.5), int(width * factor + 0.5))
        view = F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0]
        view = (view / 255 - mean) / std
        for flip in (False, True) if mirror else (False,):
            views.append(view.flip(-1) if flip else view)
            flips.append(flip)
    return views, flips


def segment(model, image, *, scales=(1.0,), mirror=False, base_size=520, window=480, stride=320, crf=""):
    """Segment an image with a retrained network.

    image (H,W,3) uint8 RGB; scales, mirror: views; base_size: short side in pixels at scale 1; window, stride:
    pixels; crf: "" (none), "voc" or "coco" settings. → class probabilities (K,H,W), a float32 array; argmax over axis
    0 is the mask, 0 background and c + 1 class c.
    """
    probabilities = segment_on_device(model, image, scales, mirror, base_size, window, stride).cpu().numpy()
    return refine_probabilities(image, probabilities, crf) if crf else probabilities


def segment_on_device(model, image, scales, mirror, base_size, window, stride):
    """`segment` without the CRF → (K,H,W) on the model's device, where the argmax of a GPU's takes no time."""
    views, flips = image_views(model, image, scales, base_size, mirror)
    return predict_probabilities(model, views, flips, image.shape[:2], window, stride)


def segment_list(model, dataset, ids, folder, *, crf, workers, progress, scales, mirror, base_size, window, stride):
    """Masks of a list, multi-scale, before and after the CRF; what is there already stays.

    folder: gets `multi/` and, where `crf` names settings, `multi_crf/` with one palette PNG per image.
    """
    places = [folder / "multi", *([folder / "multi_crf"] if crf else [])]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    waiting = deque()
    with spawned(workers) as pool:
        for image_id in ids:
            if not all((place / f"{image_id}.png").is_file() for place in places):
                image = dataset.image(image_id)
                probabilities = segment_on_device(model, image, scales, mirror, base_size, window, stride)
                mask = probabilities.argmax(0)
                write_label_png(folder / "multi" / f"{image_id}.png", mask.cpu().numpy())
                if crf:  # it knows the classes that win somewhere, so only these go to the other process
                    winners, path = mask.unique(), folder / "multi_crf" / f"{image_id}.png"
                    given = (image, probabilities[winners].cpu().numpy(), winners.cpu().numpy(), crf)
                    waiting.append(pool.submit(refine_to_file, path, *given))
                    if len(waiting) > 4 * workers:
                        waiting.popleft().result()
            progress.update(1)
        for job in waiting:
            job.result()

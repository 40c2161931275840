"""Inference of both steps: multi-scale mirrored CAMs, sliding windows, your own photograph."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .cams import enlarge
from .crf import refine_probabilities
from .models.cam import cam_variant

WINDOW_PIXELS_AT_ONCE = 2**19  # in a batch on a CPU: 56 windows of 96 pixels, 2 of 480
WINDOWS_AT_ONCE = 16  # at least, on a GPU


def normalise(pixels, mean, std):
    """uint8 image (H,W,3) → float tensor (3,H,W), scaled to 0..1 and normalised per channel.

    By numpy: torch would start a second team of threads in a thread that prepares images while a network works.
    """
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255
    return torch.from_numpy((x - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None])


def rescale(image, scale):
    """A uint8 image (H,W,3) at `scale` times its size, as step 1 does it: PIL bicubic; 1 leaves it untouched."""
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


# ── Step 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────
def generate_cams(model, image, labels, scales=(1.0, 1.2), *, kind="fused", refined=True):
    """Multi-scale mirrored CAMs of one image (METHOD, "CAM generation and seeds").

    image (H,W,3) uint8 RGB at its own size; labels (C,) 0/1, the image-level label; scales: factors of the size.
    kind, refined: composition, see `cam_variant`. → {present class from 0: (H,W) float32 in 0..1}.
    """
    return generate_variants(model, image, labels, scales, [(kind, refined)])[0]


def generate_variants(model, image, labels, scales, variants):
    """`generate_cams` for several compositions [(kind, refined), …] from the same forward passes → a list of dicts."""
    made = generate_grids(model, mirrored_views(model, [image], scales), [labels], variants)[0]
    return [enlarge(grids, image.shape[:2]) for grids in made]


def mirrored_views(model, images, scales):
    """n images of one size, each followed by its mirror, normalised, on the model's device → (2n,3,h,w) per scale."""
    device, views = next(model.parameters()).device, []
    for scale in scales:
        straight = [normalise(rescale(image, scale), model.mean, model.std).numpy() for image in images]
        views.append(torch.from_numpy(np.stack([view for x in straight for view in (x, x[..., ::-1])])).to(device))
    return views


@torch.inference_mode()
def generate_grids(model, views, labels, variants):
    """What `generate_variants` enlarges → a list by image and variant of {class: [(h,w) float32, a grid per scale]}.

    views: as `mirrored_views` makes them; labels (n,C). The map of the mirrored view is mirrored back and added on the
    grid of tokens: enlarging is linear and has no side, so that the sum of both enlarged maps is the enlarged sum.
    """
    labels = np.asarray(labels)
    if labels.shape[1] != model.config["num_classes"]:
        raise ValueError(f"the label has {labels.shape[1]} classes, the model {model.config['num_classes']}")
    made = [[{int(c): [] for c in np.flatnonzero(present)} for _ in variants] for present in labels]
    for view in views if labels.any() else ():
        output = model(view)
        for number, (kind, refined) in enumerate(variants):
            cams = cam_variant(output, kind, refined).float().unflatten(0, (-1, 2))
            for cam, grids in zip((cams[:, 0] + cams[:, 1].flip(-1)).cpu().numpy(), made, strict=True):
                for c in grids[number]:
                    grids[number][c].append(cam[c].copy())
        del output, cams  # the maps of this scale would live on beside those of the next
    return made


def head_correlation(output, labels):
    """How alike the heads of all blocks look at one image: correlation of their class attention over the patches.

    output: CamOutput of one image; labels (C,) 0/1. → (L·H, L·H), mean over the present classes, heads of a block side
    by side. Raises ValueError for an image without a class.
    """
    present, patches = np.flatnonzero(labels), output.coarse_cam.shape[2] * output.coarse_cam.shape[3]
    if not len(present):
        raise ValueError("the image shows no class, so no class token has anything to look at")
    maps = [torch.cat([a[0, :, c, -patches:] for a in output.attentions]).float() for c in present]
    return torch.stack([torch.corrcoef(heads) for heads in maps]).mean(0).cpu().numpy()


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


def predict(run_folder, image_path, *, crf="", device="auto"):
    """Segment your own photograph with a finished run.

    run_folder: an experiment's folder with a finished `04_online_retraining`; image_path: any image file PIL reads;
    device: "auto", "cpu" or "cuda".
    → mask (H,W) uint8 (0 background, c + 1 class c), class names with background first. Raises UserError when the run
    has no finished model or the file is no readable image.
    """
    from .data.images import read_image
    from .models import load_model
    from .stages import resolve
    from .train_cam import pick_device

    run_folder = Path(run_folder) if Path(run_folder).exists() else resolve(run_folder)
    model = load_model(run_folder / "04_online_retraining" / "model.safetensors", step="segmenter")
    model, details = model.to(pick_device(device)), model.details
    probabilities = segment(model, read_image(Path(image_path)), crf=crf, **details["inference"])
    return probabilities.argmax(0).astype(np.uint8), ["background", *details["classes"]]

"""CAMs and predictions of a whole list: sliding windows, several scales, CRF beside the model on the other cores."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..data.images import image_size
from ..data.transforms import normalise
from ..evaluation.scores import score_cams, score_list
from ..models.cam import cam_variant
from ..processes import cores
from .cams import enlarge, read_cams, save_cams
from .pseudo_labels import read_seed

WINDOW = 64  # images of a list among which those of one size are looked for
BATCH_PIXELS, BATCH_PIXELS_GPU = 2**17, 2**20  # with mirrors, at scale 1: five images of 112 pixels, two of 500 × 375


def ahead(function, items, threads=1):
    """`map(function, items)` whose function runs in threads, an item each ahead of whoever takes the results."""
    with ThreadPoolExecutor(threads) as pool:
        pending = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        yield from (last.result() for last in pending)


def equal_sizes(dataset, ids, pixels):
    """Yields lists of images of one size, at most `pixels` in all with their mirrors, at least one image.

    They depend on the list alone, and never on what is finished: an image has the same company in every run.
    """
    for first in range(0, len(ids), WINDOW):
        sizes = {}
        for image_id in ids[first : first + WINDOW]:
            sizes.setdefault(image_size(dataset.image_path(image_id)), []).append(image_id)
        for (height, width), same in sizes.items():
            most = max(1, pixels // (2 * height * width))
            yield from (same[start : start + most] for start in range(0, len(same), most))


def generate_list(model, dataset, ids, scales, variants, progress):
    """CAM files of a list, see `cams.save_cams`; what is there already stays.

    variants: {folder: (kind, refined)}, each folder gets one <id>.npz per image. Images of one size share a forward
    pass. While the model works, a thread reads and resizes the next ones, and another writes the last ones; a GPU has
    up to eight of each.
    """
    cuda = next(model.parameters()).is_cuda
    pixels, threads = (BATCH_PIXELS_GPU, min(8, cores())) if cuda else (BATCH_PIXELS, 1)

    def missing(batch):
        return [(i, folder) for i in batch for folder in variants if not (folder / f"{i}.npz").is_file()]

    def read(batch):
        if not missing(batch):
            return batch, None, None, None
        images = [dataset.image(i) for i in batch]
        labels = [dataset.labels(i) for i in batch]
        return batch, mirrored_views(model, images, scales), labels, images[0].shape[:2]

    def make(task):
        batch, views, labels, size = task
        return batch, views and generate_grids(model, views, labels, list(variants.values())), size

    def write(made):
        batch, grids, size = made
        for i, folder in missing(batch):
            save_cams(folder / f"{i}.npz", grids[batch.index(i)][list(variants).index(folder)], size)
        return len(batch)

    dataset.labels(ids[0])  # COCO's annotations are read here, not in every thread at once
    for done in ahead(write, map(make, ahead(read, equal_sizes(dataset, ids, pixels), threads)), threads):
        progress.update(done)


def compare_compositions(dataset, ids, folders, thresholds, workers=1):
    """CAM compositions {name: folder of CAM files}, each at every background score.

    → DataFrame of seed mIoU (%) by threshold with a column per composition, {name: ListScore at its best threshold}.
    Both look at masks: the best is an oracle, the same for all.
    """
    curves, scores = {}, {}
    for name, cams in folders.items():
        curves[name] = score_cams(dataset, ids, partial(read_cams, folder=cams), thresholds, workers).set_index(
            "threshold"
        )["miou"]
        seeds = partial(read_seed, dataset=dataset, cams=cams, threshold=curves[name].idxmax())
        scores[name] = score_list(dataset, ids, seeds, workers)
    return pd.DataFrame(curves), scores


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

"""CAMs and predictions of a whole list: sliding windows, several scales, CRF beside the model on the other cores."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pandas as pd

from .cams import save_cams
from .crf import refine_to_file
from .data.images import image_size, write_label_png
from .inference import generate_grids, mirrored_views, segment_on_device
from .processes import spawned
from .pseudo_labels import keep_freed_memory, read_seed
from .scores import score_cams, score_list
from .stages import cores

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

    keep_freed_memory()
    dataset.labels(ids[0])  # COCO's annotations are read here, not in every thread at once
    for done in ahead(write, map(make, ahead(read, equal_sizes(dataset, ids, pixels), threads)), threads):
        progress.update(done)


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


def compare_compositions(dataset, ids, folders, thresholds, workers=1):
    """CAM compositions {name: folder of CAM files}, each at every background score.

    → DataFrame of seed mIoU (%) by threshold with a column per composition, {name: ListScore at its best threshold}.
    Both look at masks: the best is an oracle, the same for all.
    """
    curves, scores = {}, {}
    for name, cams in folders.items():
        curves[name] = score_cams(dataset, ids, cams, thresholds, workers).set_index("threshold")["miou"]
        seeds = partial(read_seed, dataset=dataset, cams=cams, threshold=curves[name].idxmax())
        scores[name] = score_list(dataset, ids, seeds, workers)
    return pd.DataFrame(curves), scores

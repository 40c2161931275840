"""CAMs and predictions of a whole list: sliding windows, several scales, CRF beside the model on the other cores."""

from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd

from .cams import save_cams
from .crf import refine_to_mask
from .data.images import write_label_png
from .inference import generate_grids, mirrored_views, segment
from .pseudo_labels import keep_freed_memory, read_seed
from .scores import score_cams, score_list

WINDOW = 64  # images of a list among which those of one size are looked for
BATCH_PIXELS, BATCH_PIXELS_GPU = 2**17, 2**20  # with mirrors, at scale 1: five images of 112 pixels, two of 500 × 375


def ahead(function, items):
    """`map(function, items)` whose function runs in a thread, one item ahead of whoever takes the results."""
    with ThreadPoolExecutor(1) as thread:
        pending = deque()
        for item in items:
            pending.append(thread.submit(function, item))
            if len(pending) > 1:
                yield pending.popleft().result()
        yield from (last.result() for last in pending)


def generate_list(model, dataset, ids, scales, variants, progress):
    """CAM files of a list, see `cams.save_cams`; what is there already stays.

    variants: {folder: (kind, refined)}, each folder gets one <id>.npz per image. Images of one size share a forward
    pass. While the model works, threads read and resize the next ones and write the last ones.
    """
    pixels = BATCH_PIXELS_GPU if next(model.parameters()).is_cuda else BATCH_PIXELS

    def missing(image_ids):
        return [(i, folder) for i in image_ids for folder in variants if not (folder / f"{i}.npz").is_file()]

    def read(window):
        """Batches of a few consecutive images, the same ones whether or not some of them have their files."""
        images, sizes = {i: dataset.image(i) for i in window} if missing(window) else {}, {}
        for i in window:
            sizes.setdefault(images[i].shape[:2] if images else None, []).append(i)
        for size, same in sizes.items():
            most = max(1, pixels // (2 * size[0] * size[1])) if images else len(window)
            for batch in (same[first : first + most] for first in range(0, len(same), most)):
                yield batch, [images[i] for i in batch] if missing(batch) else [], size

    def prepare(batch):
        names, images, size = batch
        return names, images and mirrored_views(model, images, scales), size

    def make(batch):
        names, views, size = batch
        labels = [dataset.labels(i) for i in names]
        return names, views and generate_grids(model, views, labels, list(variants.values())), size

    def write(batch):
        names, grids, size = batch
        grids = {(i, folder): one for i, own in zip(names, grids) for folder, one in zip(variants, own)}
        for i, folder in missing(names):
            save_cams(folder / f"{i}.npz", grids[i, folder], size)
        return len(names)

    keep_freed_memory()
    windows = (ids[first : first + WINDOW] for first in range(0, len(ids), WINDOW))
    batches = (batch for window in ahead(lambda window: list(read(window)), windows) for batch in window)
    for done in ahead(write, map(make, ahead(prepare, batches))):
        progress.update(done)


def segment_list(model, dataset, ids, folder, *, crf, workers, progress, scales, mirror, base_size, window, stride):
    """Masks of a list, multi-scale, before and after the CRF; what is there already stays.

    folder: gets `multi/` and, where `crf` names settings, `multi_crf/` with one palette PNG per image.
    """
    places = [folder / "multi", *([folder / "multi_crf"] if crf else [])]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    waiting = deque()
    with ProcessPoolExecutor(max(1, workers), get_context("spawn")) as pool:

        def collect():
            image_id, winners, future = waiting.popleft()
            write_label_png(folder / "multi_crf" / f"{image_id}.png", winners[future.result()])

        for image_id in ids:
            if not all((place / f"{image_id}.png").is_file() for place in places):
                image = dataset.image(image_id)
                probabilities = segment(
                    model, image, scales=scales, mirror=mirror, base_size=base_size, window=window, stride=stride
                )
                write_label_png(folder / "multi" / f"{image_id}.png", mask := probabilities.argmax(0))
                if crf:  # it knows the classes that win somewhere, so only these go to the other process
                    winners = np.unique(mask)
                    waiting.append((image_id, winners, pool.submit(refine_to_mask, image, probabilities[winners], crf)))
                    if len(waiting) > 4 * workers:
                        collect()
            progress.update(1)
        while waiting:
            collect()


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

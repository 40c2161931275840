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
from .inference import generate_grids, mirrored_pairs, segment
from .pseudo_labels import keep_freed_memory, read_seed
from .scores import score_cams, score_list


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

    variants: {folder: (kind, refined)}, each folder gets one <id>.npz per image. While the model works on an image, a
    thread reads and resizes the next one, and another writes the last one.
    """

    def read(image_id):
        paths = {folder / f"{image_id}.npz": variant for folder, variant in variants.items()}
        missing = {path: variant for path, variant in paths.items() if not path.is_file()}
        if not missing:
            return None
        image = dataset.image(image_id)
        return missing, mirrored_pairs(model, image, scales), dataset.labels(image_id), image.shape[:2]

    def make(task):
        if task is None:
            return None
        missing, pairs, labels, size = task
        return missing, generate_grids(model, pairs, labels, list(missing.values())), size

    def write(made):
        if made:
            paths, variants_grids, size = made
            for path, grids in zip(paths, variants_grids, strict=True):
                save_cams(path, grids, size)

    keep_freed_memory()
    for _ in ahead(write, map(make, ahead(read, ids))):
        progress.update(1)


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

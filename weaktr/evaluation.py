"""Predictions of a whole list: sliding windows, several scales, CRF beside the model on the other cores."""

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd

from .crf import refine_to_mask
from .data.images import write_label_png
from .inference import segment
from .metrics import confusion_matrix, iou


def confusions(dataset, ids, predict):
    """Confusion matrix of every image of a list → int64 (n,K,K). predict: function id → (H,W) labels."""
    classes = len(dataset.classes) + 1
    return np.stack([confusion_matrix(predict(image_id), dataset.mask(image_id), classes) for image_id in ids])


def segment_list(model, dataset, ids, folder, *, crf, workers, progress, scales, mirror, base_size, window, stride):
    """Masks of a list, multi-scale, before and after the CRF; what is there already stays.

    folder: gets `multi/` and, where `crf` names settings, `multi_crf/` with one palette PNG per image.
    """
    places = [folder / "multi", *([folder / "multi_crf"] if crf else [])]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    waiting = deque()
    with ProcessPoolExecutor(max(1, workers), mp_context=get_context("spawn")) as pool:

        def collect():
            image_id, future = waiting.popleft()
            write_label_png(folder / "multi_crf" / f"{image_id}.png", future.result())

        for image_id in ids:
            if not all((place / f"{image_id}.png").is_file() for place in places):
                image = dataset.image(image_id)
                probabilities = segment(
                    model, image, scales=scales, mirror=mirror, base_size=base_size, window=window, stride=stride
                )
                write_label_png(folder / "multi" / f"{image_id}.png", probabilities.argmax(0))
                if crf:
                    waiting.append((image_id, pool.submit(refine_to_mask, image, probabilities, crf)))
                    if len(waiting) > 4 * workers:
                        collect()
            progress.update(1)
        while waiting:
            collect()


def object_table(dataset, ids, matrices):
    """One row per image and class of its truth: `image`, `class`, `size` (share of the image, %), `iou` (%)."""
    rows = []
    for image_id, matrix in zip(ids, matrices, strict=True):
        scores = 100 * iou(matrix)
        for c in np.flatnonzero(matrix.sum(1)[1:]) + 1:
            size = 100 * matrix[c].sum() / matrix.sum()
            rows.append({"image": image_id, "class": dataset.classes[c - 1], "size": size, "iou": scores[c]})
    return pd.DataFrame(rows)

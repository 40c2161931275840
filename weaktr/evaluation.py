"""Predictions of a whole list: sliding windows, several scales, CRF beside the model on the other cores."""

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import pandas as pd

from .crf import refine_to_mask
from .data.images import write_label_png
from .files import atomic
from .inference import generate_variants, segment
from .metrics import confusion_matrix, iou_of_counts, mean_iou, pixel_counts, seed_mask, threshold_curve


@dataclass
class ListScore:
    """How the masks of a list agree with the truth."""

    ids: list  # of the n images
    confusion: np.ndarray  # int64 (K,K), the list's, rows truth
    counts: np.ndarray  # int32 (n,3,K), each image's, see `metrics.pixel_counts`

    @property
    def miou(self):
        """mIoU of the list, in percent."""
        return mean_iou(self.confusion)

    def per_image(self):
        """Each image's own mIoU in percent → Series by id."""
        return pd.Series(100 * np.nanmean(iou_of_counts(self.counts), 1), index=pd.Index(self.ids, name="image"))


def score_list(dataset, ids, predict):
    """Compare masks with the truth, image by image → ListScore. predict: function id → (H,W) labels."""
    classes = len(dataset.classes) + 1
    total, counts = np.zeros((classes, classes), np.int64), np.zeros((len(ids), 3, classes), np.int32)
    for row, image_id in enumerate(ids):
        confusion = confusion_matrix(predict(image_id), dataset.mask(image_id), classes)
        total += confusion
        counts[row] = pixel_counts(confusion)
    return ListScore(list(ids), total, counts)


def save_counts(path, scores):
    """Write the per-image counts of {name: ListScore} as one npz, whole; `statistics` resamples them."""
    with atomic(path) as aside:
        np.savez_compressed(aside, **{name: score.counts for name, score in scores.items()})


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


def object_table(dataset, score):
    """One row per image and class of its truth: `image`, `class`, `size` (share of the image, %), `iou` (%)."""
    rows = []
    for image_id, counts, ious in zip(score.ids, score.counts, 100 * iou_of_counts(score.counts), strict=True):
        truth = counts[1]
        for c in np.flatnonzero(truth[1:]) + 1:
            size = 100 * truth[c] / truth.sum()
            rows.append({"image": image_id, "class": dataset.classes[c - 1], "size": size, "iou": ious[c]})
    return pd.DataFrame(rows)


def compare_compositions(model, dataset, ids, scales, compositions, thresholds):
    """CAM compositions {name: (kind, refined)} of the same network, each at every background score.

    → DataFrame of seed mIoU (%) by threshold with a column per composition, {name: ListScore at its best threshold}.
    Both look at masks: the best is an oracle, the same for all. The maps of all ids are held in memory as float16.
    """
    made = {name: [] for name in compositions}
    for image_id in ids:
        image, present = dataset.image(image_id), dataset.labels(image_id)
        maps = generate_variants(model, image, present, scales, list(compositions.values()))
        for name, variant in zip(compositions, maps, strict=True):
            made[name].append({c: cam.astype(np.float16) for c, cam in variant.items()})
    curves, scores = {}, {}
    for name, variants in made.items():
        curve = threshold_curve(zip(variants, map(dataset.mask, ids)), len(dataset.classes) + 1, thresholds)
        curves[name] = curve.set_index("threshold")["miou"]
        best, cams = curves[name].idxmax(), dict(zip(ids, variants))
        scores[name] = score_list(
            dataset, ids, lambda i, cams=cams, best=best: seed_mask(cams[i], best, dataset.mask(i).shape)
        )
    return pd.DataFrame(curves), scores

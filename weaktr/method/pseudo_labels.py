"""From CAMs to pseudo labels: seeds, the CRF on them, and a background score that no mask chose.

docs/method.md, "CAM generation and seeds" and "Dense CRF". Processes that refine labels import this file, so it does
not import torch.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..data.dataset import Dataset
from ..data.images import VOID, write_label_png
from ..evaluation.metrics import seed_mask, strongest
from .cams import read_cams
from .crf import refine_labels


def refine_seed(
    image: np.ndarray, labels: np.ndarray, cams: dict[int, np.ndarray], threshold: float, settings: str
) -> tuple[np.ndarray, np.ndarray]:
    """Seed and pseudo label of one image.

    Args:
        image: (H,W,3) uint8.
        labels: (C,) 0/1, the image-level label: the CRF knows background and every class of it.
        cams: {class from 0: (H,W)}.
        threshold: background score.
        settings: "voc" or "coco", see `crf.refine_labels`.

    Returns:
        Seed and pseudo label, (H,W) uint8 each.
    """
    seed = seed_mask(cams, threshold, image.shape[:2])
    values = np.concatenate([[0], np.flatnonzero(labels) + 1]).astype(np.uint8)
    compact = np.searchsorted(values, seed)
    return seed, values[refine_labels(image, compact, settings, len(values))]


def refine_image(
    image_id: str, *, dataset: Dataset, cams: Path, threshold: float, settings: str
) -> dict[str, np.ndarray]:
    """`refine_seed` of an image of a data set, from its CAM file in folder `cams` → {"image", "seed", "refined"}."""
    image = dataset.image(image_id)
    seed, label = refine_seed(image, dataset.labels(image_id), read_cams(image_id, cams), threshold, settings)
    return {"image": image, "seed": seed, "refined": label}


def refine_file(image_id: str, *, dataset: Dataset, cams: Path, threshold: float, settings: str, output: Path) -> None:
    """`refine_image` whose pseudo label goes to folder `output`; what is there stays."""
    path = output / f"{image_id}.png"
    if not path.is_file():
        made = refine_image(image_id, dataset=dataset, cams=cams, threshold=threshold, settings=settings)
        write_label_png(path, made["refined"])


def read_seed(image_id: str, *, dataset: Dataset, cams: Path, threshold: float) -> np.ndarray:
    """The seed (H,W) uint8 of an image, from its CAM file in folder `cams`; threshold: background score."""
    found = read_cams(image_id, cams)
    if not found:
        return seed_mask(found, threshold, dataset.image(image_id).shape[:2])
    return seed_mask(found, threshold)


def noisy_truth(image_id: str, *, dataset: Dataset, share: float, seed: int, regions: int = 12) -> np.ndarray:
    """An image's true mask of which about `share` of the regions got another label of the image → (H,W) uint8.

    The image falls into cells around random points, the same for every call with one seed; a flipped cell is relabelled
    as a whole: each of its pixels that has the cell's commonest label gets one other label that the image has,
    background included. Void stays.
    """
    mask = dataset.mask(image_id)
    rng = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
    height, width = mask.shape
    points = rng.uniform(size=(regions, 2)) * [height, width]
    rows, columns = np.mgrid[:height, :width]
    cells = np.argmin((rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2, -1)
    labels = np.union1d(np.unique(mask[mask != VOID]), [0])
    noisy = mask.copy()
    for cell in np.flatnonzero(rng.uniform(size=regions) < share):
        inside = (cells == cell) & (mask != VOID)
        if inside.any() and len(labels) > 1:
            common = np.bincount(mask[inside]).argmax()
            noisy[inside & (mask == common)] = rng.choice(labels[labels != common])
    return noisy


def strongest_histogram(ids: Iterable[str], cams: Path, bins: int = 1000) -> np.ndarray:
    """How many pixels have their strongest CAM in each of `bins` equal parts of 0…1 → (bins,).

    ids: of CAM files in folder `cams`; an image without a class does not count.
    """
    counts = np.zeros(bins)
    for image_id in ids:
        found = read_cams(image_id, cams)
        if found:
            _, value = strongest(found)
            counts += np.histogram(value, bins, (0, 1))[0]
    return counts


def blind_threshold(counts: np.ndarray, refined: bool) -> float:
    """A background score in 0…1 that needs no mask.

    Refined maps make two hills, background and objects: Otsu's threshold parts them. Others are one slope without a
    valley: there it is the mean.

    Args:
        counts: as from `strongest_histogram`.
        refined: whether the CAMs were carried along the patch attention.
    """
    bins = len(counts)
    share = counts / max(1, counts.sum())
    below = share.cumsum()  # of the pixels up to each bin
    moment = (share * (np.arange(bins) + 0.5) / bins).cumsum()  # their part of the mean
    mean = float(moment[-1])
    if not refined:
        return mean
    between = (mean * below - moment) ** 2 / np.maximum(below * (1 - below), 1e-9)
    return (int(between.argmax()) + 1) / bins

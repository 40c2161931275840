"""From CAMs to pseudo labels: seeds refined by the CRF on all cores, a threshold that no mask chose."""

import zlib

import numpy as np

from ..data.images import VOID, write_label_png
from ..evaluation.metrics import seed_mask, strongest
from .cams import load_cams
from .crf import refine_labels


def refine_seed(image, labels, cams, threshold, settings):
    """Seed and pseudo label of one image (METHOD, "Dense CRF").

    image (H,W,3) uint8; labels (C,) 0/1; cams {class from 0: (H,W)}; threshold: background score.
    → seed (H,W) uint8, pseudo label (H,W) uint8; the CRF knows background and every class of the image label.
    """
    seed = seed_mask(cams, threshold, image.shape[:2])
    values = np.concatenate([[0], np.flatnonzero(labels) + 1]).astype(np.uint8)
    compact = np.searchsorted(values, seed)
    return seed, values[refine_labels(image, compact, settings, len(values))]


def refine_file(image_id, *, dataset, cams, threshold, settings, output):
    """`refine_seed` on files: CAMs from folder `cams`, the pseudo label to folder `output`; what is there stays."""
    path = output / f"{image_id}.png"
    if not path.is_file():
        image, found = dataset.image(image_id), load_cams(cams / f"{image_id}.npz")
        write_label_png(path, refine_seed(image, dataset.labels(image_id), found, threshold, settings)[1])


def read_seed(image_id, *, dataset, cams, threshold):
    """The seed (H,W) uint8 of an image, from its CAM file in folder `cams`; threshold: background score."""
    found = load_cams(cams / f"{image_id}.npz")
    return seed_mask(found, threshold, None if found else dataset.image(image_id).shape[:2])


def noisy_truth(image_id, *, dataset, share, seed, regions=12):
    """An image's true mask of which about `share` of the regions got another label of the image → (H,W) uint8.

    The image falls into cells around random points, the same for every call with one seed; a flipped cell is relabelled
    as a whole: each of its pixels that has the cell's commonest label gets one other label that the image has,
    background included. Void stays.
    """
    mask, rng = dataset.mask(image_id), np.random.default_rng([seed, zlib.crc32(image_id.encode())])
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


def strongest_histogram(ids, cams, bins=1000):
    """How many pixels have their strongest CAM in each of `bins` equal parts of 0…1 → (bins,).

    ids: of CAM files in folder `cams`; an image without a class does not count.
    """
    counts = np.zeros(bins)
    for image_id in ids:
        if found := load_cams(cams / f"{image_id}.npz"):
            counts += np.histogram(strongest(found)[1], bins, (0, 1))[0]
    return counts


def blind_threshold(counts, refined):
    """A background score that needs no mask, from `strongest_histogram` → 0..1.

    Refined maps make two hills, background and objects: Otsu's threshold parts them. Others are one slope without a
    valley: there it is the mean.
    """
    bins = len(counts)
    share = counts / max(1, counts.sum())
    below, moment = share.cumsum(), (share * (np.arange(bins) + 0.5) / bins).cumsum()
    if not refined:
        return float(moment[-1])
    between = (moment[-1] * below - moment) ** 2 / np.maximum(below * (1 - below), 1e-9)
    return (int(between.argmax()) + 1) / bins

"""Statistics a reviewer accepts: bootstrap intervals over images and seeds, paired comparisons of variants.

mIoU is no mean over images: each resampled list gets its own mIoU from the pixel counts of the images drawn. Where
there are several seeds they are resampled too, so that an interval covers another sample of images and other seeds.
Compared variants are resampled together: the same images and the same seeds on both sides.
"""

from typing import NamedTuple

import numpy as np

from .metrics import iou_of_counts

RESAMPLES, AT_ONCE = 2000, 100
LEVEL = 0.95


class Estimate(NamedTuple):
    """A number with its bootstrap interval (LEVEL of the resamples lie in low…high) and what it rests on."""

    value: float
    low: float
    high: float
    seeds: int
    p: float = np.nan  # two-sided: how easily chance alone gives a difference on the other side of zero


def draws(images, seeds, resamples=RESAMPLES, random_state=0):
    """How often each image is drawn, (R,n), and which seeds, (R,S); one seed is always itself."""
    rng = np.random.default_rng(random_state)
    times = rng.multinomial(images, np.full(images, 1 / images), resamples)
    return times.astype(np.int32), rng.integers(0, seeds, (resamples, seeds))


def resampled_miou(counts_by_seed, times, chosen):
    """Mean mIoU (%) over the chosen seeds in every resample → (R,). counts_by_seed: (S,n,3,K), see `pixel_counts`."""
    seeds, images, _, classes = counts_by_seed.shape
    flat, mious = counts_by_seed.reshape(seeds, images, -1).astype(np.float64), []
    for first in range(0, len(times), AT_ONCE):  # all of COCO14's draws as float64 would be gigabytes
        block = times[first : first + AT_ONCE].astype(np.float64)
        mious.append(100 * np.nanmean(iou_of_counts((block @ flat).reshape(seeds, len(block), 3, classes)), -1))
    return np.take_along_axis(np.concatenate(mious, 1), chosen.T, 0).mean(0)


def miou(counts_by_seed):
    """mIoU (%) of each seed's list → (S,)."""
    return 100 * np.nanmean(iou_of_counts(counts_by_seed.astype(np.int64).sum(1)), -1)


def estimate(counts_by_seed):
    """Mean mIoU over seeds with its interval → Estimate. counts_by_seed: (S,n,3,K), one list, the same images."""
    counts = np.asarray(counts_by_seed)
    samples = resampled_miou(counts, *draws(counts.shape[1], len(counts)))
    return Estimate(float(miou(counts).mean()), *_interval(samples), len(counts))


def difference(counts_by_seed, baseline_by_seed):
    """Mean mIoU minus that of a baseline on the same images and seeds, with its interval and p → Estimate."""
    counts, baseline = np.asarray(counts_by_seed), np.asarray(baseline_by_seed)
    if counts.shape != baseline.shape:
        raise ValueError(f"counts {counts.shape} and baseline {baseline.shape} are not of the same seeds and images")
    times, chosen = draws(counts.shape[1], len(counts))
    samples = resampled_miou(counts, times, chosen) - resampled_miou(baseline, times, chosen)
    below, above = (samples <= 0).sum(), (samples >= 0).sum()
    p = min(1.0, 2 * (min(below, above) + 1) / (len(samples) + 1))
    value = float((miou(counts) - miou(baseline)).mean())
    return Estimate(value, *_interval(samples), len(counts), p)


def _interval(samples):
    edge = (1 - LEVEL) / 2
    return tuple(float(x) for x in np.quantile(samples, [edge, 1 - edge]))

"""Bootstrap intervals and paired comparisons over images and seeds.

The mIoU of a list is not a mean over its images: each resampled list gets its own mIoU from the pixel counts of the
images drawn. Where there are several random seeds they are resampled too, so that an interval covers another sample of
images and other seeds. Compared variants are resampled together: the same images and the same seeds on both sides.

Counts are the per-image `metrics.pixel_counts` of one list: (S,n,3,K) for S seeds, n images and K classes.
"""

from typing import NamedTuple

import numpy as np

from .metrics import iou_of_counts

RESAMPLES = 2000
AT_ONCE = 100  # resamples; the draws of all of them for COCO14, as float64, would be gigabytes
LEVEL = 0.95


class Estimate(NamedTuple):
    """A number with its bootstrap interval and what it rests on."""

    value: float
    low: float  # LEVEL of the resamples are in low…high
    high: float
    seeds: int
    p: float = np.nan  # of a difference, two-sided: how easily chance alone puts it on the other side of zero


def draws(images: int, seeds: int, resamples: int = RESAMPLES, random_state: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn, with replacement, for each of R resamples of n images and S seeds.

    Returns:
        How often each image is drawn (R,n) int32, and which seeds are (R,S); one seed is always itself.
    """
    rng = np.random.default_rng(random_state)
    times_RN = np.empty((resamples, images), np.int32)
    for first in range(0, resamples, AT_ONCE):
        block = times_RN[first : first + AT_ONCE]
        block[:] = rng.multinomial(images, np.full(images, 1 / images), len(block))
    seeds_RS = rng.integers(0, seeds, (resamples, seeds))
    return times_RN, seeds_RS


def resampled_miou(counts_by_seed: np.ndarray, times: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mIoU of every resample, as the mean over its seeds.

    Args:
        counts_by_seed: (S,n,3,K).
        times: how often each image was drawn (R,n), from `draws`.
        chosen: which seeds were (R,S), from `draws`.

    Returns:
        (R,) in percent.
    """
    seeds, images, _, classes = counts_by_seed.shape
    flat = counts_by_seed.reshape(seeds, images, -1).astype(np.float64)
    blocks = []
    for first in range(0, len(times), AT_ONCE):
        times_RN = times[first : first + AT_ONCE].astype(np.float64)
        drawn = (times_RN @ flat).reshape(seeds, len(times_RN), 3, classes)
        blocks.append(100 * np.nanmean(iou_of_counts(drawn), -1))
    miou_SR = np.concatenate(blocks, 1)
    return np.take_along_axis(miou_SR, chosen.T, 0).mean(0)


def miou(counts_by_seed: np.ndarray) -> np.ndarray:
    """The mIoU of each seed's list, in percent: (S,n,3,K) → (S,)."""
    return 100 * np.nanmean(iou_of_counts(counts_by_seed.astype(np.int64).sum(1)), -1)


def estimate(counts_by_seed: np.ndarray) -> Estimate:
    """Mean mIoU over seeds, in percent, with its interval; counts_by_seed: (S,n,3,K)."""
    counts = np.asarray(counts_by_seed)
    times, chosen = draws(counts.shape[1], len(counts))
    low, high = _interval(resampled_miou(counts, times, chosen))
    return Estimate(float(miou(counts).mean()), low, high, len(counts))


def difference(counts_by_seed: np.ndarray, baseline_by_seed: np.ndarray) -> Estimate:
    """Mean mIoU minus that of a baseline, in points, with its interval and p.

    Args:
        counts_by_seed: (S,n,3,K).
        baseline_by_seed: (S,n,3,K), of the same images and seeds.

    Raises:
        ValueError: The shapes differ.
    """
    counts, baseline = _of_the_same(counts_by_seed, baseline_by_seed)
    times, chosen = draws(counts.shape[1], len(counts))
    samples = resampled_miou(counts, times, chosen) - resampled_miou(baseline, times, chosen)
    not_above = (samples <= 0).sum()
    not_below = (samples >= 0).sum()
    one_sided = (min(not_above, not_below) + 1) / (len(samples) + 1)
    low, high = _interval(samples)
    return Estimate(
        value=float((miou(counts) - miou(baseline)).mean()),
        low=low,
        high=high,
        seeds=len(counts),
        p=min(1.0, 2 * one_sided),
    )


def share(counts_by_seed: np.ndarray, ceiling_by_seed: np.ndarray) -> Estimate:
    """Mean mIoU in percent of that of a ceiling, with its interval.

    Args:
        counts_by_seed: (S,n,3,K).
        ceiling_by_seed: (S,n,3,K), of the same images and seeds.

    Raises:
        ValueError: The shapes differ.
    """
    counts, ceiling = _of_the_same(counts_by_seed, ceiling_by_seed)
    times, chosen = draws(counts.shape[1], len(counts))
    low, high = _interval(100 * resampled_miou(counts, times, chosen) / resampled_miou(ceiling, times, chosen))
    return Estimate(float(100 * miou(counts).mean() / miou(ceiling).mean()), low, high, len(counts))


def _of_the_same(counts_by_seed: np.ndarray, baseline_by_seed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays. Raises ValueError where they cannot be of the same seeds and images."""
    counts = np.asarray(counts_by_seed)
    baseline = np.asarray(baseline_by_seed)
    if counts.shape != baseline.shape:
        raise ValueError(f"counts {counts.shape} and baseline {baseline.shape} are not of the same seeds and images")
    return counts, baseline


def _interval(samples: np.ndarray) -> tuple[float, float]:
    """The middle LEVEL of the samples."""
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(samples, [edge, 1 - edge])
    return float(low), float(high)

"""Bootstrap statistics against loops and against cases whose answer is known."""

import numpy as np
import pytest

from weaktr.evaluation import intervals
from weaktr.evaluation.metrics import confusion_matrix, mean_iou, pixel_counts
from weaktr.plots import captions


def lists(seeds, images=30, classes=3, error=0.2, start=0):
    """Random truth and predictions: confusion matrices (S,n,K,K), the same truth for every seed."""
    truth = np.random.default_rng(7).integers(0, classes, (images, 40))
    found = []
    for seed in range(start, start + seeds):
        rng = np.random.default_rng([seed, int(1000 * error)])
        guess = np.where(rng.random(truth.shape) < error, rng.integers(0, classes, truth.shape), truth)
        found.append([confusion_matrix(a, b, classes) for a, b in zip(guess, truth)])
    return np.array(found)


def test_draws_are_the_same_in_blocks_of_any_size(monkeypatch):
    times, chosen = intervals.draws(6, 2, resamples=5, random_state=3)
    monkeypatch.setattr(intervals, "AT_ONCE", 2)
    for whole, in_blocks in zip((times, chosen), intervals.draws(6, 2, resamples=5, random_state=3), strict=True):
        assert np.array_equal(whole, in_blocks)


def test_resampled_miou_against_a_loop():
    matrices = lists(seeds=2, images=6)
    times, chosen = intervals.draws(6, 2, resamples=5, random_state=3)
    assert times.shape == (5, 6) and (times.sum(1) == 6).all() and chosen.shape == (5, 2)
    found = intervals.resampled_miou(pixel_counts(matrices), times, chosen)
    for row in range(5):
        expected = []
        for seed in chosen[row]:
            total = sum(times[row, i] * matrices[seed, i] for i in range(6))
            expected.append(mean_iou(total))
        assert found[row] == pytest.approx(np.mean(expected))


def test_estimate_is_the_mean_over_seeds_inside_its_interval():
    matrices = lists(seeds=3)
    found = intervals.estimate(pixel_counts(matrices))
    assert found.value == pytest.approx(np.mean([mean_iou(m.sum(0)) for m in matrices]))
    assert found.low < found.value < found.high and found.seeds == 3
    assert intervals.estimate(pixel_counts(matrices)) == found, "the same numbers twice"


def test_interval_narrows_with_images():
    wide = intervals.estimate(pixel_counts(lists(seeds=1, images=20)))
    narrow = intervals.estimate(pixel_counts(lists(seeds=1, images=500)))
    assert narrow.high - narrow.low < 0.4 * (wide.high - wide.low)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """100 experiments of known mIoU: the 95 % interval holds it in nearly all of them, not in all by being too wide."""
    rng, truth = np.random.default_rng(0), np.tile([0, 1], 30)
    population = np.array([confusion_matrix(np.where(rng.random(60) < e, 1 - truth, truth), truth, 2)
                           for e in rng.uniform(0, 0.6, 4000)])  # fmt: skip
    known = mean_iou(population.sum(0))
    inside = 0
    for _ in range(100):
        drawn = pixel_counts(population[rng.integers(0, 4000, 40)])[None]
        low, high = intervals.estimate(drawn)[1:3]
        inside += low <= known <= high
    assert 85 <= inside <= 99


def test_difference_tells_better_from_worse_from_nothing():
    good, bad = (pixel_counts(lists(seeds=3, error=e)) for e in (0.1, 0.3))
    better, worse = intervals.difference(good, bad), intervals.difference(bad, good)
    assert better.low > 0 and better.p < 0.01 and worse.high < 0
    assert better.value == pytest.approx(-worse.value)
    assert "better than" in captions.verdict(better, "a", "b")
    assert "worse than" in captions.verdict(worse, "a", "b")
    same = intervals.difference(pixel_counts(lists(seeds=3)), pixel_counts(lists(seeds=3, start=3)))
    assert same.low < 0 < same.high and same.p > 0.05
    assert "no difference" in captions.verdict(same, "a", "b") and "3 random seeds" in captions.verdict(same, "a", "b")


def test_pairing_cancels_what_both_share():
    """Variants that differ by little on images that differ by much: the paired interval is far narrower."""
    matrices = lists(seeds=1, images=60)
    changed = matrices.copy()
    changed[:, ::3, 0, 0] += changed[:, ::3, 0, 1]  # some pixels of class 0 are put right in every third image
    changed[:, ::3, 0, 1] = 0
    paired = intervals.difference(pixel_counts(changed), pixel_counts(matrices))
    alone = intervals.estimate(pixel_counts(matrices))
    assert paired.low > 0 and paired.high - paired.low < alone.high - alone.low


def test_only_the_same_images_and_seeds_are_compared():
    with pytest.raises(ValueError, match=r"\(1, 20.*\(1, 30"):
        intervals.difference(pixel_counts(lists(1, images=20)), pixel_counts(lists(1)))
    with pytest.raises(ValueError, match=r"\(1, 20.*\(1, 30"):
        intervals.share(pixel_counts(lists(1, images=20)), pixel_counts(lists(1)))


def test_share_of_a_ceiling_is_drawn_with_the_ceiling():
    """Both from the same images, so that a list is a hundred percent of itself, whatever is drawn."""
    own, ceiling = lists(seeds=2, error=0.3), lists(seeds=2, error=0.1)
    found = intervals.share(pixel_counts(own), pixel_counts(ceiling))
    expected = [np.mean([mean_iou(m.sum(0)) for m in matrices]) for matrices in (own, ceiling)]
    assert found.value == pytest.approx(100 * expected[0] / expected[1]) and found.low < found.value < found.high
    times, chosen = intervals.draws(30, 2)
    samples = []
    for row in range(len(times)):
        drawn = [
            np.mean([mean_iou(np.tensordot(times[row], matrices[seed], 1)) for seed in chosen[row]])
            for matrices in (own, ceiling)
        ]
        samples.append(100 * drawn[0] / drawn[1])
    assert [found.low, found.high] == pytest.approx(np.quantile(samples, [0.025, 0.975]))
    assert intervals.share(pixel_counts(own), pixel_counts(own))[:3] == pytest.approx((100, 100, 100))

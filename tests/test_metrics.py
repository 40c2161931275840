"""Confusion matrix, IoU, seeds and the threshold curve against pixel loops and against the released code."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion

from weaktr.evaluation.metrics import confusion_matrix, iou, mean_iou, seed_mask, threshold_curve, thresholds_below

PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)


def random_samples(seed, count=3, classes=4, levels=8):
    """CAMs whose values, like the thresholds, are multiples of 1/levels, so that ties do happen."""
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        shape = tuple(generator.integers(3, 8, 2))
        present = generator.choice(classes, generator.integers(0, classes), replace=False)
        cams = {int(c): (generator.integers(0, levels + 1, shape) / levels).astype(np.float32) for c in present}
        truth = generator.choice([*range(classes + 1), 255], shape).astype(np.uint8)
        samples.append((cams, truth))
    return samples


def test_confusion_and_iou_agree_with_loops_and_sklearn():
    generator = np.random.default_rng(0)
    prediction = generator.integers(0, 4, (9, 11)).astype(np.uint8)
    truth = generator.choice([0, 1, 2, 255], (9, 11)).astype(np.uint8)
    matrix = confusion_matrix(prediction, truth, 6)
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix, naive.confusion_matrix(prediction, truth, 6))
    valid = truth != 255
    assert np.array_equal(matrix, sklearn_confusion(truth[valid], prediction[valid], labels=range(6)))
    assert np.allclose(iou(matrix), naive.iou(matrix), equal_nan=True)
    assert np.isnan(iou(matrix)).tolist() == [False] * 4 + [True] * 2
    assert mean_iou(matrix) == pytest.approx(100 * np.nanmean(naive.iou(matrix)))


def test_another_ignore_label_and_only_void_pixels():
    prediction, truth = np.array([[0, 1], [1, 1]]), np.array([[0, 3], [1, 0]])
    assert confusion_matrix(prediction, truth, 2, ignore=3).tolist() == [[1, 1], [0, 1]]
    assert confusion_matrix(prediction, np.full((2, 2), 255), 2).tolist() == [[0, 0], [0, 0]]
    assert np.isnan(iou(np.zeros((2, 2)))).all()


def test_void_prediction_is_allowed_only_where_the_truth_is_void():
    truth = np.array([[0, 255]])
    assert confusion_matrix(np.array([[0, 255]]), truth, 2).tolist() == [[1, 0], [0, 0]]
    with pytest.raises(ValueError, match="255"):
        confusion_matrix(np.array([[255, 0]]), truth, 2)


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.43, 1.0])
def test_seeds_agree_with_loops(threshold):
    for cams, truth in random_samples(1, count=8):
        mask = seed_mask(cams, threshold, truth.shape)
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, naive.seed_mask(cams, threshold, truth.shape))


def test_seed_is_strictly_above_the_threshold_and_ties_go_to_the_first_class():
    half = np.full((1, 1), 0.5, np.float32)
    assert seed_mask({3: half}, 0.5, (1, 1)).item() == 0
    assert seed_mask({3: half}, 0.49, (1, 1)).item() == 4
    assert seed_mask({7: half, 2: half}, 0.49, (1, 1)).item() == 3
    assert seed_mask({}, 0.0, (2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


@PROPERTY
@given(st.integers(0, 9999), st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_curve_is_every_threshold_recomputed(seed, levels):
    samples, thresholds = random_samples(seed), [level / 8 for level in levels]  # any order, repeats allowed
    curve = threshold_curve(iter(samples), 5, thresholds)
    expected = naive.threshold_curve(samples, 5, thresholds)
    assert len(curve) == len(thresholds) and np.allclose(curve["threshold"], thresholds)
    for row, (per_class, mean) in enumerate(expected):
        assert np.allclose(curve[list(range(5))].to_numpy(float)[row], per_class, equal_nan=True)
        assert curve["miou"][row] == pytest.approx(mean)


@PROPERTY
@given(st.integers(0, 9999), st.integers(1, 300))
def test_thresholds_are_counted_as_searchsorted_counts_them(seed, count):
    """Values on, just above and just below thresholds, also outside 0…1, thresholds crowded and repeated."""
    generator = np.random.default_rng(seed)
    crowded = 0.5 + generator.normal(0, 1e-6, count)
    thresholds = np.sort(np.concatenate([generator.uniform(-0.2, 1.2, count), crowded, [0, 1, 1]]).astype(np.float32))
    near = [np.nextafter(thresholds, np.float32(end)) for end in (-9, 9)]
    values = np.concatenate([thresholds, *near, generator.random(99, np.float32)])
    assert np.array_equal(thresholds_below(values, thresholds), np.searchsorted(thresholds, values))


def test_curve_names_its_thresholds_as_they_were_given():
    assert threshold_curve(random_samples(0), 5, [0.43, 0.1])["threshold"].tolist() == [0.43, 0.1]


def test_curve_agrees_with_released_code(shared):
    golden = np.load(shared / "goldens" / "threshold_curve_voc.npz")
    ids = [key[3:] for key in golden.files if key.startswith("gt/")]
    cams = {name: {} for name in ids}
    for key in golden.files:
        if key.startswith("cam/"):
            _, name, c = key.split("/")
            cams[name][int(c)] = golden[key]
    count = int(golden["num_classes_with_background"])
    curve = threshold_curve(((cams[name], golden[f"gt/{name}"]) for name in ids), count, golden["thresholds"])
    assert np.allclose(curve["threshold"], golden["thresholds"])
    assert np.abs(curve["miou"] - golden["miou_percent"]).max() < 1e-3
    found = curve[list(range(count))].to_numpy(float)
    assert np.array_equal(np.isnan(found), np.isnan(golden["iou_percent"]))
    assert np.nanmax(np.abs(found - golden["iou_percent"])) < 1e-3
    others = curve[["false_positive", "false_negative", "precision", "recall"]].to_numpy(float)
    assert np.abs(others - golden["fp_fn_precision_recall_percent"]).max() < 1e-3


@pytest.mark.parametrize(
    ("prediction", "truth", "named"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"\(2, 3\).*\(3, 2\)"),
        (np.full((1, 1), 4), np.zeros((1, 1), int), "4"),
        (np.zeros((1, 1), int), np.full((1, 1), 4), "4"),
        (np.zeros((1, 1), int), np.full((1, 1), -1), "-1"),
    ],
)
def test_bad_masks_are_refused_by_value(prediction, truth, named):
    with pytest.raises(ValueError, match=named):
        confusion_matrix(prediction, truth, 4)


@pytest.mark.parametrize(
    ("cams", "truth", "named"),
    [
        ({0: np.ones((2, 2))}, np.zeros((2, 3), np.uint8), r"\(2, 2\).*\(2, 3\)"),
        ({3: np.ones((1, 1))}, np.zeros((1, 1), np.uint8), "3"),
        ({0: np.ones((1, 1))}, np.full((1, 1), 4, np.uint8), "4"),
    ],
)
def test_bad_samples_of_the_curve_are_refused_by_value(cams, truth, named):
    with pytest.raises(ValueError, match=named):
        threshold_curve([(cams, truth)], 4, [0.5])

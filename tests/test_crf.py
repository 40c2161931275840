"""Dense CRF: unaries and settings against a plain use of pydensecrf, labels against the released code."""

import naive
import numpy as np
import pydensecrf.densecrf as densecrf
import pytest

from weaktr.errors import ParameterError
from weaktr.method.crf import refine_labels, refine_probabilities

# The table of docs/method.md, "Dense CRF": Gaussian sxy, compat; bilateral sxy, srgb, compat
LABELS = {"voc": (4, 3, 83, 5, 3), "coco": (3, 3, 50, 5, 10)}
PREDICTIONS = {"voc": (3, 3, 83, 5, 3), "coco": (1, 3, 67, 3, 4)}


def infer(image, unary, numbers):
    """Ten iterations of pydensecrf: (K, H*W)."""
    height, width = image.shape[:2]
    gaussian_sxy, gaussian_compat, sxy, srgb, compat = numbers
    field = densecrf.DenseCRF2D(width, height, len(unary))
    field.setUnaryEnergy(unary)
    field.addPairwiseGaussian(
        sxy=gaussian_sxy,
        compat=gaussian_compat,
        kernel=densecrf.DIAG_KERNEL,
        normalization=densecrf.NORMALIZE_SYMMETRIC,
    )
    field.addPairwiseBilateral(
        sxy=sxy,
        srgb=srgb,
        rgbim=image,
        compat=compat,
        kernel=densecrf.DIAG_KERNEL,
        normalization=densecrf.NORMALIZE_SYMMETRIC,
    )
    return np.array(field.inference(10))


def scene(seed=0, shape=(20, 27)):
    """A noisy image of two colours, its labels 0/1 with some pixels wrong."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    labels[5:14, 6:20] = 1
    image = np.where(labels[..., None] == 1, (200, 60, 40), (40, 90, 180)) + generator.integers(-12, 12, (*shape, 3))
    noisy = np.where(generator.random(shape) < 0.1, 1 - labels, labels).astype(np.uint8)
    return np.ascontiguousarray(image.astype(np.uint8)), noisy, labels


def random_probabilities(labels, classes, seed=0):
    generator = np.random.default_rng(seed)
    scores = generator.random((classes, *labels.shape)).astype(np.float32)
    for k in range(classes):
        scores[k] += labels == k
    return scores / scores.sum(0)


@pytest.mark.parametrize("settings", ["voc", "coco"])
@pytest.mark.parametrize("n_labels", [2, 4])
def test_labels_agree_with_the_plain_use(settings, n_labels):
    image, noisy, clean = scene()
    expected = infer(image, naive.label_unary(noisy, n_labels), LABELS[settings]).argmax(0).reshape(noisy.shape)
    refined = refine_labels(image, noisy, settings, n_labels)
    assert np.array_equal(refined, expected)
    assert refined.dtype == noisy.dtype
    assert (refined == clean).mean() > (noisy == clean).mean()


@pytest.mark.parametrize("settings", ["voc", "coco"])
def test_probabilities_agree_with_the_plain_use(settings):
    image, noisy, _ = scene()
    probabilities = random_probabilities(noisy, 4)
    probabilities[2] = 1e-7  # wins nowhere, and would be clipped
    probabilities[0][noisy == 1] = 0  # a winner with pixels under the clipping value
    winners, unary = naive.softmax_unary(probabilities)
    assert winners == [0, 1] or winners == [0, 1, 3]
    refined = refine_probabilities(image, probabilities, settings)
    assert refined.shape == probabilities.shape
    assert np.allclose(
        refined[winners].reshape(len(winners), -1), infer(image, unary, PREDICTIONS[settings]), atol=1e-5
    )
    absent = [k for k in range(4) if k not in winners]
    assert 2 in absent and not refined[absent].any()
    assert np.allclose(refined.sum(0), 1, atol=1e-4)


def test_number_of_labels_counts_classes_without_a_pixel():
    image, noisy, _ = scene()
    assert np.array_equal(refine_labels(image, noisy), refine_labels(image, noisy, "voc", 2))
    unaries = [naive.label_unary(noisy, n) for n in (2, 4)]
    assert unaries[0].min() == unaries[1].min() and unaries[0].max() < unaries[1].max()


def test_one_label_comes_back_unchanged():
    image, noisy, _ = scene()
    empty = np.zeros_like(noisy)
    refined = refine_labels(image, empty, "voc", 1)
    assert np.array_equal(refined, empty) and refined is not empty


def test_a_single_winner_takes_every_pixel():
    image, noisy, _ = scene()
    probabilities = np.stack([np.full(noisy.shape, 0.9), np.full(noisy.shape, 0.1)]).astype(np.float32)
    refined = refine_probabilities(image, probabilities)
    assert np.allclose(refined[0], 1) and not refined[1].any()


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("settings", ["voc", "coco"])
def test_agrees_with_released_code(shared, case, settings):
    golden = np.load(shared / "goldens" / "crf.npz")
    image, labels, n_labels = golden[f"image/{case}"], golden[f"labels/{case}"], int(golden[f"n_labels/{case}"])
    refined = refine_labels(image, labels, settings, n_labels)
    assert (refined == golden[f"label_{settings}/{case}"]).mean() >= 0.995
    refined = refine_probabilities(image, golden[f"probs/{case}"], settings)
    assert (refined.argmax(0) == golden[f"probs_{settings}/{case}"]).mean() >= 0.995


# ---------------------------------------------------------------- bad input


def test_unknown_settings_are_refused_with_the_choices():
    image, noisy, _ = scene()
    with pytest.raises(ParameterError, match=r"'cityscapes'.*voc, coco"):
        refine_labels(image, noisy, "cityscapes")
    with pytest.raises(ParameterError, match=r"'cityscapes'.*voc, coco"):
        refine_probabilities(image, random_probabilities(noisy, 2), "cityscapes")


def test_labels_outside_the_classes_are_refused_by_value():
    image, noisy, _ = scene()
    with pytest.raises(ValueError, match=r"1.*0…0"):
        refine_labels(image, noisy, "voc", 1)
    noisy[3, 4] = 255
    with pytest.raises(ValueError, match="255"):
        refine_labels(image, noisy, "voc", 2)
    signed = np.zeros(noisy.shape, np.int64)
    signed[3, 4] = -1
    with pytest.raises(ValueError, match="-1"):
        refine_labels(image, signed, "voc", 2)


@pytest.mark.parametrize("cut", [np.s_[:-1], np.s_[:, 1:], np.s_[..., 0]])
def test_image_of_another_size_is_refused(cut):
    image, noisy, _ = scene()
    with pytest.raises(ValueError, match=r"\(20, 27\)"):
        refine_labels(image[cut], noisy)
    with pytest.raises(ValueError, match=r"\(20, 27\)"):
        refine_probabilities(image[cut], random_probabilities(noisy, 2))


def test_image_of_another_type_is_refused():
    image, noisy, _ = scene()
    with pytest.raises(ValueError, match="float64"):
        refine_labels(image / 255, noisy)

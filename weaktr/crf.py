"""Fully connected CRF (Krähenbühl & Koltun 2011) with the settings of the published runs, on pydensecrf."""

from dataclasses import dataclass

import numpy as np
import pydensecrf.densecrf as densecrf

from .errors import ParameterError

ITERATIONS = 10
GT_PROBABILITY = 0.7


@dataclass(frozen=True)
class Kernel:
    """Gaussian (position) and bilateral (position and colour) potentials: standard deviations in pixels and levels."""

    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float


LABEL_SETTINGS = {"voc": Kernel(4, 3, 83, 5, 3), "coco": Kernel(3, 3, 50, 5, 10)}
PREDICTION_SETTINGS = {"voc": Kernel(3, 3, 83, 5, 3), "coco": Kernel(1, 3, 67, 3, 4)}


def refine_labels(image, labels, settings="voc", n_labels=None):
    """Refine a seed to a pseudo label (METHOD, "Dense CRF").

    image (H,W,3) uint8 RGB; labels (H,W) integers 0…n_labels−1, where n_labels counts background and the classes of
    the image-level label, also those without a pixel (None: 1 + the largest). settings: "voc" or "coco".
    → (H,W) of labels' type. With one label the mask comes back unchanged.
    """
    labels = np.asarray(labels)
    n_labels = n_labels or int(labels.max()) + 1
    if labels.min() < 0 or labels.max() >= n_labels:
        raise ValueError(f"labels hold {labels.min()}…{labels.max()}, outside 0…{n_labels - 1}")
    kernel = _kernel(LABEL_SETTINGS, settings, image, labels.shape)
    if n_labels == 1:
        return labels.copy()
    unary = np.full((n_labels, labels.size), -np.log((1 - GT_PROBABILITY) / (n_labels - 1)), np.float32)
    unary[labels.ravel(), np.arange(labels.size)] = -np.log(GT_PROBABILITY)
    return _infer(image, unary, kernel).argmax(0).reshape(labels.shape).astype(labels.dtype)


def refine_probabilities(image, probabilities, settings="voc"):
    """Refine softmax scores (K,H,W) of a prediction → (K,H,W) float32; classes that win nowhere come back as 0."""
    probabilities = np.asarray(probabilities, np.float32)
    kernel = _kernel(PREDICTION_SETTINGS, settings, image, probabilities.shape[1:])
    winners = np.unique(probabilities.argmax(0))
    refined = np.zeros_like(probabilities)
    unary = -np.log(np.clip(probabilities[winners], 1e-5, 1)).reshape(len(winners), -1)
    refined[winners] = _infer(image, unary, kernel).reshape(len(winners), *probabilities.shape[1:])
    return refined


def refine_to_mask(image, probabilities, settings="voc"):
    """`refine_probabilities`, then the winning class → mask (H,W) uint8."""
    return refine_probabilities(image, probabilities, settings).argmax(0).astype(np.uint8)


def _kernel(table, settings, image, shape):
    if settings not in table:
        raise ParameterError(f"CRF settings {settings!r} are unknown; one of {', '.join(table)}")
    if image.dtype != np.uint8 or image.shape != (*shape, 3):
        raise ValueError(f"image {image.dtype} {image.shape} does not fit labels of {shape}; uint8 (H,W,3) is needed")
    return table[settings]


def _infer(image, unary, kernel):
    field = densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(unary))
    field.setUnaryEnergy(np.ascontiguousarray(unary))
    field.addPairwiseGaussian(sxy=kernel.gaussian_sxy, compat=kernel.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=kernel.bilateral_sxy,
        srgb=kernel.bilateral_srgb,
        rgbim=np.ascontiguousarray(image),
        compat=kernel.bilateral_compat,
    )
    return np.asarray(field.inference(ITERATIONS), np.float32)

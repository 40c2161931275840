"""Fully connected CRF (Krähenbühl & Koltun 2011) with the settings of the published runs, on pydensecrf."""

import numpy as np
import pydensecrf.densecrf as densecrf

from ..data.images import write_label_png
from ..errors import ParameterError

ITERATIONS = 10
GT_PROBABILITY = 0.7


# Gaussian potential (position), bilateral potential (position and colour): standard deviations in pixels and levels
LABEL_SETTINGS = {
    "voc": ({"sxy": 4, "compat": 3}, {"sxy": 83, "srgb": 5, "compat": 3}),
    "coco": ({"sxy": 3, "compat": 3}, {"sxy": 50, "srgb": 5, "compat": 10}),
}
PREDICTION_SETTINGS = {
    "voc": ({"sxy": 3, "compat": 3}, {"sxy": 83, "srgb": 5, "compat": 3}),
    "coco": ({"sxy": 1, "compat": 3}, {"sxy": 67, "srgb": 3, "compat": 4}),
}


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


def refine_to_file(path, image, probabilities, classes, settings):
    """`refine_probabilities` of the scores of some `classes` (k,), then the winning class → the mask at `path`."""
    write_label_png(path, classes[refine_probabilities(image, probabilities, settings).argmax(0)])


def _kernel(table, settings, image, shape):
    if settings not in table:
        raise ParameterError(f"CRF settings {settings!r} are unknown; one of {', '.join(table)}")
    if image.dtype != np.uint8 or image.shape != (*shape, 3):
        raise ValueError(f"image {image.dtype} {image.shape} does not fit labels of {shape}; uint8 (H,W,3) is needed")
    return table[settings]


def _infer(image, unary, kernel):
    field = densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(unary))
    field.setUnaryEnergy(np.ascontiguousarray(unary))
    gaussian, bilateral = kernel
    field.addPairwiseGaussian(**gaussian)
    field.addPairwiseBilateral(**bilateral, rgbim=np.ascontiguousarray(image))
    return np.asarray(field.inference(ITERATIONS), np.float32)

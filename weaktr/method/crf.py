"""Fully connected CRF (Krähenbühl & Koltun 2011) with the settings of the published runs, on pydensecrf.

docs/method.md, "Dense CRF". Processes that refine masks import this file, so it does not import torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydensecrf.densecrf as densecrf

from ..data.images import write_label_png
from ..errors import ParameterError

ITERATIONS = 10
GT_PROBABILITY = 0.7  # that a pixel of a seed has the right label
LEAST_PROBABILITY = 1e-5  # of a prediction

Kernel = tuple[Mapping[str, float], Mapping[str, float]]
# Gaussian potential (position), bilateral potential (position and colour): standard deviations in pixels and levels
LABEL_SETTINGS: dict[str, Kernel] = {
    "voc": ({"sxy": 4, "compat": 3}, {"sxy": 83, "srgb": 5, "compat": 3}),
    "coco": ({"sxy": 3, "compat": 3}, {"sxy": 50, "srgb": 5, "compat": 10}),
}
PREDICTION_SETTINGS: dict[str, Kernel] = {
    "voc": ({"sxy": 3, "compat": 3}, {"sxy": 83, "srgb": 5, "compat": 3}),
    "coco": ({"sxy": 1, "compat": 3}, {"sxy": 67, "srgb": 3, "compat": 4}),
}


def refine_labels(
    image: np.ndarray, labels: np.ndarray, settings: str = "voc", n_labels: int | None = None
) -> np.ndarray:
    """Refine a seed to a pseudo label.

    Args:
        image: (H,W,3) uint8 RGB.
        labels: (H,W) integers 0…n_labels−1.
        settings: "voc" or "coco".
        n_labels: counts background and the classes of the image-level label, also those without a pixel; None is
            1 + the largest label.

    Returns:
        (H,W) of labels' type. With one label the mask comes back unchanged.
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


def refine_probabilities(image: np.ndarray, probabilities: np.ndarray, settings: str = "voc") -> np.ndarray:
    """Refine the scores of a prediction.

    Args:
        image: (H,W,3) uint8 RGB.
        probabilities: (K,H,W) scores, cut to 1e-5…1; they need not add up to 1.
        settings: "voc" or "coco".

    Returns:
        (K,H,W) float32 probabilities; classes that win nowhere come back as 0.
    """
    probabilities = np.asarray(probabilities, np.float32)
    kernel = _kernel(PREDICTION_SETTINGS, settings, image, probabilities.shape[1:])
    winners = np.unique(probabilities.argmax(0))
    unary = -np.log(np.clip(probabilities[winners], LEAST_PROBABILITY, 1)).reshape(len(winners), -1)
    refined = np.zeros_like(probabilities)
    refined[winners] = _infer(image, unary, kernel).reshape(len(winners), *probabilities.shape[1:])
    return refined


def refine_to_file(
    path: Path,
    image: np.ndarray,
    probabilities: np.ndarray,
    classes: np.ndarray,
    settings: str,
    note: Mapping[str, Any] | None = None,
) -> None:
    """`refine_probabilities` of the scores of some `classes` (k,), then the winning class → the mask at `path`."""
    write_label_png(path, classes[refine_probabilities(image, probabilities, settings).argmax(0)], note)


def _kernel(table: dict[str, Kernel], settings: str, image: np.ndarray, shape: tuple[int, ...]) -> Kernel:
    """The potentials of named settings, for an image that fits a mask of this shape."""
    if settings not in table:
        raise ParameterError(f"CRF settings {settings!r} are unknown; one of {', '.join(table)}")
    if image.dtype != np.uint8 or image.shape != (*shape, 3):
        raise ValueError(f"image {image.dtype} {image.shape} does not fit labels of {shape}; uint8 (H,W,3) is needed")
    return table[settings]


def _infer(image: np.ndarray, unary: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Mean field inference; unary (K,H·W) → probabilities (K,H·W) float32."""
    field = densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(unary))
    field.setUnaryEnergy(np.ascontiguousarray(unary))
    gaussian, bilateral = kernel
    field.addPairwiseGaussian(**gaussian)
    field.addPairwiseBilateral(**bilateral, rgbim=np.ascontiguousarray(image))
    return np.asarray(field.inference(ITERATIONS), np.float32)

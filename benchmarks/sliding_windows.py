"""What do shared batches of windows gain in multi-scale evaluation? Against one window at a time, the released way.

    .venv/bin/python benchmarks/sliding_windows.py

Photographs: DeiT-S/16 with windows of 480 pixels (one of the six published scales), a forward pass of which alone fills
two cores, and the small backbone with windows of 96. Demo: the small backbone on an image of the embedded data set, as
its notebooks evaluate it. "As shipped" is what `inference` chooses on this device. Probabilities that differ by more
than 1e-5 end the benchmark. Random weights: the time does not depend on them.
"""

from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from side_by_side import measure

from weaktr.device import allow_tf32, pick_device
from weaktr.method import segmentation
from weaktr.models.segmenter import create_segmenter

SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
CASES = {  # backbone, image (H,W), classes, window, stride, base_size, scales
    "photograph_480": ("deit_small_patch16_224", (375, 500), 21, 480, 320, 520, (1.0,)),
    "photograph_96": ("weaktr_tiny_patch8_96", (375, 500), 21, 96, 64, 104, SIX),
    "demo_96": ("weaktr_tiny_patch8_96", (112, 128), 9, 96, 64, 112, (1.0, 1.25)),
}


def at_once(count, window, function):
    """Call a function with `count` windows of `window` pixels in a batch."""
    with patch.multiple(segmentation, WINDOW_PIXELS_AT_ONCE=count * window**2, WINDOWS_AT_ONCE=count):
        return function()


def predicted(*arguments):
    """The probabilities, on the CPU: a GPU has done its work then."""
    return segmentation.predict_probabilities(*arguments).cpu()


def main():
    """One image each, every view mirrored too."""
    for name, (backbone, size, classes, window, stride, base_size, scales) in CASES.items():
        torch.manual_seed(0)
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        model = create_segmenter(backbone, classes, pretrained=False, image_size=window).to(pick_device()).eval()
        views, flips = segmentation.image_views(model, image, scales, base_size, mirror=True)
        evaluate = partial(predicted, model, views, flips, size, window, stride)
        allow_tf32(False)  # a GPU's kernels for one window and for many would round differently
        difference = (evaluate() - at_once(1, window, evaluate)).abs().max().item()
        allow_tf32(True)
        if difference > 1e-5:
            raise SystemExit(f"{name}: probabilities differ by {difference:.1e}")
        print(f"{name}: probabilities differ by {difference:.1e} at most")
        ways = {"one at a time": partial(at_once, 1, window, evaluate), "as shipped": evaluate}
        measure(ways, rounds=3, name=f"sliding_windows_{name}")


if __name__ == "__main__":
    main()

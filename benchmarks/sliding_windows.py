"""What do shared batches of windows gain in multi-scale evaluation? Against one window at a time, the released way.

    .venv/bin/python benchmarks/sliding_windows.py

DeiT-S/16 with windows of 480 pixels at two scales, and the small backbone of the demo with windows of 96 at six, both
mirrored. Random weights: the time does not depend on them.
"""

import numpy as np
import torch
from side_by_side import measure

from weaktr import inference
from weaktr.models import create_segmenter
from weaktr.train_cam import pick_device

CASES = {
    "deit_small_patch16_224": {"window": 480, "stride": 320, "base_size": 520, "scales": (0.75, 1.0)},
    "weaktr_tiny_patch8_96": {"window": 96, "stride": 64, "base_size": 104, "scales": (0.5, 0.75, 1, 1.25, 1.5, 1.75)},
}


def at_once(count, function):
    """Call a function with `count` windows in a batch."""
    usual, inference.WINDOWS_AT_ONCE = inference.WINDOWS_AT_ONCE, count
    try:
        return function()
    finally:
        inference.WINDOWS_AT_ONCE = usual


def main():
    """One image of 500×375 each, 21 classes."""
    image = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    for backbone, case in CASES.items():
        torch.manual_seed(0)
        model = create_segmenter(backbone, 21, pretrained=False, image_size=case["window"]).to(pick_device()).eval()
        views, flips = inference.image_views(model, image, case["scales"], case["base_size"], mirror=True)

        def evaluate(model=model, views=views, flips=flips, window=case["window"], stride=case["stride"]):
            return inference.predict_probabilities(model, views, flips, image.shape[:2], window, stride)

        found, expected = at_once(inference.WINDOWS_AT_ONCE, evaluate), at_once(1, evaluate)
        print(f"{backbone}: probabilities differ by {np.abs(found - expected).max():.1e} at most")
        ways = {f"{count} at a time": lambda f=evaluate, n=count: at_once(n, f) for count in (1, 4, 16)}
        measure(ways, rounds=3, name=f"sliding_windows_{backbone.split('_')[0]}_{case['window']}")


if __name__ == "__main__":
    main()

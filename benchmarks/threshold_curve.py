"""What does the threshold curve cost? A hundred thresholds in one pass against a single one, and one pass each.

    .venv/bin/python benchmarks/threshold_curve.py [images]

From CAM files to the curve, as notebook 02 does it. The single threshold is done the plain way, a seed and a confusion
matrix per image. A pass per threshold is how the released code goes about it.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.ndimage import gaussian_filter
from side_by_side import measure

from weaktr.evaluation.metrics import confusion_matrix, mean_iou, seed_mask
from weaktr.evaluation.scores import score_cams
from weaktr.method.cams import load_cams, read_cams, save_cams

CLASSES, SIZE, GRID = 20, (375, 500), (23, 31)


def main(images=20):
    """Images of 500×375 with one to three classes of 20; CAMs are smooth and half of them zero, truth is in blocks."""
    rng, ids, truth = np.random.default_rng(0), [f"{i}" for i in range(images)], {}
    hundred = np.linspace(0, 1, 100)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for image_id in ids:
            classes = rng.choice(CLASSES, rng.integers(1, 4), replace=False)
            blocks = np.kron(rng.choice([0, *(classes + 1), 255], (3, 4)), np.ones((125, 125), int))
            truth[image_id] = blocks.astype(np.uint8)
            smooth = {int(c): np.maximum(gaussian_filter(rng.normal(size=GRID), 2), 0) for c in classes}
            save_cams(folder / f"{image_id}.npz", {c: [cam.astype(np.float32)] for c, cam in smooth.items()}, SIZE)
        dataset = SimpleNamespace(classes=tuple(range(CLASSES)), mask=truth.__getitem__)

        def each(thresholds):
            for threshold in thresholds:
                seeds = ((seed_mask(load_cams(folder / f"{i}.npz"), threshold), truth[i]) for i in ids)
                mean_iou(sum(confusion_matrix(seed, mask, CLASSES + 1) for seed, mask in seeds))

        measure(
            {
                "one threshold": lambda: each([0.4]),
                "100 thresholds, one pass": lambda: score_cams(
                    dataset, ids, partial(read_cams, folder=folder), hundred
                ),
                "10 thresholds, a pass each": lambda: each(hundred[::10]),
            },
            name="threshold_curve",
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

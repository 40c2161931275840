"""What does the threshold curve cost? A hundred thresholds in one pass against a single one, and one pass each.

.venv/bin/python benchmarks/threshold_curve.py

The single threshold is done the plain way, a seed and a confusion matrix per image. A pass per threshold is how the
released code goes about it.
"""

import numpy as np
from side_by_side import measure

from weaktr.metrics import confusion_matrix, mean_iou, seed_mask, threshold_curve

IMAGES, CLASSES, SIZE = 20, 20, (375, 500)


def main():
    """20 images of 500×375 with one to three classes of 20; CAMs and truth are noise, the hardest to count."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(IMAGES):
        classes = rng.choice(CLASSES, rng.integers(1, 4), replace=False)
        truth = rng.choice([0, *(classes + 1), 255], SIZE).astype(np.uint8)
        samples.append(({int(c): rng.random(SIZE, np.float32) for c in classes}, truth))
    hundred = np.linspace(0, 1, 100)

    def each(thresholds):
        for threshold in thresholds:
            mean_iou(sum(confusion_matrix(seed_mask(cams, threshold), truth, CLASSES + 1) for cams, truth in samples))

    measure(
        {
            "one threshold": lambda: each([0.4]),
            "100 thresholds, one pass": lambda: threshold_curve(samples, CLASSES + 1, hundred),
            "10 thresholds, a pass each": lambda: each(hundred[::10]),
        },
        name="threshold_curve",
    )


if __name__ == "__main__":
    main()

"""Does the CRF use all cores? VOC-sized images through the function of notebook 03, in a plain loop and in processes.

    .venv/bin/python benchmarks/crf.py [images] [processes]

pydensecrf holds Python's lock, so that only processes help. Their start-up is part of their time.
"""

import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from weaktr.method.cams import save_cams
from weaktr.method.pseudo_labels import refine_file
from weaktr.processes import parallel

CLASSES, SIZE = 20, (375, 500)


@dataclass
class Pictures:
    """Drawn when asked for: smooth colours with a little grain, two classes an image."""

    def image(self, image_id):
        """Pixels (H,W,3) uint8."""
        rng = np.random.default_rng(int(image_id))
        colours = gaussian_filter(rng.normal(0, 1, (*SIZE, 3)), (25, 25, 0)) * 4000
        return np.clip(128 + colours + rng.normal(0, 2, (*SIZE, 3)), 0, 255).astype(np.uint8)

    def labels(self, image_id):
        """Image-level label (C,)."""
        return np.isin(np.arange(CLASSES), [int(image_id) % CLASSES, (int(image_id) + 1) % CLASSES]).astype(np.float32)

    def grids(self, image_id):
        """A smooth CAM per class of the image, as the grid of tokens that a file holds."""
        rng, grid = np.random.default_rng([int(image_id), 1]), (SIZE[0] // 16, SIZE[1] // 16)
        smooth = {int(c): gaussian_filter(rng.normal(0, 1, grid), 1.5) for c in np.flatnonzero(self.labels(image_id))}
        return {c: [cam.astype(np.float32)] for c, cam in smooth.items()}


def main(images=30, processes=2):
    """The same images in every way, their labels written to a new folder each time."""
    from side_by_side import measure  # torch: what a started process imports again should be what notebook 03 needs

    pictures, ids = Pictures(), [f"{i}" for i in range(images)]
    with tempfile.TemporaryDirectory() as folder:
        for image_id in ids:
            save_cams(Path(folder) / f"{image_id}.npz", pictures.grids(image_id), SIZE)

        def refine(every):
            with tempfile.TemporaryDirectory() as output:
                job = partial(refine_file, dataset=pictures, cams=Path(folder), threshold=0.5, settings="voc")
                every(partial(job, output=Path(output)))

        measure(
            {
                "a plain loop": lambda: refine(lambda job: [job(image_id) for image_id in ids]),
                f"{processes} processes": lambda: refine(lambda job: parallel(job, ids, processes)),
            },
            rounds=2,
            name="crf",
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Your own photograph through a finished run."""

from pathlib import Path

import numpy as np

from ..data.images import read_image
from ..device import pick_device
from ..files import run_folder as find_run
from ..method.segmentation import segment
from ..models.checkpoints import load_model


def predict(
    run_folder: str | Path, image_path: str | Path, *, crf: str = "", device: str = "auto"
) -> tuple[np.ndarray, list[str]]:
    """Segment your own photograph with a finished run.

    Args:
        run_folder: A run's folder with a finished `04_online_retraining`, relative to the working directory or to the
            repository's root, or absolute.
        image_path: Any image file that PIL reads.
        crf: The dense CRF after the network: "voc" or "coco"; "" for none.
        device: "auto", "cpu" or "cuda".

    Returns:
        mask: (H,W) uint8 in the photograph's size: 0 is background, c + 1 is class c.
        names: The classes' names, background first, so that names[mask[y, x]] is a pixel's.

    Raises:
        UserError: Where the run has no finished model, or the file is not a readable image.
    """
    folder = find_run(run_folder)
    model = load_model(folder / "04_online_retraining" / "model.safetensors", step="segmenter")
    details = model.details
    model = model.to(pick_device(device))
    image = read_image(Path(image_path))
    probabilities = segment(model, image, crf=crf, **details["inference"])  # type: ignore[arg-type]  # step 2 was asked for
    return probabilities.argmax(0).astype(np.uint8), ["background", *details["classes"]]

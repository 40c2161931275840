"""Your own photograph through a finished run."""

from pathlib import Path

import numpy as np

from ..method.segmentation import segment


def predict(run_folder, image_path, *, crf="", device="auto"):
    """Segment your own photograph with a finished run.

    run_folder: an experiment's folder with a finished `04_online_retraining`; image_path: any image file PIL reads;
    device: "auto", "cpu" or "cuda".
    → mask (H,W) uint8 (0 background, c + 1 class c), class names with background first. Raises UserError when the run
    has no finished model or the file is no readable image.
    """
    from ..data.images import read_image
    from ..device import pick_device
    from ..files import resolve
    from ..models.checkpoints import load_model

    run_folder = Path(run_folder) if Path(run_folder).exists() else resolve(run_folder)
    model = load_model(run_folder / "04_online_retraining" / "model.safetensors", step="segmenter")
    model, details = model.to(pick_device(device)), model.details
    probabilities = segment(model, read_image(Path(image_path)), crf=crf, **details["inference"])
    return probabilities.argmax(0).astype(np.uint8), ["background", *details["classes"]]

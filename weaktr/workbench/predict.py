"""A trained network of step 2 for pictures of one's own: opened from a run or a checkpoint, shown one photograph."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..data.images import read_image
from ..device import pick_device
from ..errors import UserError
from ..files import run_folder as find_run
from ..method.segmentation import segment
from ..models.checkpoints import load_model
from ..models.segmenter import Segmenter

PICKLES = (".pth", ".pt", ".ckpt")  # endings of torch's own checkpoints


@dataclass(frozen=True)
class Network:
    """A segmenter, with what its checkpoint says of how it is used."""

    model: Segmenter  # on its device
    inference: dict[str, Any]  # keywords of `segment`
    names: list[str]  # of the values in its masks, background first
    digest: str  # of the checkpoint's content


def open_network(run: str | Path, device: str = "auto") -> Network:
    """Load the segmenter of a run, or of a checkpoint.

    Args:
        run: A run's folder with a trained `04_online_retraining`, or a file that `save_model` wrote; relative to the
            working directory or to the repository's root, or absolute.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: There is no such file, or it holds no segmenter of weaktr that knows its inference.
    """
    path = find_run(run)
    if not path.exists():
        raise UserError(
            f"{run} does not exist; give a run's folder, such as papermill_runs/demo, or a checkpoint of step 2"
        )
    file = path if path.is_file() else path / "04_online_retraining" / "model.safetensors"
    if not file.is_file():
        raise UserError(f"{run} has no {file.relative_to(path)}; run its stage 04, or give another run's folder")
    if file.suffix in PICKLES:
        raise UserError(f"{file} was not written by weaktr; `weaktr import` makes a checkpoint out of a released one")
    model = cast(Segmenter, load_model(file, step="segmenter"))
    details = model.details
    if "inference" not in details:
        raise UserError(
            f"checkpoint {file} does not say at which size its images are shown; give one of `weaktr run` or `weaktr "
            "import`, or save it with save_model(…, inference=…)"
        )
    numbered = [f"class {value}" for value in range(1, model.config["num_classes"])]
    names = ["background", *(details.get("classes") or numbered)]
    return Network(model.to(pick_device(device)), details["inference"], names, digest(file))


def digest(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def predict(
    run_folder: str | Path, image_path: str | Path, *, crf: str = "", device: str = "auto"
) -> tuple[np.ndarray, list[str]]:
    """Segment your own photograph with a finished run.

    Args:
        run_folder: A run's folder with a finished `04_online_retraining`, or a checkpoint of step 2; relative to the
            working directory or to the repository's root, or absolute.
        image_path: Any image file that PIL reads.
        crf: The dense CRF after the network: "voc" or "coco"; "" for none.
        device: "auto", "cpu" or "cuda".

    Returns:
        mask: (H,W) uint8 in the photograph's size: 0 is background, c + 1 is class c.
        names: The classes' names, background first, so that names[mask[y, x]] is a pixel's.

    Raises:
        UserError: Where the run has no finished model, or the file is not a readable image.
    """
    network = open_network(run_folder, device)
    image = read_image(Path(image_path))
    probabilities = segment(network.model, image, crf=crf, **network.inference)
    return probabilities.argmax(0).astype(np.uint8), network.names

"""What is measured after every epoch of step 1: how well the network names what is in images apart.

By default no mask is read. `oracle_miou` reads them, and is asked for by name.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.transforms import normalise
from ..device import autocast
from ..evaluation.metrics import threshold_curve
from ..models.cam import CamModel
from .cam_generation import generate_cams

if TYPE_CHECKING:
    from ..data.dataset import Dataset

MOST_MONITORED = 2000  # images measured after every epoch: COCO14's val has 40,137


def monitored(dataset: "Dataset", val_list: str) -> str:
    """The list measured after every epoch: `val_list`, of a long one MOST_MONITORED images, evenly spread."""
    long = ":" not in val_list and len(dataset.ids(val_list)) > MOST_MONITORED
    return f"{val_list}:{MOST_MONITORED}" if long else val_list


@dataclass(frozen=True, kw_only=True)
class EpochMeasures:
    """The measures of a CamModel after an epoch: call it with the model.

    Attributes:
        dataset: gives images and labels.
        val_list: its image labels are compared with the model's scores, as far as it is `monitored`.
        oracle_list: its masks measure the CAMs; "" reads no mask.
        precision: of the forward passes over val_list, see `device.autocast`.
        workers: processes that load.
    """

    dataset: "Dataset"
    val_list: str
    oracle_list: str = ""
    precision: str = "auto"
    workers: int = 2

    def __call__(self, model: CamModel) -> dict[str, float]:
        """Percentages: map_val, the mean of `average_precision`; oracle_miou where there is an oracle_list."""
        list_name = monitored(self.dataset, self.val_list)
        scores, labels = classify(model, self.dataset, list_name, self.precision, self.workers)
        found = {"map_val": 100 * float(np.nanmean(average_precision(scores, labels)))}
        if self.oracle_list:
            found["oracle_miou"] = oracle_miou(model, self.dataset, self.oracle_list)
        return found


class WholeImages(torch.utils.data.Dataset):
    """index → image squeezed to the model's training size and normalised (3,S,S), image-level label (C,)."""

    def __init__(self, dataset: "Dataset", list_name: str, model: CamModel) -> None:
        self.dataset = dataset
        self.ids = dataset.ids(list_name)
        self.size = model.config["image_size"]
        self.mean, self.std = model.mean, model.std

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, np.ndarray]:
        image = Image.fromarray(self.dataset.image(self.ids[index]))
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return normalise(np.asarray(image), self.mean, self.std), self.dataset.labels(self.ids[index])


@torch.inference_mode()
def classify(
    model: CamModel, dataset: "Dataset", list_name: str, precision: str = "auto", workers: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels (n,C) of a list: whole images squeezed to the training size, mean of the three logits."""
    device = next(model.parameters()).device
    images = WholeImages(dataset, list_name, model)
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=64,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own: the training's random numbers do not depend on the loader
    )
    model.eval()
    scores, labels = [], []
    for x, y in loader:
        with autocast(device, precision):
            output = model(x.to(device, non_blocking=True))
        scores.append((output.cls_logits + output.coarse_logits + output.fine_logits).float().cpu() / 3)
        labels.append(y)
    return torch.cat(scores).numpy(), torch.cat(labels).numpy()


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision per class, 0…1; (n,C), (n,C) → (C,), NaN for a class that the list lacks."""
    from sklearn.metrics import average_precision_score  # takes seconds, and three stages never need it

    per_class = [
        average_precision_score(truth, score) if truth.any() else np.nan for truth, score in zip(labels.T, scores.T)
    ]
    return np.array(per_class)


def oracle_miou(model: CamModel, dataset: "Dataset", list_name: str) -> float:
    """The mIoU (%) of a list's fine CAMs, one scale, mirrored, at the background score that is best on its masks."""
    model.eval()
    samples = (
        (generate_cams(model, dataset.image(image_id), dataset.labels(image_id), (1.0,)), dataset.mask(image_id))
        for image_id in dataset.ids(list_name)
    )
    curve = threshold_curve(samples, len(dataset.classes) + 1, np.linspace(0, 1, 101))
    return float(curve["miou"].max())

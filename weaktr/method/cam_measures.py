"""What is measured after every epoch of step 1, on images apart.

How well the network names what is in them, how its fusion weighs the attention heads, and whether its class tokens look
at different places. By default no mask is read; `oracle_miou` reads them, and is asked for by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import ranks
from ..data.dataset import Dataset
from ..data.transforms import normalise
from ..device import set_precision
from ..evaluation.metrics import curve_table, mean_of_known, threshold_counts
from ..models.cam import CamModel
from ..processes import watch_parent
from .cam_generation import generate_cams

MOST_MONITORED = 2000  # images measured after every epoch: COCO14's val has 40,137


def monitored(dataset: Dataset, val_list: str) -> str:
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
        precision: of the forward passes over val_list, see `device.set_precision`.
        workers: processes that load.
    """

    dataset: Dataset
    val_list: str
    oracle_list: str = ""
    precision: str = "auto"
    workers: int = 2

    def __call__(self, model: CamModel) -> dict[str, float]:
        """Measure.

        Returns:
            map_val (%), the mean of `average_precision`, NaN for a list without a class; `head_weight_measures`;
            class_attention_correlation, the mean over the images; oracle_miou (%) where there is an oracle_list.
        """
        list_name = monitored(self.dataset, self.val_list)
        seen = validate(model, self.dataset, list_name, self.precision, self.workers)
        found = {"map_val": 100 * mean_of_known(average_precision(seen.scores, seen.labels))}
        found |= head_weight_measures(seen.head_weights)
        found["class_attention_correlation"] = float(seen.class_correlations.mean())
        if self.oracle_list:
            found["oracle_miou"] = oracle_miou(model, self.dataset, self.oracle_list)
        return found


class WholeImages(torch.utils.data.Dataset):
    """index → image squeezed to the model's training size and normalised (3,S,S), image-level label (C,)."""

    def __init__(self, dataset: Dataset, ids: Sequence[str], model: CamModel) -> None:
        self.dataset = dataset
        self.ids = ids
        self.size = model.config["image_size"]
        self.mean, self.std = model.mean, model.std

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, np.ndarray]:
        image = Image.fromarray(self.dataset.image(self.ids[index]))
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return normalise(np.asarray(image), self.mean, self.std), self.dataset.labels(self.ids[index])


@dataclass(frozen=True)
class Validation:
    """What the network gives for the n images of a list."""

    scores: np.ndarray  # (n,C) mean of the three logits
    labels: np.ndarray  # (n,C) 0/1
    head_weights: np.ndarray  # (n,L,H) of the fusion
    class_correlations: np.ndarray  # (n,) see `class_attention_correlation`


@torch.inference_mode()
def validate(
    model: CamModel, dataset: Dataset, list_name: str, precision: str = "auto", workers: int = 2
) -> Validation:
    """One pass over a list, which ranks share: whole images squeezed to the training size."""
    device = next(model.parameters()).device
    ids = dataset.ids(list_name)
    own = ranks.share(ids)
    images = WholeImages(dataset, own or ids[:1], model)  # a rank without a share looks at an image for nothing
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=64,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own: the training's random numbers do not depend on the loader
        worker_init_fn=watch_parent,
    )
    forward_precision = set_precision(device, precision)
    model.eval()
    scores, labels, head_weights, correlations = [], [], [], []
    for x, y in loader:
        with forward_precision:
            output = model(x.to(device, non_blocking=True))
        scores.append((output.cls_logits + output.coarse_logits + output.fine_logits).float().cpu() / 3)
        labels.append(y)
        head_weights.append(output.head_weights.float().cpu())
        correlations.append(class_attention_correlation(output.cross_attention).cpu())
    found = [torch.cat(parts).numpy()[: len(own)] for parts in (scores, labels, head_weights, correlations)]
    return Validation(*map(ranks.whole, found))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision per class, 0…1; (n,C), (n,C) → (C,), NaN for a class that the list lacks."""
    from sklearn.metrics import average_precision_score  # takes seconds, and three stages never need it

    per_class = [
        average_precision_score(truth, score) if truth.any() else np.nan for truth, score in zip(labels.T, scores.T)
    ]
    return np.array(per_class)


def head_weight_measures(weights_nLH: np.ndarray) -> dict[str, float]:
    """How the fusion weighs the L·H attention heads of n images.

    Returns:
        head_weight_mean, head_weight_std, head_weight_min and head_weight_max over the heads, each with its mean weight
        over the images: a std of 0 is the plain mean of all heads. head_weight_images_std: mean over the heads of the
        std over the images: 0 where the weights do not depend on the image.
    """
    weights = weights_nLH.astype(np.float64)
    of_heads = weights.mean(0)
    return {
        "head_weight_mean": float(of_heads.mean()),
        "head_weight_std": float(of_heads.std()),
        "head_weight_min": float(of_heads.min()),
        "head_weight_max": float(of_heads.max()),
        "head_weight_images_std": float(weights.std(0).mean()),
    }


def class_attention_correlation(cross_attention_BChw: Tensor) -> Tensor:
    """How alike the class tokens of an image look at its patches: (B,C,h,w) → (B,) double.

    The correlation of two classes' attention over the patches, mean over all pairs of different classes: 1 where all
    are copies of each other, NaN for a single class.
    """
    maps_BCP = cross_attention_BChw.flatten(2).double()
    maps_BCP = maps_BCP - maps_BCP.mean(-1, keepdim=True)
    maps_BCP = maps_BCP / maps_BCP.norm(dim=-1, keepdim=True)
    correlations_BCC = maps_BCP @ maps_BCP.transpose(1, 2)
    classes = maps_BCP.shape[1]
    first, second = torch.triu_indices(classes, classes, offset=1)
    return correlations_BCC[:, first, second].mean(1)


def oracle_miou(model: CamModel, dataset: Dataset, list_name: str) -> float:
    """The mIoU (%) of a list's fine CAMs, one scale, mirrored, at the background score that is best on its masks.

    Ranks share the list.
    """
    model.eval()
    thresholds = np.linspace(0, 1, 101)
    samples = (
        (generate_cams(model, dataset.image(image_id), dataset.labels(image_id), (1.0,)), dataset.mask(image_id))
        for image_id in ranks.share(dataset.ids(list_name))
    )
    own = threshold_counts(samples, len(dataset.classes) + 1, thresholds)
    counts = np.sum(ranks.gather(own), axis=0)
    return float(curve_table(counts, thresholds)["miou"].max())

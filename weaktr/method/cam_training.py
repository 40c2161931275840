"""Step 1: train the CAM network from image-level labels.

docs/method.md, "Step 1". `train_cam` is the loop; what is measured after each of its epochs is handed in, see
`cam_measures`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import ranks
from ..data.transforms import CamSamples, EpochLoader, seed_everything
from ..device import set_precision
from ..errors import ParameterError
from ..files import atomic
from ..models.cam import CamModel, CamOutput
from ..progress import Progress
from .training_state import check_batch, check_loss, keep, restore

REFERENCE_BATCH = 512  # the published learning rates belong to this batch size
LOSSES = ("cls", "coarse", "fine")
# How the epoch whose weights stay is chosen, and the measure that decides: the last one, the one with the best mAP of
# image labels, or the one whose CAMs are best by masks, the rule of the released code.
CHECKPOINTS = {"last": "", "map": "map_val", "oracle_miou": "oracle_miou"}


@dataclass(frozen=True, kw_only=True)
class CamTrainingOptions:
    """How the CAM network is trained.

    Attributes:
        epochs: passes over the samples.
        batch_size: images of a step; what does not fill a last batch is left out of an epoch.
        lr: published base rate, in units of batch 512.
        warmup: epochs in which the rate grows from almost nothing.
        weight_decay: AdamW's, on every parameter.
        seed: of order, augmentation and drop path.
        workers: processes that load and augment.
        precision: "auto", "bf16" or "fp32", see `device.set_precision`.
        processes: that train together, see `ranks.wanted`; `batch_size` is the batch of all of them.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup: int = 5
    weight_decay: float = 0.03
    seed: int = 504
    workers: int = 2
    precision: str = "auto"
    processes: int = 1


def learning_rate(epoch: int, lr: float, epochs: int = 60, warmup: int = 5) -> float:
    """Learning rate of an epoch, counted from 0 (docs/method.md, "Step 1").

    `warmup` epochs from 1e-6, then a cosine to 1e-5 whose phase counts from epoch 0; one epoch behind.

    Args:
        epoch: from 0.
        lr: the peak, already scaled by batch/512.
        epochs: length of the cosine.
        warmup: epochs before it.
    """
    epoch = max(epoch - 1, 0)
    if epoch < warmup:
        return 1e-6 + (lr - 1e-6) * epoch / warmup
    return 1e-5 + (lr - 1e-5) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def best_by(checkpoint: str) -> str:
    """The measure of a rule in CHECKPOINTS, "" for the last epoch. Raises ParameterError for an unknown rule."""
    if checkpoint not in CHECKPOINTS:
        raise ParameterError(f"checkpoint {checkpoint!r} is unknown; one of {', '.join(CHECKPOINTS)}")
    return CHECKPOINTS[checkpoint]


def cam_losses(output: CamOutput, labels: Tensor) -> dict[str, Tensor]:
    """Multilabel soft margin losses of the three logits against image labels (B,C) → {"cls", "coarse", "fine"}."""
    return {name: F.multilabel_soft_margin_loss(getattr(output, f"{name}_logits").float(), labels) for name in LOSSES}


def train_cam(
    model: CamModel,
    samples: CamSamples,
    options: CamTrainingOptions,
    *,
    measure: Callable[[CamModel], dict[str, float]],
    keep_best: str = "",
    folder: Path,
    progress: Callable[..., Progress],
) -> pd.DataFrame:
    """Train `model`, on its device, on the image labels of the samples.

    Args:
        model: trained in place.
        samples: what is trained on.
        options: how.
        measure: called once per epoch with the model; what it returns goes to the history.
        keep_best: a column that `measure` returns: the weights of the epoch with its largest value stay. "" keeps the
            last epoch's.
        folder: gets the state after every epoch, so that a training that died continues where it stopped.
        progress: function (total, label) → object with update(n, note).

    Returns:
        History with a row per epoch: epoch, lr, the sum `loss` of the three mean losses and each of them, what was
        measured, images_per_second, and wait_share, the share of the time in which the step waited for data.
    """
    check_batch(len(samples), options.batch_size, options.processes)
    shared = {"measure": measure, "keep_best": keep_best, "folder": folder, "progress": progress}
    ranks.run(train_cam, options.processes, model, samples, options, **shared)  # their state is then read below
    network = ranks.in_step(model)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=options.weight_decay, fused=True)
    peak = options.lr * options.batch_size / REFERENCE_BATCH
    history = restore(folder, model, optimizer)
    done = len(history)
    best = Path(folder) / "best.safetensors"
    loader = EpochLoader(samples, options.batch_size, options.seed, range(done, options.epochs), options.workers)
    images = len(loader) * options.batch_size
    for epoch in range(done, options.epochs):
        rate = learning_rate(epoch, peak, options.epochs, options.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seed_everything(options.seed, epoch, *ranks.seeds())
        start = time.perf_counter()
        bar = progress(images, label=f"epoch {epoch + 1}/{options.epochs}")
        losses = _train_epoch(network, loader, optimizer, options, bar)
        seconds = time.perf_counter() - start
        speed = {"images_per_second": images / seconds, "wait_share": loader.wait_share}

        loss = sum(losses.values())
        check_loss(loss, f"in epoch {epoch + 1}", options.lr)
        row = {"epoch": epoch + 1, "lr": rate, "loss": loss} | losses | measure(model) | speed
        history.append(row)
        is_best = keep_best and (not best.exists() or row[keep_best] == max(past[keep_best] for past in history))
        if is_best and ranks.is_first():
            with atomic(best) as aside:
                save_file(model.state_dict(), aside)
        keep(folder, model, optimizer, history)
    if keep_best:
        model.load_state_dict(load_file(best))
    model.eval()
    return pd.DataFrame(history)


def _train_epoch(
    model: nn.Module,
    loader: EpochLoader,
    optimizer: torch.optim.Optimizer,
    options: CamTrainingOptions,
    bar: Progress,
) -> dict[str, float]:
    """One pass over the samples → mean losses {"loss_cls", "loss_coarse", "loss_fine"}; model: `ranks.in_step`."""
    device = next(model.parameters()).device
    forward_precision = set_precision(device, options.precision)
    model.train()
    sums = {name: torch.zeros((), device=device) for name in LOSSES}
    for images, labels in loader:
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with forward_precision:
            output = model(images)
        losses = cam_losses(output, labels)
        optimizer.zero_grad()
        (losses["cls"] + losses["coarse"] + losses["fine"]).backward()
        optimizer.step()
        del output  # free this batch's attention maps before the next forward pass allocates its own
        for name, loss in losses.items():
            sums[name] += loss.detach()
        bar.update(options.batch_size, f"{loader.wait_share:.1%} data wait")
    return {f"loss_{name}": float(ranks.mean(total)) / len(loader) for name, total in sums.items()}

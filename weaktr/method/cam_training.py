"""Step 1: train the CAM network from image-level labels. One loop, read it from top to bottom."""

import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from ..data.transforms import CamSamples, EpochLoader, normalise, seed_everything
from ..device import autocast
from ..errors import ParameterError
from ..evaluation.metrics import threshold_curve
from ..files import atomic
from .cam_generation import generate_cams
from .training_state import keep, restore

CHECKPOINTS = ("last", "map", "oracle_miou")
REFERENCE_BATCH = 512  # the published learning rates belong to this batch size
MOST_MONITORED = 2000  # images looked at after every epoch: COCO14's val has 40,137


def learning_rate(epoch, lr, epochs=60, warmup=5):
    """Learning rate of an epoch, counted from 0; lr is the peak, already scaled by batch/512 (METHOD, step 1).

    `warmup` epochs from 1e-6, then a cosine to 1e-5 whose phase counts from epoch 0; one epoch behind.
    """
    epoch = max(epoch - 1, 0)
    if epoch < warmup:
        return 1e-6 + (lr - 1e-6) * epoch / warmup
    return 1e-5 + (lr - 1e-5) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def train_cam(
    model,
    dataset,
    *,
    train_list,
    val_list,
    epochs,
    batch_size,
    lr,
    warmup=5,
    weight_decay=0.03,
    augmentation="rand-m9-mstd0.5-inc1",
    min_crop=0.08,
    seed=504,
    workers=2,
    precision="auto",
    checkpoint="last",
    oracle_list="",
    folder,
    progress,
):
    """Train `model` (on its device) on the image labels of `train_list`; no mask is read unless asked for.

    checkpoint: which epoch's weights stay: "last", "map" (best mAP on `val_list`) or "oracle_miou" (best CAMs on
    `oracle_list`, which looks at masks; the rule of the released code). lr: published base rate in units of batch
    512. progress(total, label) → object with update(n, note). The state is kept in `folder` after every epoch, so that
    a run that died goes on where it stopped.
    → history, one row per epoch: losses, mAP (%) on what is `monitored`, learning rate, images per second, share of the
    time in which the step waited for data.
    """
    if checkpoint not in CHECKPOINTS:
        raise ParameterError(f"checkpoint {checkpoint!r} is unknown; one of {', '.join(CHECKPOINTS)}")
    device = next(model.parameters()).device
    size, views = model.config["image_size"], {"augmentation": augmentation, "min_crop": min_crop, "seed": seed}
    samples = CamSamples(dataset, train_list, size, model.mean, model.std, **views)
    if len(samples) < batch_size:
        raise ParameterError(f"list {train_list}: {len(samples)} images, fewer than batch size {batch_size}; lower it")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay, fused=True)
    peak = lr * batch_size / REFERENCE_BATCH
    history = restore(folder, model, optimizer)
    best = Path(folder) / "best.safetensors"
    loader = EpochLoader(samples, batch_size, seed, range(len(history), epochs), workers)
    looked_at = monitored(dataset, val_list)
    for epoch in range(len(history), epochs):
        rate = learning_rate(epoch, peak, epochs, warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        seed_everything(seed, epoch)
        model.train()
        start, sums = time.perf_counter(), {"cls": 0.0, "coarse": 0.0, "fine": 0.0}
        bar = progress(len(loader) * batch_size, label=f"epoch {epoch + 1}/{epochs}")
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with autocast(device, precision):
                output = model(images)
            losses = cam_losses(output, labels)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            del output  # its maps would live on beside those of the next forward pass
            for name, loss in losses.items():
                sums[name] += loss.detach()
            bar.update(len(images), f"{loader.wait_share:.1%} data wait")
        means = {f"loss_{name}": float(total) / len(loader) for name, total in sums.items()}
        seconds, wait_share = time.perf_counter() - start, loader.wait_share
        if not math.isfinite(loss := sum(means.values())):
            raise ParameterError(f"the loss became {loss} in epoch {epoch + 1}; lower the learning rate {lr}")
        precision_per_class = average_precision(*classify(model, dataset, looked_at, precision, workers))
        row = {"epoch": epoch + 1, "lr": rate, "loss": loss, **means}
        row["map_val"] = 100 * float(np.nanmean(precision_per_class))
        row |= {"images_per_second": len(loader) * batch_size / seconds, "wait_share": wait_share}
        history.append(row)
        if checkpoint == "oracle_miou":
            row["oracle_miou"] = oracle_miou(model, dataset, oracle_list)
        column = {"map": "map_val", "oracle_miou": "oracle_miou"}.get(checkpoint)
        if column and (not best.exists() or max(past[column] for past in history) == row[column]):
            with atomic(best) as aside:
                save_file(model.state_dict(), aside)
        keep(folder, model, optimizer, history)
    if checkpoint != "last":
        model.load_state_dict(load_file(best))
    model.eval()
    return pd.DataFrame(history)


def monitored(dataset, val_list):
    """The list looked at after every epoch: `val_list`, of a long one MOST_MONITORED images, evenly spread."""
    many = ":" not in val_list and len(dataset.ids(val_list)) > MOST_MONITORED
    return f"{val_list}:{MOST_MONITORED}" if many else val_list


def oracle_miou(model, dataset, list_name):
    """mIoU (%) of the fine CAMs of a list (one scale, mirrored) at the background score that is best on its masks."""
    model.eval()
    samples = ((generate_cams(model, dataset.image(i), dataset.labels(i), (1.0,)), dataset.mask(i))
               for i in dataset.ids(list_name))  # fmt: skip
    curve = threshold_curve(samples, len(dataset.classes) + 1, np.linspace(0, 1, 101))
    return float(curve["miou"].max())


class WholeImages(Dataset):
    """index → image squeezed to the model's training size and normalised (3,S,S), image-level label (C,)."""

    def __init__(self, dataset, list_name, model):
        self.dataset, self.ids = dataset, dataset.ids(list_name)
        self.size, self.mean, self.std = model.config["image_size"], model.mean, model.std

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        image = Image.fromarray(self.dataset.image(self.ids[index]))
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return normalise(np.asarray(image), self.mean, self.std), self.dataset.labels(self.ids[index])


@torch.inference_mode()
def classify(model, dataset, list_name, precision="auto", workers=2):
    """Scores and labels (n,C) of a list: whole images squeezed to the training size, mean of the three logits."""
    device, images = next(model.parameters()).device, WholeImages(dataset, list_name, model)
    model.eval()
    scores, labels = [], []
    pinned = {"pin_memory": device.type == "cuda", "generator": torch.Generator()}
    for x, y in DataLoader(images, 64, num_workers=workers, **pinned):
        with autocast(device, precision):
            output = model(x.to(device, non_blocking=True))
        scores.append((output.cls_logits + output.coarse_logits + output.fine_logits).float().cpu() / 3)
        labels.append(y)
    return torch.cat(scores).numpy(), torch.cat(labels).numpy()


def average_precision(scores, labels):
    """Average precision per class, 0…1 → (C,); NaN for a class that the list lacks."""
    from sklearn.metrics import average_precision_score  # takes seconds, and three stages never need it

    return np.array([average_precision_score(t, s) if t.any() else np.nan for t, s in zip(labels.T, scores.T)])


def cam_losses(output, labels):
    """Multilabel soft margin losses of a CamOutput against image labels (B,C) → dict cls, coarse, fine."""
    return {
        name: F.multilabel_soft_margin_loss(getattr(output, f"{name}_logits").float(), labels)
        for name in ("cls", "coarse", "fine")
    }

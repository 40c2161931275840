"""Step 2: online retraining of a segmenter on pseudo labels with gradient clipping.

docs/method.md, "Step 2". `train_segmenter` is the loop; what it needs stands above it, what is trained and watched
beside it below.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children, get_start_method, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import ranks
from ..data.transforms import EpochLoader, SegmentationSamples, seed_everything
from ..device import set_precision
from ..files import atomic, write_table
from ..models.checkpoints import save_model
from ..models.segmenter import Segmenter
from ..processes import spawned
from ..progress import Progress
from .clipping import ClippedLoss, clipping_counts, clipping_quality, gradient_clipping
from .training_state import History, check_batch, check_loss, keep, restore

ENCODER_FACTOR = 0.1  # learning rate of the encoder relative to the decoder's
WATCHES = 20  # how often the watched views are written during training
RECORDS = 5000  # rows of a history at most, and a last one per epoch: COCO14 has two million iterations


@dataclass(frozen=True, kw_only=True)
class RetrainingOptions:
    """How a segmenter is trained.

    Attributes:
        epochs: passes over the samples.
        batch_size: images of a step; what does not fill a last batch is left out of an epoch.
        lr: of the decoder at the beginning; the encoder has a tenth of it.
        min_lr: of the decoder at the end.
        start_value: τ, the mean loss below which clipping begins; 0 finds it without a mask, see `StartValue`.
        start_share: part of the iterations, 0…1, in which nothing is clipped while τ is being found.
        cell: side of the local windows in pixels, see `gradient_clipping`.
        scope: one of `clipping.SCOPES`.
        seed: of order, augmentation, dropout and drop path.
        workers: processes that load and augment.
        precision: "auto", "bf16" or "fp32", see `device.set_precision`.
        processes: that train together, see `ranks.wanted`; `batch_size` is the batch of all of them.
    """

    epochs: int
    batch_size: int
    lr: float
    min_lr: float
    start_value: float
    start_share: float
    cell: int
    scope: str = "batch"
    seed: int = 504
    workers: int = 2
    precision: str = "auto"
    processes: int = 1


def learning_rate(iteration: int, iterations: int, lr: float = 1e-4, min_lr: float = 1e-5) -> float:
    """Polynomial decay of the decoder's rate, power 0.9 (docs/method.md, "Step 2"); the encoder has a tenth of it."""
    return min_lr + (lr - min_lr) * (1 - iteration / iterations) ** 0.9


def iterations_per_row(iterations: int) -> int:
    """How many iterations share a row of the history, so that a long training has RECORDS of them."""
    return math.ceil(iterations / RECORDS)


@dataclass(frozen=True)
class StartValue:
    """τ, the mean loss below which clipping begins: given, or found from the loss, without a mask.

    To find it, nothing is clipped in the first `share` of the iterations; τ is the mean loss of their last tenth.
    """

    given: float  # 0: to be found
    share: float  # 0…1
    iterations: int

    def at(self, iteration: int, history: History) -> float:
        """τ at an iteration, of which the history holds the losses before it; −inf as long as it is not found."""
        if self.given:
            return self.given
        settled = max(1, int(self.share * self.iterations))
        if iteration < settled or not history:
            return -math.inf
        tenth = max(iterations_per_row(self.iterations), settled // 10)
        losses = [row["loss_unclipped"] for row in history if settled - tenth <= row["iteration"] < settled]
        if not losses:  # rare rows and an early start: the first row ends after it
            return history[0]["loss_unclipped"]
        return float(np.mean(losses))


class Recorder:
    """Adds up the iterations of an epoch: a row of the history for every `every` of them, and one for the rest.

    Sums stay on their device until a row is due: reading them at every step would wait for a GPU.
    """

    def __init__(self, every: int, steps: int, batch_size: int) -> None:
        self.every, self.steps, self.batch_size = every, steps, batch_size
        self._added = 0
        self._begin_row()

    def _begin_row(self) -> None:
        self._losses: list[Tensor] = []
        self._counts: dict[str, Tensor] = {}
        self._start = time.perf_counter()

    def add(self, clipped: ClippedLoss, counts: dict[str, Tensor]) -> dict[str, float] | None:
        """Add an iteration, its counts as from `clipping_counts` → a row where one is due, else None."""
        self._added += 1
        self._losses.append(torch.stack([clipped.loss.detach(), clipped.pixel_loss.mean()]))
        self._counts = {name: self._counts.get(name, 0) + count for name, count in counts.items()}
        if len(self._losses) < self.every and self._added < self.steps:
            return None
        loss, loss_unclipped = ranks.mean(torch.stack(self._losses).mean(0)).tolist()
        totals = ranks.total(torch.stack(list(self._counts.values()))).tolist()
        found = dict(zip(self._counts, totals, strict=True))
        row = {"loss": loss, "loss_unclipped": loss_unclipped} | found | clipping_quality(found)
        row["images_per_second"] = len(self._losses) * self.batch_size / (time.perf_counter() - self._start)
        self._begin_row()
        return row


def make_optimizer(model: Segmenter, lr: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum, a group for the encoder and one for the decoder; `factor` scales a group's rate."""
    groups = [
        {"params": list(model.encoder.parameters()), "factor": ENCODER_FACTOR},
        {"params": list(model.decoder.parameters()), "factor": 1.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)


def train_segmenter(
    model: Segmenter,
    samples: SegmentationSamples,
    options: RetrainingOptions,
    *,
    folder: Path,
    progress: Callable[..., Progress],
    watched: Sequence[Tensor] | None = None,
) -> pd.DataFrame:
    """Train `model`, on its device, on the samples' labels.

    Wherever the samples carry the truth, it is used for one thing: to record how many clipped pixels had a wrong label
    (precision), how many wrong labels were clipped (recall), and how many there were (noise).

    Args:
        model: trained in place.
        samples: what is trained on.
        options: how.
        folder: gets the state after every epoch, so that a training that died continues where it stopped.
        progress: function (total, label) → object with update(n, note).
        watched: images (n,3,h,w) and labels (n,h,w) of fixed views, whose clipping is written WATCHES times to
            folder/clipping/, see `watched_rows`.

    Returns:
        History with a row per iteration, of a long training over several: iteration (the last of them), start_value,
        lr, mean loss and loss_unclipped, `clipping.COUNTS` of pixels, the shares of `clipping_quality`,
        images_per_second with all waiting, and wait_share, the share of the epoch's time until then that went by in
        waiting for data.
    """
    check_batch(len(samples), options.batch_size, options.processes)
    shared = {"folder": folder, "progress": progress, "watched": watched}
    ranks.run(train_segmenter, options.processes, model, samples, options, **shared)  # their state is then read below
    device = next(model.parameters()).device
    network = ranks.in_step(model)
    optimizer = make_optimizer(model, options.lr)
    history = restore(folder, model, optimizer)
    steps = len(samples) // options.batch_size
    iterations = options.epochs * steps
    done = (history[-1]["iteration"] + 1) // steps if history else 0
    start_value = StartValue(options.start_value, options.start_share, iterations)
    tau = -math.inf
    precision = set_precision(device, options.precision)
    loader = EpochLoader(samples, options.batch_size, options.seed, range(done, options.epochs), options.workers)
    for epoch in range(done, options.epochs):
        seed_everything(options.seed, epoch, *ranks.seeds())
        model.train()
        bar = progress(steps * options.batch_size, label=f"epoch {epoch + 1}/{options.epochs}")
        recorder = Recorder(iterations_per_row(iterations), steps, options.batch_size)
        for iteration, batch in enumerate(loader, start=epoch * steps):
            rate = learning_rate(iteration, iterations, options.lr, options.min_lr)
            for group in optimizer.param_groups:
                group["lr"] = group["factor"] * rate
            if tau == -math.inf:
                tau = start_value.at(iteration, history)

            images, labels, truth = (part.to(device, non_blocking=True) for part in batch)
            with precision:
                logits = network(images)
            clipped = gradient_clipping(logits, labels, tau, options.cell, scope=options.scope)
            optimizer.zero_grad()
            clipped.loss.backward()
            optimizer.step()

            row = recorder.add(clipped, clipping_counts(~clipped.kept, labels, truth, options.scope))
            if row:
                check_loss(row["loss"], f"at iteration {iteration}", options.lr)
                where = {"iteration": iteration, "start_value": tau if math.isfinite(tau) else math.nan, "lr": rate}
                history.append(where | row | {"wait_share": loader.wait_share})
            bar.update(options.batch_size, f"{loader.wait_share:.1%} data wait")
            if watched and _is_watched(iteration, iterations):
                watch_clipping(model, watched, tau, options, folder / "clipping" / f"{iteration + 1:06d}.npz")
        keep(folder, model, optimizer, history)
    model.eval()
    return pd.DataFrame(history)


def _is_watched(iteration: int, iterations: int) -> bool:
    """Whether the watched views are written after an iteration: WATCHES times, evenly spread, and after the last."""
    return (iteration + 1) * WATCHES // iterations > iteration * WATCHES // iterations


# ── Another training beside this one ──────────────────────────────────────────────────────────────────────────────
def train_and_save(
    build: Callable[[], Segmenter],
    samples: SegmentationSamples,
    options: RetrainingOptions,
    *,
    device: torch.device,
    folder: Path,
    details: dict[str, Any],
    progress: Callable[..., Progress],
) -> None:
    """Build a segmenter, train it and save it in `folder` with its history, as notebook 04 does step by step."""
    folder.mkdir(exist_ok=True)
    seed_everything(options.seed)
    model = build().to(device)
    history = train_segmenter(model, samples, options, folder=folder, progress=progress)
    write_table(history, folder / "history.csv")
    save_model(model, folder / "model.safetensors", **details)


@contextlib.contextmanager
def beside(function: Callable[..., object], *arguments: Any, **named: Any) -> Iterator[None]:
    """Call a function in a process of its own while the block runs, each with half of the threads.

    One thread each for two small networks trains 1.4 times as many images as two threads for one after the other.
    Leaving the block waits for the function and raises what it raised; a block that fails ends it.
    """
    threads = torch.get_num_threads()
    half = max(1, threads // 2)
    others = active_children()
    torch.set_num_threads(half)
    try:
        with spawned(1, _settle, half, get_start_method()) as pool:
            running = pool.submit(function, *arguments, **named)
            try:
                yield
            except BaseException:
                for child in set(active_children()).difference(others):
                    child.terminate()
                raise
        running.result()
    finally:
        torch.set_num_threads(threads)


def _settle(threads: int, start_method: str) -> None:
    """Prepare the process of `beside`: its share of the threads, and how it starts the processes of its loader.

    Python makes "spawn" the default of a spawned process, whose loader would then import torch again in each of its
    processes. The process is ours alone, so its default may be set back to that of the caller.
    """
    torch.set_num_threads(threads)
    set_start_method(start_method, force=True)


# ── Watched views ─────────────────────────────────────────────────────────────────────────────────────────────────
@torch.no_grad()
def watch_clipping(
    model: Segmenter, views: Sequence[Tensor], start_value: float, options: RetrainingOptions, path: Path
) -> None:
    """Write pixel losses and clipped pixels of fixed views, images and labels, to an npz file: (n,h,w) each."""
    device = next(model.parameters()).device
    images, labels = (part.to(device) for part in views)
    model.eval()
    clipped = gradient_clipping(model(images), labels, start_value, options.cell, scope=options.scope)
    model.train()
    if ranks.is_first():
        with atomic(path) as aside:
            np.savez_compressed(aside, loss=clipped.pixel_loss.half().cpu(), clipped=(~clipped.kept).cpu())


def watched_rows(
    folder: Path,
    images: Tensor,
    labels: Tensor,
    truth: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[int, list[dict[str, np.ndarray]]]:
    """What `watch_clipping` wrote in a training's folder, as `plots.clipped_pixels` draws it.

    Args:
        folder: of the training.
        images: (n,3,h,w) the watched views, normalised by mean and std.
        labels: (n,h,w) what was trained on.
        truth: (n,h,w) the true masks.
        mean: of each channel.
        std: of each channel.

    Returns:
        {iteration: a dict for each view with image, label, truth, loss and clipped}.
    """
    mean_311, std_311 = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    pictures = ((images * std_311 + mean_311).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    known = {"image": pictures, "label": labels.numpy().astype(np.uint8), "truth": truth.numpy().astype(np.uint8)}
    rows = {}
    for path in sorted((folder / "clipping").glob("[0-9]*.npz")):
        with np.load(path) as arrays:
            found = known | {"loss": arrays["loss"].astype(np.float32), "clipped": arrays["clipped"]}
        rows[int(path.stem)] = [{name: values[n] for name, values in found.items()} for n in range(len(images))]
    return rows

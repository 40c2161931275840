"""Step 2: online retraining of a segmenter on pseudo labels with gradient clipping. One loop, top to bottom."""

import contextlib
import math
import time
from multiprocessing import active_children, get_start_method, set_start_method

import numpy as np
import pandas as pd
import torch

from ..data.transforms import EpochLoader, seed_everything
from ..device import autocast
from ..errors import ParameterError
from ..files import atomic
from ..models.checkpoints import save_model
from ..processes import spawned
from .clipping import COUNTS, RECORDED, clipping_counts, clipping_quality, gradient_clipping
from .training_state import keep, restore

ENCODER_FACTOR = 0.1  # learning rate of the encoder relative to the decoder's
WATCHES = 20  # how often the watched images are looked at during training
RECORDS = 5000  # rows of a history at most, and a last one per epoch: COCO14 has two million iterations


def learning_rate(iteration, iterations, lr=1e-4, min_lr=1e-5):
    """Polynomial decay of the decoder's rate, power 0.9 (METHOD, step 2); the encoder has a tenth of it."""
    return min_lr + (lr - min_lr) * (1 - iteration / iterations) ** 0.9


def train_segmenter(
    model,
    samples,
    *,
    epochs,
    batch_size,
    lr,
    min_lr,
    start_value,
    start_share,
    cell,
    scope,
    seed=504,
    workers=2,
    precision="auto",
    folder,
    progress,
    watched=None,
):
    """Train `model` (on its device) on `samples` (SegmentationSamples) by SGD with Nesterov momentum.

    start_value: τ, the mean loss below which clipping begins; 0 finds it without a mask: nothing is clipped in the
    first `start_share` of the iterations, then τ is the mean loss of the last tenth of those. cell: side of the local
    windows in pixels. watched: fixed views (images, labels) whose clipping is written to
    folder/clipping/ WATCHES times during training.
    Wherever the samples carry the truth, it is used for one thing: to record how many clipped pixels had a wrong
    label (precision), how many wrong labels were clipped (recall), and how many there were (noise).
    → history, one row per iteration, or over several of a long training: iteration (the last of them), the means of the
    losses, RECORDED pixels, the shares of COUNTS, images per second with all waiting; `wait_share` is the share of the
    epoch's time until then that went by in waiting for data.
    """
    device = next(model.parameters()).device
    steps = len(samples) // batch_size
    iterations = epochs * steps
    if not steps:
        raise ParameterError(f"there are {len(samples)} images, fewer than batch size {batch_size}; lower it")
    encoder = list(model.encoder.parameters())
    optimizer = torch.optim.SGD(
        [{"params": encoder, "factor": ENCODER_FACTOR}, {"params": list(model.decoder.parameters()), "factor": 1.0}],
        lr=lr,
        momentum=0.9,
        nesterov=True,
        fused=True,
    )
    history = restore(folder, model, optimizer)
    done = (history[-1]["iteration"] + 1) // steps if history else 0
    tau = start_value or -math.inf
    settle, every = max(1, int(start_share * iterations)), -(-iterations // RECORDS)
    loader = EpochLoader(samples, batch_size, seed, range(done, epochs), workers)
    for epoch in range(done, epochs):
        seed_everything(seed, epoch)
        model.train()
        bar = progress(steps * batch_size, label=f"epoch {epoch + 1}/{epochs}")
        losses, counts, start = [], [], time.perf_counter()
        for step, batch in enumerate(loader):
            iteration = epoch * steps + step
            if not start_value and iteration >= settle and tau == -math.inf and history:
                last_tenth = range(settle - max(every, settle // 10), settle)
                found = [row["loss_unclipped"] for row in history if row["iteration"] in last_tenth]
                tau = float(np.mean(found or history[0]["loss_unclipped"]))
            for group in optimizer.param_groups:
                group["lr"] = group["factor"] * learning_rate(iteration, iterations, lr, min_lr)
            images, labels, truth = (part.to(device, non_blocking=True) for part in batch)
            with autocast(device, precision):
                logits = model(images)
            clipped = gradient_clipping(logits, labels, tau, cell, scope=scope)
            optimizer.zero_grad()
            clipped.loss.backward()
            optimizer.step()
            losses.append(torch.stack([clipped.loss.detach(), clipped.pixel_loss.mean()]))
            counts.append(clipping_counts(~clipped.kept, labels, truth))
            if len(losses) == every or step + 1 == steps:
                row = {"iteration": iteration, "start_value": tau if math.isfinite(tau) else math.nan}
                row["lr"] = optimizer.param_groups[1]["lr"]
                row |= zip(("loss", "loss_unclipped"), torch.stack(losses).mean(0).tolist())
                row |= zip(RECORDED, torch.stack(counts).sum(0).tolist())
                row |= clipping_quality(*(row[name] for name in COUNTS))
                row["images_per_second"] = len(losses) * batch_size / (time.perf_counter() - start)
                row["wait_share"] = loader.wait_share
                if not math.isfinite(loss := row["loss"]):
                    raise ParameterError(
                        f"the loss became {loss} at iteration {iteration}; lower the learning rate {lr}"
                    )
                history.append(row)
                losses, counts, start = [], [], time.perf_counter()
            bar.update(len(images), f"{loader.wait_share:.1%} data wait")
            if watched and (iteration + 1) * WATCHES // iterations > iteration * WATCHES // iterations:
                watch_clipping(model, *watched, tau, cell, scope, folder / "clipping" / f"{iteration + 1:06d}.npz")
        keep(folder, model, optimizer, history)
    model.eval()
    return pd.DataFrame(history)


def train_and_save(build, samples, *, device, seed, folder, details, **training):
    """Build a segmenter, train it and save it in `folder` with its history, as notebook 04 does step by step."""
    folder.mkdir(exist_ok=True)
    seed_everything(seed)
    model = build().to(device)
    history = train_segmenter(model, samples, seed=seed, folder=folder, **training)
    history.to_csv(folder / "history.csv", index=False)
    save_model(model, folder / "model.safetensors", **details)


@contextlib.contextmanager
def beside(function, *arguments, **named):
    """Call a function in a process of its own while the block runs, each with half of the threads.

    One thread each for two small networks trains 1.4 times as many images as two threads for one after the other
    (LOG). Leaving the block waits for the function and raises what it raised; a block that fails ends it.
    """
    threads, others = torch.get_num_threads(), active_children()
    half = max(1, threads // 2)
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


def _settle(threads, start_method):
    """In a new process: its share of the threads, and for its loaders not "spawn", which was for it alone."""
    torch.set_num_threads(threads)
    set_start_method(start_method, force=True)


@torch.no_grad()
def watch_clipping(model, images, labels, start_value, cell, scope, path):
    """Write pixel losses and clipped pixels of fixed views, (n,h,w) each, to an npz file."""
    model.eval()
    device = next(model.parameters()).device
    clipped = gradient_clipping(model(images.to(device)), labels.to(device), start_value, cell, scope=scope)
    model.train()
    with atomic(path) as aside:
        np.savez_compressed(aside, loss=clipped.pixel_loss.half().cpu(), clipped=(~clipped.kept).cpu())


def watched_rows(folder, images, labels, truth, mean, std):
    """What `watch_clipping` wrote, as `plots.clipped_pixels` draws it: {iteration: [dict per view]}.

    images (n,3,h,w) normalised by mean and std, labels and truth (n,h,w): the watched views.
    """
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    seen = ((images * std + mean).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    labels, truth = labels.numpy().astype(np.uint8), truth.numpy().astype(np.uint8)
    rows = {}
    for path in sorted((folder / "clipping").glob("[0-9]*.npz")):
        with np.load(path) as arrays:
            views = zip(seen, labels, truth, arrays["loss"].astype(np.float32), arrays["clipped"], strict=True)
            names = ("image", "label", "truth", "loss", "clipped")
            rows[int(path.stem)] = [dict(zip(names, view, strict=True)) for view in views]
    return rows

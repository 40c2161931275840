"""How well is a GPU used? Images per second, share of its matrix rate and peak memory, of a training step of each kind.

    .venv/bin/python benchmarks/gpu.py

The matrix rate is measured first: the fastest of some large bfloat16 products. Model FLOPs are those of the products,
convolutions and attentions of forward and backward, counted by torch. The minutes are those that VOC12's 60 epochs of
10,582 images would take at this rate; the last row is what the loader processes can deliver beside it, augmented as
published. Without a CUDA device it says so and ends.
"""

import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from cam_generation import Photographs
from side_by_side import RESULTS
from torch.utils.flop_counter import FlopCounterMode

from weaktr.data.transforms import CamSamples, EpochLoader
from weaktr.losses import cam_losses, gradient_clipping
from weaktr.models import create_cam_model, create_segmenter
from weaktr.stages import cores
from weaktr.train_cam import autocast, pick_device

BACKBONE, CLASSES = "deit_small_patch16_224", 20
STEPS = 20  # timed, after three to warm up


def seconds(way, device, steps=STEPS):
    """Mean time of `way`, started `steps` times without waiting in between, as a training loop does."""
    for _ in range(3):
        way()
    torch.accelerator.synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        way()
    torch.accelerator.synchronize(device)
    return (time.perf_counter() - start) / steps


def matrix_rate(device, sizes=(4096, 8192, 16384)):
    """The most FLOP/s of square bfloat16 products."""
    rates = []
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
        rates.append(2 * n**3 / seconds(lambda a=a, b=b: a @ b, device))
    return max(rates)


def cam_step(device, batch, size=224):
    """Step 1: → a function that trains on one batch, as `train_cam` does."""
    model = create_cam_model(BACKBONE, CLASSES, pretrained=False, image_size=size, drop_path=0.1).to(device).train()
    x = torch.randn(batch, 3, size, size, device=device)
    y = torch.randint(0, 2, (batch, CLASSES), device=device).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.03, fused=True)
    return stepper(model, x, optimizer, lambda output: sum(cam_losses(output, y).values()), device)


def segmenter_step(device, batch, size=480):
    """Step 2: → a function that trains on one batch, as `train_segmenter` does."""
    model = create_segmenter(BACKBONE, CLASSES + 1, pretrained=False, image_size=size, drop_path=0.1).to(device).train()
    x = torch.randn(batch, 3, size, size, device=device)
    y = torch.randint(0, CLASSES + 1, (batch, size, size), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, nesterov=True, fused=True)
    return stepper(model, x, optimizer, lambda logits: gradient_clipping(logits, y, 1.2, size // 4).loss, device)


def stepper(model, x, optimizer, loss, device):
    """→ a function: forward in mixed precision, backward, step."""

    def step():
        with autocast(device):
            output = model(x)
        optimizer.zero_grad()
        loss(output).backward()
        optimizer.step()

    return step


def row(name, step, batch, rate, device):
    """One line of the table; a batch that does not fit has only its name."""
    line = {"step": name, "batch": batch}
    try:
        with FlopCounterMode(display=False) as counter:
            step()
        torch.cuda.reset_peak_memory_stats(device)
        each = seconds(step, device)
    except torch.OutOfMemoryError:
        return line
    share = counter.get_total_flops() / each / rate
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    line |= {"images/s": batch / each, "share of matrix rate (%)": 100 * share, "peak memory (GiB)": peak}
    return line | {"60 epochs of VOC12 (min)": 10582 * each / batch} if name.startswith("CAM") else line


def loading(folder, workers, images=256, epochs=4):
    """Images per second that processes read, augment and hand over for step 1, files of 500×375."""
    data = Photographs(folder, images)
    views = {"augmentation": "rand-m9-mstd0.5-inc1", "min_crop": 0.08, "seed": 0}
    samples = CamSamples(data, "train", 224, (0.5,) * 3, (0.5,) * 3, **views)
    loader = EpochLoader(samples, 64, 0, range(epochs), workers)
    next(iter(loader))  # the processes have started
    start = time.perf_counter()
    count = sum(len(batch[0]) for _ in range(epochs - 1) for batch in loader)
    return count / (time.perf_counter() - start)


def main():
    """Step 1 at growing batches, step 2 at the published batch and a larger one; printed and written."""
    device = pick_device()
    if device.type != "cuda":
        print("gpu · skipped: no CUDA device")
        return
    rate = matrix_rate(device)
    print(f"gpu · {torch.cuda.get_device_name(device)} · {rate / 1e12:.0f} TFLOP/s in bfloat16 products")
    cases = [("CAM network, 224 px", cam_step, batch) for batch in (64, 128, 256)]
    cases += [("segmenter, 480 px", segmenter_step, batch) for batch in (4, 16)]
    table = pd.DataFrame([row(name, make(device, batch), batch, rate, device) for name, make, batch in cases])
    RESULTS.mkdir(exist_ok=True)
    table.assign(device=torch.cuda.get_device_name(device), matrix_tflops=rate / 1e12).to_csv(
        RESULTS / "gpu.csv", index=False
    )
    print(table.round(2).to_string(index=False))
    with tempfile.TemporaryDirectory() as folder:
        rate = loading(Path(folder), cores())
    print(f"loading for step 1, {cores()} processes: {rate:.0f} images/s")


if __name__ == "__main__":
    main()

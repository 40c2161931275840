"""How well is a GPU used? Images per second, share of its matrix rate and peak memory, of a training step of each kind.

    .venv/bin/python benchmarks/gpu.py

The matrix rate is measured first: the fastest of some large bfloat16 products. Model FLOPs are those of the products,
convolutions and attentions of forward and backward, counted by torch. The minutes are those that VOC12's 60 epochs of
10,582 images would take at this rate. The steps have their batch on the device; below them stand, from JPEG files of
500×375, an epoch of `train_cam` with all that belongs to it, CAM generation, and what the loader processes deliver by
themselves, augmented as published. Without a CUDA device it says so and ends.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import timm
import torch
import torch.nn.functional as F
from cam_generation import SCALES, Photographs
from side_by_side import write
from torch.utils.flop_counter import FlopCounterMode

from weaktr.data.transforms import CamSamples, EpochLoader
from weaktr.device import pick_device, set_precision
from weaktr.method.cam_generation import generate_list
from weaktr.method.cam_measures import EpochMeasures
from weaktr.method.cam_training import CamTrainingOptions, cam_losses, train_cam
from weaktr.method.clipping import gradient_clipping
from weaktr.models.cam import create_cam_model
from weaktr.models.segmenter import create_segmenter
from weaktr.processes import cores

BACKBONE, CLASSES = "deit_small_patch16_224", 20
STEPS = 20  # timed, after three to warm up
VIEWS = {"augmentation": "rand-m9-mstd0.5-inc1", "min_crop": 0.08, "seed": 0}  # published


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


def plain_step(device, batch, size=224):
    """timm's own classification step, which the others are held against."""
    model = timm.create_model(BACKBONE, num_classes=CLASSES, img_size=size, drop_path_rate=0.1).to(device).train()
    x = torch.randn(batch, 3, size, size, device=device)
    y = torch.randint(0, 2, (batch, CLASSES), device=device).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.03, fused=True)
    return stepper(model, x, optimizer, lambda logits: F.multilabel_soft_margin_loss(logits.float(), y), device)


def cam_step(device, batch, size=224, keep_maps=True):
    """Step 1: → a function that trains on one batch, as `train_cam` does."""
    options = {"image_size": size, "drop_path": 0.1, "keep_maps": keep_maps}
    model = create_cam_model(BACKBONE, CLASSES, pretrained=False, **options).to(device).train()
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
        with set_precision(device):
            output = model(x)
        optimizer.zero_grad()
        loss(output).backward()
        optimizer.step()

    return step


CASES = [
    ("plain timm step, 224 px", plain_step, 64),
    *(("CAM network, 224 px", cam_step, batch) for batch in (64, 128, 256)),
    ("CAM network, low memory, 224 px", partial(cam_step, keep_maps=False), 64),
    ("CAM network, low memory, 768 px", partial(cam_step, size=768, keep_maps=False), 4),
    *(("segmenter, 480 px", segmenter_step, batch) for batch in (4, 16)),
]


def row(name, make, batch, rate, device):
    """One line of the table; a batch that does not fit has only its name."""
    line = {"what": name, "batch": batch}
    try:
        step = make(device, batch)
        with FlopCounterMode(display=False) as counter:
            step()
        torch.cuda.reset_peak_memory_stats(device)
        each = seconds(step, device)
    except torch.OutOfMemoryError:
        return line
    share = counter.get_total_flops() / each / rate
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    line |= {"images/s": batch / each, "share of matrix rate (%)": 100 * share, "peak memory (GiB)": peak}
    return line | {"60 epochs of VOC12 (min)": 10582 * each / batch} if "224" in name else line


def loading(folder, workers, images=256, batch=64):
    """Images per second that processes read, augment and hand over for step 1, once what they began with is used up."""
    samples = CamSamples(Photographs(folder, images), "train", 224, (0.5,) * 3, (0.5,) * 3, **VIEWS)
    waiting, counted = 2 * workers, 10 * workers
    epochs = -(-(waiting + counted) // (images // batch))
    loader = EpochLoader(samples, batch, 0, range(epochs), workers)
    batches = (loaded for _ in range(epochs) for loaded in loader)
    for _ in range(waiting):
        next(batches)
    start = time.perf_counter()
    for _ in range(counted):
        next(batches)
    return counted * batch / (time.perf_counter() - start)


class Repeated(Photographs):
    """A training list of as many images as asked for, from a few files; the other lists are the files."""

    def __init__(self, folder, files, images):
        super().__init__(folder, files)
        self.times = -(-images // files)

    def ids(self, list_name=""):
        return self.names * self.times if list_name == "train" else self.names


def from_files(folder, device, workers, *, backbone=BACKBONE, files=256, images=8192, batch=64):
    """Images per second of the second epoch of `train_cam`, and of CAM generation → two lines of the table."""
    data, bar = Repeated(folder, files, images), SimpleNamespace(update=lambda *_: None)
    model = create_cam_model(backbone, CLASSES, pretrained=False, image_size=224, drop_path=0.1).to(device)
    samples = CamSamples(data, "train", 224, model.mean, model.std, **VIEWS)
    options = CamTrainingOptions(epochs=2, batch_size=batch, lr=1e-5, seed=VIEWS["seed"], workers=workers)
    measure = EpochMeasures(dataset=data, val_list="val", workers=workers)
    places = {"folder": folder, "progress": lambda *_, **__: bar}
    history = train_cam(model, samples, options, measure=measure, **places)
    rates = {"train_cam, an epoch from files": history["images_per_second"].iloc[-1]}
    start = time.perf_counter()
    generate_list(model, data, data.names, SCALES, {folder / "cams": ("fused", True)}, bar)
    rates["CAM generation, 500×375, from file to file"] = files / (time.perf_counter() - start)
    return [{"what": name, "images/s": rate} for name, rate in rates.items()]


def main():
    """Steps, then what goes from file to file; printed and written."""
    device = pick_device()
    if device.type != "cuda":
        print("gpu · skipped: no CUDA device")
        return
    rate = matrix_rate(device)
    print(f"gpu · {rate / 1e12:.0f} TFLOP/s in bfloat16 products")
    rows = [row(name, make, batch, rate, device) for name, make, batch in CASES]
    with tempfile.TemporaryDirectory() as folder:
        rows += from_files(Path(folder), device, cores())
        rows.append({"what": f"loading for step 1, {cores()} processes", "images/s": loading(Path(folder), cores())})
    write(pd.DataFrame(rows).assign(matrix_tflops=rate / 1e12), "gpu")


if __name__ == "__main__":
    main()

"""What do several processes gain? Images per second, memory and the share of reduction, of both trainings and of CAMs.

    .venv/bin/python benchmarks/scaling.py [ranks …]

With GPUs a process (rank) has one each and they talk by NCCL: DeiT-S and the published batches, 64 images of 224 px in
step 1 and four of 480 px in step 2, shared by 1, 2, 4 … ranks. Without any, they share the cores and talk by gloo: the
network of the demo, 16 images of 96 px and eight. CAMs are made of photographs from file to file.

Reduction is what a training step takes less when gradients are not averaged and clipping compares with its own rank's
means, all else being equal; waiting for the slowest rank is part of it. CAM generation has none: ranks share the list.
The batches of the trainings lie on their device, so that loading has no part in the figures.
"""

import contextlib
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import psutil
import torch
from cam_generation import Photographs
from side_by_side import write

from weaktr import ranks
from weaktr.device import pick_device, set_precision
from weaktr.method.cam_generation import generate_list
from weaktr.method.cam_training import cam_losses
from weaktr.method.clipping import gradient_clipping
from weaktr.models.cam import create_cam_model
from weaktr.models.segmenter import create_segmenter
from weaktr.processes import cores

CLASSES = 20
ON_GPU = {"backbone": "deit_small_patch16_224", "sides": (224, 480), "batches": (64, 4), "images": 256}
ON_CPU = {"backbone": "weaktr_tiny_patch8_96", "sides": (96, 96), "batches": (16, 8), "images": 16}
PHOTOGRAPH = {"cuda": (375, 500), "cpu": (112, 112)}


def peak_memory(device):
    """The most memory (MB) of this rank: of its GPU, else of its process as it is now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return psutil.Process().memory_info().rss / 1e6


def timed(way, device):
    """Seconds of a call, from when all ranks begin until all have ended."""
    ranks.wait()
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    ranks.wait()
    return time.perf_counter() - start


@contextlib.contextmanager
def without_reduction(network):
    """In here no rank learns anything of the others."""
    if ranks.world() == 1:
        yield
        return
    with network.no_sync(), patch.multiple(ranks, total=lambda tensor: tensor, mean=lambda tensor: tensor):
        yield


def cam_step(network, batch, side, device):
    """One backward pass of step 1 over this rank's share of a batch, without anything loaded."""
    x = torch.randn(batch // ranks.world(), 3, side, side, device=device)
    y = torch.randint(0, 2, (len(x), CLASSES), device=device).float()
    return lambda: sum(cam_losses(network(x), y).values()).backward()


def segmenter_step(network, batch, side, device):
    """The same of step 2, with clipping as on VOC12."""
    x = torch.randn(batch // ranks.world(), 3, side, side, device=device)
    y = torch.randint(0, CLASSES + 1, (len(x), side, side), device=device)
    return lambda: gradient_clipping(network(x), y, 100.0, side // 4).loss.backward()


def training(model, make, batch, side, steps, folder):
    """In a rank: the time of steps with and without reduction → <folder>/<rank>.json."""
    device = next(model.parameters()).device
    network = ranks.in_step(model.train())
    backward = make(network, batch, side, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def epoch(count=steps):
        for _ in range(count):
            optimizer.zero_grad()
            with set_precision(device):
                backward()
            optimizer.step()

    epoch(2)
    seconds = timed(epoch, device)
    with without_reduction(network):
        alone = timed(epoch, device)
    share = max(0.0, 1 - alone / seconds) if ranks.world() > 1 else 0.0
    leave(folder, {"images/s": steps * batch / seconds, "reduction (%)": 100 * share}, device)


def generation(model, data, folder):
    """In a rank: the time of the CAMs of a list, once a first quarter has warmed up → <folder>/<rank>.json."""
    device, bar = next(model.parameters()).device, SimpleNamespace(update=lambda *_: None)
    (folder / "cams").mkdir(exist_ok=True)
    made = partial(generate_list, model.eval(), data, scales=(1.0, 1.2), progress=bar)
    made(ids=data.names[: len(data.names) // 4], variants={folder / "first": ("fused", True)})
    seconds = timed(lambda: made(ids=data.names, variants={folder / "cams": ("fused", True)}), device)
    leave(folder, {"images/s": len(data.names) / seconds, "reduction (%)": 0.0}, device)


def leave(folder, found, device):
    """Write what a rank found."""
    text = json.dumps(found | {"memory of a rank (MB)": peak_memory(device)})
    (folder / f"{ranks.rank()}.json").write_text(text)


def row(what, count, batch, model, function, *arguments):
    """A line of the table: `function` in so many ranks; the slowest rank's and the largest one's numbers."""
    with tempfile.TemporaryDirectory() as folder:
        everything = (model, *arguments, Path(folder))
        if not ranks.run(function, count, *everything):
            function(*everything)
        found = pd.DataFrame([json.loads(path.read_text()) for path in Path(folder).glob("*.json")])
    assert len(found) == count, "every rank left its numbers"
    line = {"what": what, "ranks": count, "batch": batch, "images/s": found["images/s"].min()}
    return line | found.drop(columns="images/s").max().to_dict()


def rows(count, device, settings, steps):
    """The three lines of a number of ranks; a batch is at least an image for each."""
    backbone, (small, large) = settings["backbone"], settings["sides"]
    first, second = (max(batch, count) // count * count for batch in settings["batches"])
    cam = create_cam_model(backbone, CLASSES, pretrained=False, image_size=small, drop_path=0.1).to(device)
    segmenter = create_segmenter(backbone, CLASSES + 1, pretrained=False, image_size=large, drop_path=0.1).to(device)
    yield row("step 1", count, first, cam, training, cam_step, first, small, steps)
    yield row("step 2", count, second, segmenter, training, segmenter_step, second, large, steps)
    with tempfile.TemporaryDirectory() as folder:
        data = Photographs(Path(folder), settings["images"], PHOTOGRAPH[device.type])
        yield row("CAM generation", count, 1, cam, generation, data)


def main(*counts, settings=None, steps=20):
    """Measure each number of ranks; print and write."""
    device = pick_device()
    on_gpu = device.type == "cuda"
    available, backend = (torch.cuda.device_count(), "nccl") if on_gpu else (cores(), "gloo")
    counts = [int(count) for count in counts] or [n for n in (1, 2, 4, 8, 16) if n <= available]
    settings = settings or (ON_GPU if on_gpu else ON_CPU)
    table = pd.DataFrame([line for count in counts for line in rows(count, device, settings, steps)])
    alone = table[table["ranks"] == counts[0]].set_index("what")["images/s"]
    table["times the first"] = table["images/s"] / table["what"].map(alone)
    return write(table.assign(backend=backend), f"scaling_{backend}")


if __name__ == "__main__":
    main(*sys.argv[1:])

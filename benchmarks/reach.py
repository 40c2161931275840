"""How far does it reach? COCO14 on 1, 4 and 8 GPUs, on paper: time, memory and disk of each part, and what limits it.

    .venv/bin/python benchmarks/reach.py [GPUs …]

Nothing here is measured but the constants, each with its source; the rest is arithmetic. A GPU is an A100. Two times
are given: the short one is that of a GPU that reaches the same share of its matrix rate as two CPU cores do, the long
one that of a quarter of this share. Several GPUs are taken to share the work without loss.
"""

import math
import sys
from dataclasses import dataclass

import pandas as pd
from large_lists import SIZES

from weaktr.workbench.needs import BLOCK, CAM_HEAD, CAM_VALUE, MASK_HEAD, MASK_PIXEL
from weaktr.workbench.presets import COCO14

# Measured: two cores in bfloat16, as the costs of the presets (weaktr/workbench/presets.py)
STEP_1 = {"images/s": 9.5, "share": 0.69}  # of training, and of the cores' rate in matrix products
STEP_2 = {"images/s": 1.07, "share": 0.49}
# Measured: benchmarks/results/crf.csv, 30 images of 500×375 with two classes in one process
CRF_SECONDS, CRF_PIXELS, CRF_VALUES = 14.348 / 30, 500 * 375, 3
# Measured: benchmarks/results/cam_memory_224_16_bf16.csv, 16 images of 224 px, 20 classes
STEP_1_BYTES, STEP_1_BATCH, STEP_1_TOKENS = 1.413e9, 16, 196 + 20
# Measured on a busy machine, so rather too long: core seconds to read and augment a drawn photograph of 640×480
LOAD_1, LOAD_2 = 0.0092, 0.029
# Known of the data and the networks
TRAIN, VAL = SIZES["coco14"]
WIDTH, HEIGHT, CLASSES, PRESENT = 640, 480, 90, 2.9  # COCO14's most frequent size; classes, and those of an image
DIM, BLOCKS, PATCH = 384, 12, 16  # DeiT-S
# Assumed
GPU_RATE = 312e12  # FLOP/s of an A100 in bfloat16 products, as its maker says
LONG = 4  # times as long, for a GPU that reaches a quarter of the share
CORES = 16  # for each GPU


def forward_flops(tokens):
    """FLOPs of DeiT-S for one image of so many tokens: products with weights, and attention."""
    return BLOCKS * tokens * (24 * DIM**2 + 4 * DIM * tokens)


def tokens_of(scale, classes=0):
    """Tokens of an image of WIDTH×HEIGHT at a scale."""
    return int(WIDTH * scale) // PATCH * (int(HEIGHT * scale) // PATCH) + classes


def windows():
    """Windows of an image in the evaluation: every scale, mirrored, its short side base_size times the scale."""
    count = 0
    for scale in COCO14["seg_scales"]:
        short = COCO14["base_size"] * scale
        sides = (short, short * WIDTH / HEIGHT)
        count += math.prod(
            1 + math.ceil(max(0, side - COCO14["crop_size"]) / COCO14["window_stride"]) for side in sides
        )
    return 2 * count


def on_disk(size):
    """Bytes that a file of this size takes."""
    return math.ceil(size / BLOCK) * BLOCK


@dataclass(frozen=True)
class Part:
    """A part of a run: its work on GPUs and on cores, what it holds of a GPU's memory, and what it leaves on disk."""

    name: str
    flops: float = 0
    share: float = 1.0  # of a GPU's rate, in the short time
    core_seconds: float = 0
    gpu_bytes: float = 0  # of one process; of all of them together where they share a batch
    batch: int = 0  # images that they share, and so the most of them there can be; 0 where they share a list
    disk: float = 0

    def row(self, gpus):
        """The line of the table."""
        used = min(gpus, self.batch or gpus)
        on_gpu = self.flops / (GPU_RATE * self.share * used) / 3600
        on_cores = self.core_seconds / (CORES * gpus) / 3600
        ends = {f"{max(on_gpu * times, on_cores):.2g}" for times in (1, LONG)}
        limits = {"cores" if on_cores > on_gpu * times else "GPU" for times in (1, LONG)}
        limits |= {f"batch of {self.batch}"} if used < gpus else set()
        return {
            "part": self.name,
            "GPUs": gpus,
            "hours": " to ".join(sorted(ends, key=float)),
            "limit": " or ".join(sorted(limits)),
            "memory of a GPU (GB)": f"{self.gpu_bytes / (used if self.batch else 1) / 1e9:.1f}",
            "disk (GB)": f"{self.disk / 1e9:.1f}",
        }


def parts():
    """The parts of a run of coco14_deit_s."""
    side = COCO14["image_size"] // PATCH
    per_image = 3 * forward_flops(side**2 + CLASSES)  # forward, and twice as much backward
    samples = [TRAIN * COCO14["cam_epochs"], TRAIN * COCO14["seg_epochs"]]
    grown = ((side**2 + CLASSES) / STEP_1_TOKENS) ** 2  # attention maps, the most that may grow
    window = forward_flops((COCO14["crop_size"] // PATCH) ** 2)
    crop = COCO14["seg_batch_size"] * (CLASSES + 1) * COCO14["crop_size"] ** 2
    cams = [tokens_of(scale) for scale in COCO14["cam_scales"]]
    crf = CRF_SECONDS * WIDTH * HEIGHT / CRF_PIXELS * (PRESENT + 1) / CRF_VALUES
    mask = on_disk(MASK_HEAD + MASK_PIXEL * WIDTH * HEIGHT)
    cam = on_disk(CAM_HEAD + CAM_VALUE * PRESENT * sum(cams))
    evaluated = {"flops": (TRAIN + VAL) * windows() * window, "share": STEP_2["share"]}
    largest = max(cams) + CLASSES
    return [
        Part(
            "step 1, 60 epochs",
            flops=samples[0] * per_image,
            share=STEP_1["share"],
            core_seconds=samples[0] * LOAD_1,
            gpu_bytes=STEP_1_BYTES / STEP_1_BATCH * COCO14["cam_batch_size"] * grown,
            batch=COCO14["cam_batch_size"],
        ),
        Part(
            "CAMs of train",
            flops=TRAIN * 2 * sum(forward_flops(tokens + CLASSES) for tokens in cams),
            share=STEP_1["share"],
            gpu_bytes=2
            * 3
            * 4
            * largest**2,  # as weaktr/workbench/checks.py has it: three arrays of an image, mirrored
            disk=TRAIN * cam,
        ),
        Part("CRF of CAM labels", core_seconds=TRAIN * crf, disk=TRAIN * mask),
        Part(
            "step 2, 100 epochs",
            flops=samples[1] * 3 * window,
            share=STEP_2["share"],
            core_seconds=samples[1] * LOAD_2,
            gpu_bytes=2 * 4 * crop,  # at least: scores and their gradients, as weaktr/workbench/needs.py has it
            batch=COCO14["seg_batch_size"],
        ),
        Part(
            "masks of train and val",
            gpu_bytes=2 * 4 * (CLASSES + 1) * WIDTH * HEIGHT,
            disk=2 * (TRAIN + VAL) * mask,  # of the last block and with the early one
            **evaluated,
        ),
        Part("CRF of masks", core_seconds=2 * (TRAIN + VAL) * crf, disk=2 * (TRAIN + VAL) * mask),
    ]


def table(*gpus):
    """Every part with each number of GPUs."""
    return pd.DataFrame([part.row(count) for part in parts() for count in gpus or (1, 4, 8)])


def main(*gpus):
    """Print the table as Markdown."""
    found = table(*map(int, gpus))
    print(f"{windows()} windows of an image; memory of step 2 and of masks is what they take at least")
    for cells in (found.columns, ["---"] * len(found.columns), *found.itertuples(index=False)):
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main(*sys.argv[1:])

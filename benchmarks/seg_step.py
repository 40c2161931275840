"""What do gradient clipping and its record cost in retraining? A step with them against one with plain cross entropy.

    .venv/bin/python benchmarks/seg_step.py [crop] [batch]

Both steps are encoder, decoder, backward and SGD; only the loss and what is written down differ. After them real epochs
from JPEG and PNG files of 500×375, loaded and augmented by one process beside the step: the share of the last one that
went by in waiting for data (goal: 5 %). Random weights: the time does not depend on them.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import zoom
from side_by_side import measure, profile, write

from weaktr.data.images import read_image, read_label, write_label_png
from weaktr.data.transforms import EpochLoader, SegmentationSamples
from weaktr.device import pick_device, set_precision
from weaktr.method.clipping import clipping_counts, gradient_clipping
from weaktr.models.segmenter import create_segmenter

BACKBONE, CLASSES, SIZE = "deit_small_patch16_224", 21, (375, 500)


def read(folder, name):
    """The photograph of that name."""
    return read_image(folder / f"{name}.jpg")


def photographs(folder, count, crop):
    """Samples of drawn pictures with labels in blocks, written to a folder."""
    rng, names = np.random.default_rng(0), [f"{i}" for i in range(count)]
    for name in names:
        smooth = zoom(rng.uniform(0, 255, (9, 11, 3)), (SIZE[0] / 9, SIZE[1] / 11, 1), order=1)
        noise = rng.normal(0, 6, (*SIZE, 3))
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(folder / f"{name}.jpg", quality=90)
        labels = np.kron(rng.integers(0, CLASSES, (3, 4)), np.ones((125, 125), int)).astype(np.uint8)
        write_label_png(folder / f"{name}.png", labels)
    return SegmentationSamples(
        names,
        partial(read, folder),
        partial(read_label, folder),
        partial(read_label, folder),
        base_size=crop * 13 // 12,  # published: 520 for 480
        crop=crop,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        seed=0,
    )


def main(crop=480, batch=4):
    """One forward, backward and step each, in float32 and, where the hardware has it, in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        compare(photographs(Path(folder), 3 * batch, crop), crop, batch)


def compare(samples, crop, batch):
    """The steps on one batch of the samples, then epochs of them."""
    device = pick_device()
    torch.manual_seed(0)
    images, labels, truth = (torch.stack(parts).to(device) for parts in zip(*(samples[0, i] for i in range(batch))))
    model = create_segmenter(BACKBONE, CLASSES, pretrained=False, image_size=crop, drop_path=0.1).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, nesterov=True, fused=True)

    def step(loss_of, precision):
        with set_precision(device, precision):
            logits = model(images)
        loss, record = loss_of(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return record().tolist()

    def plain(logits):
        loss = F.cross_entropy(logits.float(), labels.long(), ignore_index=255)
        return loss, lambda: loss.detach()

    def clipping(logits):
        clipped = gradient_clipping(logits, labels, torch.inf, crop // 4)
        counts = torch.stack(list(clipping_counts(~clipped.kept, labels, truth).values()))
        losses = torch.stack([clipped.loss.detach(), clipped.pixel_loss.mean()])
        return clipped.loss, lambda: torch.cat([losses, counts])

    for precision in ("fp32", *(["bf16"] if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() else [])):
        name = f"seg_step_{crop}_{batch}_{precision}"
        measure(
            {
                "plain cross entropy": lambda p=precision: step(plain, p),
                "gradient clipping": lambda p=precision: step(clipping, p),
            },
            rounds=3,
            name=name,
        )
        profile(lambda p=precision: step(clipping, p), name)
    loader = EpochLoader(samples, batch, 0, range(2), 1)
    for _ in range(2):
        for images, labels, truth in loader:
            images, labels, truth = (part.to(device) for part in (images, labels, truth))
            step(clipping, "auto")
    waited = pd.DataFrame([{"steps": len(loader), "share of the time waiting for data": loader.wait_share}])
    write(waited, f"seg_step_{crop}_{batch}_waiting")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

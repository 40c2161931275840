"""What do gradient clipping and its record cost in retraining? A step with them against one with plain cross entropy.

    .venv/bin/python benchmarks/seg_step.py [crop] [batch]

Both steps are encoder, decoder, backward and SGD; only the loss and what is written down differ. The last row is one
process loading and augmenting such a batch from photographs of 500×375: as long as it is below 1, training does not
wait for data. Random weights: the time does not depend on them.
"""

import io
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import zoom
from side_by_side import measure, profile

from weaktr.data.transforms import SegmentationSamples
from weaktr.losses import gradient_clipping
from weaktr.models import create_segmenter
from weaktr.train_cam import autocast, pick_device
from weaktr.train_segmenter import clipping_quality

BACKBONE, CLASSES, SIZE = "deit_small_patch16_224", 21, (375, 500)


def photographs(count, crop):
    """Samples of drawn pictures that lie in memory as JPEG, their labels in blocks."""
    rng = np.random.default_rng(0)
    files, labels = [], []
    for _ in range(count):
        smooth = zoom(rng.uniform(0, 255, (9, 11, 3)), (SIZE[0] / 9, SIZE[1] / 11, 1), order=1)
        files.append(io.BytesIO())
        noise = rng.normal(0, 6, (*SIZE, 3))
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(files[-1], "JPEG", quality=90)
        labels.append(np.kron(rng.integers(0, CLASSES, (3, 4)), np.ones((125, 125), int)).astype(np.uint8))
    return SegmentationSamples(
        range(count),
        lambda i: np.array(Image.open(files[i]).convert("RGB")),
        labels.__getitem__,
        labels.__getitem__,
        base_size=crop * 13 // 12,  # published: 520 for 480
        crop=crop,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        seed=0,
    )


def main(crop=480, batch=4):
    """One forward, backward and step each, in float32 and, where the hardware has it, in bfloat16."""
    device = pick_device()
    torch.manual_seed(0)
    samples = photographs(batch, crop)
    images, labels, truth = (torch.stack(parts).to(device) for parts in zip(*(samples[0, i] for i in range(batch))))
    model = create_segmenter(BACKBONE, CLASSES, pretrained=False, image_size=crop, drop_path=0.1).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, nesterov=True, fused=device.type == "cuda")

    def step(loss_of, precision):
        with autocast(device, precision):
            logits = model(images)
        loss, record = loss_of(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return record().tolist()

    def plain(logits):
        loss = F.cross_entropy(logits.float(), labels, ignore_index=255)
        return loss, lambda: loss.detach()

    def clipping(logits):
        clipped = gradient_clipping(logits, labels, torch.inf, crop // 4)
        return clipped.loss, lambda: torch.stack(
            [
                clipped.loss.detach(),
                clipped.pixel_loss.mean(),
                *clipping_quality(~clipped.kept, labels, truth).values(),
            ]
        )

    for precision in ("fp32", *(["bf16"] if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() else [])):
        name = f"seg_step_{crop}_{batch}_{precision}"
        measure(
            {
                "plain cross entropy": lambda p=precision: step(plain, p),
                "gradient clipping": lambda p=precision: step(clipping, p),
                "loading, one process": lambda: [samples[1, i] for i in range(batch)],
            },
            rounds=3,
            name=name,
        )
        profile(lambda p=precision: step(clipping, p), name)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""What does the adaptive fusion cost in training? A step of the CAM network against a plain timm classification step.

    .venv/bin/python benchmarks/cam_step.py [image size] [batch]

Time and memory of the network that keeps its attention maps, of the one that recomputes them (low-memory mode), and of
the way the released code fuses them, written here from docs/method.md: all maps stacked in one tensor, weighed and
averaged as a whole (the released code copies them more often than that). Random weights: the time does not depend on
them.
"""

import sys
from functools import partial

import timm
import torch
import torch.nn.functional as F
from side_by_side import measure, measure_memory

from weaktr.device import pick_device, set_precision
from weaktr.method.cam_training import cam_losses
from weaktr.models.cam import create_cam_model

BACKBONE, CLASSES = "deit_small_patch16_224", 20
WAYS = {
    "plain timm step": "plain",
    "CAM network, maps kept": "kept",
    "CAM network, low memory": "remade",
    "CAM network, maps stacked and weighed": "stacked",
}


def stacked_fusion(fusion, attentions, outputs):
    """M as the released code forms it: (B,L,H,N,N) in memory, once plain and once weighed."""
    weights = fusion.weights(outputs)
    weighed = torch.stack(list(attentions), 1) * weights[..., None, None]
    return weights, weighed.mean(2).mean(1)


def make_step(way, size, batch, precision):
    """One of WAYS → a function that does one forward, backward and AdamW step."""
    device = pick_device()
    torch.manual_seed(0)
    x = torch.randn(batch, 3, size, size, device=device)
    y = torch.randint(0, 2, (batch, CLASSES), device=device).float()
    if way == "plain":
        model = timm.create_model(BACKBONE, num_classes=CLASSES, img_size=size).to(device)
    else:
        keep = way != "remade"
        model = create_cam_model(BACKBONE, CLASSES, pretrained=False, image_size=size, keep_maps=keep).to(device)
    if way == "stacked":
        model.fusion.forward = partial(stacked_fusion, model.fusion)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step():
        with set_precision(device, precision):
            output = model(x)
        if way == "plain":
            loss = F.multilabel_soft_margin_loss(output.float(), y)
        else:
            loss = sum(cam_losses(output, y).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main(size=224, batch=16, rounds=3):
    """Memory first, in processes of their own, then time, in turns."""
    bf16 = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    for precision in ("fp32", "bf16") if bf16 else ("fp32",):
        settings = (size, batch, precision)
        name = "_".join(map(str, settings))
        measure_memory(make_step, {label: (way, *settings) for label, way in WAYS.items()}, name=f"cam_memory_{name}")
    for precision in ("fp32", "bf16") if bf16 else ("fp32",):
        ways = {label: make_step(way, size, batch, precision) for label, way in WAYS.items()}
        measure(ways, rounds=rounds, name=f"cam_step_{size}_{batch}_{precision}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

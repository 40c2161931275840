"""What does the adaptive fusion cost in training? A step of the CAM network against a plain timm classification step.

    .venv/bin/python benchmarks/cam_step.py [image size] [batch]

The third way is how the released code goes about it, written here from METHOD.md: all maps stacked in one tensor,
weighed and averaged as a whole. Random weights: the time does not depend on them.
"""

import sys

import timm
import torch
import torch.nn.functional as F
from side_by_side import measure

from weaktr.losses import cam_losses
from weaktr.models import create_cam_model
from weaktr.train_cam import autocast, pick_device

BACKBONE, CLASSES = "deit_small_patch16_224", 20


def stacked_fusion(fusion, attentions, outputs):
    """M as the released code forms it: (B,L,H,N,N) in memory, once plain and once weighed."""
    weights = fusion.weights([output.detach() for output in outputs])
    maps = torch.stack([attention.detach() for attention in attentions], 1)
    weighed = maps * weights[..., None, None]
    return weights, weighed.mean(2).mean(1)


def main(size=224, batch=16):
    """One forward, backward and AdamW step each."""
    device = pick_device()
    torch.manual_seed(0)
    x, y = (
        torch.randn(batch, 3, size, size, device=device),
        torch.randint(0, 2, (batch, CLASSES), device=device).float(),
    )
    plain = timm.create_model(BACKBONE, num_classes=CLASSES, img_size=size).to(device)
    ours, released = (
        create_cam_model(BACKBONE, CLASSES, pretrained=False, image_size=size).to(device) for _ in range(2)
    )
    released.fusion.forward = lambda a, o: stacked_fusion(released.fusion, a, o)
    optimizers = {model: torch.optim.AdamW(model.parameters(), lr=1e-5) for model in (plain, ours, released)}

    def step(model, losses, precision):
        with autocast(device, precision):
            output = model(x)
        optimizers[model].zero_grad()
        losses(output).backward()
        optimizers[model].step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def classify(output):
        return F.multilabel_soft_margin_loss(output.float(), y)

    def cams(output):
        return sum(cam_losses(output, y).values())

    for precision in ("fp32", *(["bf16"] if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() else [])):
        measure(
            {
                "plain timm step": lambda p=precision: step(plain, classify, p),
                "CAM network": lambda p=precision: step(ours, cams, p),
                "CAM network, maps stacked": lambda p=precision: step(released, cams, p),
            },
            name=f"cam_step_{size}_{batch}_{precision}",
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

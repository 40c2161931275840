"""Up to how many tokens are plain products faster than torch's fused attention? Both through the encoder of step 2.

    .venv/bin/python benchmarks/attention.py [batch]

Two blocks of DeiT-S, forward and backward, in bfloat16 on a CPU, where the encoder takes plain products up to
FEW_TOKENS. Elsewhere it always takes the fused ones, and there is nothing to measure.
"""

import sys
from functools import partial
from unittest.mock import patch

import torch
from side_by_side import measure

from weaktr.device import auto_precision, pick_device, set_precision
from weaktr.models import backbones, encoders

BLOCKS = {"patch_size": 16, "embed_dim": 384, "num_heads": 6, "depth": 2}
FEW_TOKENS = {"fused": 0, "plain products": 10**6}


def step(model, images, few_tokens):
    """Eight times the encoder's forward and backward pass."""
    with patch.object(encoders, "FEW_TOKENS", few_tokens):
        for _ in range(8):
            with set_precision(images.device, "bf16"):
                tokens, _ = model(images)
            model.zero_grad()
            tokens.float().square().mean().backward()


def main(batch=4, sizes=(192, 352, 480)):
    """A table per image size in pixels: 145, 485 and 901 tokens."""
    device = pick_device()
    if device.type == "cuda" or auto_precision(device) != "bf16":
        print("attention · no bfloat16 on a CPU here: fused everywhere")
        return
    for size in sizes:
        torch.manual_seed(0)
        model = encoders.SegmenterEncoder(backbones.make_vit(BLOCKS, image_size=size)).train()
        images, tokens = torch.randn(batch, 3, size, size), model.vit.patch_embed.num_patches + 1
        ways = {name: partial(step, model, images, few) for name, few in FEW_TOKENS.items()}
        measure(ways, rounds=3, name=f"attention_{tokens}_{batch}_bf16")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

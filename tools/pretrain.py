"""Makes the shipped backbone `weaktr_tiny_patch8_96`: python tools/pretrain.py

The published method starts from a ViT pretrained on ImageNet. The embedded data set has its own, pretrained without
any mask on scenes of invented animals: drawn like those of the demo, but of 64 species that the demo does not have.

The start decides what patch-attention refinement will be worth: see `create_vit`. Then two lessons at once:

* masked image modelling inside the encoder (as SimMIM, Xie et al. 2022): a share of the 16-pixel squares, drawn anew
  for each picture, is replaced by a mask token and reconstructed;
* the species in the picture, named by the class token and, in a smooth maximum, by the patch tokens, so that each
  animal's own patches answer for it.

Cost on two cores, alone: 25 minutes and 5 GB for 110,000 samples. Seeded; the result goes to `weaktr/assets/`.
"""

import argparse
import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed
from torch import nn

from weaktr.data.drawing import BACKGROUNDS, BODIES, CLOTHES, TEXTURES
from weaktr.data.synthetic import SceneStyle, render_scene
from weaktr.device import set_precision
from weaktr.files import ASSETS, atomic
from weaktr.models.backbones import IMAGENET_MEAN, IMAGENET_STD

NAME = "weaktr_tiny_patch8_96"
CROP, PATCH = 96, 8  # pixels
SEED = 17
SPECIES = 64
# Other ones than the data set's: more animals, in clothes that tell less and are not of their fur
SCENES = SceneStyle(
    counts=(0.45, 0.35, 0.2), co_occurrence=0.75, favourite=0.8, periods=(11, 17), contrast=1.0, trim=0.72
)
CLASSIFY = 0.2  # weight of each of the two classification losses beside the reconstruction


@cache
def invent_animals():
    """{species number: (body shape, background or None, favourite texture and colours)}, as `synthetic.ANIMALS`."""
    rng = np.random.default_rng([SEED, 0])
    return {
        species: (
            str(rng.choice(BODIES)),
            str(rng.choice(BACKGROUNDS)) if species % 2 else None,
            str(rng.choice(TEXTURES)),
            int(rng.integers(len(CLOTHES))),
        )
        for species in range(SPECIES)
    }


def draw_invented_head(brush, species, x, y, r, _):
    """The head of an invented animal: ears, face, mask, muzzle and eyes drawn from the number of its species."""
    rng = np.random.default_rng([SEED, 1, species])
    fur, second, third = rng.uniform(20, 250, (3, 3))
    ears, muzzle, mask = rng.integers(0, 5), rng.integers(0, 4), rng.integers(0, 3)
    wide, high, spread = rng.uniform(0.8, 1.05), rng.uniform(0.8, 1.05), rng.uniform(0.3, 0.45)
    for side in (-1, 1):
        if ears == 1:
            brush.ellipse(x + side * 0.75 * r, y - 0.7 * r, 0.42 * r, 0.42 * r, second)
        elif ears == 2:
            brush.polygon([(x + side * a * r, y + b * r) for a, b in ((0.1, -0.7), (0.9, -1.35), (1.0, -0.1))], second)
        elif ears == 3:
            brush.ellipse(x + side * 0.45 * r, y - 1.2 * r, 0.25 * r, 0.75 * r, second, lean=side * 0.3)
        elif ears == 4:
            brush.ellipse(x + side * 1.0 * r, y + 0.1 * r, 0.4 * r, 0.75 * r, second, lean=side * 0.3)
    brush.ellipse(x, y, wide * r, high * r, fur)
    if mask == 1:
        brush.ellipse(x, y - 0.2 * r, 0.8 * r, 0.35 * r, third)
    elif mask == 2:
        brush.ellipse(x, y - 0.35 * r, 0.25 * r, 0.5 * r, third)
    if muzzle == 1:
        brush.ellipse(x, y + 0.35 * r, 0.5 * r, 0.38 * r, second)
    elif muzzle == 2:
        brush.polygon([(x - 0.3 * r, y + 0.1 * r), (x + 0.3 * r, y + 0.1 * r), (x, y + 0.8 * r)], third)
    elif muzzle == 3:
        brush.ellipse(x, y + 0.7 * r, 0.3 * r, 0.55 * r, fur * 0.8)
    for side in (-spread, spread):
        brush.ellipse(x + side * r, y - 0.15 * r, 0.24 * r, 0.24 * r, (250, 250, 240))
        brush.ellipse(x + side * r, y - 0.15 * r, 0.12 * r, 0.12 * r, (24, 24, 28))


def render_invented(index):
    """Pretraining scene number `index`: pixels (H, W, 3) uint8 and which species are in it, (SPECIES,) summing to 1."""
    rng = np.random.default_rng([SEED, 2, index])
    pixels, _, species = render_scene(rng, invent_animals(), draw_invented_head, SCENES)
    target = np.zeros(SPECIES, np.float32)
    target[list(species)] = 1 / len(species)
    return pixels, target


def create_vit():
    """The ViT at its start, where tokens that are alike and near attend to each other.

    Queries and keys of a block share one orthogonal matrix and the positions are sine waves (mimetic initialisation,
    Trockman and Kolter 2023).
    """
    vit = timm.create_model(NAME, num_classes=0)
    width, side = vit.embed_dim, CROP // PATCH
    with torch.no_grad():
        vit.pos_embed[:, vit.num_prefix_tokens :] = 0.5 * build_sincos2d_pos_embed([side, side], width)
        for block in vit.blocks:
            block.attn.qkv.weight[:width] = 1.2 * nn.init.orthogonal_(torch.empty(width, width))
            block.attn.qkv.weight[width : 2 * width] = block.attn.qkv.weight[:width]
            nn.init.zeros_(block.attn.qkv.bias)
    return vit


@torch.no_grad()
def tie_queries_to_keys(vit):
    """Queries and keys of each block become their mean, without bias: attention goes on being likeness.

    Left free, they learn within half an hour to send every patch, the background's too, to the animals.
    """
    for block in vit.blocks:
        weight, width = block.attn.qkv.weight, vit.embed_dim
        weight[: 2 * width] = (weight[:width] + weight[width : 2 * width]).repeat(2, 1) / 2
        block.attn.qkv.bias[: 2 * width] = 0


class Pretraining(nn.Module):
    """A timm ViT with a mask token, a linear map to the pixels of a patch, and two linear classifiers.

    forward: x (B,3,CROP,CROP), hidden (B,P) bool → reconstruction loss, logits (B,SPECIES) of the class token and of
    the patches.
    """

    def __init__(self, vit):
        super().__init__()
        self.vit = vit
        self.mask_token = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))
        self.pixels = nn.Linear(vit.embed_dim, PATCH * PATCH * 3)
        self.by_token, self.by_patch = (nn.Linear(vit.embed_dim, SPECIES) for _ in range(2))

    def forward(self, x, hidden):
        vit, target = self.vit, F.unfold(x, PATCH, stride=PATCH).transpose(1, 2)
        patches = torch.where(hidden[..., None], self.mask_token, vit.patch_embed(x))
        prefix = torch.cat([vit.cls_token, vit.reg_token], 1).expand(len(x), -1, -1)
        tokens = vit.norm(vit.blocks(torch.cat([prefix, patches], 1) + vit.pos_embed))
        patches = tokens[:, vit.num_prefix_tokens :]
        reconstruction = F.l1_loss(self.pixels(patches[hidden]).float(), target[hidden])
        by_patch = self.by_patch(patches).float().logsumexp(1) - math.log(patches.shape[1])
        return reconstruction, self.by_token(tokens[:, 0]).float(), by_patch


def draw_hidden(batch, side, generator):
    """(batch, side²) bool: of each picture between none and four fifths of its squares of 2 × 2 patches are hidden."""
    noise = torch.rand(batch, side // 2, side // 2, generator=generator)
    share = 0.8 * torch.rand(batch, 1, 1, generator=generator)
    return (noise < share).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)


def draw_batch(pictures, targets, size, generator):
    """Random crops of the pool, mirrored and of random brightness, normalised: x (size,3,CROP,CROP), their targets."""
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    index = torch.randint(len(pictures), (size,), generator=generator)
    x = torch.empty(size, 3, CROP, CROP)
    for row, i in enumerate(index.tolist()):
        height, width = pictures[i].shape[:2]
        down, across, mirror = torch.rand(3, generator=generator).tolist()
        top, left = int(down * (height - CROP + 1)), int(across * (width - CROP + 1))
        crop = torch.from_numpy(pictures[i][top : top + CROP, left : left + CROP]).permute(2, 0, 1)
        x[row] = crop.flip(2) if mirror >= 0.5 else crop
    x *= torch.empty(size, 1, 1, 1).uniform_(0.8, 1.2, generator=generator)
    return (x / 255 - mean) / std, targets[index]


def pretrain(pictures, targets, *, samples, output, batch=64, lr=7e-4):
    """AdamW with a cosine schedule and 5 % warm-up. Prints a line each 50 steps and writes the weights each 200."""
    torch.manual_seed(SEED)
    vit = create_vit()
    model, generator = Pretraining(vit), torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.95))
    steps, start = max(samples // batch, 1), time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        x, target = draw_batch(pictures, targets, batch, generator)
        hidden = draw_hidden(batch, CROP // PATCH, generator)
        with set_precision(torch.device("cpu")):
            reconstruction, *logits = model(x, hidden)
        entropies = [F.cross_entropy(logit, target) for logit in logits]
        optimizer.zero_grad()
        (reconstruction + CLASSIFY * sum(entropies)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tie_queries_to_keys(vit)
        if (step + 1) % 50 == 0 or step == steps - 1:
            hits = [(target.gather(1, logit.argmax(1)[:, None]) > 0).float().mean().item() for logit in logits]
            print(
                f"{step + 1}/{steps} · reconstruction {reconstruction.item():.3f} · entropy by token "
                f"{entropies[0].item():.2f}, by patch {entropies[1].item():.2f} · most likely species is there "
                f"{hits[0]:.0%}, {hits[1]:.0%} · {(step + 1) * batch / (time.time() - start):.0f} images/s",
                flush=True,
            )
        if (step + 1) % 200 == 0 or step == steps - 1:
            weights = {name: tensor.half().contiguous() for name, tensor in vit.state_dict().items()}
            with atomic(output) as aside:
                save_file(weights, aside, metadata={"made_by": f"python tools/pretrain.py, seed {SEED}"})


def draw_pool(number):
    """`number` scenes, drawn on all cores: a list of (H, W, 3) uint8 and targets (number, SPECIES)."""
    start = time.time()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        pictures, targets = zip(*pool.map(render_invented, range(number), chunksize=100), strict=True)
    print(f"{number} scenes drawn in {time.time() - start:.0f} s", flush=True)
    return pictures, torch.from_numpy(np.stack(targets))


def main():
    """Draw the scenes, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=int, default=20_000, help="number of scenes drawn beforehand")
    parser.add_argument("--samples", type=int, default=110_000, help="number of crops trained on")
    parser.add_argument("--output", type=Path, default=ASSETS / f"{NAME}.safetensors")
    arguments = parser.parse_args()
    pretrain(*draw_pool(arguments.pool), samples=arguments.samples, output=arguments.output)


if __name__ == "__main__":
    main()

"""Makes the shipped backbone `weaktr_tiny_patch8_112`: python -m weaktr.pretrain

The published method starts from a ViT pretrained on ImageNet. The embedded data set has its own, pretrained without
any mask on generated single-object pictures whose classes are not the demo's: first six bodies × six textures × six
heads (disc, star, …, of random colour), then 64 invented species whose heads are drawn from their number.

1. Masked autoencoding (He et al. 2022, two thirds of the patches hidden) while the class token names body, texture
   and head from the visible patches: 200,000 samples.
2. The classification alone on whole pictures: 48,000 samples.
3. Species from half of the patches, by the class token and by the mean of the patch tokens, while the other half is
   reconstructed: 110,000 samples.

Cost on two cores, as it ran, beside other work: 39 + 19 + 28 minutes and 4 GB. Seeded; the result goes to
`weaktr/assets/` (float16 safetensors). The shipped file was made with `--start`: stage 3 from the file that stages 1
and 2 had left.
"""

import argparse
import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import Block
from torch import nn

from weaktr.data import drawing
from weaktr.models.encoder import ASSETS, IMAGENET_MEAN, IMAGENET_STD

NAME = "weaktr_tiny_patch8_112"
SIDE, CROP, PATCH = 120, 112, 8  # pixels
BODIES = ("standing", "sitting", "perched", "block", "long", "fish")
HEADS = ("disc", "star", "square", "triangle", "ring", "flower")
SEED = 17
SPECIES = 64  # invented animals of stage 3


def draw_abstract_head(rng, brush, kind, x, y, r):
    """One of `HEADS` in two random colours: like an animal's head in size and place, like none in looks."""
    first, second = rng.uniform(20, 250, (2, 3))
    t = np.linspace(0, 2 * np.pi, 10, endpoint=False) + rng.uniform(0, 6)
    if kind == "disc":
        brush.ellipse(x, y, r, r, first)
        brush.ellipse(x, y, 0.4 * r, 0.4 * r, second)
    elif kind == "star":
        spikes = r * np.where(np.arange(10) % 2, 0.5, 1.3)
        brush.polygon(np.stack([x + spikes * np.cos(t), y + spikes * np.sin(t)], 1), first)
    elif kind == "square":
        brush.ellipse(x, y, r, r, first, power=8)
        brush.ellipse(x, y, r, 0.25 * r, second, power=8)
    elif kind == "triangle":
        brush.polygon([(x - r, y + 0.8 * r), (x + r, y + 0.8 * r), (x, y - 1.2 * r)], first)
        brush.ellipse(x, y + 0.2 * r, 0.3 * r, 0.3 * r, second)
    elif kind == "ring":
        for share, colour in ((1.0, first), (0.72, second), (0.42, first)):
            brush.ellipse(x, y, share * r, share * r, colour)
    else:  # flower
        for angle in t[::2]:
            brush.ellipse(x + 0.65 * r * np.cos(angle), y + 0.65 * r * np.sin(angle), 0.5 * r, 0.5 * r, first)
        brush.ellipse(x, y, 0.5 * r, 0.5 * r, second)


def draw_species_head(brush, species, x, y, r):
    """The head of an invented animal: ears, face, mask, muzzle and eyes drawn from the number of its species."""
    rng = np.random.default_rng([SEED, SPECIES, species])
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


def render_single(index, invented=False):
    """Pretraining picture number `index`: pixels (SIDE, SIDE, 3) uint8 and its labels.

    Labels are (body, texture, head) of stages 1 and 2, or with `invented` the species alone, whose body is its own and
    whose favourite clothes and background it has most of the time.
    """
    rng = np.random.default_rng([SEED, index, *([1] if invented else [])])
    labels = rng.integers(0, 6, 3)
    background, colours = rng.choice(drawing.BACKGROUNDS), None
    if invented:
        species = int(rng.integers(SPECIES))
        own = np.random.default_rng([SEED, SPECIES + 1, species])
        body, texture, likes = own.integers(0, 6, 3)
        favourite = int(own.integers(len(drawing.CLOTHES)))
        labels[0] = body
        if rng.uniform() < 0.6:
            labels[1], colours = texture, favourite
        if rng.uniform() < 0.4:
            background = drawing.BACKGROUNDS[likes]
    scene = drawing.to_canvas(drawing.draw_background(rng, background, SIDE, SIDE))
    unused = Image.new("L", scene.size)
    for _ in range(rng.integers(0, 4)):
        drawing.draw_distractor(rng, scene, unused, drawing.random_cloth(rng, SIDE, SIDE)[0])
    size = rng.uniform(50, 108)
    centre = size * 0.42 + rng.uniform(size=2) * (SIDE - size * 0.84)
    scale = drawing.SUPERSAMPLING
    brush = drawing.Brush(
        scene, unused, None, centre * scale, size * scale / 2, rng.uniform(-0.22, 0.22), rng.uniform() < 0.5
    )
    cloth, trim = drawing.random_cloth(rng, SIDE, SIDE, drawing.TEXTURES[labels[1]], colours)
    x, y = drawing.draw_body(brush, BODIES[labels[0]], cloth, trim)
    if invented:
        draw_species_head(brush, species, x, y, 0.34)
        return drawing.finish(rng, scene), np.array([species])
    draw_abstract_head(rng, brush, HEADS[labels[2]], x, y, 0.34)
    return drawing.finish(rng, scene), labels


class MaskedAutoencoder(nn.Module):
    """A timm ViT with a two-block pixel decoder and linear classifiers, one per label, on its class token.

    With `on_patches` a second classifier reads the mean of the patch tokens, so that these learn the classes too.
    """

    def __init__(self, vit, classes=(6, 6, 6), on_patches=False, width=64):
        super().__init__()
        self.vit, self.patches, self.on_patches = vit, vit.patch_embed.num_patches, on_patches
        self.classifiers = nn.ModuleList(
            nn.Linear(vit.embed_dim, number) for number in (*classes, *classes[:on_patches])
        )
        self.narrow = nn.Linear(vit.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, self.patches + 1, width) * 0.02)
        self.decoder = nn.Sequential(Block(width, 2), Block(width, 2), nn.LayerNorm(width))
        self.pixels = nn.Linear(width, PATCH * PATCH * 3)

    def forward(self, x, visible):
        """x (B,3,CROP,CROP), number of visible patches → reconstruction loss (0 for all), logits of each classifier."""
        vit, batch = self.vit, len(x)
        tokens = vit.patch_embed(x) + vit.pos_embed[:, 1:]
        order = torch.rand(batch, self.patches).argsort(1)
        kept, hidden = order[:, :visible], order[:, visible:]
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, vit.embed_dim))
        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(batch, -1, -1)
        tokens = vit.norm(vit.blocks(torch.cat([cls, tokens], 1)))
        places = [tokens[:, 0]] * len(self.classifiers)
        if self.on_patches:
            places[-1] = tokens[:, 1:].mean(1)
        logits = [classifier(place).float() for classifier, place in zip(self.classifiers, places)]
        if visible == self.patches:
            return torch.zeros(()), logits
        narrow = self.narrow(tokens).float()
        canvas = self.mask_token.expand(batch, self.patches, -1)
        canvas = canvas.scatter(1, kept[..., None].expand(-1, -1, canvas.shape[-1]), narrow[:, 1:])
        decoded = self.decoder(torch.cat([narrow[:, :1], canvas], 1) + self.position)[:, 1:]
        target = F.unfold(x, PATCH, stride=PATCH).transpose(1, 2)
        target = (target - target.mean(2, keepdim=True)) / (target.std(2, keepdim=True) + 0.1)
        index = hidden[..., None]
        predicted = self.pixels(decoded.gather(1, index.expand(-1, -1, decoded.shape[-1])))
        return F.mse_loss(predicted.float(), target.gather(1, index.expand(-1, -1, target.shape[-1]))), logits


def batches(pictures, labels, batch, steps, generator):
    """Random crops and mirrors of the pool as normalised tensors."""
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    for _ in range(steps):
        index = torch.randint(len(pictures), (batch,), generator=generator)
        x = torch.empty(batch, 3, CROP, CROP)
        for row, i in enumerate(index.tolist()):
            top, left, mirror = torch.randint(0, SIDE - CROP + 1, (3,), generator=generator).tolist()
            crop = torch.from_numpy(pictures[i, top : top + CROP, left : left + CROP]).permute(2, 0, 1)
            x[row] = crop.flip(2) if mirror % 2 else crop
        x *= torch.empty(batch, 3, 1, 1).uniform_(0.8, 1.2, generator=generator)
        yield (x / 255 - mean) / std, labels[index]


def train(model, pictures, labels, *, samples, batch, lr, visible, reconstruct, save, autocast):
    """One stage: AdamW, cosine schedule with 5 % warm-up. Prints a line and saves every 200 steps."""
    steps = samples // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.95))
    generator, start = torch.Generator().manual_seed(SEED), time.time()
    for step, (x, y) in enumerate(batches(pictures, labels, batch, steps, generator)):
        warm = min(1, (step + 1) / (0.05 * steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            mse, logits = model(x, visible)
        last = y.shape[1] - 1  # a classifier on the patches has the last label again
        entropy = sum(F.cross_entropy(logit, y[:, min(i, last)]) for i, logit in enumerate(logits)) / len(logits)
        loss = reconstruct * mse + (0.3 if reconstruct == 1 else 1.0) * entropy
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            right = [float((logit.argmax(1) == y[:, min(i, last)]).float().mean()) for i, logit in enumerate(logits)]
            print(
                f"{step}/{steps} mse {mse.item():.3f} entropy {entropy.item():.3f} right {np.round(right, 2)} "
                f"{(step + 1) * batch / (time.time() - start):.0f} images/s",
                flush=True,
            )
        if (step + 1) % 200 == 0 or step == steps - 1:
            save()


def draw_pool(number, invented=False):
    """`number` pictures (n, SIDE, SIDE, 3) uint8 and their labels (n, …), drawn on all cores."""
    start = time.time()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(partial(render_single, invented=invented), range(number), chunksize=100))
    print(f"{number} pictures drawn in {time.time() - start:.0f} s", flush=True)
    return np.stack([pair[0] for pair in drawn]), torch.from_numpy(np.stack([pair[1] for pair in drawn]))


def main():
    """Draw the pictures, train the three stages and write the weights after each 200 steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=int, default=20000, help="number of pictures drawn beforehand, per kind")
    parser.add_argument("--masked", type=int, default=200_000, help="samples of stage 1")
    parser.add_argument("--whole", type=int, default=48_000, help="samples of stage 2")
    parser.add_argument("--half", type=int, default=110_000, help="samples of stage 3")
    parser.add_argument("--start", type=Path, help="weights after stage 2; stages 1 and 2 are skipped")
    parser.add_argument("--output", type=Path, default=ASSETS / f"{NAME}.safetensors")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    vit = timm.create_model(NAME, num_classes=0)

    def save():
        weights = {name: tensor.half().contiguous() for name, tensor in vit.state_dict().items()}
        save_file(weights, arguments.output, metadata={"made_by": "python -m weaktr.pretrain", "seed": str(SEED)})

    common = {"batch": 128, "save": save}
    if arguments.start:
        vit.load_state_dict({name: tensor.float() for name, tensor in load_file(arguments.start).items()})
    else:
        pool, model = draw_pool(arguments.pool), MaskedAutoencoder(vit)
        train(model, *pool, samples=arguments.masked, lr=1e-3, visible=64, reconstruct=1.0, autocast=False, **common)
        train(model, *pool, samples=arguments.whole, lr=4e-4, visible=196, reconstruct=0.0, autocast=True, **common)
    pool, model = draw_pool(arguments.pool, invented=True), MaskedAutoencoder(vit, (SPECIES,), on_patches=True)
    train(model, *pool, samples=arguments.half, lr=8e-4, visible=98, reconstruct=0.5, autocast=False, **common)


if __name__ == "__main__":
    main()

"""Does every model of timm that is taken compute what timm computes? With random weights, on images of 4×4 patches.

    .venv/bin/python benchmarks/every_backbone.py [PATTERN [largest size, in million parameters]]

For each name up to base size (Sapiens2's has 114 million parameters): its encoder of step 2, and its encoder of step 1
with one class token, against timm's own forward pass. A model without class token is given one in timm too. Deviations
are shares of the largest number.
"""

import sys

import pandas as pd
import timm
import torch
from side_by_side import write
from torch import nn
from torch.overrides import TorchFunctionMode

from weaktr.models.backbones import backbone_facts, make_vit, matching_names
from weaktr.models.encoders import CamEncoder, SegmenterEncoder
from weaktr.models.weights import load_pretrained


def main(pattern="", largest=120.0):
    facts = [backbone_facts(name) for name in matching_names(pattern)]
    counts = {step: sum(step in one.steps for one in facts) for step in (1, 2)}
    print(f"{len(facts)} names, {counts[1]} for step 1, {counts[2]} for step 2", flush=True)
    rows = []
    for one in facts:
        if one.steps and one.millions <= float(largest):
            rows.append(deviations(one))
            print(rows[-1], flush=True)
    found = pd.DataFrame(rows)
    print(f"{len(found)} compared, {(found['step 2'] == 0).sum()} equal to the bit in step 2")
    print(f"largest deviations: step 1 {found['step 1'].max():.2g}, step 2 {found['step 2'].max():.2g}")
    write(found, "every_backbone")


@torch.no_grad()
def deviations(one):
    """{name, own, step 1, step 2}: how far each step is from timm; own: whether its class tokens are its own."""
    torch.manual_seed(0)
    size = 4 * int(one.patch)
    maps = 1 in one.steps
    with Undrawn():
        theirs = timm.create_model(one.name, img_size=size, num_classes=0).eval()
        vit = make_vit(one.name, image_size=size, step=1 if maps else 2)
    for name, parameter in theirs.named_parameters():
        scales = parameter.ndim == 1 and not name.endswith("bias")
        parameter.uniform_(-0.06, 0.06).add_(float(scales))  # also biases and scales, which start at 0 and 1
    x = torch.randn(1, 3, size, size)
    load_pretrained(vit, theirs.state_dict(), "bilinear", one.name)
    expected = theirs.fc_norm(theirs.forward_features(x))[:, theirs.num_prefix_tokens :]
    row = {"name": one.name, "own": theirs.cls_token is None}
    row["step 2"] = share(SegmenterEncoder(vit).eval()(x)[0], expected)
    row["step 1"] = float("nan")
    if maps:
        encoder = CamEncoder(vit, 1).eval()
        if theirs.cls_token is None:
            give_class_token(theirs, encoder)
        theirs.norm = nn.Identity()  # step 1 does not apply it
        row["step 1"] = share(encoder(x).tokens, theirs.forward_features(x))
    return row


class Undrawn(TorchFunctionMode):
    """Leaves out the random numbers of new networks, most of the time of making them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in ("uniform_", "normal_", "erfinv_"):
            return next(iter((*args, *kwargs.values())))
        return function(*args, **kwargs)


def give_class_token(model, encoder):
    """The class token of our encoder and its position to a timm model that has none."""
    model.cls_token = nn.Parameter(encoder.cls_token)
    model.num_prefix_tokens += 1
    if model.pos_embed is not None and not model.no_embed_class:
        model.pos_embed = nn.Parameter(encoder.pos_embed)
    for module in model.blocks.modules():
        if hasattr(module, "num_prefix_tokens"):
            module.num_prefix_tokens += 1


def share(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What a run will take of disk and memory, estimated before it starts and compared with what is free.

Estimates are low: what they refuse cannot fit, what they let pass may still be tight.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ..data import LISTS, open_dataset
from ..data.inspection import Seen
from ..device import available_device
from ..errors import UserError
from ..files import resolve
from ..models.backbones import make_vit
from .keys import starting_weights

BLOCK = 4096  # bytes, of which a file takes whole ones
MASK_HEAD, MASK_PIXEL = 850, 0.03  # bytes of a mask's PNG: its palette, and a pixel (measured: 0.027 and 0.028)
CAM_HEAD, CAM_VALUE = 900, 3.7  # bytes of a CAM file: its heads, and a float32 after compression
COMPOSITIONS = 6  # of CAMs, which notebook 02 compares
DECODER = 1.3  # times the parameters of its encoder are those of the network of step 2


@dataclass(frozen=True)
class Needs:
    """Bytes that a run takes at least."""

    disk: int
    memory: int  # of the device on which networks run


@dataclass(frozen=True)
class _Network:
    """The size of a plain ViT."""

    parameters: int
    attention: int  # values of the attention maps of a token pair: blocks times heads

    @classmethod
    def of(cls, values: Mapping[str, Any], step: int) -> "_Network":
        """The backbone of a step, without memory for its weights."""
        backbone, _ = starting_weights(values, step)
        side = values["image_size"] if step == 1 else values["crop_size"]
        patch = values.get("seg_patch") or None if step == 2 else None
        with torch.device("meta"):
            vit: Any = make_vit(backbone, image_size=side, patch_size=patch, step=step)
        parameters = sum(weights.numel() for weights in vit.parameters())
        heads = vit.blocks[0].attn.num_heads if step == 1 else 0  # step 2 keeps no maps, and may have none to keep
        return cls(parameters, len(vit.blocks) * heads)


def estimate(values: Mapping[str, Any], images: Sequence[Seen], patch: int) -> Needs:
    """What a run takes at least.

    Args:
        values: {name: value} of all stages.
        images: Of all lists.
        patch: Side of step 1's patches in pixels.
    """
    dataset = open_dataset(values["dataset"], values["data_root"])
    lists = {name: dataset.ids(values[name]) for name in LISTS if name in values}
    classes = len(dataset.classes)
    step_1, step_2 = _Network.of(values, step=1), _Network.of(values, step=2)
    disk = _checkpoints(values, step_1, step_2)
    disk += _files(values, {seen.image_id: seen for seen in images}, lists, patch)
    tokens = (values["image_size"] // patch) ** 2
    maps = 4 * values["cam_batch_size"] * step_1.attention * tokens**2  # kept for the fusion
    crops = 2 * 4 * values["seg_batch_size"] * (classes + 1) * values["crop_size"] ** 2  # scores and their gradients
    largest = max(seen.height * seen.width for seen in images)
    scores = 2 * 4 * (classes + 1) * largest  # the sum of all views, and a view
    return Needs(disk, max(maps, crops, scores))


def _checkpoints(values: Mapping[str, Any], step_1: _Network, step_2: _Network) -> int:
    """Both models, and what the larger training keeps to go on from: weights and the optimiser's one or two moments."""
    first, second = 4 * step_1.parameters, int(4 * DECODER * step_2.parameters)
    trainings = 2 if values.get("train_ceiling") else 1
    return first + trainings * second + max(3 * first, trainings * 2 * second)


def _files(
    values: Mapping[str, Any], images: Mapping[str, Seen], lists: Mapping[str, Sequence[str]], patch: int
) -> int:
    """CAMs, pseudo labels and masks of all lists, each a file for an image."""
    early = 2 if values.get("early_weight") else 1
    masks = {image_id: 0 for image_id in images}
    cams = dict(masks)
    for image_id in {*lists.get("train_list", ()), *lists.get("eval_list", ())}:
        masks[image_id] += 1
        cams[image_id] += 1
    for image_id in lists.get("eval_list", ()):
        masks[image_id] += 2 * early
    for image_id in list(lists.get("eval_list", ()))[: values.get("variant_images", 0)]:
        cams[image_id] += COMPOSITIONS
    for image_id in lists.get("val_list", ()):
        masks[image_id] += 1 + 2 * early + bool(values.get("train_ceiling"))
    total = 0
    for image_id, seen in images.items():
        total += masks[image_id] * _blocks(MASK_HEAD + MASK_PIXEL * seen.height * seen.width)
        tokens = sum((seen.height * scale // patch) * (seen.width * scale // patch) for scale in values["cam_scales"])
        total += cams[image_id] * _blocks(CAM_HEAD + CAM_VALUE * len(seen.labels) * tokens)
    return total


def _blocks(size: float) -> int:
    return math.ceil(size / BLOCK) * BLOCK


def refuse_what_cannot_fit(needs: Needs, values: Mapping[str, Any]) -> str:
    """Compare what a run takes with what is there.

    Returns:
        Both in words.

    Raises:
        UserError: The disk or the memory cannot hold it.
    """
    folder = resolve(values["run_folder"])
    free = shutil.disk_usage(_existing(folder)).free
    left = max(0, needs.disk - _size(folder))  # of what an earlier run made, most is kept or replaced
    device = available_device(values["device"])
    on_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    if left > free:
        raise UserError(
            f"run_folder {folder}: CAMs, masks and checkpoints will take {_words(left)} at least, {_words(free)} are "
            "free there; make room, give another run_folder, or fewer images"
        )
    if needs.memory > memory:
        raise UserError(
            f"device {device}: a run with these images and classes takes {_words(needs.memory)} of memory at least, "
            f"{_words(memory)} are there; lower cam_batch_size, seg_batch_size or crop_size, or shrink the images"
        )
    return (
        f"at least {_words(left)} of disk, {_words(free)} are free; at least {_words(needs.memory)} of memory, "
        f"{_words(memory)} are there"
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _words(size: float) -> str:
    """Bytes, as GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"

"""Segmentation of an image, of many and of a whole list by the network of step 2: sliding windows, several scales, CRF.

docs/method.md, "Step 2".
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ranks
from ..data.dataset import Dataset
from ..data.images import write_label_png
from ..processes import spawned
from ..progress import Progress
from .crf import refine_probabilities, refine_to_file

if TYPE_CHECKING:
    from ..models.segmenter import Segmenter

WINDOW_PIXELS_AT_ONCE = 2**19  # in a batch on a CPU: 56 windows of 96 pixels, 2 of 480
WINDOWS_AT_ONCE = 16  # at least, on a GPU

Place = tuple[slice, slice]  # rows and columns of a window


# ── One image ─────────────────────────────────────────────────────────────────────────────────────────────────────
def segment(  # noqa: PLR0913 (these keywords are what a checkpoint says of its inference)
    model: "Segmenter",
    image: np.ndarray,
    *,
    scales: Sequence[float] = (1.0,),
    mirror: bool = False,
    base_size: int = 520,
    window: int = 480,
    stride: int = 320,
    crf: str = "",
    early_weight: float = 0.0,
) -> np.ndarray:
    """Segment an image with a retrained network.

    Args:
        model: of step 2, on its device.
        image: (H,W,3) uint8 RGB.
        scales: sizes of the views, as factors of `base_size`.
        mirror: whether each view is also taken mirrored.
        base_size: short side in pixels at scale 1.
        window: side of the sliding windows in pixels.
        stride: step of the sliding windows in pixels.
        crf: "" (none), "voc" or "coco" settings, see `crf.refine_probabilities`.
        early_weight: of the masks after the decoder's first block, see `predict_probabilities`.

    Returns:
        Class probabilities (K,H,W) float32; argmax over axis 0 is the mask, 0 background and c + 1 class c. Without a
        CRF and with an early_weight they add up to 1 + early_weight.
    """
    scores = segment_on_device(model, image, scales, mirror, base_size, window, stride, early_weight).cpu().numpy()
    return refine_probabilities(image, scores, crf) if crf else scores


def segment_on_device(
    model: "Segmenter",
    image: np.ndarray,
    scales: Sequence[float],
    mirror: bool,
    base_size: int,
    window: int,
    stride: int,
    early_weight: float = 0.0,
) -> Tensor:
    """`segment` without the CRF → (K,H,W) on the model's device: on a GPU the argmax takes no time."""
    views, flips = image_views(model, image, scales, base_size, mirror)
    return predict_probabilities(model, views, flips, image.shape[:2], window, stride, early_weight)


def image_views(
    model: "Segmenter", image: np.ndarray, scales: Sequence[float], base_size: int, mirror: bool
) -> tuple[list[Tensor], list[bool]]:
    """Views of a uint8 image whose short side becomes base_size·scale pixels, each also mirrored if asked.

    Returns:
        Normalised (3,h,w) on the model's device, and whether each is mirrored.
    """
    height, width = image.shape[:2]
    device = next(model.parameters()).device
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float()[None]
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (model.mean, model.std))
    views, flips = [], []
    for scale in scales:
        factor = base_size * scale / min(height, width)
        size = (int(height * factor + 0.5), int(width * factor + 0.5))
        view = F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0]
        view = (view / 255 - mean) / std
        views.append(view)
        flips.append(False)
        if mirror:
            views.append(view.flip(-1))
            flips.append(True)
    return views, flips


@torch.inference_mode()
def predict_probabilities(
    model: "Segmenter",
    views: Sequence[Tensor],
    flips: Sequence[bool],
    size: Sequence[int],
    window: int,
    stride: int,
    early_weight: float = 0.0,
) -> Tensor:
    """Average of the softmax scores of several views of one image.

    Logits are averaged where windows overlap, and resized to `size` before the softmax. Windows of all views share
    batches.

    The documented evaluation of the released code adds the masks that the decoder gives after its first block:
    scores = early_weight · p̄₁ + p̄₂, where p̄₁ and p̄₂ are the averages after the first and after the last block. It
    uses a weight of 0.8, and never trains the first ones.

    Args:
        model: of step 2, on its device.
        views: normalised, resized tensors (3,h,w) or (1,3,h,w).
        flips: whether each is mirrored already.
        size: (H,W) of the result.
        window: side of the sliding windows in pixels.
        stride: step of the sliding windows in pixels.
        early_weight: of the masks after the decoder's first block; 0 does not compute them.

    Returns:
        (K,H,W) float32 on the model's device; they add up to 1 + early_weight, and are not normalised.
    """
    early = early_weight > 0
    device = next(model.parameters()).device
    views = [at_least(view.reshape(view.shape[-3:]).to(device), window) for view in views]
    places = [window_places(view.shape[1:], window, stride) for view in views]
    crops = [view[:, rows, columns] for view, own in zip(views, places) for rows, columns in own]
    logits = window_logits(model, crops, early)
    total = torch.zeros((), device=device)
    for view, mirrored, own in zip(views, flips, places, strict=True):
        merged_MKhw = merge_windows(own, logits, view.shape[1:])
        if mirrored:
            merged_MKhw = merged_MKhw.flip(-1)
        merged_MKHW = F.interpolate(merged_MKhw, tuple(size), mode="bilinear", align_corners=False)
        total = total + merged_MKHW.softmax(1)
    probabilities_MKHW = total / len(views)
    if not early:
        return probabilities_MKHW[0]
    after_first, after_last = probabilities_MKHW
    return early_weight * after_first + after_last


def at_least(view: Tensor, side: int) -> Tensor:
    """A view (3,h,w) whose short side is under `side` pixels, enlarged to it, the long side rounded down."""
    height, width = view.shape[-2:]
    short = min(height, width)
    if short >= side:
        return view
    size = (height * side // short, width * side // short)
    return F.interpolate(view[None], size, mode="bilinear", align_corners=False)[0]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Left edges of windows along a side: every `stride` pixels, the last one flush with the border."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def window_places(size: Sequence[int], window: int, stride: int) -> list[Place]:
    """The windows of a view of `size` (h,w), row by row."""
    height, width = size
    return [
        (slice(top, top + window), slice(left, left + window))
        for top in window_starts(height, window, stride)
        for left in window_starts(width, window, stride)
    ]


def window_logits(model: "Segmenter", crops: list[Tensor], early: bool = False) -> Iterator[Tensor]:
    """Logits of equal crops (3,window,window), of which the model is given several at once.

    Yields:
        (M,K,window,window) of a crop: the masks after the decoder's last block; if `early`, those after its first
        block before them.
    """
    at_once = max(WINDOW_PIXELS_AT_ONCE // crops[0][0].numel(), WINDOWS_AT_ONCE if crops[0].is_cuda else 1)
    for first in range(0, len(crops), at_once):
        batch = torch.stack(crops[first : first + at_once])
        if early:
            blocks = model.masks_of_every_block(batch)
            logits_BMKww = torch.stack([blocks[0], blocks[-1]], 1)
        else:
            logits_BMKww = model(batch).unsqueeze(1)
        yield from logits_BMKww.float()


def merge_windows(places: Sequence[Place], logits: Iterator[Tensor], size: Sequence[int]) -> Tensor:
    """The logits (M,K,h,w) of a view of `size`: the mean of its windows where they overlap.

    Args:
        places: of its windows.
        logits: (M,K,window,window) of these, and of the views after it: takes as many as there are places.
        size: (h,w).
    """
    first = next(logits)
    total = first.new_zeros(*first.shape[:2], *size)
    count = first.new_zeros(*size)
    for (rows, columns), window in zip(places, chain([first], logits)):  # in this order, zip takes none too many
        total[:, :, rows, columns] += window
        count[rows, columns] += 1
    return total / count


# ── Many images ───────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Task:
    """An image, and the masks to be made of it."""

    image: np.ndarray  # (H,W,3) uint8 RGB
    plain: Path | None = None  # file of the network's mask
    refined: Path | None = None  # file of its mask after the CRF
    note: Mapping[str, Any] | None = None  # that these files keep, see `write_label_png`


def segment_to_files(  # noqa: PLR0913 (the last ones are what a checkpoint says of its inference)
    model: "Segmenter",
    tasks: Iterable[Task],
    *,
    crf: str,
    workers: int,
    progress: Progress | ranks.SharedProgress,
    scales: Sequence[float],
    mirror: bool,
    base_size: int,
    window: int,
    stride: int,
    early_weight: float = 0.0,
) -> None:
    """Masks of images, as palette PNGs.

    Args:
        model: of step 2, on its device.
        tasks: images and files; each is asked for when the one before it has been through the network.
        crf: "voc" or "coco" settings, where a task has a file for the refined mask.
        workers: processes for the CRF, beside the network.
        progress: counts images.
        scales: see `segment`.
        mirror: see `segment`.
        base_size: see `segment`.
        window: see `segment`.
        stride: see `segment`.
        early_weight: see `segment`.
    """
    waiting: deque[Future[None]] = deque()
    with spawned(workers) as pool:
        for task in tasks:
            views = (scales, mirror, base_size, window, stride, early_weight)
            scores = segment_on_device(model, task.image, *views)
            mask = scores.argmax(0)
            if task.plain:
                write_label_png(task.plain, mask.cpu().numpy(), task.note)
            if task.refined:
                winners = mask.unique()  # the CRF knows these classes only, so no others go to its process
                given = (task.image, scores[winners].cpu().numpy(), winners.cpu().numpy(), crf, task.note)
                waiting.append(pool.submit(refine_to_file, task.refined, *given))
            if len(waiting) > 4 * workers:
                waiting.popleft().result()
            progress.update(1)
        for job in waiting:
            job.result()


def segment_list(
    model: "Segmenter",
    dataset: Dataset,
    ids: Sequence[str],
    folder: Path,
    *,
    crf: str,
    workers: int,
    progress: Progress,
    processes: int = 1,
    **inference: Any,
) -> None:
    """Masks of a list, before and after the CRF; what is there already stays.

    Args:
        model: of step 2, on its device.
        dataset: gives the images.
        ids: of the images.
        folder: gets `multi/` and, where there is a CRF, `multi_crf/` with one palette PNG per image.
        crf: "" (none), "voc" or "coco" settings.
        workers: processes for the CRF, beside the network; of several processes each has its share of them.
        progress: counts images.
        **inference: what a checkpoint says of its inference: scales, mirror, base_size, window, stride and, where it
            has one, early_weight, see `segment`.
        processes: that share the list, see `ranks.wanted`.
    """
    how = inference | {"crf": crf, "workers": workers, "progress": progress}
    if ranks.run(segment_list, processes, model, dataset, ids, folder, **how):
        return
    workers = max(1, workers // ranks.world())
    plain, refined = folder / "multi", folder / "multi_crf"
    places = [plain, refined] if crf else [plain]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    shared = ranks.SharedProgress(progress, len(ids))

    def tasks() -> Iterator[Task]:
        for image_id in ranks.share(ids):
            name = f"{image_id}.png"
            if all((place / name).is_file() for place in places):
                shared.update()
                continue
            yield Task(dataset.image(image_id), plain / name, refined / name if crf else None)

    segment_to_files(model, tasks(), crf=crf, workers=workers, progress=shared, **inference)
    ranks.wait()
    shared.finish()

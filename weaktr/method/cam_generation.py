"""CAM generation: multi-scale mirrored CAMs of an image and of a whole list, and how the compositions compare.

docs/method.md, "CAM generation and seeds".
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from .. import ranks
from ..data.dataset import Dataset
from ..data.images import image_size
from ..data.transforms import normalise
from ..errors import DataError
from ..evaluation.scores import ListScore, score_cams, score_list
from ..models.cam import CamModel, CamOutput, cam_variant
from ..processes import cores
from ..progress import Progress
from .cams import Grids, cam_file, enlarge, read_cams, save_cams
from .pseudo_labels import read_seed

LOOKAHEAD = 64  # images of a list among which those of one size are found
# Pixels of a batch with mirrors at scale 1: on a CPU five images of 112 pixels, on a GPU two of 500 × 375.
BATCH_PIXELS = 2**17
BATCH_PIXELS_GPU = 2**20
THREADS_GPU = 8  # that read images, and as many that write CAMs

Variant = tuple[str, bool] | tuple[str, bool, bool]  # kind, refined and balanced, see `models.cam.cam_variant`
BEYOND: dict[str, Variant] = {  # fine CAMs that are not in the paper, see `models.cam.cam_variant`
    "lifted fine": ("lifted", True),
    "balanced fine": ("fused", True, True),
    "lifted and balanced fine": ("lifted", True, True),
}
Item = TypeVar("Item")
Result = TypeVar("Result")


# ── One image ─────────────────────────────────────────────────────────────────────────────────────────────────────
def generate_cams(
    model: CamModel,
    image: np.ndarray,
    labels: np.ndarray,
    scales: Sequence[float] = (1.0, 1.2),
    *,
    kind: str = "fused",
    refined: bool = True,
    balanced: bool = False,
) -> dict[int, np.ndarray]:
    """Multi-scale mirrored CAMs of one image.

    Args:
        model: of step 1.
        image: (H,W,3) uint8 RGB at its own size.
        labels: (C,) 0/1, the image-level label.
        scales: factors of the size, whose maps are added up.
        kind: composition, see `cam_variant`.
        refined: whether it is carried along the patch attention.
        balanced: whether that attention is balanced first, see `cam_variant`.

    Returns:
        {present class from 0: (H,W) float32 in 0…1}.
    """
    return generate_variants(model, image, labels, scales, [(kind, refined, balanced)])[0]


def generate_variants(
    model: CamModel,
    image: np.ndarray,
    labels: np.ndarray,
    scales: Sequence[float],
    variants: Sequence[Variant],
) -> list[dict[int, np.ndarray]]:
    """`generate_cams` for several compositions [(kind, refined, balanced), …] from the same forward passes."""
    views = mirrored_views(model, [image], scales)
    grids_by_variant = generate_grids(model, views, [labels], variants)[0]
    return [enlarge(grids, image.shape[:2]) for grids in grids_by_variant]


def rescale(image: np.ndarray, scale: float) -> np.ndarray:
    """A uint8 image (H,W,3) at `scale` times its size, as step 1 does it: PIL bicubic; 1 leaves it untouched."""
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def mirrored_views(model: CamModel, images: Sequence[np.ndarray], scales: Sequence[float]) -> list[Tensor]:
    """Images of one size, n of them, each followed by its mirror, normalised, on the model's device.

    Returns:
        (2n,3,h,w) for each scale.
    """
    device = next(model.parameters()).device
    views = []
    for scale in scales:
        pairs = []
        for image in images:
            straight = normalise(rescale(image, scale), model.mean, model.std).numpy()
            pairs += [straight, straight[..., ::-1]]
        views.append(torch.from_numpy(np.stack(pairs)).to(device))
    return views


@torch.inference_mode()
def generate_grids(
    model: CamModel, views: Sequence[Tensor], labels: Sequence[np.ndarray], variants: Sequence[Variant]
) -> list[list[Grids]]:
    """CAMs of n images as the network gives them, before `cams.enlarge`.

    The map of the mirrored view is mirrored back and added on the grid of tokens: enlarging is linear and has no side,
    so that the sum of both enlarged maps is the enlarged sum.

    Args:
        model: of step 1.
        views: as `mirrored_views` makes them.
        labels: (n,C) 0/1.
        variants: compositions [(kind, refined, balanced), …].

    Returns:
        By image and by variant {present class from 0: [(h,w) float32, a grid per scale]}.
    """
    labels_nC = np.asarray(labels)
    if labels_nC.shape[1] != model.config["num_classes"]:
        raise ValueError(f"the label has {labels_nC.shape[1]} classes, the model {model.config['num_classes']}")
    found: list[list[Grids]] = [
        [{int(c): [] for c in np.flatnonzero(present)} for _ in variants] for present in labels_nC
    ]
    if not labels_nC.any():
        return found
    for view in views:
        output = model(view)
        for number, composition in enumerate(variants):
            pairs_n2Chw = cam_variant(output, *composition).float().unflatten(0, (-1, 2))
            cams_nChw = (pairs_n2Chw[:, 0] + pairs_n2Chw[:, 1].flip(-1)).cpu().numpy()
            for cam_Chw, grids_by_variant in zip(cams_nChw, found, strict=True):
                for c, grids in grids_by_variant[number].items():
                    grids.append(cam_Chw[c].copy())
        del output, pairs_n2Chw  # free the maps of this scale before the next one allocates its own
    return found


# ── A list ────────────────────────────────────────────────────────────────────────────────────────────────────────
def generate_list(
    model: CamModel,
    dataset: Dataset,
    ids: Sequence[str],
    scales: Sequence[float],
    variants: dict[Path, Variant],
    progress: Progress,
    processes: int = 1,
) -> None:
    """CAM files of a list, see `cams.save_cams`; what is there already stays.

    Images of one size share a forward pass. While the model works, a thread reads and resizes the next ones, and
    another writes the last ones; a GPU has up to THREADS_GPU of each. Several processes share the batches, so that
    files are the same to the last byte.

    Args:
        model: of step 1, on its device.
        dataset: gives images and labels.
        ids: of the images.
        scales: factors of the size, see `generate_cams`.
        variants: {folder: (kind, refined, balanced)}; each folder gets one <id>.npz per image.
        progress: counts images.
        processes: that share the list, see `ranks.wanted`.
    """
    if ranks.run(generate_list, processes, model, dataset, ids, scales, variants, progress):
        return
    on_gpu = next(model.parameters()).is_cuda
    pixels = BATCH_PIXELS_GPU if on_gpu else BATCH_PIXELS
    threads = min(THREADS_GPU, cores()) if on_gpu else 1
    compositions = list(variants.values())
    shared = ranks.SharedProgress(progress, len(ids))

    def unfinished() -> Iterator[list[str]]:
        for batch_ids in islice(equal_sizes(dataset, ids, pixels), ranks.rank(), None, ranks.world()):
            files = [cam_file(image_id, folder) for image_id in batch_ids for folder in variants]
            if all(file.is_file() for file in files):
                shared.update(len(batch_ids))
            else:
                yield batch_ids

    def generated() -> Iterator[tuple[Batch, list[list[Grids]]]]:
        for batch in ahead(partial(read_batch, model, dataset, scales), unfinished(), threads):
            yield batch, generate_grids(model, batch.views, batch.labels, compositions)

    dataset.warm()
    for written in ahead(partial(save_batch, list(variants)), generated(), threads):
        shared.update(written)
    ranks.wait()
    shared.finish()


@dataclass(frozen=True)
class Batch:
    """Images of one size, ready for the network."""

    ids: list[str]
    views: list[Tensor]  # (2n,3,h,w) per scale, see `mirrored_views`
    labels: list[np.ndarray]  # (C,) each
    size: tuple[int, int]  # (H,W)


def read_batch(model: CamModel, dataset: Dataset, scales: Sequence[float], ids: list[str]) -> Batch:
    """Read images of one size and make their views."""
    images = [dataset.image(image_id) for image_id in ids]
    labels = [dataset.labels(image_id) for image_id in ids]
    height, width = images[0].shape[:2]
    return Batch(ids, mirrored_views(model, images, scales), labels, (height, width))


def save_batch(folders: Sequence[Path], made: tuple[Batch, list[list[Grids]]]) -> int:
    """Write those CAM files of a batch, made by `generate_grids`, that are missing → how many images it has."""
    batch, grids_by_image = made
    for image_id, grids_by_folder in zip(batch.ids, grids_by_image, strict=True):
        for folder, grids in zip(folders, grids_by_folder, strict=True):
            file = cam_file(image_id, folder)
            if not file.is_file():
                save_cams(file, grids, batch.size)
    return len(batch.ids)


def equal_sizes(dataset: Dataset, ids: Sequence[str], pixels: int) -> Iterator[list[str]]:
    """Ids of images of one size, at most `pixels` in all with their mirrors, at least one image.

    They depend on the list alone, and never on what is finished: an image has the same company in every run.
    """
    for first in range(0, len(ids), LOOKAHEAD):
        by_size: dict[tuple[int, int], list[str]] = {}
        for image_id in ids[first : first + LOOKAHEAD]:
            by_size.setdefault(_size_or_alone(dataset.image_path(image_id)), []).append(image_id)
        for (height, width), same in by_size.items():
            most = max(1, pixels // (2 * height * width))
            for start in range(0, len(same), most):
                yield same[start : start + most]


def _size_or_alone(path: Path) -> tuple[int, int]:
    """(H,W) of an image file; (1, 1) for an unreadable one, which is refused when its turn comes and not before."""
    try:
        return image_size(path)
    except DataError:
        return 1, 1


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int = 1) -> Iterator[Result]:
    """`map(function, items)` whose function runs in threads, an item each ahead of whoever takes the results."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        for last in pending:
            yield last.result()


# ── What the network sees ─────────────────────────────────────────────────────────────────────────────────────────
@torch.inference_mode()
def look(model: CamModel, image: np.ndarray, scale: float = 1.0) -> CamOutput:
    """Everything that the network computes for one uint8 image (H,W,3) at `scale` times its size."""
    x = normalise(rescale(image, scale), model.mean, model.std)
    return model(x[None].to(next(model.parameters()).device))


def class_attention(output: CamOutput, c: int) -> Tensor:
    """Where the class token c, from 0, looks in each head of each block; CamOutput of one image → (L,H,h,w) float32."""
    grid = output.coarse_cam.shape[2:]
    patches = grid[0] * grid[1]
    maps_LHP = torch.stack([attention_BHNN[0, :, c, -patches:] for attention_BHNN in output.attentions])
    return maps_LHP.float().unflatten(2, grid)


def head_correlation(output: CamOutput, labels: np.ndarray) -> np.ndarray:
    """How alike the heads of all blocks look at one image: correlation of their class attention over the patches.

    Args:
        output: of one image.
        labels: (C,) 0/1.

    Returns:
        (L·H, L·H), mean over the present classes, heads of a block side by side.

    Raises:
        ValueError: For an image without a class.
    """
    present = np.flatnonzero(labels)
    if not len(present):
        raise ValueError("the image shows no class, so no class token has anything to look at")
    correlations = [torch.corrcoef(class_attention(output, int(c)).flatten(0, 1).flatten(1)) for c in present]
    return torch.stack(correlations).mean(0).cpu().numpy()


def compare_compositions(
    dataset: Dataset,
    ids: Sequence[str],
    folders: dict[str, Path],
    thresholds: Sequence[float] | np.ndarray,
    workers: int = 1,
) -> tuple[pd.DataFrame, dict[str, ListScore]]:
    """Quality of CAM compositions as seeds, each at every background score.

    Both results use masks: the best score is an oracle, the same for all.

    Args:
        dataset: gives the masks.
        ids: of the images.
        folders: {name of a composition: folder of its CAM files}.
        thresholds: background scores.
        workers: processes that count.

    Returns:
        Seed mIoU (%) by threshold with a column per composition, and {name: ListScore at its best threshold}.
    """
    curves = {}
    scores = {}
    for name, cams in folders.items():
        curve = score_cams(dataset, ids, partial(read_cams, folder=cams), thresholds, workers)
        curves[name] = curve.set_index("threshold")["miou"]
        seed = partial(read_seed, dataset=dataset, cams=cams, threshold=curves[name].idxmax())
        scores[name] = score_list(dataset, ids, seed, workers)
    return pd.DataFrame(curves), scores

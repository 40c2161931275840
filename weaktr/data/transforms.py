"""Training samples of both steps, augmented as published, and the loader that makes batches of them.

Every sample is seeded by (seed, epoch, index) alone, so that results depend neither on the number of loader processes
nor on a restart in the middle.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils import data as torch_data

from .. import ranks
from ..processes import watch_parent
from .dataset import Dataset
from .images import VOID

CROP_TRIES = 10  # crops of which the first that is good enough is taken
LARGEST_SHARE = 0.75  # of a good crop's pixels with a class, for its commonest class

Key = tuple[int, int]  # epoch and index, both from 0
Reader = Callable[[str], NDArray[np.uint8]]  # from an image id


class CamSamples(torch_data.Dataset[tuple[Tensor, Tensor]]):
    """Step 1: (epoch, index) → augmented image (3,S,S), image-level label (C,).

    Args:
        dataset: Images and labels.
        list_name: The list to learn from.
        size: S in pixels.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        augmentation: timm's policy, such as the published `rand-m9-mstd0.5-inc1`; "" for none.
        min_crop: Smallest share of the image that a random crop keeps.
        seed: Of all samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        list_name: str,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        augmentation: str,
        min_crop: float,
        seed: int,
    ) -> None:
        self.dataset = dataset
        self.ids = dataset.ids(list_name)
        self.seed = seed
        self.transform = create_transform(
            size,
            is_training=True,
            scale=(min_crop, 1.0),
            auto_augment=augmentation or None,
            color_jitter=None,  # type: ignore[arg-type]  # timm's default, but not its annotation
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
            mean=tuple(mean),
            std=tuple(std),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        seed_everything(self.seed, epoch, index)
        image_id = self.ids[index]
        image = self.transform(Image.fromarray(self.dataset.image(image_id)))
        return image, torch.from_numpy(self.dataset.labels(image_id))


class SegmentationSamples(torch_data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Step 2: (epoch, index) → image (3,S,S), pseudo label (S,S) and truth (S,S), uint8, 255 void.

    Args:
        ids: The images to learn from.
        image: Gives the pixels (H,W,3) of an image id.
        label: Gives what is trained on (H,W).
        truth: Gives the pixel truth (H,W); it is carried through the same crop for the analysis of label noise only.
            None where it is not known: then it is all void.
        base_size: Short side in pixels, before it is multiplied by a factor drawn from `scales`.
        crop: S in pixels.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        seed: Of all samples.
        scales: Least and largest factor.
        augment: False gives the middle of the image at its base size instead of a random view.
    """

    def __init__(  # noqa: PLR0913 (what a view is made of: the keywords are the interface, notebook 04 gives them)
        self,
        ids: Sequence[str],
        image: Reader,
        label: Reader,
        truth: Reader | None,
        *,
        base_size: int,
        crop: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        scales: Sequence[float] = (0.5, 2.0),
        augment: bool = True,
    ) -> None:
        self.ids = ids
        self.image = image
        self.label = label
        self.truth = truth
        self.base_size = base_size
        self.crop = crop
        self.mean = mean
        self.std = std
        self.seed = seed
        self.scales = scales
        self.augment = augment

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        epoch, index = key
        seed_everything(self.seed, epoch, index)
        image, masks = self._read(self.ids[index])
        image, masks = self._random_view(image, masks) if self.augment else self._middle(image, masks)
        image = TF.normalize(image, self.mean, self.std)
        height, width = image.shape[1:]
        pad = [0, 0, self.crop - width, self.crop - height]
        label, truth = TF.pad(masks, pad, fill=VOID)
        return TF.pad(image, pad, fill=0), label, truth

    def _read(self, image_id: str) -> tuple[Tensor, Tensor]:
        """Image (3,H,W) in 0…1, label and truth (2,H,W)."""
        image = torch.from_numpy(self.image(image_id)).permute(2, 0, 1).float() / 255
        label = torch.from_numpy(self.label(image_id))
        truth = torch.from_numpy(self.truth(image_id)) if self.truth else torch.full_like(label, VOID)
        return image, torch.stack([label, truth])

    def _random_view(self, image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled, cropped, mirrored half of the time, in other colours."""
        image, masks = scale(image, masks, self.base_size * random.uniform(*self.scales))
        image, masks = crop_randomly(image, masks, self.crop)
        if random.random() < 0.5:
            image = image.flip(-1)
            masks = masks.flip(-1)
        return distort_colours(image), masks

    def _middle(self, image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The middle of the image at its base size."""
        image, masks = scale(image, masks, self.base_size)
        height, width = image.shape[1:]
        top = max(0, (height - self.crop) // 2)
        left = max(0, (width - self.crop) // 2)
        rows = slice(top, top + self.crop)
        columns = slice(left, left + self.crop)
        return image[:, rows, columns], masks[:, rows, columns]


def scale(image: Tensor, masks: Tensor, short_side: float) -> tuple[Tensor, Tensor]:
    """Short side to `short_side` pixels, aspect kept; bilinear for the image (3,H,W), nearest for the masks (2,H,W)."""
    height, width = image.shape[1:]
    factor = short_side / min(height, width)
    size = [int(height * factor + 0.5), int(width * factor + 0.5)]
    image = TF.resize(image, size, TF.InterpolationMode.BILINEAR, antialias=False)
    return image, TF.resize(masks, size, TF.InterpolationMode.NEAREST)


def crop_randomly(image: Tensor, masks: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """A random crop; up to 10 tries for one where no class fills more than 75 % of the pixels that have one.

    Args:
        image: (3,H,W).
        masks: Label and truth (2,H,W); the label decides.
        crop: Side in pixels; a smaller image stays whole.

    Returns:
        Image (3,h,w) and masks (2,h,w), at most `crop` a side.
    """
    height, width = image.shape[1:]
    for _ in range(CROP_TRIES):
        top = random.randint(0, max(height - crop, 0))
        left = random.randint(0, max(width - crop, 0))
        window = masks[:, top : top + crop, left : left + crop]
        counts = torch.bincount(window[0].flatten(), minlength=VOID + 1)[:VOID]
        if (counts > 0).sum() > 1 and counts.max() / counts.sum() < LARGEST_SHARE:
            break
    return image[:, top : top + crop, left : left + crop], window


def distort_colours(image: Tensor) -> Tensor:
    """Brightness ±32/255, contrast, saturation (to grey) ×0.5–1.5, hue −36°…34°, each half of the time, mmseg's order.

    Args:
        image: (3,H,W) in 0…1.

    Returns:
        The image (3,H,W) in 0…1.
    """
    if random.random() < 0.5:
        image = (image + random.uniform(-32, 32) / 255).clamp(0, 1)
    contrast_first = random.random() < 0.5
    contrast = random.uniform(0.5, 1.5) if random.random() < 0.5 else 1.0
    if contrast_first:
        image = image * contrast
    image = image.clamp(0, 1)
    if random.random() < 0.5:
        image = TF.adjust_saturation(image, random.uniform(0.5, 1.5))
    if random.random() < 0.5:
        image = TF.adjust_hue(image, 2 * random.randint(-18, 17) / 360)  # OpenCV's hue has steps of two degrees
    return image if contrast_first else (image * contrast).clamp(0, 1)


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and torch's global generators from integers."""
    state = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(state[0]))
    np.random.seed(state[0])  # noqa: NPY002 (timm's random erasing and RandAugment draw from the global generators)
    torch.default_generator.manual_seed(int(state[1]))
    if torch.cuda.is_initialized():  # torch.manual_seed would note the call stack for later: 0.5 ms a sample
        torch.cuda.manual_seed_all(int(state[1]))


def epoch_batches(length: int, batch_size: int, seed: int, epochs: range) -> Iterator[list[Key]]:
    """Yields the batches of one epoch after another, in an order drawn from (seed, epoch).

    Args:
        length: Of the list of samples.
        batch_size: Samples a batch; the last incomplete batch of each epoch is dropped.
        seed: Of the order.
        epochs: Their numbers.
    """
    for epoch in epochs:
        order = np.random.default_rng([seed, epoch]).permutation(length)
        for last in range(batch_size, length + 1, batch_size):
            yield [(epoch, int(index)) for index in order[last - batch_size : last]]


class EpochLoader:
    """Batches of samples: every iteration gives the next epoch.

    One set of processes serves all epochs and goes on loading between them, while the caller validates. A DataLoader
    whose processes persist, but that starts each epoch anew, makes the caller wait for its first batch: measured with
    one process on two busy cores, 2.4 to 3.7 s instead of 0.1 s for 64 images of 224 pixels with the published policy,
    0.4 to 0.5 s instead of 0.01 s for 16 of 96 pixels.

    Args:
        samples: Indexed by (epoch, index).
        batch_size: Samples a batch; of several ranks each loads its share of every batch.
        seed: Of the order of the samples.
        epochs: Their numbers.
        workers: Processes, one at least: samples seed global generators.
    """

    def __init__(
        self, samples: torch_data.Dataset[Any], batch_size: int, seed: int, epochs: range, workers: int
    ) -> None:
        length = len(samples)  # type: ignore[arg-type]  # torch's class leaves `__len__` to those derived from it
        self.steps = length // batch_size
        self._loader = torch_data.DataLoader(
            samples,
            batch_sampler=(ranks.share(batch) for batch in epoch_batches(length, batch_size, seed, epochs)),
            num_workers=max(1, workers),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the caller's random numbers do not depend on the loader
            worker_init_fn=watch_parent,
        )
        self._batches: Iterator[Any] | None = None
        self._start = 0.0
        self._waited = 0.0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        self._start = time.perf_counter()
        self._waited = 0.0
        if self._batches is None:
            self._batches = iter(self._loader)
        for _ in range(self.steps):
            asked = time.perf_counter()
            batch = next(self._batches)
            self._waited += time.perf_counter() - asked
            yield batch

    @property
    def wait_share(self) -> float:
        """Share of the time since the epoch began, 0…1, in which the caller waited for a batch."""
        return self._waited / (time.perf_counter() - self._start)


def normalise(pixels: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An image (H,W,3) as a float tensor (3,H,W), scaled to 0…1 and normalised per channel.

    By NumPy: torch would start a second team of threads in a thread that prepares images while a network works.
    """
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255
    offset = np.asarray(mean, np.float32)[:, None, None]
    deviation = np.asarray(std, np.float32)[:, None, None]
    return torch.from_numpy((x - offset) / deviation)

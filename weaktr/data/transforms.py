"""Training samples of both steps, augmented as published. Every sample is seeded by (seed, epoch, index) alone, so that
results depend neither on the number of loader processes nor on a restart in the middle.
"""

import random
import time

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

from .images import VOID


class CamSamples(Dataset):
    """Step 1: (epoch, index) → augmented image (3,S,S), image-level label (C,)."""

    def __init__(self, dataset, list_name, size, mean, std, *, augmentation, min_crop, seed):
        self.dataset, self.ids, self.seed = dataset, dataset.ids(list_name), seed
        self.transform = create_transform(
            size,
            is_training=True,
            scale=(min_crop, 1.0),
            auto_augment=augmentation or None,
            color_jitter=None,
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
            mean=mean,
            std=std,
        )

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key):
        epoch, index = key
        seed_everything(self.seed, epoch, index)
        image_id = self.ids[index]
        image = self.transform(Image.fromarray(self.dataset.image(image_id)))
        return image, torch.from_numpy(self.dataset.labels(image_id))


class SegmentationSamples(Dataset):
    """Step 2: (epoch, index) → image (3,S,S), pseudo label (S,S) and truth (S,S), uint8, 255 void.

    label: function id → (H,W) uint8, what is trained on; truth: the same for the pixel truth, or None: it is carried
    through the same crop for the analysis of label noise only, all void where it is not known. base_size: short side in
    pixels, times a factor drawn from `scales`; crop: pixels. augment=False gives the middle of the image at its base
    size instead of a random view.
    """

    def __init__(self, ids, image, label, truth, *, base_size, crop, mean, std, seed, scales=(0.5, 2.0), augment=True):
        self.ids, self.image, self.label, self.truth = ids, image, label, truth
        self.base_size, self.crop, self.seed, self.scales = base_size, crop, seed, scales
        self.mean, self.std, self.augment = mean, std, augment

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key):
        epoch, index = key
        seed_everything(self.seed, epoch, index)
        image_id = self.ids[index]
        image = torch.from_numpy(self.image(image_id)).permute(2, 0, 1).float() / 255
        label = torch.from_numpy(self.label(image_id))
        truth = torch.from_numpy(self.truth(image_id)) if self.truth else torch.full_like(label, VOID)
        masks = torch.stack([label, truth])
        if self.augment:
            image, masks = scale(image, masks, self.base_size * random.uniform(*self.scales))
            image, masks = crop_randomly(image, masks, self.crop)
            if random.random() < 0.5:
                image, masks = image.flip(-1), masks.flip(-1)
            image = distort_colours(image)
        else:
            image, masks = scale(image, masks, self.base_size)
            top, left = ((side - self.crop) // 2 if side > self.crop else 0 for side in image.shape[1:])
            image, masks = (x[:, top : top + self.crop, left : left + self.crop] for x in (image, masks))
        image = TF.normalize(image, self.mean, self.std)
        height, width = image.shape[1:]
        pad = [0, 0, self.crop - width, self.crop - height]
        image, masks = TF.pad(image, pad, fill=0), TF.pad(masks, pad, fill=VOID)
        return image, *masks


def scale(image, masks, short_side):
    """Short side to `short_side` pixels, aspect kept; bilinear for the image, nearest for the masks."""
    height, width = image.shape[1:]
    factor = short_side / min(height, width)
    size = [int(height * factor + 0.5), int(width * factor + 0.5)]
    image = TF.resize(image, size, TF.InterpolationMode.BILINEAR, antialias=False)
    return image, TF.resize(masks, size, TF.InterpolationMode.NEAREST)


def crop_randomly(image, masks, crop):
    """A random crop; up to 10 tries for one where no class fills more than 75 % of the pixels that have one."""
    height, width = image.shape[1:]
    for _ in range(10):
        top, left = random.randint(0, max(height - crop, 0)), random.randint(0, max(width - crop, 0))
        window = masks[:, top : top + crop, left : left + crop]
        counts = torch.bincount(window[0].flatten(), minlength=VOID + 1)[:VOID]
        if (counts > 0).sum() > 1 and counts.max() / counts.sum() < 0.75:
            break
    return image[:, top : top + crop, left : left + crop], window


def distort_colours(image):
    """Brightness ±32/255, contrast, saturation (to grey) ×0.5–1.5, hue ±18°, each half of the time, mmseg's order."""
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
        image = TF.adjust_hue(image, random.uniform(-18, 18) / 360)
    return image if contrast_first else (image * contrast).clamp(0, 1)


def seed_everything(*numbers):
    """Seed Python's, NumPy's and torch's global generators from a tuple of integers."""
    state = np.random.SeedSequence(numbers).generate_state(2)
    random.seed(int(state[0]))
    np.random.seed(state[0])  # noqa: NPY002 (timm's random erasing and RandAugment draw from the global generators)
    torch.default_generator.manual_seed(int(state[1]))
    if torch.cuda.is_initialized():  # torch.manual_seed would write down the call stack for later: 0.5 ms a sample
        torch.cuda.manual_seed_all(int(state[1]))


def epoch_batches(length, batch_size, seed, epochs):
    """Yields the batches of one epoch after another: lists of (epoch, index) in an order drawn from (seed, epoch).

    epochs: a range. The last incomplete batch of each epoch is dropped.
    """
    for epoch in epochs:
        order = np.random.default_rng([seed, epoch]).permutation(length)
        for last in range(batch_size, length + 1, batch_size):
            yield [(epoch, int(index)) for index in order[last - batch_size : last]]


class EpochLoader:
    """Batches of `samples`: every iteration gives the next one of `epochs` (a range).

    One set of processes serves all epochs and goes on loading between them, while the caller validates. At least one
    process: samples seed global generators.
    """

    def __init__(self, samples, batch_size, seed, epochs, workers):
        self.steps = len(samples) // batch_size
        self._loader = DataLoader(
            samples,
            batch_sampler=epoch_batches(len(samples), batch_size, seed, epochs),
            num_workers=max(1, workers),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the caller's random numbers do not depend on the loader
        )
        self._batches = None

    def __len__(self):
        return self.steps

    def __iter__(self):
        self._start, self._waited = time.perf_counter(), 0.0
        if self._batches is None:
            self._batches = iter(self._loader)
        for _ in range(self.steps):
            asked = time.perf_counter()
            batch = next(self._batches)
            self._waited += time.perf_counter() - asked
            yield batch

    @property
    def wait_share(self):
        """Share of the time since the epoch began, 0…1, in which the caller waited for a batch."""
        return self._waited / (time.perf_counter() - self._start)


def normalise(pixels, mean, std):
    """uint8 image (H,W,3) → float tensor (3,H,W), scaled to 0..1 and normalised per channel.

    By numpy: torch would start a second team of threads in a thread that prepares images while a network works.
    """
    x = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / 255
    return torch.from_numpy((x - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None])

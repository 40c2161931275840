"""Training samples: one function of (seed, epoch, index), image and masks through the same crop, published ranges."""

import colorsys
import itertools
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import auto_augment

from weaktr.data import transforms
from weaktr.data.images import VOID
from weaktr.data.transforms import (
    CamSamples,
    EpochLoader,
    SegmentationSamples,
    crop_randomly,
    distort_colours,
    epoch_batches,
    seed_everything,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], np.uint8)  # no two of them mix to a third


def cam_samples(dataset, seed=1, **more):
    options = {"augmentation": "rand-m9-mstd0.5-inc1", "min_crop": 0.08} | more
    return CamSamples(dataset, "train", 32, MEAN, STD, seed=seed, **options)


def segmentation_samples(dataset, seed=1, **more):
    options = {"base_size": 40, "crop": 32, "mean": MEAN, "std": STD} | more
    return SegmentationSamples(dataset.ids("train"), dataset.image, dataset.mask, dataset.mask, seed=seed, **options)


def coded(height=60, width=84, block=12, seed=0):
    """An image whose colour is its label's, the labels in blocks, and a truth that is the label's complement."""
    cells = np.random.default_rng(seed).integers(0, 4, (-(-height // block), -(-width // block)))
    label = np.kron(cells, np.ones((block, block), int))[:height, :width].astype(np.uint8)
    return COLOURS[label], label, 3 - label


def coded_samples(monkeypatch, size=(60, 84), **more):
    """Samples of coded pictures whose colours are left alone: pure ones are ±1 after normalisation, padding is 0."""
    monkeypatch.setattr(transforms, "distort_colours", lambda image: image)
    pictures = {f"{i}": coded(*size, seed=i) for i in range(4)}
    image, label, truth = (lambda image_id, k=k: pictures[image_id][k] for k in range(3))
    options = {"base_size": 60, "crop": 48, "mean": (0.5,) * 3, "std": (0.5,) * 3, "seed": 0} | more
    return SegmentationSamples(list(pictures), image, label, truth, **options)


def uniform(label, radius):
    """Pixels around which, as far as `radius`, there is one label only."""
    label = F.pad(label[None].float(), (radius,) * 4, value=-1)
    side = 2 * radius + 1
    return F.max_pool2d(label, side, 1)[0] == -F.max_pool2d(-label, side, 1)[0]


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("make", [cam_samples, segmentation_samples])
def test_a_sample_depends_on_seed_epoch_and_index_alone(tiny_dataset, make):
    first = make(tiny_dataset)[2, 5]
    random.seed(9)
    torch.manual_seed(9)
    np.random.seed(9)  # noqa: NPY002
    samples = make(tiny_dataset)
    others = [samples[key] for key in ((2, 4), (3, 5))] + [make(tiny_dataset, seed=2)[2, 5]]
    again = samples[2, 5]
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(first[0], other[0]) for other in others)


@pytest.mark.parametrize("make", [cam_samples, segmentation_samples])
def test_batches_do_not_depend_on_the_number_of_workers(tiny_dataset, make):
    samples = make(tiny_dataset)

    def batches(workers, epochs=range(2), seed=1):
        loader = EpochLoader(samples, 3, seed, epochs, workers)
        assert len(loader) == 2  # the last, incomplete one is dropped
        return [list(loader) for _ in epochs]

    one, two, restarted = batches(1), batches(2), batches(1, range(1, 2))
    assert [len(epoch) for epoch in one] == [2, 2]
    for epoch, other in zip([*one, one[1]], [*two, *restarted]):
        for a, b in zip(epoch, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b))
    assert not torch.equal(one[1][0][0], one[0][0][0])


class Processes(torch.utils.data.Dataset):
    """Samples that are the number of the process that loads them."""

    def __len__(self):
        return 4

    def __getitem__(self, key):
        return os.getpid()


def test_one_process_loads_all_epochs():
    loader, before = EpochLoader(Processes(), 2, 0, range(3), 1), torch.get_rng_state()
    epochs = [torch.cat(list(loader)) for _ in range(3)]
    assert [len(pids) for pids in epochs] == [4] * 3
    assert len(torch.cat(epochs).unique()) == 1 and os.getpid() not in epochs[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_waiting_for_batches_is_counted(monkeypatch):
    """Each look at the clock finds it one second later: two seconds of five, after the second batch."""
    monkeypatch.setattr(transforms, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    loader = EpochLoader(Processes(), 2, 0, range(2), 1)
    for _ in range(2):
        list(loader)
        assert loader.wait_share == 2 / 5


def test_order_is_a_new_permutation_every_epoch():
    orders = [
        [index for [(_, index)] in epoch_batches(50, 1, seed, range(epoch, epoch + 1))]
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    batches = list(epoch_batches(50, 8, 1, range(3)))
    assert [len(batch) for batch in batches] == [8] * 18  # two of each fifty are dropped
    assert [epoch for batch in batches for epoch, _ in batch] == [0] * 48 + [1] * 48 + [2] * 48
    assert batches[6:] == list(epoch_batches(50, 8, 1, range(1, 3)))
    assert len(list(epoch_batches(48, 8, 1, range(1)))) == 6 and not list(epoch_batches(7, 8, 1, range(3)))


def test_seed_everything_reaches_all_three_generators():
    def draw(*numbers):
        seed_everything(*numbers)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    first = draw(1, 2, 3)
    assert draw(1, 2, 3) == first
    for numbers in ((1, 2, 4), (1, 3, 2), (2, 1, 3)):
        assert all(a != b for a, b in zip(draw(*numbers), first))


# ---------------------------------------------------------------- step 1


def test_cam_samples_are_normalised_images_with_their_labels(tiny_dataset):
    samples = cam_samples(tiny_dataset, augmentation="")
    assert len(samples) == 8
    for index, image_id in enumerate(tiny_dataset.ids("train")):
        image, labels = samples[0, index]
        assert image.shape == (3, 32, 32) and image.dtype == torch.float32
        assert labels.dtype == torch.float32 and (labels.numpy() == tiny_dataset.labels(image_id)).all()


class Flat:
    """A data set of one grey picture."""

    def ids(self, _):
        return ["a"]

    def image(self, _):
        return np.full((40, 50, 3), 100, np.uint8)

    def labels(self, _):
        return np.float32([1, 0])


def test_cam_samples_use_mean_deviation_and_random_erasing():
    samples = CamSamples(Flat(), "train", 32, MEAN, STD, augmentation="", min_crop=0.08, seed=0)
    expected = (100 / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    images = [samples[epoch, 0][0] for epoch in range(200)]
    flat = [torch.allclose(image, expected.view(3, 1, 1).expand(3, 32, 32), atol=1e-5) for image in images]
    assert 0.65 < np.mean(flat) < 0.85  # erased with probability 0.25
    erased = torch.stack([image for image, whole in zip(images, flat) if not whole])
    noise = erased[(erased - expected.view(3, 1, 1)).abs().amax(1, keepdim=True).expand_as(erased) > 1e-4]
    assert noise.std() > 0.8  # pixel mode: normal noise, not one colour


# ---------------------------------------------------------------- step 2, geometry


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize(
    ("size", "radius"), [((60, 84), 2), ((84, 60), 2), ((17, 60), 6)], ids=["wide", "tall", "narrow"]
)
def test_image_label_and_truth_stay_aligned(monkeypatch, augment, size, radius):
    samples = coded_samples(monkeypatch, size, augment=augment)
    seen = []
    for epoch in range(12):
        for index in range(4):
            image, label, truth = samples[epoch, index]
            assert image.shape == (3, 48, 48) and label.shape == truth.shape == (48, 48)
            assert label.dtype == truth.dtype == torch.uint8
            padding = (image == 0).all(0)
            assert torch.equal(padding, label == VOID) and torch.equal(padding, truth == VOID)
            assert torch.equal(label[~padding], 3 - truth[~padding])
            colours = torch.from_numpy(COLOURS).float() / 127.5 - 1
            distance = (image[None] - colours.view(4, 3, 1, 1)).abs().amax(1)
            inside = uniform(label, radius) & ~padding  # bilinear mixes neighbours up to a source pixel away
            seen.append(inside.float().mean())
            assert distance.amin(0)[inside].max() < 0.02 and torch.equal(distance.argmin(0)[inside], label[inside])
    assert np.mean(seen) > 0.15


def test_small_views_are_padded_right_and_bottom_with_void(monkeypatch):
    samples = coded_samples(monkeypatch, base_size=20, augment=False)
    image, label, _ = samples[0, 0]
    height, width = 20, 28  # 60×84 with a short side of 20
    assert (label[:height, :width] != VOID).all() and (image[:, :height, :width] != 0).any(0).all()
    assert (label[height:] == VOID).all() and (label[:, width:] == VOID).all()
    assert (image[:, height:] == 0).all() and (image[:, :, width:] == 0).all()


def test_without_augmentation_it_is_the_middle(monkeypatch):
    samples = coded_samples(monkeypatch, augment=False)  # 60×84 at base size 60: unscaled
    pixels, label, truth = coded(seed=2)
    image, found, found_truth = samples[0, 2]
    assert torch.equal(found, torch.from_numpy(label[6:54, 18:66]))
    assert torch.equal(found_truth, torch.from_numpy(truth[6:54, 18:66]))
    expected = torch.from_numpy(pixels[6:54, 18:66]).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(image, expected, atol=1e-6)
    assert torch.equal(samples[5, 2][0], image)


def test_normalisation_is_per_channel():
    flat = np.full((40, 40, 3), (10, 100, 200), np.uint8)
    samples = SegmentationSamples(
        ["a"],
        lambda _: flat,
        lambda _: flat[..., 0],
        None,
        base_size=40,
        crop=32,
        mean=MEAN,
        std=STD,
        seed=0,
        augment=False,
    )
    image, label, truth = samples[0, 0]
    expected = (torch.tensor([10, 100, 200]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(image, expected.view(3, 1, 1).expand_as(image), atol=1e-5)
    assert (label == 10).all() and (truth == VOID).all(), "a truth that is not known is void"


def test_half_of_the_views_are_mirrored(monkeypatch):
    """A picture with a red left and a green right half."""
    monkeypatch.setattr(transforms, "distort_colours", lambda image: image)
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[:, :24, 0], pixels[:, 24:, 1] = 255, 255
    label = pixels[..., 1] // 255
    samples = SegmentationSamples(
        ["a"], lambda _: pixels, lambda _: label, None, base_size=30, crop=64, mean=MEAN, std=STD, seed=0
    )
    mirrored = []
    for epoch in range(100):
        _, found, _ = samples[epoch, 0]
        inside = found[:, (found != VOID).any(0)]
        mirrored.append(bool(inside[0, 0]))
        assert inside[0, 0] != inside[0, -1]
    assert 0.35 < np.mean(mirrored) < 0.65


def test_short_side_is_half_to_twice_the_base(monkeypatch, tiny_dataset):
    sides = []
    scale = transforms.scale
    monkeypatch.setattr(transforms, "scale", lambda *a: (sides.append(a[2]), scale(*a))[1])
    samples = segmentation_samples(tiny_dataset)
    for epoch in range(30):
        for index in range(8):
            samples[epoch, index]
    factors = np.array(sides) / 40
    assert 0.5 <= factors.min() < 0.53 and 1.95 < factors.max() <= 2.0
    assert abs(factors.mean() - 1.25) < 0.1  # uniform in the factor itself


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [((30, 45), 20, (20, 30)), ((45, 30), 20, (30, 20)), ((32, 47), 50.3, (50, 74)), ((40, 41), 60.5, (61, 62))],
)
def test_scale_keeps_the_aspect_and_rounds_to_nearest(size, short, expected):
    masks = torch.randint(0, 5, (2, *size), dtype=torch.uint8)
    image, scaled = transforms.scale(torch.rand(3, *size), masks, short)
    assert image.shape == (3, *expected) and scaled.shape == (2, *expected)
    assert scaled.dtype == torch.uint8 and set(scaled.unique().tolist()) <= set(masks.unique().tolist())


def test_scale_is_bilinear_for_images_and_nearest_for_masks():
    image = torch.rand(3, 10, 14)
    masks = torch.randint(0, 255, (2, 10, 14), dtype=torch.uint8)
    scaled, scaled_masks = transforms.scale(image, masks, 23)
    expected = F.interpolate(image[None], (23, 32), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(scaled, expected, atol=1e-6)
    rows = (np.arange(23) * 10 / 23).astype(int)
    columns = (np.arange(32) * 14 / 32).astype(int)
    assert torch.equal(scaled_masks, masks[:, rows][:, :, columns])


def test_crop_and_padding_of_every_size(tiny_dataset):
    for crop in (8, 32, 100):
        samples = segmentation_samples(tiny_dataset, crop=crop)
        for epoch in range(4):
            image, label, truth = samples[epoch, 0]
            assert image.shape == (3, crop, crop) and label.shape == truth.shape == (crop, crop)
            assert image.isfinite().all()


# ---------------------------------------------------------------- step 2, which crop


def tries(masks, crop, monkeypatch):
    """How many crops were looked at."""
    drawn = []
    randint = random.randint
    with monkeypatch.context() as patch:
        patch.setattr(random, "randint", lambda a, b: (drawn.append((a, b)), randint(a, b))[1])
        crop_randomly(torch.zeros(3, *masks.shape[1:]), masks, crop)
    assert set(drawn) == {(0, max(side - crop, 0)) for side in masks.shape[1:]}
    return len(drawn) / 2


def test_crops_filled_by_one_class_are_drawn_again(monkeypatch):
    random.seed(0)
    one_class = torch.full((2, 40, 40), 3, dtype=torch.uint8)
    assert tries(one_class, 16, monkeypatch) == 10
    void = torch.full((2, 40, 40), VOID, dtype=torch.uint8)
    assert tries(void, 16, monkeypatch) == 10
    columns = torch.arange(40).expand(2, 40, 40)
    stripes = (columns % 2).to(torch.uint8)
    assert tries(stripes, 16, monkeypatch) == 1
    three_to_one = (columns % 4 == 0).to(torch.uint8)  # exactly 75 % is not less than 75 %
    assert tries(three_to_one, 16, monkeypatch) == 10
    with_void = three_to_one.clone()
    with_void[columns % 4 == 3] = VOID  # void does not count: two to one
    assert tries(with_void, 16, monkeypatch) == 1
    only_truth_varies = torch.stack([one_class[0], stripes[1]])  # the choice looks at no truth
    assert tries(only_truth_varies, 16, monkeypatch) == 10


def test_crops_show_several_classes_wherever_they_can():
    random.seed(0)
    masks = torch.zeros(2, 60, 60, dtype=torch.uint8)
    masks[:, :, 42:] = 1
    image = masks[:1].float().expand(3, 60, 60)
    good = []
    for _ in range(200):
        pixels, window = crop_randomly(image, masks, 20)
        assert pixels.shape == (3, 20, 20) and torch.equal(pixels[0].to(torch.uint8), window[0])
        good.append(0.25 < window[0].float().mean() < 0.75)
    assert np.mean(good) > 0.85  # one try in four would be


def test_crops_reach_every_corner():
    random.seed(0)
    image = torch.arange(6 * 7.0).view(1, 6, 7).expand(3, 6, 7)
    masks = torch.zeros(2, 6, 7, dtype=torch.uint8)
    corners = {int(crop_randomly(image, masks, 4)[0][0, 0, 0]) for _ in range(300)}
    assert corners == {7 * top + left for top in range(3) for left in range(4)}


# ---------------------------------------------------------------- step 2, colours


def distorted(colour, count=400):
    """One colour, distorted by many seeds → (count,3)."""
    image = torch.tensor(colour).view(3, 1, 1)
    found = []
    for seed in range(count):
        random.seed(seed)
        found.append(distort_colours(image)[:, 0, 0])
    return torch.stack(found).double()


def test_brightness_and_contrast_stay_in_their_ranges():
    """On grey, saturation and hue do nothing: (0.5 ± 32/255) · 0.5…1.5 is left."""
    found = distorted([0.5, 0.5, 0.5])
    assert (found - found[:, :1]).abs().max() < 1e-5
    low, high = (0.5 - 32 / 255) * 0.5, (0.5 + 32 / 255) * 1.5
    assert low <= found.min() < low + 0.08 and high - 0.12 < found.max() <= high
    assert 0.15 < ((found[:, 0] - 0.5).abs() < 1e-4).double().mean() < 0.35  # neither, a quarter of the time


def test_hue_turns_by_at_most_36_degrees_in_steps_of_two():
    found = distorted([0.35, 0.25, 0.25], count=800)
    hues = np.array([colorsys.rgb_to_hsv(*colour)[0] * 360 for colour in found.tolist()])
    turns = np.where(hues > 180, hues - 360, hues)
    assert np.abs(turns - 2 * np.round(turns / 2)).max() < 0.01
    steps = np.round(turns / 2).astype(int)
    assert set(steps) == set(range(-18, 18))
    assert 0.4 < (steps == 0).mean() < 0.6  # half of the time none, and one of the 36 turns is by 0


def test_saturation_is_halved_to_one_and_a_half():
    """The spread of the channels, relative to their mean, changes by saturation alone (and a little by hue)."""
    image = torch.tensor([0.35, 0.25, 0.25]).view(3, 1, 1)
    factors = []
    for seed in range(400):
        random.seed(seed)
        found = distort_colours(image)[:, 0, 0]
        factors.append(float((found.max() - found.min()) / found.max()) / (0.1 / 0.35))
    assert min(factors) < 0.6 and 1.3 < max(factors) < 2.6


def test_colours_stay_in_zero_to_one():
    image = torch.from_numpy(np.random.default_rng(0).random((3, 9, 9), np.float32))
    image[:, 0, 0], image[:, 0, 1] = 0, 1
    for seed in range(200):
        random.seed(seed)
        found = distort_colours(image)
        assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1, seed
    assert image[0, 0, 1] == 1, "the input was changed in place"


def test_images_are_not_changed_in_place(tiny_dataset):
    kept = {image_id: tiny_dataset.image(image_id) for image_id in tiny_dataset.ids("train")}
    masks = {image_id: tiny_dataset.mask(image_id) for image_id in kept}
    before = {image_id: (kept[image_id].copy(), masks[image_id].copy()) for image_id in kept}
    samples = SegmentationSamples(
        list(kept), kept.get, masks.get, None, base_size=40, crop=32, mean=MEAN, std=STD, seed=0
    )
    for index in range(8):
        samples[0, index]
    for image_id, (image, mask) in before.items():
        assert (kept[image_id] == image).all() and (masks[image_id] == mask).all()


def test_cam_samples_are_resized_bicubically(monkeypatch, tiny_dataset):
    """Where the crop is the whole image and nothing is erased, a resize and perhaps a mirror are left."""
    samples = cam_samples(tiny_dataset, augmentation="", min_crop=1.0)
    samples.transform.transforms = [t for t in samples.transform.transforms if type(t).__name__ != "RandomErasing"]
    pixels = tiny_dataset.image(tiny_dataset.ids("train")[0])
    crop = samples.transform.transforms[0]
    monkeypatch.setattr(crop, "get_params", lambda *_: (0, 0, *pixels.shape[:2]))
    image, _ = samples[0, 0]
    whole = np.array(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC))
    expected = (torch.from_numpy(whole).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    assert min((image - expected).abs().max(), (image - expected.flip(-1)).abs().max()) < 1e-4


def test_the_published_policy_may_leave_no_bit_of_a_picture():
    """Its magnitude of 9 ± 0.5 reaches 10 now and then, and a Pillow that refuses this would end the training."""
    bits = auto_augment.LEVEL_TO_ARG["PosterizeIncreasing"](10, {})
    picture = Image.new("RGB", (4, 4), (200, 100, 3))
    assert bits == (0,) and not np.asarray(auto_augment.NAME_TO_OP["PosterizeIncreasing"](picture, *bits)).any()

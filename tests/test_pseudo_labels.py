"""From CAMs to pseudo labels: seeds through the CRF, the order of parallel work, the threshold without masks."""

import os
import time

import numpy as np
import pytest

from weaktr.data.images import read_label_png
from weaktr.errors import DataError
from weaktr.evaluation.metrics import seed_mask
from weaktr.method import pseudo_labels
from weaktr.method.cams import load_cams, save_cams
from weaktr.method.crf import refine_labels
from weaktr.method.pseudo_labels import blind_threshold, noisy_truth, refine_file, refine_seed, strongest_histogram
from weaktr.processes import parallel


def random_cams(classes, shape=(40, 50), seed=0):
    generator = np.random.default_rng(seed)
    return {c: generator.random(shape, np.float32) for c in classes}


def planted_cams(mask, labels, seed=0):
    """CAMs with 0–0.45 outside and 0.55–1 inside: only thresholds between 0.45 and 0.55 give a clean seed.

    As what `save_cams` writes: a single grid, which is as large as the image and fills 0…1.
    """
    generator, grids = np.random.default_rng(seed), {}
    for c in np.flatnonzero(labels):
        inside, outside = generator.uniform(0.55, 1, mask.shape), generator.uniform(0, 0.45, mask.shape)
        cam = np.where(mask == c + 1, inside, outside).astype(np.float32)
        cam.flat[[cam.argmin(), cam.argmax()]] = 0, 1
        grids[int(c)] = [cam]
    return grids


# ---------------------------------------------------------------- one image


def test_refined_seed_is_the_crf_on_compact_labels():
    """Classes 0 and 3 of five: the CRF sees three labels, and values come back as the data set numbers them."""
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    labels, cams = np.float32([1, 0, 0, 1, 0]), random_cams((0, 3))
    seed, label = refine_seed(image, labels, cams, 0.6, "voc")
    assert (seed == seed_mask(cams, 0.6)).all() and set(np.unique(seed)) == {0, 1, 4}
    compact = np.zeros_like(seed)
    compact[seed == 1], compact[seed == 4] = 1, 2
    refined = refine_labels(image, compact, "voc", 3)
    expected = np.zeros_like(seed)
    expected[refined == 1], expected[refined == 2] = 1, 4
    assert label.dtype == np.uint8 and (label == expected).all()
    assert (label != seed).any()


@pytest.mark.parametrize("settings", ["voc", "coco"])
def test_a_class_without_a_seed_pixel_still_counts(tiny_dataset, settings):
    """n_labels is background and every class of the image label: it sets the probability of a wrong seed label."""
    image, labels = tiny_dataset.image("scene_000000"), np.zeros(8, np.float32)
    labels[[2, 4, 5, 6]] = 1
    cams = random_cams((2, 4, 5, 6), image.shape[:2])
    for c in (4, 5, 6):
        cams[c] *= 0.1
    seed, label = refine_seed(image, labels, cams, 0.5, settings)
    compact = (seed == 3).astype(np.uint8)
    assert set(np.unique(seed)) == {0, 3}
    expected = refine_labels(image, compact, settings, 5)
    assert (label == np.array([0, 3, 5, 6, 7])[expected]).all()
    without = refine_labels(image, compact, settings, 2)
    assert (without != expected).any(), "the example does not tell the two apart"


@pytest.mark.parametrize("seed", range(5))
def test_pseudo_labels_hold_classes_of_the_image_label_only(tiny_dataset, seed):
    generator = np.random.default_rng(seed)
    image = tiny_dataset.image(f"scene_{seed:06d}")
    present = generator.choice(8, generator.integers(1, 4), replace=False)
    labels = np.zeros(8, np.float32)
    labels[present] = 1
    for threshold in (0.0, 0.5, 0.9, 1.0):
        found, label = refine_seed(image, labels, random_cams(present, image.shape[:2], seed), threshold, "voc")
        for values in (found, label):
            assert values.shape == image.shape[:2] and values.dtype == np.uint8
            assert set(np.unique(values)) <= {0, *(present + 1)}


def test_an_image_without_a_class_is_all_background(tiny_dataset):
    image = tiny_dataset.image("scene_000000")
    seed, label = refine_seed(image, np.zeros(8, np.float32), {}, 0.4, "voc")
    assert seed.shape == label.shape == image.shape[:2] and not seed.any() and not label.any()


# ---------------------------------------------------------------- many images


def slow_square(number):
    """Later items are faster, so that they finish first."""
    time.sleep(0.05 if number < 8 else 0)
    return number * number, os.getpid()


class Counter:
    done = 0

    def update(self, n):
        self.done += n


def test_parallel_keeps_the_order():
    counter = Counter()
    results = parallel(slow_square, list(range(40)), 2, counter)
    assert [square for square, _ in results] == [number**2 for number in range(40)]
    assert len({pid for _, pid in results}) == 2 and os.getpid() not in {pid for _, pid in results}
    assert counter.done == 40
    assert parallel(slow_square, [], 0) == []


def fail_at_three(number):
    if number == 3:
        raise DataError("image 3 is broken")
    return number


def test_an_error_in_a_process_arrives_as_itself():
    with pytest.raises(DataError, match="image 3 is broken"):
        parallel(fail_at_three, list(range(5)), 1)


def refined(dataset, image_id, cams):
    found = load_cams(cams / f"{image_id}.npz")
    return refine_seed(dataset.image(image_id), dataset.labels(image_id), found, 0.5, "voc")[1]


def test_files_are_refined_once(tiny_dataset, tmp_path):
    cams, output = tmp_path / "cams", tmp_path / "labels"
    cams.mkdir(), output.mkdir()
    image_id = tiny_dataset.ids("train")[0]
    planted = planted_cams(tiny_dataset.mask(image_id), tiny_dataset.labels(image_id))
    save_cams(cams / f"{image_id}.npz", planted, tiny_dataset.mask(image_id).shape)
    job = {"dataset": tiny_dataset, "cams": cams, "threshold": 0.5, "settings": "voc", "output": output}
    refine_file(image_id, **job)
    path = output / f"{image_id}.png"
    assert (read_label_png(path) == refined(tiny_dataset, image_id, cams)).all() and list(output.iterdir()) == [path]
    os.utime(path, (1, 1))
    (cams / f"{image_id}.npz").unlink()  # not even read again
    refine_file(image_id, **job)
    assert path.stat().st_mtime == 1


def test_an_interrupted_refinement_goes_on(tiny_dataset, tmp_path, monkeypatch):
    """Broken off at the third image: the two that are whole stay, and half a file of a killed process is no label."""
    cams, output, ids, calls, stop = tmp_path / "cams", tmp_path / "labels", tiny_dataset.ids("val"), [], [2]
    output.mkdir()
    for image_id in ids:
        mask = tiny_dataset.mask(image_id)
        save_cams(cams / f"{image_id}.npz", planted_cams(mask, tiny_dataset.labels(image_id)), mask.shape)

    def interrupted(*arguments):
        if len(calls) in stop:
            raise KeyboardInterrupt
        calls.append(arguments)
        return refine_seed(*arguments)

    monkeypatch.setattr(pseudo_labels, "refine_seed", interrupted)
    job = {"dataset": tiny_dataset, "cams": cams, "threshold": 0.5, "settings": "voc", "output": output}
    with pytest.raises(KeyboardInterrupt):
        for image_id in ids:
            refine_file(image_id, **job)
    (output / f".{ids[2]}.4711.png").write_bytes(b"half")
    whole = {path: path.stat().st_mtime_ns for path in output.glob("[!.]*.png")}
    assert [path.stem for path in sorted(whole)] == ids[:2]
    calls.clear(), stop.clear()
    for image_id in ids:
        refine_file(image_id, **job)
    assert len(calls) == 2 and {path: path.stat().st_mtime_ns for path in whole} == whole
    for image_id in ids:
        assert (read_label_png(output / f"{image_id}.png") == refined(tiny_dataset, image_id, cams)).all()


def test_the_blind_threshold_is_otsu_or_the_mean_of_the_strongest_cams(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tiny_dataset), "mask", lambda *_: pytest.fail("a mask was read"))
    ids, pixels = tiny_dataset.ids("train")[:5], []
    for image_id in ids:
        mask = read_label_png(tiny_dataset.mask_path(image_id))
        grids = planted_cams(mask, tiny_dataset.labels(image_id))
        save_cams(tmp_path / f"{image_id}.npz", grids, mask.shape)
        pixels.extend(max(grids[c][0][y, x] for c in grids) for y, x in np.ndindex(mask.shape))
    counts, pixels = strongest_histogram(ids, tmp_path), np.array(pixels)
    assert (counts == np.histogram(pixels, np.linspace(0, 1, 1001))[0]).all()
    mean, otsu = (blind_threshold(counts, refined) for refined in (False, True))
    assert mean == pytest.approx(np.mean(pixels), abs=0.0005) and 0.4 < mean < 0.55

    def variance_within(score):
        return sum(np.var(side) * len(side) for side in (pixels[pixels < score], pixels[pixels >= score]) if len(side))

    scores = np.arange(0.02, 1, 0.02)
    assert variance_within(otsu) <= 1.0001 * min(map(variance_within, scores)), "no score parts the pixels better"
    save_cams(tmp_path / "empty.npz", {}, (10, 10))
    assert (strongest_histogram([*ids, "empty"], tmp_path) == counts).all(), "an image without a class counts"
    assert blind_threshold(strongest_histogram(["empty"], tmp_path), False) == 0


def test_otsu_parts_two_hills_that_are_not_alike(tmp_path):
    rng = np.random.default_rng(0)
    hills = np.concatenate([rng.normal(0.2, 0.05, 1600), rng.normal(0.6, 0.05, 400)]).clip(0, 1).reshape(40, 50)
    hills.flat[[0, 1]] = 0, 1  # else it would be stretched
    save_cams(tmp_path / "a.npz", {0: hills.astype(np.float32)[None]}, hills.shape)
    counts = strongest_histogram(["a"], tmp_path)
    assert 0.33 < blind_threshold(counts, True) < 0.47
    assert blind_threshold(counts, False) == pytest.approx(0.28, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_flipped_regions_are_about_the_share_asked_for(tiny_dataset, share):
    ids = tiny_dataset.ids("train")
    changed = []
    for image_id in ids:
        mask = tiny_dataset.mask(image_id)
        noisy = noisy_truth(image_id, dataset=tiny_dataset, share=share, seed=3)
        assert ((noisy == 255) == (mask == 255)).all(), "void stays void, and nothing else becomes void"
        assert set(np.unique(noisy)) <= set(np.unique(mask)) | {0}, "only labels of the image"
        changed.append((noisy != mask)[mask != 255].mean())
        assert (noisy == noisy_truth(image_id, dataset=tiny_dataset, share=share, seed=3)).all()
    if share == 0:
        assert max(changed) == 0
    else:
        assert 0.4 * share < np.mean(changed) <= 1.3 * share
    if share == 0.3:
        other = noisy_truth(ids[0], dataset=tiny_dataset, share=share, seed=4)
        assert (other != noisy_truth(ids[0], dataset=tiny_dataset, share=share, seed=3)).any()

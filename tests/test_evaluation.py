"""Whole lists: confusion matrices and object tables against loops, segmented folders against one image at a time."""

import os

import numpy as np
import pytest

from weaktr import evaluation
from weaktr.crf import refine_probabilities
from weaktr.data.images import palette, read_label_png
from weaktr.data.transforms import seed_everything
from weaktr.evaluation import object_table, save_counts, score_list, segment_list
from weaktr.inference import segment
from weaktr.models import create_segmenter

BACKBONE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
VIEWS = {"scales": [1.0, 1.25], "mirror": True, "base_size": 40, "window": 32, "stride": 24}


def guess(dataset, image_id):
    """The truth with a tenth of its pixels drawn at random, void called background."""
    mask = dataset.mask(image_id).copy()
    generator = np.random.default_rng(int(image_id[-3:]))
    mask[mask == 255] = 0
    return np.where(generator.random(mask.shape) < 0.1, generator.integers(0, 9, mask.shape), mask).astype(np.uint8)


def test_score_list_against_a_loop(tiny_dataset, tmp_path):
    ids = tiny_dataset.ids("val")
    score = score_list(tiny_dataset, ids, lambda i: guess(tiny_dataset, i))
    assert score.counts.shape == (4, 3, 9) and score.confusion.dtype == np.int64
    total, own = np.zeros((9, 9), int), []
    for counts, image_id in zip(score.counts, ids):
        expected = np.zeros((9, 9), int)
        for true, value in zip(tiny_dataset.mask(image_id).ravel(), guess(tiny_dataset, image_id).ravel()):
            if true != 255:
                expected[true, value] += 1
        assert (counts == [np.diag(expected), expected.sum(1), expected.sum(0)]).all()
        total += expected
        own.append(np.mean([
            100 * expected[c, c] / union
            for c in range(9)
            if (union := expected[c].sum() + expected[:, c].sum() - expected[c, c])
        ]))  # fmt: skip
    assert (score.confusion == total).all()
    assert list(score.per_image().index) == ids and np.allclose(score.per_image(), own)
    save_counts(tmp_path / "counts.npz", {"main": score})
    assert (np.load(tmp_path / "counts.npz")["main"] == score.counts).all()


def test_object_table_against_a_loop(tiny_dataset):
    ids = tiny_dataset.ids("train")
    table = object_table(tiny_dataset, score_list(tiny_dataset, ids, lambda i: guess(tiny_dataset, i)))
    rows = []
    for image_id in ids:
        mask, value = tiny_dataset.mask(image_id), guess(tiny_dataset, image_id)
        known = mask != 255
        for c, name in enumerate(tiny_dataset.classes, start=1):
            true, predicted = known & (mask == c), known & (value == c)
            if true.any():
                size, overlap = 100 * true.sum() / known.sum(), (true & predicted).sum() / (true | predicted).sum()
                rows.append((image_id, name, size, 100 * overlap))
    assert list(table.columns) == ["image", "class", "size", "iou"] and len(rows) == len(table) > len(ids)
    assert list(zip(table["image"], table["class"])) == [row[:2] for row in rows]
    assert np.allclose(table[["size", "iou"]], [row[2:] for row in rows])
    missed = object_table(tiny_dataset, score_list(tiny_dataset, ids, lambda i: 0 * tiny_dataset.mask(i)))
    assert len(missed) == len(rows) and (missed["iou"] == 0).all(), "an object that was missed is still an object"


@pytest.fixture(scope="module")
def model():
    seed_everything(3)
    return create_segmenter(BACKBONE, 9, pretrained=False, image_size=32).eval()


class Counter:
    done = 0

    def update(self, n):
        self.done += n


@pytest.fixture(scope="module")
def segmented(model, tiny_dataset, tmp_path_factory):
    """The val list, segmented with CRF."""
    folder, counter = tmp_path_factory.mktemp("segmented") / "predictions", Counter()
    segment_list(model, tiny_dataset, tiny_dataset.ids("val"), folder, crf="voc", workers=1, progress=counter, **VIEWS)
    return folder, counter


def test_a_segmented_list_is_segment_and_crf_by_hand(model, tiny_dataset, segmented):
    folder, counter = segmented
    ids = tiny_dataset.ids("val")
    assert counter.done == 4
    for place in ("multi", "multi_crf"):
        assert sorted(path.name for path in (folder / place).iterdir()) == [f"{i}.png" for i in ids]
    changed = False
    for image_id in ids:
        image = tiny_dataset.image(image_id)
        probabilities = segment(model, image, **VIEWS)
        before, after = (read_label_png(folder / place / f"{image_id}.png", 9) for place in ("multi", "multi_crf"))
        assert before.shape == after.shape == image.shape[:2]
        assert (before == probabilities.argmax(0)).all()
        assert (after == refine_probabilities(image, probabilities, "voc").argmax(0)).all()
        changed |= bool((before != after).any())
    assert changed


def test_masks_carry_vocs_palette(segmented):
    from PIL import Image

    path = next((segmented[0] / "multi").iterdir())
    with Image.open(path) as image:
        assert image.mode == "P" and image.getpalette()[:27] == palette()[:27]


def test_a_broken_off_list_goes_on(model, tiny_dataset, segmented, monkeypatch):
    """What has both files stays; what lacks one is made again, to the same pixels."""
    folder, ids = segmented[0], tiny_dataset.ids("val")
    contents = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for path in contents:
        os.utime(path, (1, 1))
    gone = [folder / "multi_crf" / f"{ids[1]}.png", folder / "multi" / f"{ids[3]}.png"]
    for path in gone:
        path.unlink()
    images = []
    monkeypatch.setattr(evaluation, "segment", lambda *a, **k: (images.append(a[1]), segment(*a, **k))[1])
    counter = Counter()
    segment_list(model, tiny_dataset, ids, folder, crf="voc", workers=1, progress=counter, **VIEWS)
    assert counter.done == 4 and len(images) == 2
    assert all((image == tiny_dataset.image(ids[k])).all() for image, k in zip(images, (1, 3)))
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == contents
    untouched = [path for path in contents if path.stem in (ids[0], ids[2])]
    assert len(untouched) == 4 and all(path.stat().st_mtime == 1 for path in untouched)


def test_without_crf_there_is_one_folder(model, tiny_dataset, tmp_path):
    ids = tiny_dataset.ids("val")[:2]
    segment_list(model, tiny_dataset, ids, tmp_path, crf="", workers=1, progress=Counter(), **VIEWS | {"mirror": False})
    assert [path.name for path in tmp_path.iterdir()] == ["multi"]
    expected = segment(model, tiny_dataset.image(ids[0]), **VIEWS | {"mirror": False}).argmax(0)
    assert (read_label_png(tmp_path / "multi" / f"{ids[0]}.png") == expected).all()


def test_more_images_than_the_queue_holds_all_get_their_crf(tiny_dataset, tmp_path, monkeypatch):
    """Four per worker may wait; the ninth makes the first ones be collected. No network, constant probabilities."""

    def constant(_, image, **__):
        share = image[..., 0] / 255
        return np.stack([1 - share, share]).astype(np.float32)

    monkeypatch.setattr(evaluation, "segment", constant)
    ids = tiny_dataset.ids("train") + tiny_dataset.ids("val")
    segment_list(None, tiny_dataset, ids, tmp_path, crf="coco", workers=1, progress=Counter(), **VIEWS)
    for image_id in ids:
        image = tiny_dataset.image(image_id)
        expected = refine_probabilities(image, constant(None, image), "coco").argmax(0)
        assert (read_label_png(tmp_path / "multi_crf" / f"{image_id}.png") == expected).all()

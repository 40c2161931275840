"""Whole lists: confusion matrices and object tables against loops, segmented folders against one image at a time."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from weaktr.data.images import palette, read_label_png
from weaktr.data.transforms import seed_everything
from weaktr.evaluation import scores
from weaktr.evaluation.metrics import iou, seed_mask, threshold_curve
from weaktr.evaluation.scores import extremes, object_table, save_counts, score_list
from weaktr.method import cam_generation
from weaktr.method.cam_generation import compare_compositions, generate_grids, generate_list
from weaktr.method.cams import load_cams, read_cams, save_cams
from weaktr.method.crf import refine_probabilities
from weaktr.method.pseudo_labels import read_seed
from weaktr.method.segmentation import segment, segment_list, segment_on_device
from weaktr.models.cam import create_cam_model
from weaktr.models.segmenter import create_segmenter
from weaktr.processes import parallel

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


def test_iou_by_class_has_background_first(tiny_dataset):
    score = score_list(tiny_dataset, tiny_dataset.ids("val"), lambda i: guess(tiny_dataset, i))
    table = pd.DataFrame({"before": score.per_class(tiny_dataset.classes), "after": 0.0})
    assert table.index.name == "class" and list(table.index) == ["background", *tiny_dataset.classes]
    np.testing.assert_array_equal(table["before"], 100 * iou(score.confusion))


def test_best_middle_and_worst_images():
    series = pd.Series([3.0, 9.0, 1.0, 5.0, 7.0, 4.0, 8.0], index=list("abcdefg"))  # b g e d f a c
    assert extremes(series, 2) == (["b", "g"], ["d", "f"], ["a", "c"])
    order = series.sort_values(ascending=False).index
    middle = len(order) // 2
    assert extremes(series, 3) == tuple(map(list, (order[:3], order[middle : middle + 3], order[-3:])))
    assert extremes(series[:1], 2) == (["a"], ["a"], ["a"]), "a short list has them more than once"


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


def write_cams(folder, dataset, ids):
    """CAM files with noise on the truth of each class, and {id: CAMs}."""
    for image_id in ids:
        mask, generator = dataset.mask(image_id), np.random.default_rng(int(image_id[-3:]))
        present = np.flatnonzero(dataset.labels(image_id))
        noise = {int(c): generator.random(mask.shape, np.float32) for c in present}
        save_cams(folder / f"{image_id}.npz", {c: [x + (mask == c + 1)] for c, x in noise.items()}, mask.shape)
    return {image_id: load_cams(folder / f"{image_id}.npz") for image_id in ids}


@pytest.mark.parametrize("processes", [1, 3])
def test_curve_of_cam_files_is_exact_in_any_number_of_processes(tiny_dataset, tmp_path, monkeypatch, processes):
    ids, thresholds, used = tiny_dataset.ids("train"), [0.5, 0.1, 0.9], []
    cams = write_cams(tmp_path, tiny_dataset, ids)
    monkeypatch.setattr("weaktr.processes.WORTH_A_PROCESS", 2)
    monkeypatch.setattr("weaktr.processes.parallel", lambda *work: (used.append(work[2]), parallel(*work))[1])
    found = scores.score_cams(tiny_dataset, ids, partial(read_cams, folder=tmp_path), thresholds, processes)
    samples = ((cams[i], tiny_dataset.mask(i)) for i in ids)
    pd.testing.assert_frame_equal(found, threshold_curve(samples, 9, thresholds))
    seeds = partial(read_seed, dataset=tiny_dataset, cams=tmp_path, threshold=0.6)
    score, alone = (score_list(tiny_dataset, ids, seeds, workers) for workers in (processes, 1))
    assert score.ids == ids and (score.confusion == alone.confusion).all() and (score.counts == alone.counts).all()
    assert used == ([] if processes == 1 else [3, 3]), "one process: no other is started"


def test_a_short_list_starts_no_process(tiny_dataset, monkeypatch):
    monkeypatch.setattr("weaktr.processes.parallel", lambda *_: pytest.fail("a process was started"))
    score_list(tiny_dataset, tiny_dataset.ids("val"), partial(guess, tiny_dataset), workers=8)


def test_memory_of_a_curve_does_not_grow_with_the_list(tiny_dataset, tmp_path, monkeypatch):
    """At most one image's maps live at a time."""
    import weakref

    ids, alive, most = tiny_dataset.ids("train"), weakref.WeakSet(), []

    class Maps(dict):
        __hash__ = object.__hash__

    def watched(image_id):
        maps = Maps(read_cams(image_id, tmp_path))
        alive.add(maps)
        most.append(len(alive))
        return maps

    write_cams(tmp_path, tiny_dataset, ids)
    scores.score_cams(tiny_dataset, ids, watched, [0.5])
    assert len(most) == len(ids) and max(most) <= 2, "the next one is read before the last one is let go"


def test_compositions_each_at_its_best_threshold(tiny_dataset, tmp_path):
    ids, thresholds = tiny_dataset.ids("train"), np.round(np.arange(0, 1, 0.05), 2)
    folders = {name: tmp_path / name for name in ("one", "other")}
    made = {
        name: write_cams(folder, tiny_dataset, ids[k:] + ids[:k]) for k, (name, folder) in enumerate(folders.items())
    }
    curves, found = compare_compositions(tiny_dataset, ids, folders, thresholds)
    for name, cams in made.items():
        best = max(thresholds, key=lambda t: (curves[name][t], -t))
        alone = score_list(tiny_dataset, ids, lambda i, c=cams, t=best: seed_mask(c[i], t, tiny_dataset.mask(i).shape))
        assert found[name].miou == pytest.approx(curves[name].max()) and (found[name].counts == alone.counts).all()


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


def test_an_interrupted_export_goes_on(model, tiny_dataset, segmented, tmp_path, monkeypatch):
    """Interrupted at the third image: those with both files stay, the others are made, to the same pixels."""
    folder, ids = segmented[0], tiny_dataset.ids("val")
    images, stop = [], [2]

    def interrupted(*arguments, **options):
        if len(images) in stop:
            raise KeyboardInterrupt
        images.append(arguments[1])
        return segment_on_device(*arguments, **options)

    monkeypatch.setattr("weaktr.method.segmentation.segment_on_device", interrupted)
    job = {"crf": "voc", "workers": 1, **VIEWS}
    with pytest.raises(KeyboardInterrupt):
        segment_list(model, tiny_dataset, ids, tmp_path, progress=Counter(), **job)
    (tmp_path / "multi" / f".{ids[2]}.4711.png").write_bytes(b"half")  # of a process that was killed
    done = [i for i in ids if all((tmp_path / kind / f"{i}.png").is_file() for kind in ("multi", "multi_crf"))]
    times = {path: path.stat().st_mtime_ns for i in done for path in tmp_path.glob(f"*/{i}.png")}
    assert (tmp_path / "multi" / f"{ids[1]}.png").is_file() and not (tmp_path / "multi" / f"{ids[2]}.png").exists()
    images.clear(), stop.clear()
    counter = Counter()
    segment_list(model, tiny_dataset, ids, tmp_path, progress=counter, **job)
    assert counter.done == 4 and len(images) == 4 - len(done)
    assert {path: path.stat().st_mtime_ns for path in times} == times, "what was whole is not made again"
    for path in folder.rglob("*.png"):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_an_interrupted_cam_generation_goes_on(tiny_dataset, tmp_path, monkeypatch):
    """Interrupted at the third image, with a composition of an earlier image lost: only what is missing is written."""
    monkeypatch.setattr(cam_generation, "BATCH_PIXELS", 1)
    seed_everything(5)
    model, ids = create_cam_model("weaktr_tiny_patch8_96", 8, image_size=96).eval(), tiny_dataset.ids("val")
    variants = {tmp_path / "fused": ("fused", False), tmp_path / "attention": ("attn", False)}
    asked, stop = [], [2]

    def interrupted(model, pairs, labels, variants):
        if len(asked) in stop:
            raise KeyboardInterrupt
        asked.append(variants)
        return generate_grids(model, pairs, labels, variants)

    monkeypatch.setattr(cam_generation, "generate_grids", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_list(model, tiny_dataset, ids, (0.5,), variants, Counter())
    assert len(list(tmp_path.rglob("*.npz"))) == 4
    lost, kept = tmp_path / "attention" / f"{ids[1]}.npz", tmp_path / "fused" / f"{ids[1]}.npz"
    before, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "attention" / f".{ids[1]}.4711.npz").write_bytes(b"half")  # of a process that was killed
    asked.clear(), stop.clear()
    counter = Counter()
    generate_list(model, tiny_dataset, ids, (0.5,), variants, counter)
    assert asked == [list(variants.values())] * 3 and counter.done == 4
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == time
    assert all((folder / f"{i}.npz").is_file() for folder in variants for i in ids)


def test_without_crf_there_is_one_folder(model, tiny_dataset, tmp_path):
    ids = tiny_dataset.ids("val")[:2]
    segment_list(model, tiny_dataset, ids, tmp_path, crf="", workers=1, progress=Counter(), **VIEWS | {"mirror": False})
    assert [path.name for path in tmp_path.iterdir()] == ["multi"]
    expected = segment(model, tiny_dataset.image(ids[0]), **VIEWS | {"mirror": False}).argmax(0)
    assert (read_label_png(tmp_path / "multi" / f"{ids[0]}.png") == expected).all()


def test_more_images_than_the_queue_holds_all_get_their_crf(tiny_dataset, tmp_path, monkeypatch):
    """Four per worker may wait; the ninth makes the first ones be collected. No network, constant probabilities."""

    def constant(_, image, *__):
        share = torch.from_numpy(image[..., 0] / 255)
        return torch.stack([1 - share, share]).float()

    monkeypatch.setattr("weaktr.method.segmentation.segment_on_device", constant)
    ids = tiny_dataset.ids("train") + tiny_dataset.ids("val")
    segment_list(None, tiny_dataset, ids, tmp_path, crf="coco", workers=1, progress=Counter(), **VIEWS)
    for image_id in ids:
        image = tiny_dataset.image(image_id)
        expected = refine_probabilities(image, constant(None, image).numpy(), "coco").argmax(0)
        assert (read_label_png(tmp_path / "multi_crf" / f"{image_id}.png") == expected).all()

"""CAM files: how small, how exact, whole or not at all; made the way step 1 makes them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weaktr.data import open_dataset
from weaktr.data.transforms import normalise, seed_everything
from weaktr.errors import DataError
from weaktr.evaluation.metrics import threshold_curve
from weaktr.method.cam_generation import generate_cams, generate_grids, mirrored_views, rescale
from weaktr.method.cams import enlarge, load_cams, save_cams
from weaktr.models.cam import cam_variant, create_cam_model

TINY, PATCHES_OF_16 = "weaktr_tiny_patch8_96", {"embed_dim": 64, "depth": 2, "num_heads": 4, "patch_size": 16}
THRESHOLDS = np.round(np.arange(0, 1, 0.01), 2)


def random_grids(classes, shapes=((4, 5), (6, 7)), seed=0):
    generator = np.random.default_rng(seed)
    return {c: [generator.random(shape, np.float32) for shape in shapes] for c in classes}


# ---------------------------------------------------------------- the bounds


@torch.inference_mode()
def exact_cams(model, image, labels, scales, kind, refined):
    """docs/method.md word by word, in double: every view's map enlarged, mirrored back, added up, stretched."""
    present = np.flatnonzero(labels)
    total = 0
    for scale in scales:
        x = normalise(rescale(image, scale), model.mean, model.std)
        cam = cam_variant(model(torch.stack([x, x.flip(-1)])), kind, refined)[:, present].double()
        cam = F.interpolate(cam, image.shape[:2], mode="bilinear", align_corners=False)
        total = total + cam[0] + cam[1].flip(-1)
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    return dict(zip(present.tolist(), ((total - low) / (high - low + 1e-8)).float().numpy()))


def bounds(dataset, ids, folder, backbone, scales, kind="fused", refined=True):
    """Size of the CAM files over that of the maps as float32, largest change of the mIoU over 100 thresholds."""
    seed_everything(5)
    model = create_cam_model(backbone, len(dataset.classes), pretrained=isinstance(backbone, str), image_size=96).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)  # a trained convolution's maps are as uneven
    exact, stored, sizes = [], [], [0, 0]
    for image_id in ids:
        image, labels, path = dataset.image(image_id), dataset.labels(image_id), folder / f"{image_id}.npz"
        grids = generate_grids(model, mirrored_views(model, [image], scales), [labels], [(kind, refined)])[0][0]
        save_cams(path, grids, image.shape[:2])
        cams = exact_cams(model, image, labels, scales, kind, refined)
        exact.append((cams, dataset.mask(image_id)))
        stored.append((load_cams(path), dataset.mask(image_id)))
        sizes[0] += path.stat().st_size
        sizes[1] += sum(cam.nbytes for cam in cams.values())
    curves = [threshold_curve(samples, len(dataset.classes) + 1, THRESHOLDS)["miou"] for samples in (exact, stored)]
    assert curves[0].max() > curves[0].min() + 3, "maps on which the threshold matters"
    return sizes[0] / sizes[1], (curves[0] - curves[1]).abs().max()


@pytest.mark.parametrize(("kind", "refined"), [("fused", True), ("fused", False), ("attn", False)])
def test_stored_cams_are_small_and_measure_the_same(tiny_dataset, tmp_path, kind, refined):
    """At most a tenth of float32 maps and 0.05 points; these pictures are the smallest, with patches of 8 pixels."""
    share, change = bounds(tiny_dataset, tiny_dataset.ids("train"), tmp_path, TINY, (0.8, 1.0), kind, refined)
    assert share < 0.1 and change < 0.05


def test_stored_cams_of_photographs_are_small_and_measure_the_same(shared, tmp_path):
    """Patches and scales as published."""
    dataset = open_dataset("voc12", str(shared / "data/voc_mini"))
    ids = ["2017_000049", "2017_000071", "2017_000077"]
    assert [int(dataset.labels(i).sum()) for i in ids] == [3, 2, 1]
    share, change = bounds(dataset, ids, tmp_path, PATCHES_OF_16, (1.0, 1.2))
    assert share < 0.1 and change < 0.05


# ---------------------------------------------------------------- enlarging


@pytest.mark.parametrize("size", [(40, 50), (4, 5), (3, 9), (1, 1)])
def test_enlarging_is_torchs(size):
    grids = random_grids((2, 5))
    for c, cam in enlarge(grids, size).items():
        views = [
            F.interpolate(torch.tensor(g).double()[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            for g in grids[c]
        ]
        total = sum(views)
        expected = (total - total.min()) / (total.max() - total.min() + 1e-8)
        assert cam.shape == size and cam.dtype == np.float32
        assert np.abs(cam - expected.numpy()).max() < 1e-6


# ---------------------------------------------------------------- files


def test_cams_come_back_to_the_last_bit(tiny_dataset, tmp_path):
    """What a file gives is what `generate_cams` gives; the same maps make the same bytes."""
    seed_everything(5)
    model = create_cam_model("weaktr_tiny_patch8_96", 8, image_size=96).eval()
    image, labels = tiny_dataset.image("scene_000001"), np.float32([1, 0, 0, 1, 0, 0, 0, 1])
    grids = generate_grids(model, mirrored_views(model, [image], (0.8, 1.0)), [labels], [("fused", False)])[0][0]
    for name in ("a", "b"):
        save_cams(tmp_path / f"{name}.npz", grids, image.shape[:2])
    cams = generate_cams(model, image, labels, (0.8, 1.0), kind="fused", refined=False)
    found = load_cams(tmp_path / "a.npz")
    assert list(found) == list(cams) == [0, 3, 7]
    assert all(found[c].dtype == np.float32 and (found[c] == cams[c]).all() for c in cams)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_an_image_without_a_class_has_a_file_without_maps(tmp_path):
    save_cams(tmp_path / "none.npz", {}, (40, 50))
    assert load_cams(tmp_path / "none.npz") == {}


def test_cams_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    save_cams(tmp_path / "old.npz", random_grids((1,)), (40, 50))
    before = (tmp_path / "old.npz").read_bytes()

    def fail(path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="disk full"):
            save_cams(tmp_path / f"{name}.npz", random_grids((2,)), (40, 50))
    assert (tmp_path / "old.npz").read_bytes() == before
    assert not (tmp_path / "new.npz").exists()


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no archive"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:700] + bytes(50) + path.read_bytes()[750:]),
    "pickled": lambda path: np.savez(path, classes=np.array([{}], object), size=np.int32([4, 5])),
    "of another kind": lambda path: np.savez(path, **{"0": np.zeros((4, 5), np.float16)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_cam_file_is_named_with_the_remedy(tmp_path, damage):
    path = tmp_path / "scene_000001.npz"
    save_cams(path, random_grids((1, 2)), (40, 50))
    DAMAGES[damage](path)
    with pytest.raises(DataError) as caught:
        load_cams(path)
    assert str(path) in str(caught.value) and "metrics.json of 02_cam_generation" in str(caught.value)

"""The commands `evaluate` and `submit`: masks of a list, made by anything, scored or packed."""

import re
import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from weaktr.__main__ import main
from weaktr.data.images import read_label_png, write_label_png
from weaktr.data.transforms import seed_everything
from weaktr.data.voc import VOC, VOC_CLASSES
from weaktr.evaluation.scores import score_list
from weaktr.files import write_json
from weaktr.models.checkpoints import save_model
from weaktr.models.segmenter import create_segmenter
from weaktr.workbench import submit as submission
from weaktr.workbench.evaluate import numbered_otherwise

BACKBONE = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 16}
INFERENCE = {"scales": [1.0], "mirror": False, "base_size": 32, "window": 32, "stride": 32}
INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"


# ── evaluate ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def masks(voc12_copy, tmp_path):
    """A folder with a mask of every image of val: the truth, a part of it shifted, and void only where it is void."""
    data = VOC(voc12_copy)
    for image_id in data.ids("val"):
        truth = data.mask(image_id)
        mask = np.roll(truth, 9, 1)
        write_label_png(tmp_path / "masks" / f"{image_id}.png", np.where((mask == 255) & (truth != 255), 0, mask))
    return tmp_path / "masks"


def evaluate(masks, root, *more):
    return main(["evaluate", str(masks), "--dataset", "voc12", "--data-root", str(root), *more])


def test_scores_are_those_of_notebook_05(masks, voc12_copy, capsys):
    assert evaluate(masks, voc12_copy) == 0
    data = VOC(voc12_copy)
    expected = score_list(data, data.ids("val"), lambda image_id: read_label_png(masks / f"{image_id}.png"))
    printed = capsys.readouterr().out
    assert f"on val (4 images): mIoU {expected.miou:.2f} %" in printed and 10 < expected.miou < 99
    assert re.search(f"background +{expected.per_class(data.classes).iloc[0]:.2f}", printed)
    assert re.search(r"tvmonitor +absent", printed) and "\nnote: " not in printed
    out = masks.with_name("masks_scores")
    assert len(list(masks.iterdir())) == 4, "the folder of the masks stays as it is"
    assert {path.name for path in out.iterdir()} == {
        f"val_{name}" for name in ("per_class.csv", "per_image.csv", "confusion.csv", "confusion.png")
    }
    read = {name: pd.read_csv(out / f"val_{name}.csv", index_col=0) for name in ("per_class", "per_image", "confusion")}
    assert np.allclose(read["per_class"]["iou"], expected.per_class(data.classes), equal_nan=True)
    assert (
        np.allclose(read["per_image"]["miou"], expected.per_image()) and list(read["per_image"].index) == expected.ids
    )
    assert (read["confusion"].to_numpy() == expected.confusion).all() and read["confusion"].index[1] == "aeroplane"
    assert Image.open(out / "val_confusion.png").width > 300


def test_the_truth_itself_and_a_folder_for_the_tables(voc12_copy, tmp_path, capsys):
    out = tmp_path / "tables"
    assert evaluate(voc12_copy / "VOCdevkit/VOC2012/SegmentationClass", voc12_copy, "--output", str(out)) == 0
    assert "mIoU 100.00 %" in capsys.readouterr().out and len(list(out.iterdir())) == 4


@pytest.fixture
def nested(folder):
    """The data set `folder` with a mask for every image, as its own layout has them."""
    for name, size in (("a b/Ünder", (20, 30)), ("a b/two", (20, 31)), ("three", (20, 32))):
        (folder / "masks/a b").mkdir(parents=True, exist_ok=True)
        write_label_png(folder / "masks" / f"{name}.png", np.ones(size))
    return folder


@pytest.mark.parametrize("way", ["as the images lie", "by ids", "by files", "in another Unicode form", "upper case"])
def test_masks_are_found_by_any_name_of_their_images(nested, tmp_path, capsys, way):
    masks = tmp_path / "found"
    shutil.copytree(nested / "masks", masks)
    names = {
        "by ids": ["a b__Ünder.png", "a b__two.png"],
        "by files": ["Ünder.png", "two.png"],
        "in another Unicode form": ["U\u0308nder.png", "two.png"],
        "upper case": ["Ünder.PNG", "two.PNG"],
    }.get(way)
    if names:
        for old, new in zip(("Ünder.png", "two.png"), names):
            (masks / "a b" / old).rename(masks / new)
    command = ["evaluate", str(masks), "--dataset", "folder", "--data-root", str(nested), "--list", "train"]
    assert main(command) == 0 and "mIoU 100.00 %" in capsys.readouterr().out


def painted(value, rows=slice(0, 3)):
    """A damage: pixels of a mask get a value."""

    def damage(path):
        mask = read_label_png(path)
        mask[rows] = value
        write_label_png(path, mask)

    return damage


def saved(image, **how):
    return lambda path: image.save(path, **how)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "lacks 1 of the 4 masks of list val, such as scene_000010.png"),
        (lambda path: path.rename(path.with_stem("scene_000010_mask")), "holds 1 mask of no image on the list, such as "
         "scene_000010_mask.png. Call each mask as its image"),
        (painted(21), "scene_000010.png holds the value 21, but the data set has the classes 0…20"),
        (painted(255, slice(None)), "scene_000010.png is void (255) at"),
        (saved(Image.new("L", (30, 20))), "scene_000010.png is 30×20 pixels, the truth "),
        (saved(Image.new("RGB", (128, 112), "red")), "scene_000010.png is a RGB image"),
        (lambda path: path.write_bytes(path.read_bytes()[:90]), "scene_000010.png cannot be read"),
        (lambda path: write_label_png(path, read_label_png(path), {"classes": ["background", "cat"]}),
         "scene_000010.png is of a network with the classes cat; the data set has aeroplane"),
    ],
)  # fmt: skip
def test_a_wrong_mask_is_named_before_anything_is_scored(masks, voc12_copy, capsys, damage, words):
    damage(masks / "scene_000010.png")
    assert evaluate(masks, voc12_copy) == 2
    printed = capsys.readouterr()
    assert words in printed.err and "mIoU" not in printed.out and not masks.with_name("masks_scores").exists()


def test_all_wrong_masks_are_named_and_counted(masks, voc12_copy, capsys):
    """Other classes once: they are the same for all."""
    for path in masks.iterdir():
        write_label_png(path, read_label_png(path), {"classes": ["background", "cat"]})
    assert evaluate(masks, voc12_copy) == 2
    assert capsys.readouterr().err.count("is of a network with the classes cat") == 1
    for path in masks.iterdir():
        painted(30)(path)
    assert evaluate(masks, voc12_copy) == 2
    error = capsys.readouterr().err
    assert "4 of the 4 masks of list val cannot be scored" in error and all(
        path.name in error for path in masks.iterdir()
    )


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("none", "none does not exist; give the folder of the masks"),
        ("file", "file is a file; give the folder of the masks"),
        ("empty", "empty holds no PNG and is empty"),
        ("arrays", "arrays holds no PNG; it holds 1 other files, such as scene_000008.npy"),
    ],
)
def test_no_folder_of_masks(voc12_copy, tmp_path, capsys, case, words):
    (tmp_path / "file").write_text("")
    for name in ("empty", "arrays"):
        (tmp_path / name).mkdir()
    (tmp_path / "arrays/scene_000008.npy").write_bytes(b"")
    assert evaluate(tmp_path / case, voc12_copy) == 2
    assert words in capsys.readouterr().err


def test_a_list_without_truth_and_one_that_is_not_there(masks, voc12_copy, capsys):
    (voc12_copy / "VOCdevkit/VOC2012/SegmentationClass/scene_000009.png").unlink()
    assert evaluate(masks, voc12_copy) == 2
    assert "image scene_000009 has no mask" in capsys.readouterr().err
    assert evaluate(masks, voc12_copy, "--list", "test") == 2
    assert "test.txt does not exist" in capsys.readouterr().err
    for image_id in VOC(voc12_copy).ids("train"):
        painted(255, slice(None))(VOC(voc12_copy).mask_path(image_id))
    assert evaluate(VOC(voc12_copy).mask_path(image_id).parent, voc12_copy, "--list", "train") == 2
    assert "all pixels of list train are void in" in capsys.readouterr().err


def test_numbers_are_printed_where_tables_cannot_be_written(masks, voc12_copy, capsys):
    masks.with_name("masks_scores").write_text("mine")
    assert evaluate(masks, voc12_copy) == 2
    printed = capsys.readouterr()
    assert "mIoU" in printed.out and "masks_scores cannot be written" in printed.err


def test_another_numbering_is_noticed(masks, voc12_copy, capsys):
    """Classes counted from another end: every mask is right, and no class is."""
    for path in masks.iterdir():
        mask = read_label_png(path)
        write_label_png(path, np.where((mask > 0) & (mask < 21), mask % 20 + 1, mask))
    assert evaluate(masks, voc12_copy) == 0
    assert "note: the masks seem to number their classes in another way: most of" in capsys.readouterr().out


def test_a_weak_network_is_no_other_numbering():
    names = ["background", "a", "b", "c"]
    confused = np.array([[900, 10, 10, 10], [50, 30, 40, 0], [50, 20, 30, 5], [60, 10, 5, 20]])
    assert not numbered_otherwise(confused, names)
    assert not numbered_otherwise(np.diag([900, 0, 0, 0]), names)
    moved = np.array([[900, 0, 0, 0], [10, 0, 90, 0], [10, 0, 0, 80], [10, 70, 0, 0]])
    assert "most of a is called b" in numbered_otherwise(moved, names)


# ── submit ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A random network of VOC's classes."""
    seed_everything(0)
    path = tmp_path_factory.mktemp("network") / "model.safetensors"
    model = create_segmenter(BACKBONE, 21, pretrained=False, image_size=32)
    save_model(model, path, classes=list(VOC_CLASSES), inference=INFERENCE)
    return path


@pytest.fixture
def devkit(voc12_copy):
    """VOC's devkit with a list test whose images have neither annotations nor masks."""
    folder = voc12_copy / "VOCdevkit/VOC2012"
    lists = folder / "ImageSets/Segmentation"
    for image_id in (lists / "val.txt").rename(lists / "test.txt").read_text().split():
        (folder / "Annotations" / f"{image_id}.xml").unlink()
        (folder / "SegmentationClass" / f"{image_id}.png").unlink()
    return voc12_copy


def submit(network, devkit, output, *more):
    return main(["submit", str(network), "--data-root", str(devkit), "--output", str(output), *more])


def test_the_archive_holds_every_mask_as_the_server_takes_it(network, devkit, tmp_path, capsys):
    assert submit(network, devkit, tmp_path / "out", "--list", "test") == 0
    assert "results.tar.gz: every image of test, in its size" in capsys.readouterr().out
    data = VOC(devkit)
    with tarfile.open(tmp_path / "out/results.tar.gz", "r:gz") as archive:
        assert archive.getnames() == [f"{INSIDE}/{image_id}.png" for image_id in data.ids("test")]
        archive.extractall(tmp_path / "unpacked", filter="data")
    for image_id in data.ids("test"):
        with Image.open(tmp_path / "unpacked" / INSIDE / f"{image_id}.png") as mask:
            values = np.array(mask)
            assert mask.mode == "P" and mask.getpalette()[3:6] == [128, 0, 0]
        assert values.shape == data.image(image_id).shape[:2] and values.max() <= 20


def test_what_is_there_is_packed_again_and_a_wrong_mask_is_not(network, devkit, tmp_path, capsys, monkeypatch):
    """Void, another size, and a mask that is gone."""
    out = tmp_path / "out"
    submit(network, devkit, out)
    archive = (out / "results.tar.gz").read_bytes()
    mask = out / INSIDE / "scene_000009.png"
    monkeypatch.setattr(submission, "predict_pictures", lambda *_, **__: type("Predicted", (), {"broken": {}}))
    for damage, words in (
        (painted(255), "scene_000009.png holds 255, and the server takes 0…20"),
        (painted(21), "scene_000009.png holds the value 21"),
        (saved(Image.new("L", (30, 20))), "scene_000009.png is 30×20 pixels, its image"),
        (lambda path: path.unlink(), "scene_000009.png does not exist"),
    ):
        damage(mask)
        assert submit(network, devkit, out) == 2
        assert words in capsys.readouterr().err and (out / "results.tar.gz").read_bytes() == archive


def test_a_picture_that_cannot_be_read_makes_no_archive(network, devkit, tmp_path, capsys):
    picture = devkit / "VOCdevkit/VOC2012/JPEGImages/scene_000009.jpg"
    picture.write_bytes(picture.read_bytes()[:500])
    assert submit(network, devkit, tmp_path / "out") == 1
    assert "1 image left out, so there is no archive" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / INSIDE).iterdir())) == 3 and not (tmp_path / "out/results.tar.gz").exists()
    picture.unlink()
    assert submit(network, devkit, tmp_path / "out") == 2
    assert "1 of the 4 images of test do not exist, such as" in capsys.readouterr().err


def test_other_classes_and_a_part_of_a_list_are_refused(network, devkit, tmp_path, capsys):
    assert submit(network, devkit, tmp_path / "out", "--list", "test:2") == 2
    assert "test:2 is a part of a list" in capsys.readouterr().err
    few = tmp_path / "few.safetensors"
    model = create_segmenter(BACKBONE, 4, pretrained=False, image_size=32)
    save_model(model, few, classes=["cat", "dog", "cow"], inference=INFERENCE)
    assert submit(few, devkit, tmp_path / "out") == 2
    assert "the network has 3 classes, cat, dog, cow, …; the server takes the 20" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_says_where_its_data_lie(network, devkit, tmp_path, monkeypatch):
    stage = tmp_path / "run/04_online_retraining"
    stage.mkdir(parents=True)
    shutil.copy(network, stage)
    write_json(stage / "params.json", {"dataset": "voc12", "data_root": str(devkit)})
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "run", "--list", "test"]) == 0
    assert (tmp_path / "submission/results.tar.gz").is_file()

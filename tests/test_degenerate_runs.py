"""All five notebooks on lists from which little or nothing can be learned or measured: they end and say so."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_notebooks import STAGES, metrics

from weaktr import predict
from weaktr.data.images import write_label_png
from weaktr.errors import DataError
from weaktr.workbench import runner

pytestmark = pytest.mark.timeout(900)  # five notebooks in a row
SMALLEST = {
    "dataset": "folder",
    "image_size": 32,
    "crop_size": 48,
    "base_size": 48,
    "window_stride": 48,
    "cam_epochs": 1,
    "seg_epochs": 1,
    "cam_batch_size": 1,
    "seg_batch_size": 1,
    "cam_scales": [1.0],
    "seg_scales": [1.0],
    "workers": 1,
}


def draw(root, rows, classes=()):
    """A data set with a row (name, labels, split, mask) per image; a mask is "drawn", "void" or "none"."""
    lines = ["image,labels,split"]
    for number, (name, labels, split, mask) in enumerate(rows):
        image, truth = Image.new("RGB", (56, 48), (90, 110, 20 * number)), Image.new("L", (56, 48))
        for value, _ in enumerate(labels, start=1):
            ImageDraw.Draw(image).ellipse((5, 5, 30, 30), (200, 40 * value, 30))
            ImageDraw.Draw(truth).ellipse((5, 5, 30, 30), value)
        image.save(root / f"{name}.png")
        if mask != "none":
            write_label_png(root / f"masks/{name}.png", np.full_like(truth, 255) if mask == "void" else np.array(truth))
        lines.append(f"{name}.png,{';'.join(labels)},{split}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    if classes:
        (root / "classes.txt").write_text("\n".join(classes) + "\n")


def run(root, **given):
    """The run's records by (stage, metric, list)."""
    runner.run(SMALLEST | {"data_root": str(root)} | given, root / "run")
    assert all((root / "run" / stage / "metrics.json").is_file() for stage in STAGES)
    records = metrics(root / "run")
    assert np.isfinite([record["value"] for record in records]).all()
    return {(record["stage"][:2], record["metric"], record["list"]): record["value"] for record in records}


@pytest.mark.slow
def test_one_image_of_the_only_class_and_a_list_without_an_object(tmp_path, capfd):
    """The image to learn from shows `a`, what is measured on shows nothing: what one class cannot tell is left out."""
    draw(tmp_path, [("one", ["a"], "train", "drawn"), ("empty", [], "val", "drawn")])
    found = run(tmp_path, train_list="train", eval_list="val", val_list="val")
    said = capfd.readouterr().out
    assert "could not be measured, as the list lacks what it needs: mAP (image labels) on val (1)" in said
    assert "no object in the masks of val (1), so none is drawn by its size" in said
    assert ("01", "mAP (image labels)", "val") not in found
    assert found["02", "mIoU of CAM (seed)", "val"] == found["03", "mIoU of CAM label", "val"] == 100
    assert ("05", "mIoU of mask", "val") in found
    assert not list((tmp_path / "run").rglob("records.json"))
    mask, names = predict(tmp_path / "run", tmp_path / "one.png")
    assert names == ["background", "a"] and set(np.unique(mask)) <= {0, 1}


@pytest.mark.slow
def test_masks_in_which_all_is_void(tmp_path, capfd):
    """As a test set has them, whose truth is not given; masks of another list are there, and `c` never occurs."""
    rows = [("one", ["a"], "train", "drawn"), ("two", ["b"], "train", "drawn"), ("none", [], "train", "drawn")]
    draw(tmp_path, [*rows, ("three", ["b"], "val", "void")], ["a", "b", "c"])
    found = run(tmp_path, train_list="train", eval_list="val", val_list="val", train_ceiling=False)
    assert {stage for stage, _, _ in found} == {"01", "04"}, "nothing can be measured by these masks"
    assert capfd.readouterr().out.count("nothing was measured: no masks, or nothing that they can tell") == 3
    assert list((tmp_path / "run/05_evaluation/predictions/multi").glob("*.png"))


def test_a_list_to_learn_from_without_an_object_is_refused(tmp_path):
    draw(tmp_path, [("one", [], "train", "none"), ("two", ["b"], "val", "none")])
    given = SMALLEST | {"data_root": str(tmp_path), "train_list": "train", "eval_list": "val", "val_list": "val"}
    with pytest.raises(DataError, match="list train: no image of it shows a class"):
        runner.run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()

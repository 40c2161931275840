"""The five notebooks, executed by the runner: on the embedded data set and on real photographs."""

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from weaktr import predict, presets, runs
from weaktr.data import open_dataset

pytestmark = pytest.mark.timeout(600)  # five notebooks in a row; the other tests take seconds
STAGES = ["01_cam_training", "02_cam_generation", "03_pseudo_labels", "04_online_retraining", "05_evaluation"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a run of the `smoke` preset."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    runs.run(presets.get("smoke").parameters, folder, preset="smoke")
    return folder


def metrics(folder):
    return [record for stage in STAGES for record in json.loads((folder / stage / "metrics.json").read_text())]


def test_every_stage_leaves_what_the_contract_says(smoke):
    for stage in STAGES:
        for name in ("notebook.ipynb", "params.json", "manifest.json", "metrics.json"):
            assert (smoke / stage / name).is_file(), f"{stage}/{name}"
        assert list((smoke / stage / "figures").glob("*.png"))
    assert len(pd.read_csv(smoke / "01_cam_training/history.csv")) == 1
    assert len(list((smoke / "02_cam_generation/cams").glob("*.npz"))) == 48
    assert len(list((smoke / "03_pseudo_labels/labels").glob("*.png"))) == 48
    assert len(list((smoke / "04_online_retraining/clipping").glob("*.npz"))) > 0
    assert len(list((smoke / "05_evaluation/predictions/multi_crf").glob("*.png"))) == 24


def test_executed_notebooks_hold_pictures_and_no_errors(smoke):
    for stage in STAGES:
        notebook = nbformat.read(smoke / stage / "notebook.ipynb", as_version=4)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2, stage


def test_manifests_say_what_made_them(smoke):
    for stage in STAGES:
        manifest = json.loads((smoke / stage / "manifest.json").read_text())
        assert manifest["preset"] == "smoke"
        assert {"git", "versions", "hardware", "seed", "data_fingerprint", "start", "end", "seconds"} <= manifest.keys()


def test_every_number_says_what_it_is(smoke):
    records = metrics(smoke)
    for record in records:
        assert {"stage", "list", "list_size", "threshold", "threshold_from", "scales", "crf", "metric", "value"} <= set(
            record
        )
        assert np.isfinite(record["value"])
        assert record["list_size"] in (16, 24, 48)
    chosen = [record for record in records if record["threshold_from"] == "best on masks"]
    assert chosen
    assert all(record["oracle"] for record in chosen)
    assert all(record["oracle"] for record in records if "ceiling" in record["metric"])


def test_a_second_run_does_nothing(smoke, capfd):
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()}
    runs.run(presets.get("smoke").parameters, smoke, preset="smoke")
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()} == before
    assert capfd.readouterr().out.count("up to date, skipped") == len(STAGES)


def test_predict_on_a_photograph_of_ones_own(smoke, tmp_path):
    photograph = tmp_path / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 4), np.uint8)).save(photograph)
    mask, names = predict(smoke, photograph)
    assert mask.shape == (90, 140)
    assert names == ["background", *open_dataset("synthetic").classes]
    assert mask.max() < len(names)


@pytest.mark.slow
@pytest.mark.parametrize("dataset, sizes", [("voc12", (28, 15)), ("coco14", (4, 4))])
def test_real_photographs_go_end_to_end(shared, tmp_path, dataset, sizes):
    """VOC12's layout with 20 classes, COCO14's with 90 and its 91-id masks."""
    root = shared / "data" / {"voc12": "voc_mini", "coco14": "coco_mini"}[dataset]
    given = presets.get("voc_mini").parameters | {"dataset": dataset, "data_root": str(root)}
    if dataset == "coco14":
        given |= {"crf_settings": "coco", "train_list": "train:16", "eval_list": "train:4", "val_list": "val:4"}
    runs.run(given, tmp_path / "run", preset="voc_mini")
    records = metrics(tmp_path / "run")
    assert {record["list_size"] for record in records} >= set(sizes)
    masks = list((tmp_path / "run/05_evaluation/predictions/multi").glob("*.png"))
    assert len(masks) == sizes[1]
    with Image.open(masks[0]) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]


@pytest.mark.slow
def test_a_folder_without_masks_goes_end_to_end(tiny_dataset, tmp_path):
    """Photographs and a labels.csv are enough: everything is made, nothing is measured but the image labels."""
    root = tmp_path / "my photos"
    rows = ["image,labels,split"]
    for name in ("train", "val"):
        for image_id in tiny_dataset.ids(name):
            path = root / f"été {name}" / f"{image_id[-3:]} a.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tiny_dataset.image(image_id)).save(path)
            present = ";".join(np.array(tiny_dataset.classes)[tiny_dataset.labels(image_id) > 0])
            rows.append(f"{path.relative_to(root)},{present},{name}")
    (root / "labels.csv").write_text("\n".join(rows))
    given = {"dataset": "folder", "data_root": str(root), "train_list": "train", "cam_epochs": 1, "seg_epochs": 1}
    given |= {"cam_batch_size": 4, "seg_scales": [1.0], "cam_scales": [1.0]}
    runs.run(given, tmp_path / "run")
    assert [record["metric"] for record in metrics(tmp_path / "run")] == ["mAP (image labels)", "clipped pixels (%)"]
    for place, count in (("03_pseudo_labels/labels", 8), ("05_evaluation/predictions/multi", 4)):
        assert len(list((tmp_path / "run" / place).glob("*.png"))) == count
    mask, names = predict(tmp_path / "run", next(root.rglob("*.png")))
    assert mask.shape[0] > 90 and len(names) > 2

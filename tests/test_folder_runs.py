"""All five notebooks on folders of one's own: one class with masks, several without."""

import numpy as np
import pytest
from PIL import Image
from test_notebooks import metrics

from weaktr import predict
from weaktr.data.images import write_label_png
from weaktr.workbench import runner

pytestmark = pytest.mark.timeout(900)  # five notebooks in a row


@pytest.mark.slow
def test_a_folder_of_one_class_goes_end_to_end(tiny_dataset, tmp_path):
    """One class, with masks and images that lack it: all numbers are those of background and that class."""
    counts = sum(tiny_dataset.labels(image_id) for image_id in tiny_dataset.ids("train"))
    rows, wanted = ["image,labels,split"], int(counts.argmax())
    for name in ("train", "val"):
        for image_id in tiny_dataset.ids(name):
            mask = tiny_dataset.mask(image_id)
            mask[mask < 255] = mask[mask < 255] == wanted + 1
            Image.fromarray(tiny_dataset.image(image_id)).save(tmp_path / f"{image_id}.png")
            write_label_png(tmp_path / "masks" / f"{image_id}.png", mask)
            rows.append(f"{image_id}.png,{'animal' if tiny_dataset.labels(image_id)[wanted] else ''},{name}")
    assert any(row.endswith(",,train") for row in rows) and any(row.endswith(",animal,train") for row in rows)
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    given = {"dataset": "folder", "data_root": str(tmp_path), "train_list": "train", "cam_epochs": 1, "seg_epochs": 1}
    given |= {"workers": 1, "cam_batch_size": 4, "seg_scales": [1.0], "cam_scales": [1.0], "train_ceiling": False}
    runner.run(given, tmp_path / "run")
    found = {(record["metric"], record["list"]): record["value"] for record in metrics(tmp_path / "run")}
    assert np.isfinite(list(found.values())).all(), "what a single class cannot tell is left out"
    assert 0 <= found["mIoU of mask", "val"] <= 100 and ("mIoU of CAM label", "train") in found
    mask, names = predict(tmp_path / "run", tmp_path / f"{image_id}.png")
    assert names == ["background", "animal"] and set(np.unique(mask)) <= {0, 1}


@pytest.mark.slow
def test_a_folder_without_masks_goes_end_to_end(tiny_dataset, tmp_path, capfd):
    """Photographs and a labels.csv are enough, also beyond the paper: nothing is measured but the image labels."""
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
    given |= {"workers": 1, "cam_batch_size": 4, "seg_scales": [1.0], "cam_scales": [1.0]}
    given |= {"cam_kind": "lifted", "cam_balanced": True, "seg_start": "cam"}
    runner.run(given, tmp_path / "run")
    measured = [record["metric"] for record in metrics(tmp_path / "run")]
    step_1 = ["mAP (image labels)", "spread of the head weights", "correlation of the classes' attention"]
    assert measured[:4] == [*step_1, "clipped pixels (%)"]
    others = measured[4:]
    assert set(others) <= {"clipped pixels (%), where it clips"}, "what needs masks is left out"
    for place, count in (("03_pseudo_labels/labels", 8), ("05_evaluation/predictions/multi", 4)):
        assert len(list((tmp_path / "run" / place).glob("*.png"))) == count
    mask, names = predict(tmp_path / "run", next(root.rglob("*.png")))
    assert mask.shape[0] > 90 and len(names) > 2
    capfd.readouterr()
    runner.run(given | {"data_root": str(root.rename(tmp_path / "moved"))}, tmp_path / "run")
    assert capfd.readouterr().out.count("up to date, skipped\n") == 5, "data that moved are the same data"

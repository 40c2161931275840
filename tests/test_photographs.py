"""All five notebooks on real photographs in the layouts of VOC12 and COCO14, and on a folder without masks."""

import numpy as np
import pytest
from PIL import Image
from test_notebooks import metrics

from weaktr import predict, presets, runs

pytestmark = pytest.mark.timeout(900)  # five notebooks in a row


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_real_photographs_go_end_to_end(shared, tmp_path, dataset):
    """VOC12's layout with 20 classes, COCO14's with 90 and its 91-id masks; a part of each list, to save time."""
    root = shared / "data" / {"voc12": "voc_mini", "coco14": "coco_mini"}[dataset]
    given = presets.get("voc_mini").parameters | {"dataset": dataset, "data_root": str(root)}
    given |= {"train_list": "train:14", "eval_list": "train:4", "val_list": "val:3"}
    if dataset == "coco14":
        given |= {"crf_settings": "coco"}
    runs.run(given, tmp_path / "run", preset="voc_mini")
    records = metrics(tmp_path / "run")
    assert {record["list_size"] for record in records} == {14, 4, 3}
    masks = list((tmp_path / "run/05_evaluation/predictions/multi").glob("*.png"))
    assert len(masks) == 3
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

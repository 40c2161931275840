"""All five notebooks on a folder of one's own without masks."""

import numpy as np
import pytest
from PIL import Image
from test_notebooks import metrics

from weaktr import predict
from weaktr.workbench import runner

pytestmark = pytest.mark.timeout(900)  # five notebooks in a row


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

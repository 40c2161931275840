"""All five notebooks on real photographs in the layouts of VOC12 and COCO14."""

import pytest
from PIL import Image
from test_notebooks import metrics

from weaktr.workbench import presets, runner

pytestmark = pytest.mark.timeout(900)  # five notebooks in a row


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_real_photographs_go_end_to_end(shared, tmp_path, dataset):
    """VOC12's layout with 20 classes, COCO14's with 90 and its 91-id masks; a part of each list, to save time."""
    root = shared / "data" / {"voc12": "voc_mini", "coco14": "coco_mini"}[dataset]
    given = presets.get("voc_mini").parameters | {"dataset": dataset, "data_root": str(root), "workers": 1}
    given |= {"train_list": "train:4", "eval_list": "train:3", "val_list": "val:2", "train_ceiling": False}
    given |= {"cam_batch_size": 4, "variant_images": 3}
    if dataset == "coco14":
        given |= {"crf_settings": "coco"}
    runner.run(given, tmp_path / "run", preset="voc_mini")
    records = metrics(tmp_path / "run")
    assert {record["list_size"] for record in records} == {4, 3, 2}
    masks = list((tmp_path / "run/05_evaluation/predictions/multi").glob("*.png"))
    assert len(masks) == 2
    with Image.open(masks[0]) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]

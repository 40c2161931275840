"""VOC12 and SBD, joined on disk; the download itself needs a network and is not tested."""

import numpy as np
import pytest
from scipy.io import savemat

from weaktr.__main__ import main
from weaktr.data.fetch import fetch_voc12, join
from weaktr.data.images import read_label_png
from weaktr.data.synthetic import CLASSES
from weaktr.data.voc import VOC
from weaktr.errors import DataError


@pytest.fixture
def both(voc_copy):
    """VOC with two training and four val images, SBD with masks of some of each and of four more."""
    voc, sbd = voc_copy / "VOCdevkit/VOC2012", voc_copy / "sbd"
    lists = voc / "ImageSets/Segmentation"
    ids, val = (lists / "train.txt").read_text().split(), (lists / "val.txt").read_text().split()
    (lists / "train.txt").write_text("\n".join(ids[:2]))
    (sbd / "cls").mkdir(parents=True)
    (sbd / "train.txt").write_text("\n".join([ids[0], ids[2], ids[3], val[0]]))
    (sbd / "val.txt").write_text("\n".join([ids[4], val[1], ids[5]]))
    dataset = VOC(voc_copy, CLASSES)
    for image_id in ids[2:6]:
        mask = dataset.mask(image_id)
        savemat(sbd / "cls" / f"{image_id}.mat", {"GTcls": {"Segmentation": np.where(mask == 255, 0, mask)}})
        dataset.mask_path(image_id).unlink()
    return voc_copy, voc, sbd, ids, val


def test_train_aug_is_the_union_without_val(both):
    root, voc, sbd, ids, val = both
    assert join(voc, sbd) == {"train": 2, "val": 4, "train_aug": 6}
    dataset = VOC(root, CLASSES)
    assert dataset.ids("train_aug") == ids[:6] and not set(val) & set(dataset.ids("train_aug"))
    dataset.check("train_aug", masks=True)
    assert read_label_png(voc / "SegmentationClassAug" / f"{ids[2]}.png").max() > 0
    assert not (voc / "SegmentationClassAug" / f"{ids[0]}.png").exists(), "VOC's own mask is the finer one"


def test_masks_that_are_there_stay(both):
    _, voc, sbd, ids, _ = both
    join(voc, sbd)
    (sbd / "cls" / f"{ids[2]}.mat").unlink()
    assert join(voc, sbd)["train_aug"] == 6


def test_other_sizes_are_refused_before_the_list_is_written(both):
    _, voc, sbd, *_ = both
    with pytest.raises(DataError, match=r"'train_aug': 6.*expected .*10582"):
        join(voc, sbd, {"train": 1464, "val": 1449, "train_aug": 10582})
    assert not (voc / "ImageSets/Segmentation/train_aug.txt").exists()


@pytest.mark.parametrize("damage", ["list", "mask", "truncated"])
def test_incomplete_archives_are_named(both, damage):
    _, voc, sbd, ids, _ = both
    path = sbd / "val.txt" if damage == "list" else sbd / "cls" / f"{ids[3]}.mat"
    path.write_bytes(path.read_bytes()[:100]) if damage == "truncated" else path.unlink()
    with pytest.raises(DataError, match=path.name):
        join(voc, sbd)


def test_a_devkit_that_was_not_unpacked_to_its_end_is_named(both):
    _, voc, sbd, ids, _ = both
    (voc / "JPEGImages" / f"{ids[4]}.jpg").unlink()
    with pytest.raises(DataError, match=rf"{ids[4]}\.jpg is missing: the archive was not unpacked to its end"):
        join(voc, sbd)


def test_without_a_network_the_remedy_is_said(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.VOCSegmentation", fail)
    with pytest.raises(DataError, match=r"no route to host.*unpack the devkit to .*VOC2012"):
        fetch_voc12(tmp_path)
    assert main(["data", "fetch", "voc12", str(tmp_path)]) == 2
    assert "run the command again" in capsys.readouterr().err

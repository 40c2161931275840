"""VOC12 and SBD: fetched from a server of the test's own, and joined on disk."""

import functools
import hashlib
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import check_list
from scipy.io import savemat
from torchvision import datasets

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
    check_list(dataset, "train_aug", masks=True)
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


@pytest.fixture
def archives(both, tmp_path, monkeypatch):
    """torchvision fetches both archives from a server that holds them; → (its folder, the paths asked for)."""
    _, voc, sbd, *_ = both
    served, asked = tmp_path / "served", []
    served.mkdir()
    for place in ("img", "inst"):  # torchvision moves them along
        (sbd / place).mkdir()
    with tarfile.open(served / "voc.tar", "w") as tar:
        tar.add(voc, "VOCdevkit/VOC2012")
    with tarfile.open(served / "sbd.tgz", "w:gz") as tar:
        tar.add(sbd, "benchmark_RELEASE/dataset")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(f"{self.command} {self.path}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in served.iterdir()}
    year = datasets.voc.DATASET_YEAR_DICT["2012"]
    monkeypatch.setitem(year, "url", address + "voc.tar")
    monkeypatch.setitem(year, "filename", "voc.tar")
    monkeypatch.setitem(year, "md5", md5["voc.tar"])
    monkeypatch.setattr(datasets.SBDataset, "url", address + "sbd.tgz")
    monkeypatch.setattr(datasets.SBDataset, "filename", "sbd.tgz")
    monkeypatch.setattr(datasets.SBDataset, "md5", md5["sbd.tgz"])
    monkeypatch.setattr("weaktr.data.fetch.SIZES", {"train": 2, "val": 4, "train_aug": 6})
    yield served, asked
    server.shutdown()
    server.server_close()


def test_fetching_goes_on_where_it_broke_off(archives, tmp_path):
    """A damaged SBD is refused by its checksum; the next call fetches that alone, a third one nothing."""
    served, asked = archives
    whole, root = (served / "sbd.tgz").read_bytes(), tmp_path / "fetched"
    (served / "sbd.tgz").write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"could not be fetched .*run the command again"):
        fetch_voc12(root)
    (served / "sbd.tgz").write_bytes(whole)
    before = len(asked)
    assert main(["data", "fetch", "voc12", str(root)]) == 0
    assert asked[before:] and not any("voc.tar" in line for line in asked[before:])
    dataset = VOC(root, CLASSES)
    assert len(dataset.ids("train_aug")) == 6
    check_list(dataset, "train_aug", masks=True)
    before = len(asked)
    assert fetch_voc12(root)["train_aug"] == 6 and len(asked) == before

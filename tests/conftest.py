"""Fixtures that several test files use."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

FOLDER_TABLE = "image,labels,split\na b/Ünder.png,cat;dog,train\na b/two.jpg,dog,train\nthree.png,,val\n"


def pytest_configure():
    """A shell's background job ignores Ctrl-C, and so would the processes in which tests press it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The longest files first, else one process would be left alone with them at the end (see `make test`)."""
    longest = ("test_photographs", "test_folder_runs", "test_notebooks", "test_sweeps", "test_runs", "test_training")
    place = {name: number for number, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.stem, len(longest)))


def check_list(dataset, list_name, masks=False):
    """What a run does with its lists before it starts."""
    for image_id in dataset.ids(list_name):
        dataset.check_image(image_id, list_name if masks else None)


@pytest.fixture(scope="session")
def shared():
    """The folder of golden files and small photographs beside the repository, or $WEAKTR_SHARED."""
    folder = Path(os.environ.get("WEAKTR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder.name}/ is not beside the repository and WEAKTR_SHARED does not name it")
    return folder


@pytest.fixture(autouse=True)
def _same_threads():
    """A test that sets torch's number of threads does not slow down the ones after it."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    yield
    if torch and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def fused_calls(monkeypatch):
    """A list that grows by one with every call of torch's fused attention."""
    import torch.nn.functional as F

    attend, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or attend(*a, **k))
    return calls


@pytest.fixture(scope="session")
def tiny_voc(tmp_path_factory):
    """Root of a VOC-layout data set of 12 scenes (lists train 8, val 4); read only, `voc_copy` is for damage."""
    from weaktr.data.synthetic import write_scene

    root = tmp_path_factory.mktemp("tiny_voc")
    folder = root / "VOCdevkit" / "VOC2012"
    for place in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (folder / place).mkdir(parents=True)
    ids = [f"scene_{i:06d}" for i in range(12)]
    for i, image_id in enumerate(ids):
        write_scene(folder, image_id, (504, i))
    for name, part in (("train", ids[:8]), ("val", ids[8:])):
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{i}\n" for i in part))
    return root


@pytest.fixture(scope="session")
def tiny_dataset(tiny_voc):
    """`tiny_voc`, opened."""
    from weaktr.data.synthetic import CLASSES
    from weaktr.data.voc import VOC

    return VOC(tiny_voc, CLASSES)


@pytest.fixture
def voc_copy(tiny_voc, tmp_path):
    """A copy of `tiny_voc` that a test may damage."""
    return Path(shutil.copytree(tiny_voc, tmp_path / "voc"))


@pytest.fixture
def voc12_copy(voc_copy):
    """`voc_copy` as VOC12: every class of ours renamed to one of VOC's, the masks' values stay in range."""
    from weaktr.data.synthetic import CLASSES
    from weaktr.data.voc import VOC_CLASSES

    for path in (voc_copy / "VOCdevkit/VOC2012/Annotations").glob("*.xml"):
        text = path.read_text()
        for ours, theirs in zip(CLASSES, VOC_CLASSES):
            text = text.replace(f"<name>{ours}</name>", f"<name>{theirs}-</name>")
        path.write_text(text.replace("-</name>", "</name>"))
    return voc_copy


@pytest.fixture
def coco(tmp_path):
    """Root of two images, their 91-id masks (a dog, 18; a toothbrush, 90, and a crowd) and a list."""
    import numpy as np
    from PIL import Image

    from weaktr.data.images import write_label_png

    (tmp_path / "images").mkdir()
    masks = tmp_path / "voc_format/class_labels"
    masks.mkdir(parents=True)
    for number, value in ((1, 18), (2, 90)):
        image_id = f"COCO_train2014_{number:012d}"
        Image.new("RGB", (40, 30), (number * 50, 90, 30)).save(tmp_path / "images" / f"{image_id}.jpg")
        mask = np.zeros((30, 40), np.uint8)
        mask[5:20, 5:25], mask[25:] = value, 255
        write_label_png(masks / f"{image_id}.png", mask)
    (tmp_path / "voc_format/train.txt").write_text("COCO_train2014_000000000001\nCOCO_train2014_000000000002\n")
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """Root of three photographs and the labels.csv FOLDER_TABLE: classes cat and dog, lists train and val, no masks."""
    from PIL import Image

    (tmp_path / "a b").mkdir()
    for n, name in enumerate(("a b/Ünder.png", "a b/two.jpg", "three.png")):
        Image.new("RGB", (30 + n, 20), (200, 20 * n, 30)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text(FOLDER_TABLE)
    return tmp_path

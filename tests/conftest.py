"""Fixtures that several test files use."""

import os
import shutil
import sys
from pathlib import Path

import pytest


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

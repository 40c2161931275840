"""Your own photograph with a finished run."""

import numpy as np
import pytest
from PIL import Image

import weaktr
from weaktr.data.images import read_image
from weaktr.data.transforms import seed_everything
from weaktr.errors import DataError, UserError
from weaktr.method.segmentation import segment
from weaktr.models.cam import create_cam_model
from weaktr.models.checkpoints import load_model, save_model
from weaktr.models.segmenter import create_segmenter

BACKBONE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
INFERENCE = {"scales": [1.0, 1.5], "mirror": True, "base_size": 40, "window": 32, "stride": 24}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run whose step 2 is a random network of four classes."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "04_online_retraining").mkdir()
    seed_everything(0)
    model = create_segmenter(BACKBONE, 5, pretrained=False, image_size=32)
    classes = ["bear", "cat", "owl", "pig"]
    save_model(
        model, folder / "04_online_retraining" / "model.safetensors", classes=classes, inference=INFERENCE, seed=0
    )
    return folder


@pytest.fixture
def photograph(tmp_path):
    """A picture with smooth colours, 45×70 pixels."""
    rows, columns = np.mgrid[0:45, 0:70]
    pixels = np.stack([rows * 5, columns * 3, 255 - rows - columns], 2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "holiday.png")
    return tmp_path / "holiday.png"


def test_mask_has_the_photographs_size_and_names(run_folder, photograph):
    mask, names = weaktr.predict(run_folder, photograph)
    assert mask.shape == (45, 70) and mask.dtype == np.uint8
    assert names == ["background", "bear", "cat", "owl", "pig"] and mask.max() < len(names)


@pytest.mark.parametrize("crf", ["", "voc"])
def test_prediction_is_segment_with_what_the_run_recorded(run_folder, photograph, crf):
    model = load_model(run_folder / "04_online_retraining" / "model.safetensors")
    expected = segment(model, read_image(photograph), crf=crf, **INFERENCE).argmax(0)
    mask, _ = weaktr.predict(str(run_folder), str(photograph), crf=crf)
    assert (mask == expected).all() and len(np.unique(mask)) > 1
    with pytest.raises(AssertionError):  # the views matter, so the test would notice others
        assert (mask == segment(model, read_image(photograph), **INFERENCE | {"scales": [2.0]}).argmax(0)).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_kind_of_picture(run_folder, tmp_path, photograph, mode):
    Image.open(photograph).convert(mode).save(tmp_path / "other.png")
    assert weaktr.predict(run_folder, tmp_path / "other.png")[0].shape == (45, 70)


def test_a_turned_photograph_is_segmented_upright(run_folder, tmp_path, photograph):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photograph).save(tmp_path / "turned.png", exif=exif)
    assert weaktr.predict(run_folder, tmp_path / "turned.png")[0].shape == (70, 45)


def test_a_run_that_is_not_there(tmp_path, photograph):
    with pytest.raises(UserError) as caught:
        weaktr.predict(tmp_path / "nowhere", photograph)
    assert str(tmp_path / "nowhere" / "04_online_retraining" / "model.safetensors") in str(caught.value)
    assert "run the stage that trains it, with --force if" in str(caught.value)


def test_a_truncated_model_and_one_of_step_one(run_folder, tmp_path, photograph):
    (tmp_path / "04_online_retraining").mkdir()
    path = tmp_path / "04_online_retraining" / "model.safetensors"
    path.write_bytes((run_folder / "04_online_retraining" / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        weaktr.predict(tmp_path, photograph)
    save_model(create_cam_model(BACKBONE, 4, pretrained=False, image_size=32, reduction=2), path, classes=[])
    with pytest.raises(UserError, match="has step 'cam', but 'segmenter' is needed"):
        weaktr.predict(tmp_path, photograph)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(None, "does not exist"), (b"", "cannot be read"), (b"a letter", "cannot be read"), ("half", "truncated")],
)
def test_a_photograph_that_cannot_be_read(run_folder, tmp_path, photograph, content, fragment):
    path = tmp_path / "mine.png"
    if content == "half":
        content = photograph.read_bytes()[: photograph.stat().st_size // 2]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=fragment) as caught:
        weaktr.predict(run_folder, path)
    assert str(path) in str(caught.value)


def test_a_folder_in_place_of_a_photograph(run_folder, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        weaktr.predict(run_folder, tmp_path)


def test_crf_settings_that_do_not_exist(run_folder, photograph):
    with pytest.raises(UserError, match="'pascal' are unknown; one of voc, coco"):
        weaktr.predict(run_folder, photograph, crf="pascal")


def test_a_device_that_is_not_there(run_folder, photograph):
    with pytest.raises(UserError, match="device 'gpu' is not there; give one of auto, cpu"):
        weaktr.predict(run_folder, photograph, device="gpu")

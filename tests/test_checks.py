"""Parameters that would fail late are refused before a kernel starts, with the name, the value and the remedy."""

import os
import subprocess
import sys

import pytest

from weaktr.errors import ParameterError, UserError
from weaktr.models.checkpoints import save_model
from weaktr.models.segmenter import create_segmenter
from weaktr.workbench import presets, runner
from weaktr.workbench.checks import NOT_NEGATIVE, POSITIVE, RULES, Between, OneOf, check_run
from weaktr.workbench.parameters import catalogue, check_parameters

DEFAULTS = check_parameters(presets.get("smoke").parameters, catalogue())

BAD = {
    "fusion": ("sum", "one of adaptive"),
    "cam_kind": ("grad", "one of fused"),
    "pool": ("min", "one of max"),
    "clip_scope": ("pixel", "one of batch"),
    "crf_settings": ("ade", "one of voc"),
    "precision": ("fp8", "one of auto"),
    "device": ("mps", "give one of auto, cpu"),
    "threshold": (1.5, "must be at least 0 and below 1"),
    "workers": (-1, "must be at least 0"),
    "processes": (-1, "must be at least 0"),
    "oracle_noise": (2.0, "at most 1"),
    "cam_augmentation": ("nonsense", "not a policy of timm"),
    "cam_epochs": (0, "greater than 0"),
    "seg_lr": (-0.1, "greater than 0"),
    "cam_scales": ([], "at least one factor"),
    "seg_scales": ([1.0, 0.0], "all above 0"),
    "seed": (-1, "must be at least 0"),
    "cam_min_crop": (0.0, "must be greater than 0 and at most 1"),
    "seg_augment": ([2.0, 0.5], "the smallest first"),
    "window_stride": (97, "leaves gaps between windows of crop_size 96; give 96 at most"),
    "clip_cell": (25, "does not divide crop_size 96; give 24"),
    "image_size": (100, "multiple of the patch of 8 pixels; give 96 or 104"),
    "crop_size": (100, "does not divide"),
    "reduction": (100, "lower it"),
    "backbone": ("resnet18", "not a plain ViT"),
    "weights": ("nowhere/deit.safetensors", "does not exist"),
    "photograph": ("nowhere/cat.jpg", "does not exist"),
    "cam_batch_size": (64, "32 images, fewer than a batch of 64"),
    "train_list": ("trian", "does not exist"),
    "dataset": ("voc07", "one of synthetic, voc12"),
}


def test_balancing_what_is_not_refined_is_refused(tmp_path):
    given = presets.get("smoke").parameters | {"cam_balanced": True, "cam_refined": False}
    with pytest.raises(UserError, match=r"cam_balanced.*cam_refined=False"):
        runner.run(given, tmp_path / "run")


@pytest.mark.parametrize("name", BAD)
def test_bad_value_is_refused_before_anything_starts(name, tmp_path):
    value, fragment = BAD[name]
    with pytest.raises(UserError) as caught:
        runner.run(presets.get("smoke").parameters | {name: value}, tmp_path / "run")
    assert fragment in str(caught.value)
    assert str(value).strip("[]") in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_every_number_has_a_rule():
    """A new parameter that nobody thought of would be refused by nothing."""
    numbers = {name for name, value in DEFAULTS.items() if type(value) in (int, float)}
    assert numbers <= RULES.keys()


def test_rules_say_their_limits():
    assert (str(POSITIVE), str(NOT_NEGATIVE)) == ("greater than 0", "at least 0")
    closed, half_open = Between(0, 1), Between(0, 1, low_open=True, high_open=True)
    assert (str(closed), str(half_open)) == ("at least 0 and at most 1", "greater than 0 and below 1")
    assert not closed(0) and not closed(1) and not half_open(0.5) and not Between()(-1e300)
    assert half_open(0) == "0 must be greater than 0 and below 1" and half_open(1) and closed(1.1) and closed(-0.1)
    assert OneOf(("mean", "adaptive"))("meen") == "'meen' is unknown, did you mean mean?; one of mean, adaptive"


@pytest.mark.parametrize("name", ["weights", "seg_weights"])
def test_weights_that_start_no_backbone_are_refused_by_name(name, tmp_path):
    """Which file, and what to give instead: for a model of ours and for a file that is no checkpoint."""
    ours, text = tmp_path / "ours.safetensors", tmp_path / "notes.pth"
    backbone = presets.get("smoke").parameters.get("backbone", DEFAULTS["backbone"])
    save_model(create_segmenter(backbone, 3, pretrained=False, image_size=96), ours)
    text.write_text("no checkpoint")
    for path, words in ((ours, "nor a model that weaktr trained"), (text, "is not a checkpoint; give a safetensors")):
        with pytest.raises(UserError, match=words) as caught:
            runner.run(presets.get("smoke").parameters | {name: str(path)}, tmp_path / "run")
        assert str(path) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_photograph_that_is_not_there_is_named_with_its_parameter(tmp_path):
    with pytest.raises(UserError, match=r"parameter photograph: .*cat.jpg does not exist"):
        check_run(DEFAULTS | {"photograph": str(tmp_path / "cat.jpg")})


def test_a_prediction_is_not_subtracted():
    check_run(DEFAULTS | {"early_weight": 0.0})
    with pytest.raises(UserError, match=r"parameter early_weight: -0\.1 must be at least 0"):
        check_run(DEFAULTS | {"early_weight": -0.1})


def test_good_values_pass():
    check_run(DEFAULTS)


def test_the_crop_is_held_against_the_patch_of_its_own_backbone():
    own = {"seg_backbone": "vit_small_patch14_dinov2", "seg_patch": 0, "window_stride": 84, "clip_cell": 14}
    check_run(DEFAULTS | own | {"crop_size": 84})  # a multiple of 14, not of step 1's patch of 8
    with pytest.raises(UserError, match="crop_size: 98 is not a multiple of the patch of 16 pixels; give 96 or 112"):
        check_run(DEFAULTS | own | {"crop_size": 98, "seg_patch": 16})


def test_weights_that_do_not_fit_are_refused_beforehand(tmp_path):
    (tmp_path / "notes.safetensors").write_text("no weights")
    with pytest.raises(UserError, match=r"checkpoint .*notes\.safetensors cannot be read"):
        check_run(DEFAULTS | {"weights": str(tmp_path / "notes.safetensors")})


def test_weights_of_step_2_are_read_beforehand(tmp_path):
    (tmp_path / "notes.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"checkpoint .*notes\.pth"):
        check_run(DEFAULTS | {"seg_weights": str(tmp_path / "notes.pth")})


def test_weights_that_have_to_be_fetched_are_fetched_beforehand(tmp_path, monkeypatch):
    """A machine without network fails now, not after two stages; where nothing is to be trained nothing is fetched."""

    def no_network(*_, **__):
        raise OSError("no network")

    own = {"seg_backbone": "vit_small_patch14_dinov2", "crop_size": 84, "window_stride": 84, "clip_cell": 14}
    check_run(DEFAULTS | own)
    monkeypatch.setattr("weaktr.workbench.checks.pretrained_state", no_network)
    check_run(DEFAULTS | own)
    for step in (1, 2):
        with pytest.raises(OSError, match="no network"):
            check_run(DEFAULTS | own, weights=[step])


def test_scales_that_leave_nothing_are_refused_beforehand():
    with pytest.raises(UserError, match=r"seg_scales: 0.001 leaves nothing of base_size 112; raise"):
        check_run(DEFAULTS | {"seg_scales": [1.0, 0.001]})
    with pytest.raises(UserError, match=r"scene_\d+\.jpg is \d+×\d+ pixels: at scale 0.05 it has no patch of 8 pixels"):
        check_run(DEFAULTS | {"cam_scales": [0.05, 1.0]})


def test_unknown_backbone_names_known_ones():
    with pytest.raises(UserError, match=r"deit_small_patch17_224.*deit"):
        check_run(DEFAULTS | {"backbone": "deit_small_patch17_224"})
    with pytest.raises(UserError, match=r"nonsense_vit.*one is deit_small_patch16_224"):
        check_run(DEFAULTS | {"backbone": "nonsense_vit"})


@pytest.mark.parametrize("command", ["presets", "parameters"])
def test_a_reader_that_closes_early_is_no_error(command):
    """As `python -m weaktr parameters | head -1` does, whenever head happens to end."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "weaktr", command], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_processes_that_cannot_share_a_batch():
    """Two cores, and batches of an odd number of images."""
    with pytest.raises(ParameterError, match="seg_batch_size: 3 images cannot be shared equally by 2 processes"):
        check_run({"device": "cpu", "processes": 2, "seg_batch_size": 3})
    with pytest.raises(ParameterError, match="processes 1000: there is one for each core"):
        check_run({"device": "cpu", "processes": 1000})


def test_a_path_that_would_be_there_seen_from_elsewhere_is_told_so(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "vit.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    cases = {
        "data_root": ("photos", {"dataset": "folder"}),
        "label_folder": ("photos", {}),
        "trained_cam": ("vit.pth", {}),
        "weights": ("vit.pth#ema", {}),
    }
    for name, (value, more) in cases.items():
        there = tmp_path / value.removesuffix("#ema")
        with pytest.raises(UserError) as caught:
            runner.run(presets.get("smoke").parameters | more | {name: value}, tmp_path / "run")
        words = f", but {there} does: a parameter's path starts at the repository's root, so give it whole; give"
        assert words in str(caught.value), name
    with pytest.raises(UserError, match="does not exist or is not a file; give one"):
        runner.run(presets.get("smoke").parameters | {"weights": "nowhere.pth"}, tmp_path / "run")

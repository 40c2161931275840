"""`python -m weaktr import`: released checkpoints of both steps become files of ours that need nothing else."""

import os
import pickle

import naive
import numpy as np
import pytest
import torch

from weaktr.__main__ import main
from weaktr.errors import UserError
from weaktr.method.segmentation import image_views, segment
from weaktr.models.cam import create_cam_model
from weaktr.models.checkpoints import import_released, load_model, save_model
from weaktr.models.released import import_released_cam, import_released_segmenter


def saved(tmp_path, state, wrapped=True):
    path = tmp_path / "released.pth"
    torch.save({"model": state} if wrapped else state, path)
    return path


@pytest.mark.parametrize("wrapped", [True, False])
def test_step_one(tmp_path, capsys, wrapped):
    torch.manual_seed(0)
    state = naive.random_cam_checkpoint()
    assert main(["import", str(saved(tmp_path, state, wrapped)), "--heads", "3"]) == 0
    assert "released.safetensors: cam" in capsys.readouterr().out
    model = load_model(tmp_path / "released.safetensors", step="cam")
    x = torch.randn(1, 3, 24, 24)
    assert torch.equal(model(x).fine_cam, import_released_cam(state, num_heads=3)(x).fine_cam)
    assert model.details == {"imported_from": "released.pth"}


@pytest.mark.parametrize("kind", ["vit", "dinov2", "eva02"])
def test_step_two_by_the_command(tmp_path, capsys, kind):
    """Heads are no 64 channels wide, so the command is told, or reads them off EVA-02's rotary tables."""
    torch.manual_seed(0)
    state = naive.random_segmenter_checkpoint(kind)
    heads = [] if kind == "eva02" else ["--heads", "3"]
    assert main(["import", str(saved(tmp_path, state)), *heads, "--decoder-heads", "2"]) == 0
    assert "released.safetensors: segmenter" in capsys.readouterr().out
    model, x = load_model(tmp_path / "released.safetensors", num_classes=4), torch.randn(1, 3, 21, 43)
    expected = naive.segmenter({name: tensor.double() for name, tensor in state.items()}, x.double(), 3, 2)
    assert naive.error(model(x), expected) < 2e-5


def test_heads_of_step_one_are_read_off_the_fusion(tmp_path):
    model, _ = import_released(saved(tmp_path, naive.random_cam_checkpoint()))
    assert model.config["backbone"]["num_heads"] == 3


def test_a_grid_that_is_no_square_takes_its_size_from_the_command(tmp_path, capsys):
    state = naive.random_cam_checkpoint()
    state["pos_embed"] = torch.randn(1, 3 + 2 * 4, 48)
    path = saved(tmp_path, state)
    assert main(["import", str(path)]) == 2
    assert "pos_embed holds 8 patches, not a square" in capsys.readouterr().err
    assert main(["import", str(path), "--image-size", "16", "32"]) == 0
    assert load_model(tmp_path / "released.safetensors").encoder.grid == (2, 4)


def test_published_class_counts_bring_their_names(tmp_path):
    _, path = import_released(saved(tmp_path, naive.random_cam_checkpoint(classes=20)))
    assert load_model(path).details["classes"][:2] == ["aeroplane", "bicycle"]


def test_a_released_file_that_is_not_there(tmp_path):
    with pytest.raises(
        UserError, match=r"none\.pth does not exist or is not a file; give a checkpoint of the authors'"
    ):
        import_released(tmp_path / "none.pth")


@pytest.mark.parametrize("kind", ["cam", "dinov2", "eva02"])
def test_every_key_is_refused_by_name_when_missing_or_misshapen(kind):
    if kind == "cam":
        full, read = naive.random_cam_checkpoint(), lambda state: import_released_cam(state, num_heads=3)
    else:
        full = naive.random_segmenter_checkpoint(kind, layers=1)
        read = lambda state: import_released_segmenter(state, num_heads=3, decoder_heads=2)  # noqa: E731
    optional = ("norm.", "encoder.head.", "encoder.rope", "encoder.blocks.0.attn.rope")
    for key in [key for key in full if not key.startswith(optional)]:
        for damage in ("missing", "scalar", "longer"):
            state = {name: tensor for name, tensor in full.items() if name != key}
            if damage != "missing":
                state[key] = torch.zeros(()) if damage == "scalar" else torch.cat([full[key], full[key][:1]])
            with pytest.raises(UserError, match=key.replace(".", r"\.")):
                read(state)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "eva02"])
def test_step_two(tmp_path, kind):
    torch.manual_seed(0)
    state = naive.random_segmenter_checkpoint(kind)
    _, path = import_released(saved(tmp_path, state), tmp_path / "ours.safetensors", num_heads=3, decoder_heads=2)
    model, x = load_model(path, step="segmenter"), torch.randn(1, 3, 40, 32)
    expected = import_released_segmenter(state, num_heads=3, decoder_heads=2).eval()
    assert torch.equal(model(x), expected(x))


def test_an_imported_segmenter_says_how_it_was_evaluated(tmp_path):
    """Import, then predict: the scores of the released evaluation, early masks and all, from what the file says."""
    state = naive.random_segmenter_checkpoint("vit")
    _, path = import_released(saved(tmp_path, state), tmp_path / "ours.safetensors", num_heads=3, decoder_heads=2)
    model = load_model(path, step="segmenter")
    inference = model.details["inference"]
    assert inference["early_weight"] == 0.8 and len(inference["scales"]) == 6 and inference["mirror"]
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    small = inference | {"base_size": 32, "window": 32, "stride": 20}
    found = segment(model, image, **small)
    last_alone = segment(model, image, **small | {"early_weight": 0.0})
    assert np.allclose(found.sum(0), 1.8, atol=1e-5) and np.allclose(last_alone.sum(0), 1, atol=1e-5)
    views, flips = image_views(model, image, small["scales"], 32, mirror=True)
    state = {name: tensor.double() for name, tensor in state.items()}
    expected = naive.two_mask_scores(
        lambda x: naive.segmenter(state, x, 3, 2, blocks=1),
        lambda x: naive.segmenter(state, x, 3, 2),
        0.8,
        [view[None].double() for view in views],
        flips,
        image.shape[:2],
        32,
        20,
    )
    assert naive.error(torch.from_numpy(found), expected) < 2e-5


def test_normalisation_is_kept_in_the_file(tmp_path):
    path = saved(tmp_path, naive.random_segmenter_checkpoint("vit"))
    kept = {name: import_released(path, tmp_path / name, num_heads=3, decoder_heads=2, normalise=name)[1]
            for name in ("half", "clip")}  # fmt: skip
    assert load_model(kept["half"]).mean == (0.5, 0.5, 0.5)
    assert load_model(kept["clip"]).mean[0] == pytest.approx(0.48145466)
    with pytest.raises(UserError, match="normalise 'none'"):
        import_released(path, num_heads=3, decoder_heads=2, normalise="none")


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"model": Malicious(tmp_path / "ran")}, path)
    assert main(["import", str(path)]) == 2
    assert "evil.pth is damaged, holds code beside its weights, or is not a checkpoint" in capsys.readouterr().err
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    assert main(["import", str(tmp_path / "plain.pth")]) == 2
    assert not (tmp_path / "ran").exists() and not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no checkpoint"])
def test_damaged_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.pth"):
        import_released(path)
    with pytest.raises(UserError, match=r"none\.pth"):
        import_released(tmp_path / "none.pth")


def test_other_contents_are_refused(tmp_path):
    for content in ([1, 2], {"weights": 1}, {"model": {"cls_token": "text"}}):
        with pytest.raises(UserError, match=r"state dict|lacks cls_token"):
            import_released(saved(tmp_path, content, wrapped=False))


def test_an_old_layout_of_the_fusion_is_refused_in_words(tmp_path):
    state = {name.replace("adaptive_attention_fusion.", "weight_net."): tensor
             for name, tensor in naive.random_cam_checkpoint().items()}  # fmt: skip
    with pytest.raises(UserError, match="a layout from before the released code"):
        import_released(saved(tmp_path, state), num_heads=3)
    state = naive.random_cam_checkpoint() | {"adaptive_attention_fusion.attn_ffn.0.weight": torch.zeros(2, 2)}
    with pytest.raises(UserError, match=r"attn_ffn\.0\.weight.*a layout from before the released code"):
        import_released_cam(state, num_heads=3)


def test_our_files_carry_all_that_loading_needs(tmp_path, monkeypatch):
    model = create_cam_model("vit_tiny_patch16_224", 3, pretrained=False, image_size=32)
    facts = {"classes": ["a", "b", "c"], "preset": "demo", "data_fingerprint": "f00d"}
    save_model(model, tmp_path / "model.safetensors", **facts)
    monkeypatch.setattr("weaktr.models.cam.normalisation", lambda _: ((0.0,) * 3, (1.0,) * 3))  # another timm's
    loaded = load_model(tmp_path / "model.safetensors")
    assert (loaded.mean, loaded.std) == (model.mean, model.std) == ((0.5,) * 3, (0.5,) * 3)
    assert loaded.config == model.config and loaded.details == facts


def test_a_file_of_another_format_is_refused_in_words(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr("weaktr.models.checkpoints.FORMAT", 1)
    save_model(import_released_cam(naive.random_cam_checkpoint(), num_heads=3), path)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"model\.safetensors has format 1, and this version of weaktr reads 2; run"):
        load_model(path)

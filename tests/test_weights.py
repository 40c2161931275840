"""Files of weights as projects publish them: wrapped, prefixed, by other names; what is none is refused in words."""

import argparse
import os
import pathlib

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import eva, vision_transformer

from weaktr.errors import UserError
from weaktr.files import weights_file
from weaktr.models.backbones import make_vit
from weaktr.models.cam import create_cam_model
from weaktr.models.segmenter import create_segmenter
from weaktr.models.weights import load_pretrained, pretrained_state, read_tensors
from weaktr.workbench.keys import stage_key

SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
REGISTERS = SMALL | {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}
DINOV3 = SMALL | {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3", "num_reg_tokens": 4}
DINOV3 |= {"init_values": 1.0}


def drawn(backbone=SMALL, seed=0, image_size=24):
    """The tensors of a small network, all of them random."""
    torch.manual_seed(seed)
    state = make_vit(backbone, image_size=image_size).state_dict()
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


def under(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def loaded(weights, backbone=SMALL):
    return create_segmenter(backbone, 3, weights=weights, image_size=24).encoder.vit.state_dict()


def equal(found, expected):
    return all(torch.equal(found[name], expected[name]) for name in found)


HEAD = {"head.weight": torch.zeros(10, 48), "head.bias": torch.zeros(10)}
WRAPPED = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state},
    "DataParallel": lambda state: {"model": under("module.", state)},
    "Lightning": lambda state: {"epoch": 3, "state_dict": under("model.", state)},
    "mmsegmentation": lambda state: {"meta": {}, "state_dict": under("backbone.", state)},
    "encoder": lambda state: under("encoder.", state),
    "compiled": lambda state: under("_orig_mod.", state),
    "depth": lambda state: under("pretrained.", state) | {"depth_head.weight": torch.zeros(3)},
    "EMA alone": lambda state: {"state_dict_ema": state},
    "EMA beside": lambda state: {"state_dict": state, "state_dict_ema": drawn(seed=1)},
    "DINO": lambda state: {
        "student": under("module.backbone.", drawn(seed=1)),
        "teacher": under("backbone.", state) | {"head.mlp.0.weight": torch.zeros(3)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
    },
    "two networks": lambda state: {"small": state, "large": drawn(SMALL | {"embed_dim": 96})},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_network_is_found_however_it_is_wrapped(tmp_path, capsys, kind):
    """And what was taken is said, unless there is nothing to say."""
    state = drawn()
    torch.save(WRAPPED[kind](state | HEAD), tmp_path / "weights.pth")
    assert equal(loaded(tmp_path / "weights.pth"), state)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == (kind != "bare")
    assert all("weights.pth: took " in line and "a ViT of width 48, 2 blocks and patch 8" in line for line in said)
    assert kind not in ("EMA beside", "DINO", "two networks") or "; left " in said[0]


def test_prefixes_in_a_safetensors_file(tmp_path):
    state = drawn()
    save_file(under("module.backbone.", state), tmp_path / "weights.safetensors")
    assert equal(loaded(tmp_path / "weights.safetensors"), state)


def test_a_part_is_taken_where_it_is_asked_for(tmp_path, capsys):
    parts = {"state_dict": drawn(), "state_dict_ema": under("module.", drawn(seed=1))}
    torch.save(parts, tmp_path / "weights.pth")
    assert equal(loaded(f"{tmp_path}/weights.pth#state_dict_ema"), drawn(seed=1))
    assert "weights.pth#state_dict_ema: took module" in capsys.readouterr().out
    assert equal(loaded(f"{tmp_path}/weights.pth#state_dict"), drawn())
    loaded(f"{tmp_path}/weights.pth")
    assert (
        f"left state_dict_ema.module (for that give {tmp_path}/weights.pth#state_dict_ema.module)"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"weights\.pth has no part 'ema'; it has state_dict, state_dict_ema"):
        loaded(f"{tmp_path}/weights.pth#ema")
    (tmp_path / "weights.pth").rename(tmp_path / "a#b.pth")
    assert weights_file(tmp_path / "a#b.pth") == (tmp_path / "a#b.pth", "")  # a file's own name comes first


def test_the_part_of_a_file_is_in_the_key(tmp_path):
    torch.save({"a": drawn(), "b": drawn(seed=1)}, tmp_path / "weights.pth")
    given = ("", "#a", "#b")
    keys = {stage_key({"weights": f"{tmp_path}/weights.pth{part}"}, "", []) for part in given}
    assert len(keys) == 3
    (tmp_path / "weights.pth").rename(tmp_path / "moved.pth")
    assert keys == {stage_key({"weights": f"{tmp_path}/moved.pth{part}"}, "", []) for part in given}


def test_several_networks_that_no_rule_tells_apart_are_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": under("base_encoder.", drawn()) | under("momentum_encoder.", drawn(seed=1))}, path)
    several = (
        r"holds several networks: state_dict\.base_encoder\. a ViT .*state_dict\.momentum_encoder\. a ViT .*; name"
    )
    with pytest.raises(UserError, match=rf"{several} one, as in {path}#state_dict\.base_encoder$"):
        loaded(path)
    assert equal(loaded(f"{path}#state_dict.momentum_encoder"), drawn(seed=1))


def test_several_networks_of_which_none_fits_are_refused_together(tmp_path):
    torch.save(
        {"student": drawn(SMALL | {"depth": 1}), "teacher": drawn(SMALL | {"depth": 3})}, tmp_path / "weights.pth"
    )
    both = r"holds networks of other architectures: student\. a ViT .* 1 block .*; teacher\. a ViT .* 3 blocks"
    with pytest.raises(UserError, match=rf"{both} and patch 8; give weights of this backbone"):
        loaded(tmp_path / "weights.pth")


def test_what_holds_no_such_network_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "weights.pth"
    for content, words in (
        (
            {"state_dict": {"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}},
            r"2 tensors such as state_dict\.conv1",
        ),
        ({"model": drawn(SMALL | {"depth": 1})}, "lacks blocks.1.attn.* holds a ViT of width 48, 1 block and patch 8"),
        (
            drawn(SMALL | {"embed_dim": 96}),
            r"misshapen cls_token \(1, 1, 96\) instead of \(1, 1, 48\), .*backbone, these are a ViT of width 96",
        ),
        (
            drawn() | {"patch_embed.proj.weight": torch.zeros(48, 192)},
            r"patch_embed\.proj\.weight \(48, 192\) instead of",
        ),
        (drawn() | {"pos_embed": torch.zeros(1, 8, 48)}, r"pos_embed \(1, 8, 48\) of no square image; give weights of"),
        (drawn() | {"pos_embed": torch.zeros(())}, r"pos_embed \(\) instead of"),
        ({"epoch": 3}, "holds no state dict"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=words) as caught:
            loaded(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("more", [{"depth": 3}, {"init_values": 1.0}, {"reg_tokens": 2, "no_embed_class": True}])
def test_a_network_with_more_than_the_backbone_has_is_refused(tmp_path, more):
    """Left out in silence, these tensors would make another network of it."""
    torch.save(drawn(SMALL | more), tmp_path / "weights.pth")
    with pytest.raises(
        UserError, match=r"weights\.pth holds (blocks\.2|blocks\.0\.ls1|reg_token).*backbone does not have"
    ):
        loaded(tmp_path / "weights.pth", SMALL | {"no_embed_class": "reg_tokens" in more})


def test_the_shipped_network_gives_its_first_blocks():
    whole, cut = (pretrained_state(f"weaktr_tiny{depth}_patch8_96") for depth in ("", "2"))
    assert {name for name in whole if name not in cut} == {name for name in whole if name[:9] in ("blocks.2.", "blocks.3.", "blocks.4.", "blocks.5.")}  # fmt: skip  # noqa: E501


def test_half_precision_is_read(tmp_path):
    state = {name: tensor.half() for name, tensor in drawn(image_size=40).items()}
    torch.save(state, tmp_path / "weights.pth")
    found = loaded(tmp_path / "weights.pth")
    assert found["norm.weight"].dtype == torch.float32 and torch.equal(
        found["norm.weight"].half(), state["norm.weight"]
    )


# ── Names of their authors, against timm's own translation ────────────────────────────────────────────────────────
def same_as_timm(module, official, backbone, tmp_path):
    """What timm makes of an official file is what is loaded from it."""
    vit = make_vit(backbone, image_size=24)
    expected = module.checkpoint_filter_fn(dict(official), vit)
    torch.save(official, tmp_path / "official.pth")
    assert equal(loaded(tmp_path / "official.pth", backbone), expected)


def test_dinov2_by_its_official_names(tmp_path):
    """A mask token, registers, and positions with the class token's in front."""
    official = drawn(REGISTERS) | {"mask_token": torch.randn(1, 48)}
    official["register_tokens"] = official.pop("reg_token")
    official["pos_embed"] = torch.cat([torch.randn(1, 1, 48), official["pos_embed"]], 1)
    same_as_timm(vision_transformer, official, REGISTERS, tmp_path)
    plain = SMALL | {"init_values": 1.0}
    same_as_timm(vision_transformer, drawn(plain) | {"mask_token": torch.randn(1, 48)}, plain, tmp_path)


@pytest.mark.parametrize("bias", [True, False])
def test_dinov3_by_its_official_names(tmp_path, bias):
    backbone = DINOV3 | {"qkv_bias": bias}
    official = {}
    for name, tensor in drawn(backbone).items():
        if not name.endswith(("q_bias", "v_bias")):
            name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            official[name.replace("reg_token", "storage_tokens")] = tensor
    for block in range(2):
        qkv = torch.randn(3, 48) * bias
        official |= {
            f"blocks.{block}.attn.qkv.bias": qkv.flatten(),
            f"blocks.{block}.attn.qkv.bias_mask": torch.ones(144),
        }
    official |= {"mask_token": torch.randn(1, 48), "rope_embed.periods": torch.ones(4)}
    same_as_timm(eva, official, backbone, tmp_path)


def test_eva02_by_its_official_names(tmp_path):
    backbone = SMALL | {"use_rot_pos_emb": True, "swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False}
    backbone |= {"scale_attn_inner": True}
    names = {
        "mlp.fc1_g": "mlp.w1",
        "mlp.fc1_x": "mlp.w2",
        "mlp.fc2": "mlp.w3",
        "mlp.norm": "mlp.ffn_ln",
        "attn.norm": "attn.inner_attn_ln",
        "q_proj.bias": "q_bias",
        "v_proj.bias": "v_bias",
    }
    official = {}
    for name, tensor in drawn(backbone).items():
        for timms, theirs in names.items():
            name = name.replace(timms, theirs)
        official[name] = tensor
    official["blocks.0.attn.rope.freqs_cos"] = torch.zeros(9, 16)
    same_as_timm(eva, official, backbone, tmp_path)


def test_deit3_by_its_official_names(tmp_path):
    backbone = SMALL | {"init_values": 1.0, "no_embed_class": True}
    state = drawn(backbone)
    official = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): state[name] for name in state}
    torch.save({"model": official}, tmp_path / "official.pth")
    assert equal(loaded(tmp_path / "official.pth", backbone), state)


# ── What stands beside the weights ────────────────────────────────────────────────────────────────────────────────
def test_what_training_programs_keep_beside_weights_is_left_alone(tmp_path):
    """timm's: NumPy's scalars, options, paths; and what NumPy of another version would call them."""
    state = drawn()
    options = argparse.Namespace(data=pathlib.Path("/data"), lr=np.float64(1e-3))
    beside = {"metric": np.float64(81.5), "best": np.float32(3), "epoch": np.int64(7), "curve": np.arange(3.0)}
    torch.save(
        {"state_dict": state, "args": options, "arch": "vit", "version": 2, **beside}, tmp_path / "weights.pth.tar"
    )
    assert equal(loaded(tmp_path / "weights.pth.tar"), state)
    content = (tmp_path / "weights.pth.tar").read_bytes()
    assert b"numpy._core" in content  # same length, so that the archive stays whole but for its checksum
    torch.save(
        {"state_dict": state, "metric": np.float64(1)},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
    old = (tmp_path / "old.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(old.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert equal(loaded(tmp_path / "old.pth"), state)


class Making:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Disguised(argparse.Namespace):
    """Would call a function with its content if it were unpickled as itself."""

    def __reduce__(self):
        return np.dtype, (Making(self.folder),)


def test_no_code_of_a_file_runs(tmp_path):
    for evil in (Making(tmp_path / "ran"), Disguised(folder=tmp_path / "ran")):
        torch.save({"state_dict": drawn(), "extra": evil}, tmp_path / "evil.pth")
        with pytest.raises(UserError, match=r"evil\.pth is damaged, holds code beside its weights.*without \w+\.mkdir"):
            loaded(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused_by_what_it_needs(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32), tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"whole\.pth .*without timm\.models\.vision_transformer\.VisionTransformer"):
        read_tensors(tmp_path / "whole.pth")


def test_real_pretrained_weights_start_both_steps(shared):
    file = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    if not file.is_file():
        pytest.skip(f"{file.name} is not in {file.parent}")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    load_pretrained(vit, pretrained_state("vit_tiny_patch16_224", file), "bicubic", file)
    cam = create_cam_model("vit_tiny_patch16_224", 3, weights=file, image_size=224)
    segmenter = create_segmenter("vit_tiny_patch16_224", 4, weights=file, image_size=224)
    expected = vit.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in cam.encoder.vit.state_dict().items())
    assert all(torch.equal(value, expected[name]) for name, value in segmenter.encoder.vit.state_dict().items())
    assert torch.equal(cam.encoder.cls_token[:, 2:], expected["cls_token"]) and expected["norm.weight"].std() > 0.01

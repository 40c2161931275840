"""Every family of plain ViT in both steps, as small random instances; what is none is refused with the reason."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva

from weaktr.errors import UserError
from weaktr.files import ROOT
from weaktr.method.cam_generation import generate_cams
from weaktr.method.cam_training import cam_losses
from weaktr.method.clipping import gradient_clipping
from weaktr.models import million_parameters
from weaktr.models.backbones import make_vit, refuse_unfit
from weaktr.models.cam import create_cam_model
from weaktr.models.encoders import CamEncoder, SegmenterEncoder
from weaktr.models.segmenter import create_segmenter
from weaktr.models.weights import pretrained_state

SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
FAMILIES = {
    "deit": SMALL,
    "augreg": SMALL | {"normalise": "half"},
    "dinov2": SMALL | {"init_values": 1.0},
    "dinov2_reg": SMALL | {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True},
    "registers": SMALL | {"reg_tokens": 2},
    "clip": SMALL | {"pre_norm": True},
    "eva02": SMALL | {"use_rot_pos_emb": True, "ref_feat_shape": [16, 16], "swiglu_mlp": True, "mlp_ratio": 8 / 3},
}


@pytest.fixture(params=FAMILIES)
def backbone(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]


def randomised(model):
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def test_features_are_timms(backbone):
    vit = randomised(make_vit(backbone, image_size=(24, 40)))
    x, prefix = torch.randn(2, 3, 24, 40), vit.num_prefix_tokens
    with torch.no_grad():
        found, grid = SegmenterEncoder(vit)(x)
        assert grid == (3, 5) and torch.allclose(found, vit.forward_features(x)[:, prefix:], atol=1e-5)


def test_features_of_one_class_token_are_timms(backbone):
    vit = randomised(make_vit(backbone, image_size=24))
    vit.norm = torch.nn.Identity()  # step 1 does not apply it
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        expected = vit.forward_features(x)
        tokens, attentions, outputs, _ = CamEncoder(vit, 1).eval()(x)
    assert torch.allclose(tokens, expected, atol=1e-4)
    assert all(torch.allclose(maps.sum(-1), torch.ones(())) for maps in attentions)
    assert all(output.shape == tokens.shape for output in outputs)


def test_step_one_trains_and_makes_cams(backbone):
    model = create_cam_model(backbone, 3, pretrained=False, image_size=24, reduction=2, drop_path=0.1).train()
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sum(cam_losses(model(torch.randn(2, 3, 24, 24)), labels).values()).backward()
    optimizer.step()
    assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    image = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    cams = generate_cams(model.eval(), image, [1, 0, 1], (1.0, 1.2))
    assert set(cams) == {0, 2} and all(
        cam.shape == (30, 45) and 0 <= cam.min() < cam.max() <= 1 for cam in cams.values()
    )


def test_step_two_trains(backbone):
    model = create_segmenter(backbone, 4, pretrained=False, image_size=24, drop_path=0.1).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradient_clipping(model(torch.randn(2, 3, 24, 24)), torch.randint(0, 4, (2, 24, 24)), 1.2, 12).loss.backward()
    optimizer.step()
    assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]


@pytest.mark.parametrize("names", ["timm's classifier", "the authors of EVA-02"])
def test_weights_of_eva02_load_under_either_naming(tmp_path, names):
    torch.manual_seed(0)
    kwargs = {name: value for name, value in FAMILIES["eva02"].items()} | {"img_size": 24}
    state = randomised(Eva(**kwargs, num_classes=5, global_pool="avg")).state_dict()
    assert "fc_norm.weight" in state and "norm.weight" not in state
    if names != "timm's classifier":
        old, new = ("fc_norm.", "mlp.fc1.", "mlp.fc2."), ("norm.", "mlp.w12.", "mlp.w3.")
        for theirs, ours in zip(old, new, strict=True):
            state = {name.replace(theirs, ours): value for name, value in state.items()}
        state["mask_token"] = torch.zeros(1, 1, 48)
    save_file(state, tmp_path / "eva.safetensors")
    vit = create_segmenter(FAMILIES["eva02"], 4, weights=tmp_path / "eva.safetensors", image_size=24).encoder.vit
    norm = "fc_norm" if names == "timm's classifier" else "norm"
    hidden = "fc1" if names == "timm's classifier" else "w12"
    assert torch.equal(vit.norm.weight, state[f"{norm}.weight"])
    assert torch.equal(vit.blocks[1].mlp.fc1.weight, state[f"blocks.1.mlp.{hidden}.weight"])


REFUSED = {
    "vit_base_patch16_siglip_224": "no class token",
    "vit_medium_patch16_gap_256": "no class token",
    "vit_base_patch16_rpn_224": "no class token",
    "cait_xxs24_224": "no class token",
    "swin_tiny_patch4_window7_224": "windowed attention",
    "swinv2_tiny_window8_256": "windowed attention",
    "samvit_base_patch16_224": "windowed attention",
    "hiera_tiny_224": "windowed attention",
    "convnext_atto": "convolutional stages",
    "vit_tiny_r_s16_p8_224": "convolutional stages",
    "mobilevit_xxs": "convolutional stages",
    "xcit_nano_12_p16_224": "convolutional stages",
    "beit_base_patch16_224": "relative position bias",
    "vit_small_patch16_18x2_224": "in parallel",
    "deit_tiny_distilled_patch16_224": "distillation token",
    "vit_small_patch16_dinov3": "no absolute position embedding",
    "vit_small_patch16_rope_mixed_ape_224": "learned for each block",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_vit_is_refused_with_the_reason(name):
    with pytest.raises(UserError, match=f"'{name}' is not a plain ViT: .*{REFUSED[name]}"):
        make_vit(name, image_size=64)


def test_damaged_and_malicious_weights_are_refused_by_name(tmp_path):
    for suffix in ("safetensors", "pth"):
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(b"PK\x03\x04 cut off")
        with pytest.raises(UserError, match=rf"cut\.{suffix}"):
            create_cam_model(SMALL, 3, weights=path, image_size=24)
    state = make_vit(SMALL, image_size=24).state_dict()
    for key, shape in (("blocks.1.mlp.fc1.weight", (7, 48)), ("pos_embed", (1, 9, 48))):
        torch.save(state | {key: torch.zeros(shape)}, tmp_path / "odd.pth")
        with pytest.raises(UserError, match=rf"{key}.*\({shape[0]}, {shape[1]}"):
            create_cam_model(SMALL, 3, weights=tmp_path / "odd.pth", image_size=24)


def test_an_error_of_timm_itself_is_not_taken_for_an_unfit_backbone(monkeypatch):
    build = timm.create_model

    def broken(name, **options):
        if options:
            raise TypeError("timm is broken")
        return build(name)

    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(TypeError, match="timm is broken"):
        make_vit("vit_tiny_patch16_224", image_size=64)


def test_asking_whether_a_backbone_fits_draws_no_random_number():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    refuse_unfit("vit_tiny_patch16_224")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_relative_weights_file_starts_at_the_repositorys_root(tmp_path, monkeypatch):
    file = tmp_path / "weights.safetensors"
    save_file({"x": torch.ones(2)}, file)
    relative = os.path.relpath(file, ROOT)
    monkeypatch.chdir("/")
    for given in (relative, Path(relative), str(file), file):
        assert torch.equal(pretrained_state("any", given)["x"], torch.ones(2))


def test_sizes_have_no_weights_to_fetch():
    with pytest.raises(UserError, match="given by its sizes has no pretrained weights; give a file with weights="):
        create_cam_model(SMALL, 3, image_size=24)


def test_million_parameters():
    assert million_parameters(torch.nn.Linear(1999, 1000)) == 2.0


def test_without_network_and_file_both_ways_out_are_named(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"connect to the network once, or give a local file with weights="):
        pretrained_state("deit_small_patch16_224")

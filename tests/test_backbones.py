"""Every family of plain ViT in both steps, as small random instances; what is none is refused with the reason."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import RmsNorm
from timm.models.eva import Eva

from weaktr.__main__ import main
from weaktr.errors import UserError
from weaktr.files import ROOT
from weaktr.method.cam_generation import generate_cams
from weaktr.method.cam_training import cam_losses
from weaktr.method.clipping import gradient_clipping
from weaktr.models import million_parameters
from weaktr.models.backbones import PUBLISHED, make_vit, matching_names, refuse_unfit
from weaktr.models.cam import create_cam_model
from weaktr.models.checkpoints import save_model
from weaktr.models.encoders import CamEncoder, SegmenterEncoder
from weaktr.models.hubs import timm_names
from weaktr.models.segmenter import create_segmenter
from weaktr.models.trained import create_segmenter_from_cam
from weaktr.models.weights import load_pretrained, pretrained_state

SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
ROTARY = SMALL | {"use_rot_pos_emb": True}
FAMILIES = {
    "deit": SMALL,
    "augreg": SMALL | {"normalise": "half"},
    "dinov2": SMALL | {"init_values": 1.0},
    "dinov2_reg": SMALL | {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True},
    "registers": SMALL | {"reg_tokens": 2},
    "clip": SMALL | {"pre_norm": True},
    "eva02": ROTARY | {"ref_feat_shape": [16, 16], "swiglu_mlp": True, "mlp_ratio": 8 / 3},
    "dinov3": ROTARY | {"use_abs_pos_emb": False, "rope_type": "dinov3", "num_reg_tokens": 4, "init_values": 1.0},
    "rope_mixed": ROTARY | {"use_abs_pos_emb": False, "rope_type": "mixed"},
    "gap": SMALL | {"class_token": False},
    "gap_reg": SMALL | {"class_token": False, "reg_tokens": 2},
}


@pytest.fixture(params=FAMILIES)
def backbone(request):
    torch.manual_seed(0)
    return FAMILIES[request.param]


def randomised(model):
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def test_step_two_may_start_from_the_encoder_of_step_one(backbone, tmp_path):
    """With one class step 2 then sees what step 1 saw, but for its norms' epsilon; of several the mean is left."""
    options = {"pretrained": False, "image_size": 24}
    cam = randomised(create_cam_model(backbone, 1, reduction=2, **options))
    save_model(cam, tmp_path / "cam.safetensors")
    model = create_segmenter_from_cam(tmp_path / "cam.safetensors", backbone, 2, **options).eval()
    vit = model.encoder.vit
    fresh = create_segmenter(backbone, 2, **options).encoder.vit.norm.state_dict()
    assert all(torch.equal(fresh[name], tensor) for name, tensor in vit.norm.state_dict().items())
    vit.norm = torch.nn.Identity()
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        found, wanted = model.encoder(x)[0], cam.encoder(x).tokens[:, -9:]
    if vit.cls_token is not None:
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)
    several = randomised(create_cam_model(backbone, 3, reduction=2, **options))
    save_model(several, tmp_path / "several.safetensors")
    larger = options | {"image_size": 40}
    vit = create_segmenter_from_cam(tmp_path / "several.safetensors", backbone, 4, **larger).encoder.vit
    assert torch.equal(vit.blocks[1].mlp.fc1.bias, several.encoder.vit.blocks[1].mlp.fc1.bias)
    if vit.cls_token is not None and not vit.no_embed_class:
        torch.testing.assert_close(vit.cls_token, several.encoder.cls_token.mean(1, keepdim=True))


def test_features_are_timms(backbone):
    vit = randomised(make_vit(backbone, image_size=(24, 40)))
    x, prefix = torch.randn(2, 3, 24, 40), vit.num_prefix_tokens
    with torch.no_grad():
        found, grid = SegmenterEncoder(vit)(x)
        assert grid == (3, 5) and torch.allclose(found, vit.forward_features(x)[:, prefix:], atol=1e-5)


# A name of each family that computes something of its own, and what it needs beside SMALL to be a small one.
NAMES = {
    "deit_tiny_patch16_224": {},
    "deit3_small_patch16_224": {},
    "vit_tiny_patch16_224": {},
    "flexivit_small": {},
    "vit_small_patch14_dinov2": {},
    "vit_giant_patch14_reg4_dinov2": {},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_clip_quickgelu_224": {},
    "vit_base_patch14_reg1_tipsv2": {},
    "vit_base_patch16_radio_v3": {},
    "beit3_base_patch16_224": {},
    "eva_giant_patch14_224": {},
    "eva02_small_patch14_224": {},
    "eva02_base_patch14_448": {},
    "eva02_enormous_patch14_clip_224": {},
    "vit_pe_core_base_patch16_224": {},
    "vit_pe_lang_large_patch14_448": {},
    "vit_pe_spatial_base_patch16_512": {},
    # without absolute positions
    "vit_small_patch16_dinov3": {},
    "vit_small_plus_patch16_dinov3_qkvb": {},
    "vit_small_patch16_lingbot": {},
    "vit_base_patch16_sapiens2": {"num_kv_heads": (3, 1)},
    "vit_small_patch16_rope_224": {},
    "vit_small_patch16_rope_mixed_224": {},
    "vit_small_patch16_rope_ape_224": {},
    "vit_small_patch16_rope_mixed_ape_224": {},
    # without class token
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_siglip_gap_224": {},
    "aimv2_large_patch14_224": {},
    "vit_medium_patch16_gap_256": {},
    "vit_medium_patch16_reg4_gap_256": {},
    "vit_so150m_patch16_reg4_map_256": {},
    "vit_medium_patch16_rope_reg1_gap_256": {},
    "vit_base_patch16_rpn_224": {},
}
PARALLEL = {
    "vit_small_patch16_18x2_224": "several layers in parallel",
    "vit_base_patch16_xp_224": "several layers in parallel",
    "vit_dwee_patch16_reg1_gap_256": "the difference of two maps",
    "vit_dpwee_patch16_reg1_gap_256": "several layers in parallel",
}


@pytest.fixture
def small(monkeypatch):
    """timm's function, which makes small models of all names as long as the test lasts."""
    torch.manual_seed(0)
    build = timm.create_model

    def create(name, **options):
        return build(name, **(SMALL | NAMES.get(name, {}) | options))

    monkeypatch.setattr(timm, "create_model", create)
    return create


@pytest.mark.parametrize("name", [*NAMES, *PARALLEL])
def test_step_two_computes_what_timm_computes(small, name):
    """timm's model as it comes, pooling and all; its weights, loaded as pretrained ones are; also on another grid."""
    theirs = randomised(small(name, img_size=40, num_classes=0, dynamic_img_size=True))
    vit = make_vit(name, image_size=40, patch_size=8, step=2)
    load_pretrained(vit, theirs.state_dict(), "bilinear", name)
    encoder, prefix = SegmenterEncoder(vit).eval(), theirs.num_prefix_tokens
    sizes = [(40, 40)] if theirs.pos_embed is not None else [(40, 40), (24, 56)]  # positions are resized in another way
    for height, width in sizes:
        x = torch.randn(2, 3, height, width)
        with torch.no_grad():
            expected = theirs.fc_norm(theirs.forward_features(x))[
                :, prefix:
            ]  # where a pool follows it has the last norm
            found, grid = encoder(x)
        assert grid == (height // 8, width // 8) and torch.equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_step_one_computes_what_timm_computes(small, name):
    """With one class token: timm's, or where it has none a new one, with which timm makes the same model."""
    theirs = randomised(small(name, img_size=40, num_classes=0))
    vit = make_vit(name, image_size=40, patch_size=8)
    load_pretrained(vit, theirs.state_dict(), "bicubic", name)
    encoder = CamEncoder(vit, 1).eval()
    if theirs.cls_token is None:
        state = theirs.state_dict() | {"cls_token": encoder.cls_token.detach() + 1}
        encoder.cls_token.data += 1
        if theirs.pos_embed is not None and not theirs.no_embed_class:
            state["pos_embed"] = torch.cat([torch.zeros(1, 1, 48), theirs.pos_embed.detach()], 1)
        theirs = small(name, img_size=40, num_classes=0, class_token=True).eval()
        theirs.load_state_dict(state)
    theirs.norm = torch.nn.Identity()  # step 1 does not apply it
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        expected = theirs.forward_features(x)
        passes = []
        for encoder.keep_maps in (True, False):
            passes.append(encoder(x))
            tokens, attentions, outputs, _ = passes[-1]
            assert torch.allclose(tokens, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
            assert all(torch.allclose(maps.sum(-1), torch.ones(())) for maps in attentions)
            assert all(output.shape == tokens.shape for output in outputs)
    assert all(torch.allclose(kept, remade, atol=1e-5) for kept, remade in zip(*(one.attentions for one in passes)))


@pytest.mark.parametrize("name", PARALLEL)
def test_blocks_without_one_map_for_each_head_serve_in_step_two_alone(name):
    with pytest.raises(UserError, match=f"'{name}' cannot serve in step 1: .*{PARALLEL[name]}.*in step 2, with seg_b"):
        create_cam_model(name, 3, pretrained=False, image_size=64)


def test_models_keep_their_norm_and_epsilon_where_no_published_preset_says_otherwise(small):
    def norms(vit):
        kinds = (torch.nn.LayerNorm, RmsNorm, torch.nn.RMSNorm)
        return {(type(module).__name__, module.eps) for module in vit.modules() if isinstance(module, kinds)}

    def in_steps(name):
        step_1 = create_cam_model(name, 3, pretrained=False, image_size=32, patch_size=8, reduction=2)
        step_2 = create_segmenter(name, 4, pretrained=False, image_size=32, patch_size=8)
        return norms(step_1.encoder.vit), norms(step_2.encoder.vit)

    layer_norm = {("LayerNorm", 1e-6)}, {("LayerNorm", 1e-5)}
    for name in (*PUBLISHED, "deit_small_patch16_224.fb_in1k", "weaktr_tiny_patch8_96"):
        assert in_steps(name) == layer_norm
    assert in_steps("vit_tiny_patch16_224") == ({("LayerNorm", 1e-6)},) * 2
    assert in_steps("vit_base_patch16_clip_224") == ({("LayerNorm", 1e-5)},) * 2
    assert in_steps("vit_base_patch16_sapiens2") == ({("RmsNorm", 1e-6)},) * 2
    assert in_steps("aimv2_large_patch14_224") == ({("RmsNorm", 1e-5)},) * 2
    assert norms(create_segmenter(SMALL, 4, pretrained=False, image_size=32).encoder.vit) == layer_norm[1]


def test_new_class_tokens_differ_and_are_said_to_be_untried(monkeypatch, capsys):
    vit = make_vit(FAMILIES["gap"], image_size=24)
    tokens = CamEncoder(vit, 5).cls_token[0].detach()
    assert 0.01 < tokens.std() < 0.03 and torch.pdist(tokens).min() > 0.05
    state = make_vit(FAMILIES["gap"], image_size=24).state_dict()
    monkeypatch.setattr("weaktr.models.cam.pretrained_state", lambda *_: state)
    create_cam_model(FAMILIES["gap"], 3, image_size=24, reduction=2)
    assert "no class token: step 1 gives it one per class" in capsys.readouterr().out
    create_cam_model(FAMILIES["gap"], 3, pretrained=False, image_size=24, reduction=2)
    assert not capsys.readouterr().out


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
    "deit_tiny_distilled_patch16_224": "distillation token",
    "naflexvit_base_patch16_siglip": "timm builds it as NaFlexVit",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_vit_is_refused_with_the_reason(name):
    with pytest.raises(UserError, match=f"'{name}' is not a plain ViT: .*{REFUSED[name]}"):
        make_vit(name, image_size=64, step=2)


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


HUBS = {  # names of torch.hub, Hugging Face, CLIP, torchvision and papers
    "dinov2_vits14": "vit_small_patch14_dinov2",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2",
    "facebook/dinov2-small": "vit_small_patch14_dinov2",
    "facebook/dinov2-with-registers-base": "vit_base_patch14_reg4_dinov2",
    "dinov3_vits16": "vit_small_patch16_dinov3.lvd1689m",
    "facebook/dinov3-vits16plus-pretrain-lvd1689m": "vit_small_plus_patch16_dinov3.lvd1689m",
    "dino_vits16": "vit_small_patch16_224.dino",
    "facebook/dino-vitb8": "vit_base_patch8_224.dino",
    "facebook/vit-mae-base": "vit_base_patch16_224.mae",
    "google/vit-base-patch16-224": "vit_base_patch16_224",
    "google/vit-base-patch16-224-in21k": "vit_base_patch16_224.orig_in21k",
    "google/siglip-so400m-patch14-384": "vit_so400m_patch14_siglip_384.webli",
    "google/siglip2-base-patch16-256": "vit_base_patch16_siglip_256.v2_webli",
    "ViT-B-16-SigLIP2-256": "vit_base_patch16_siglip_256.v2_webli",
    "ViT-B/16": "vit_base_patch16_224 or vit_base_patch16_clip_224",
    "vit_b_16": "vit_base_patch16_224 or vit_base_patch16_clip_224",
    "ViT-L/14@336px": "vit_large_patch14_clip_336",
    "ViT-L-14-336": "vit_large_patch14_clip_336",
    "openai/clip-vit-base-patch16": "vit_base_patch16_clip_224.openai",
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": "vit_base_patch16_clip_224.laion2b",
    "EVA02-B-16": "eva02_base_patch16_clip_224",
    "apple/aimv2-large-patch14-224": "aimv2_large_patch14_224",
    "facebook/PE-Core-B16-224": "vit_pe_core_base_patch16_224",
    "nvidia/C-RADIOv3-B": "vit_base_patch16_radio_v3",
    "facebook/deit-small-patch16-224": "deit_small_patch16_224",
    "DeiT-S": "deit_small_patch16_224",
    "DeiT_Small_Patch16_224": "deit_small_patch16_224",
    "timm/vit_base_patch16_224.augreg_in21k": "vit_base_patch16_224.augreg_in21k",
    "hf_hub:timm/vit_base_patch16_224.augreg_in21k": "vit_base_patch16_224.augreg_in21k",
}


@pytest.mark.parametrize("name", HUBS)
def test_names_of_other_hubs_are_told_timms_name(name):
    with pytest.raises(UserError, match=f"not known to timm .*; its name there is {HUBS[name]}$"):
        make_vit(name, image_size=64)


def test_a_name_of_nobody_is_told_a_near_one():
    assert timm_names("facebook/nonsense") == timm_names("dinov2_vitz14") == timm_names("deit_small_patch16_224") == []
    with pytest.raises(
        UserError, match=r"'deit_small_patch17_224' is not known .*, did you mean deit_small_patch16_224"
    ):
        make_vit("deit_small_patch17_224", image_size=64)


def test_the_command_lists_what_a_choice_needs(capsys):
    assert main(["backbones", "vit_small_patch*_dinov?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:] if line}
    assert rows["vit_small_patch16_dinov3"][1:] == ["21.6", "16", "256", "imagenet", "dinov3-license", "1,", "2"]
    assert rows["vit_small_patch14_dinov2"][1:] == ["22.1", "14", "518", "imagenet", "apache-2.0", "1,", "2"]
    assert lines[-1] == "3 names, 3 for step 1, 3 for step 2"


def test_the_command_says_why_not(capsys):
    """A name that serves in no step, in one, and in both with class tokens that the paper does not have."""
    notes = {
        "resnet10t": "–      it has convolutional stages",
        "vit_small_patch16_18x2_224": "2      its blocks run several layers in parallel",
        "vit_base_patch16_siglip_224": "1, 2   no class token: step 1 gives it one per class, random at first",
    }
    for name, note in notes.items():
        assert main(["backbones", name]) == 0
        assert note in next(line for line in capsys.readouterr().out.splitlines() if line.startswith(name + " "))


def test_the_command_knows_tags_and_refuses_what_matches_nothing(capsys):
    assert main(["backbones", "vit_base_patch16_224.dino"]) == 0
    assert "vit_base_patch16_224.dino" in capsys.readouterr().out
    assert main(["backbones", "dinov2_vits14"]) == 2
    assert "matches no name of timm" in (message := capsys.readouterr().err)
    assert "its name there is vit_small_patch14_dinov2" in message


def test_without_a_pattern_the_families_of_plain_vits_are_meant():
    names = matching_names()
    assert {"deit_small_patch16_224", "eva02_small_patch14_224", "weaktr_tiny_patch8_96"} <= set(names)
    assert not [name for name in names if name.startswith(("resnet", "swin"))] and len(names) == len(set(names)) > 240

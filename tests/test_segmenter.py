"""The segmenter of step 2 against naive loops and against the authors' released code."""

import naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from weaktr.device import set_precision
from weaktr.errors import UserError
from weaktr.models import encoders
from weaktr.models.backbones import make_vit
from weaktr.models.checkpoints import load_model, save_model
from weaktr.models.decoder import MaskTransformer
from weaktr.models.released import import_released_segmenter, released_names
from weaktr.models.segmenter import create_segmenter, starting_position_mode

KINDS = ["vit", "dinov2", "eva02"]
GOLDENS = ["seg_vit", "seg_vit_multiscale", "seg_dinov2", "seg_eva02"]
TINY = "weaktr_tiny_patch8_96"
PLAIN = {"patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4}  # the same without registers


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def gradients(model):
    """{released name: gradient} of every parameter."""
    names = released_names(model)
    return {names[name]: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (16, 64), (21, 43)], ids=["trained", "same-count", "ragged"])
def test_agrees_with_naive_loops(kind, size):
    state = naive.random_segmenter_checkpoint(kind, seed=size[1])
    model = import_released_segmenter(state, num_heads=3, decoder_heads=2)
    torch.manual_seed(0)
    x, target = torch.randn(2, 3, *size), torch.randint(0, 4, (2, *size))
    target[:, :5] = 255
    logits = model(x)
    F.cross_entropy(logits, target, ignore_index=255).backward()
    reference = {name: tensor.double().requires_grad_() for name, tensor in state.items()}
    expected = naive.segmenter(reference, x.double(), 3, 2)
    F.cross_entropy(expected, target, ignore_index=255).backward()
    assert naive.error(logits, expected) < 2e-5
    found = gradients(model)
    trained = {name for name, tensor in reference.items() if tensor.grad is not None}
    assert set(found) == trained
    for name in trained:
        assert naive.error(found[name], reference[name].grad) < 1e-4, name


@pytest.mark.parametrize("name", GOLDENS)
def test_agrees_with_released_code(shared, name):
    golden = np.load(shared / "goldens" / f"{name}.npz")
    state = {key[3:]: torch.tensor(golden[key]) for key in golden.files if key.startswith("sd/")}
    model = import_released_segmenter(
        state, num_heads=int(golden["cfg/heads"]), decoder_heads=int(golden["cfg/decoder_heads"])
    )
    logits = model(torch.tensor(golden["x"]))
    loss = F.cross_entropy(logits, torch.tensor(golden["y"]), ignore_index=255)
    loss.backward()
    assert naive.error(logits, golden["logits"]) < 5e-6
    assert naive.error(loss, golden["loss"]) < 5e-6
    found = gradients(model)
    assert {f"grad/{key}" for key in found} == {key for key in golden.files if key.startswith("grad/")}
    for key, value in found.items():
        assert naive.error(value, golden[f"grad/{key}"]) < 1e-4, key
    if "x_ragged" in golden:
        assert naive.error(model(torch.tensor(golden["x_ragged"])), golden["logits_ragged"]) < 5e-6


def test_decoder_agrees_with_naive_loops():
    torch.manual_seed(0)
    decoder = MaskTransformer(5, 48, heads=2).eval()
    tokens = torch.randn(2, 12, 48)
    state = {f"decoder.{name}": tensor.double() for name, tensor in decoder.state_dict().items()}
    assert naive.error(decoder(tokens, (3, 4)), naive.decode(state, tokens.double(), (3, 4), 2)) < 2e-5


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_masks_of_every_block_agree_with_naive_loops(layers):
    """The masks after a block are those of a decoder that ends there."""
    torch.manual_seed(0)
    decoder = MaskTransformer(5, 48, heads=2, depth=layers).eval()
    tokens = torch.randn(2, 12, 48)
    state = {f"decoder.{name}": tensor.double() for name, tensor in decoder.state_dict().items()}
    found = decoder.masks_of_every_block(tokens, (3, 4))
    assert len(found) == layers
    for last, masks in enumerate(found):
        later = tuple(f"decoder.blocks.{number}." for number in range(last + 1, layers))
        shorter = {name: tensor for name, tensor in state.items() if not name.startswith(later)}
        assert naive.error(masks, naive.decode(shorter, tokens.double(), (3, 4), 2)) < 2e-5
    assert torch.equal(found[-1], decoder(tokens, (3, 4)))
    assert all(naive.error(masks, found[-1]) > 0.01 for masks in found[:-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (21, 43)], ids=["trained", "ragged"])
def test_logits_of_every_block_agree_with_naive_loops(kind, size):
    state = naive.random_segmenter_checkpoint(kind)
    model = import_released_segmenter(state, num_heads=3, decoder_heads=2)
    x = torch.randn(2, 3, *size)
    first, last = model.masks_of_every_block(x)
    assert torch.equal(last, model(x))
    shorter = {name: value.double() for name, value in state.items() if not name.startswith("decoder.blocks.1.")}
    assert first.shape == (2, 4, *size) and naive.error(first, naive.segmenter(shorter, x.double(), 3, 2)) < 2e-5


def test_masks_of_both_blocks_agree_with_released_code(shared):
    """The documented evaluation, which adds a second prediction, view by view and window by window."""
    golden = np.load(shared / "goldens" / "seg_vit_two_masks.npz")
    state = {key[3:]: torch.tensor(golden[key]) for key in golden.files if key.startswith("sd/")}
    model = import_released_segmenter(
        state, num_heads=int(golden["cfg/heads"]), decoder_heads=int(golden["cfg/decoder_heads"])
    )
    count = sum(key.startswith("ms/") for key in golden.files)
    views = [torch.tensor(golden[f"ms/{i}"]) for i in range(count)]
    flips = [bool(golden[f"ms_flip/{i}"]) for i in range(count)]
    size, windows = golden["image"].shape[-2:], (int(golden["cfg/window"]), int(golden["cfg/stride"]))
    averages = []
    for block, name in enumerate(("probs_first", "probs_second")):
        with torch.no_grad():
            found = naive.predict_probabilities(
                lambda x, block=block: model.masks_of_every_block(x)[block], views, flips, size, *windows
            )
        assert naive.error(found, golden[name]) < 5e-6, name
        averages.append(found)
    scores = float(golden["weight"]) * averages[0] + averages[1]
    assert naive.error(scores, golden["scores"]) < 5e-6
    assert np.array_equal(scores.argmax(0).numpy(), golden["mask"])


def test_weights_file_is_resized_bilinearly_and_kernels_bicubically(tmp_path):
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, num_classes=0, **PLAIN)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    model = create_segmenter(PLAIN, 4, weights=str(tmp_path / "vit.safetensors"), image_size=72, patch_size=12)
    names = released_names(model)
    state = {names[name]: tensor for name, tensor in model.state_dict().items()}
    native = {name: tensor.double() for name, tensor in vit.state_dict().items()}
    position = naive.segmenter_position_embedding(native["pos_embed"], (6, 6))
    kernel = naive.resize(native["patch_embed.proj.weight"], (12, 12), "bicubic")
    assert naive.error(state["encoder.pos_embed"], position) < 1e-6
    assert naive.error(state["encoder.patch_embed.proj.weight"], kernel) < 1e-6
    for name in ("cls_token", "norm.weight", "blocks.5.mlp.fc2.weight"):
        assert torch.equal(state[f"encoder.{name}"].double(), native[name]), name


@pytest.mark.parametrize(
    ("backbone", "mode"),
    [
        ("vit_small_patch16_384", "bicubic"),
        ("deit_small_patch16_224", "bilinear"),
        ("vit_small_patch14_dinov2", "bilinear"),
        ("eva02_small_patch14_224", "bilinear"),
    ],
)
def test_positions_of_the_published_vit_start_bicubic_and_all_others_bilinear(monkeypatch, backbone, mode):
    """ViT-S starts at 30 × 30 patches from 24 × 24, as the crops of 480 px; at other sizes it is resized as all are."""
    with torch.device("meta"):
        native = make_vit(backbone, image_size=16, patch_size=16).state_dict()
    native = {name: 0.1 * torch.ones(tensor.shape) for name, tensor in native.items()}
    prefix = native["pos_embed"].shape[1] - 1
    native["pos_embed"] = torch.randn(1, prefix + 24 * 24, 384)
    monkeypatch.setattr("weaktr.models.segmenter.pretrained_state", lambda *_: native)
    model = create_segmenter(backbone, 3, image_size=480, patch_size=16).eval()
    vit = model.encoder.vit
    given = native["pos_embed"][:, prefix:].transpose(1, 2).unflatten(2, (24, 24))
    resized = {
        way: F.interpolate(given, (30, 30), mode=way, align_corners=False, antialias=False).flatten(2).transpose(1, 2)
        for way in ("bicubic", "bilinear")
    }
    assert torch.equal(vit.pos_embed[:, prefix:], resized[mode])
    assert torch.equal(vit.pos_embed[:, :prefix], native["pos_embed"][:, :prefix])
    assert naive.error(resized["bicubic"], resized["bilinear"]) > 0.1
    later = F.interpolate(
        vit.pos_embed[:, prefix:].transpose(1, 2).unflatten(2, (30, 30)), (2, 3), mode="bilinear", align_corners=False
    )
    seen = []
    vit.norm_pre.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        x = torch.randn(1, 3, 32, 48)
        model.encoder(x)
        patches = vit.patch_embed(x)
    assert torch.equal(seen[0][:, prefix:], patches.flatten(1, 2) + later.flatten(2).transpose(1, 2))


def test_a_tag_of_the_weights_changes_nothing_of_how_positions_start():
    assert starting_position_mode("vit_small_patch16_384.augreg_in21k_ft_in1k") == "bicubic"
    assert starting_position_mode("vit_small_patch16_224.augreg_in21k_ft_in1k") == "bilinear"
    assert starting_position_mode(PLAIN) == "bilinear"


@pytest.mark.parametrize(
    "backbone",
    [TINY, "deit_small_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_384", "eva02_small_patch14_224"],
)
def test_published_backbones_build_at_patch_16(backbone):
    model = create_segmenter(backbone, 21, pretrained=False, image_size=64, patch_size=16).eval()
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-5}
    assert all(block.attn.num_heads == model.encoder.vit.embed_dim // 64 for block in model.decoder.blocks)
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 40, 50))
    assert logits.shape == (1, 21, 40, 50) and logits.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("deit_small_patch16_224", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vit_small_patch14_dinov2", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vit_small_patch16_384", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (
            "eva02_small_patch14_224",
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        ),
    ],
)
def test_each_backbone_brings_its_normalisation(backbone, mean, std):
    model = create_segmenter(backbone, 3, pretrained=False, image_size=32, patch_size=16)
    assert model.mean == pytest.approx(mean) and model.std == pytest.approx(std)


def test_dropout_and_drop_path_are_where_the_method_has_them():
    model = create_segmenter(TINY, 4, pretrained=False, image_size=32, drop_path=0.1)
    decoder = [m.p for m in model.decoder.modules() if isinstance(m, torch.nn.Dropout)]
    assert decoder == [0.1] * 8  # attention, projection and both MLP layers of two blocks
    assert not any(getattr(m, "drop_prob", 0) for m in model.decoder.modules())
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.encoder.vit.blocks]
    assert rates == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert not any(m.p for m in model.encoder.modules() if isinstance(m, torch.nn.Dropout))
    model.train()
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [False, True])
def test_bfloat16_on_a_cpu_with_and_without_fused_attention(monkeypatch, fused_calls, kind, fused):
    """Few tokens go through three plain products, many through torch's fused attention; both near float32."""
    state = naive.random_segmenter_checkpoint(kind, seed=3)
    x, target = torch.randn(2, 3, 32, 32), torch.randint(0, 4, (2, 32, 32))
    tokens = import_released_segmenter(state, num_heads=3, decoder_heads=2).encoder(x)[0].shape[1] + 1
    monkeypatch.setattr(encoders, "FEW_TOKENS", tokens - 1 if fused else tokens)
    results = []
    for precision in ("fp32", "bf16"):
        model = import_released_segmenter(state, num_heads=3, decoder_heads=2)
        fused_calls.clear()
        with set_precision(x.device, precision):
            logits = model(x)
        F.cross_entropy(logits, target).backward()
        depth = len(model.encoder.vit.blocks) if fused or precision == "fp32" else 0
        assert len(fused_calls) == depth + len(model.decoder.blocks)
        results.append((logits, gradients(model)))
    (expected, exact), (logits, found) = results
    assert naive.error(logits, expected) < 0.1
    for name in exact:
        assert naive.error(found[name], exact[name]) < 0.3, name


def test_decoder_initialisation():
    torch.manual_seed(0)
    decoder = MaskTransformer(40, 384, heads=6)
    assert decoder.proj_patch.std().item() == pytest.approx(384**-0.5, rel=0.05)
    assert decoder.proj_classes.std().item() == pytest.approx(384**-0.5, rel=0.05)
    for tensor in (
        decoder.cls_emb,
        decoder.proj_dec.weight,
        decoder.blocks[1].mlp.fc1.weight,
        decoder.blocks[0].attn.qkv.weight,
    ):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_model_comes_back_whole(tmp_path, kind):
    model = import_released_segmenter(naive.random_segmenter_checkpoint(kind), num_heads=3, decoder_heads=2)
    save_model(model, tmp_path / "model.safetensors", start_value=1.2)
    loaded = load_model(tmp_path / "model.safetensors", step="segmenter", num_classes=4)
    x = torch.randn(1, 3, 40, 32)
    assert torch.equal(loaded(x), model(x))
    assert loaded.config == model.config and loaded.details == {"start_value": 1.2}
    sizes = ["backbone", "num_classes", "image_size", "patch_size", "decoder_heads", "decoder_depth"]
    assert list(loaded.config) == ["step", *sizes]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "key",
    [
        "encoder.cls_token",
        "encoder.norm.weight",
        "encoder.blocks.1.mlp.{last}.bias",
        "decoder.cls_emb",
        "decoder.proj_patch",
        "decoder.blocks.1.attn.qkv.bias",
    ],
)
def test_import_names_a_missing_key(kind, key):
    key = key.format(last="w3" if kind == "eva02" else "fc2")
    state = naive.random_segmenter_checkpoint(kind)
    del state[key]
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        import_released_segmenter(state, num_heads=3, decoder_heads=2)


@pytest.mark.parametrize("key", ["encoder.blocks.0.attn.k_bias", "decoder.head.weight", "epoch"])
def test_import_names_an_unknown_key(key):
    state = naive.random_segmenter_checkpoint() | {key: torch.zeros(2)}
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        import_released_segmenter(state, num_heads=3, decoder_heads=2)


@pytest.mark.parametrize(
    ("key", "shape"),
    [("decoder.mask_norm.weight", (5,)), ("encoder.norm.bias", (47,)), ("encoder.blocks.1.attn.proj.weight", (48, 47))],
)
def test_import_names_a_misshapen_key_and_its_shape(key, shape):
    state = naive.random_segmenter_checkpoint() | {key: torch.zeros(shape)}
    with pytest.raises(UserError) as caught:
        import_released_segmenter(state, num_heads=3, decoder_heads=2)
    assert key in str(caught.value) and str(tuple(shape)) in str(caught.value)


def test_import_refuses_a_wrong_rotary_table():
    state = naive.random_segmenter_checkpoint("eva02")
    state["encoder.blocks.1.attn.rope.freqs_sin"] = state["encoder.blocks.1.attn.rope.freqs_sin"] + 0.1
    with pytest.raises(UserError, match=r"encoder\.blocks\.1\.attn\.rope\.freqs_sin"):
        import_released_segmenter(state, num_heads=3, decoder_heads=2)


def test_import_refuses_a_step_1_file():
    with pytest.raises(UserError, match=r"import_released_cam"):
        import_released_segmenter(naive.random_cam_checkpoint(), num_heads=3)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="1"):
        create_segmenter(TINY, 1, pretrained=False, image_size=32)

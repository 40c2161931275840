"""The CAM network of step 1 against naive loops and against the authors' released code."""

import copy

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from weaktr.device import set_precision
from weaktr.errors import UserError
from weaktr.method.cam_training import cam_losses
from weaktr.models import encoders
from weaktr.models.attention import KeptMaps, RemadeMaps, tapped
from weaktr.models.backbones import make_vit
from weaktr.models.cam import balance, cam_variant, create_cam_model
from weaktr.models.checkpoints import load_model, save_model
from weaktr.models.fusion import AttentionFusion
from weaktr.models.released import import_released_cam, released_names

GOLDENS = ["cam_max_square", "cam_avg_square", "cam_max_landscape", "cam_max_ragged", "cam_max_wide_same_count"]
PROPERTY = settings(deadline=None, derandomize=True, max_examples=20)
TINY = "weaktr_tiny_patch8_96"
PLAIN = {"patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4}  # the same without registers
# Rotary embedding, SwiGLU and no bias on the keys, as EVA-02; LayerScale and registers, as DINOv2.
EVA = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "use_rot_pos_emb": True, "ref_feat_shape": [4, 4]}
EVA |= {"swiglu_mlp": True, "mlp_ratio": 8 / 3}
DINO = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "init_values": 0.5, "reg_tokens": 2}
BOTH_MODES = pytest.mark.parametrize("keep_maps", [True, False], ids=["kept", "remade"])
CONFIG = ["step", "backbone", "num_classes", "image_size", "patch_size"]
CONFIG += ["fusion", "pool", "reduction", "feat_reduction", "last_k"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
OUTPUTS = [
    "cls_logits",
    "coarse_logits",
    "fine_logits",
    "coarse_cam",
    "fused_cam",
    "fine_cam",
    "head_weights",
    "cross_attention",
    "patch_attention",
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def exported(model):
    """Our model's tensors under the released names, in double precision, for the naive network."""
    names, state = released_names(model), model.state_dict()
    return {names.get(name, name): tensor.double() for name, tensor in state.items()}


def gradients(model):
    """{released name: gradient} of every parameter."""
    names = released_names(model)
    return {names[name]: parameter.grad for name, parameter in model.named_parameters()}


@BOTH_MODES
@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize(
    "size",
    [(24, 24), (24, 30), (8, 72), (21, 43), (40, 40)],
    ids=["trained", "same-grid-not-square", "same-count", "ragged", "larger"],
)
def test_agrees_with_naive_loops(pool, size, keep_maps):
    state = naive.random_cam_checkpoint(seed=size[1], classes=4)
    model = import_released_cam(state, num_heads=3, pool=pool)
    model.encoder.keep_maps = keep_maps
    x, labels = torch.randn(2, 3, *size), torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]])
    output = model(x)
    losses = cam_losses(output, labels)
    sum(losses.values()).backward()
    reference = {name: tensor.double().requires_grad_() for name, tensor in state.items()}
    expected = naive.cam_network(reference, x.double(), 3, pool)
    expected_losses = {
        k: naive.soft_margin(expected[f"{k}_logits"], labels.double()) for k in ("cls", "coarse", "fine")
    }
    sum(expected_losses.values()).backward()
    for name in OUTPUTS:
        assert naive.error(getattr(output, name), expected[name]) < 2e-5, name
    for layer, maps in enumerate(expected["attentions"]):
        assert naive.error(output.attentions[layer], maps) < 2e-5, f"attention of block {layer}"
    for name in expected_losses:
        assert naive.error(losses[name], expected_losses[name]) < 1e-5, name
    found = gradients(model)
    trained = {name for name, tensor in reference.items() if tensor.grad is not None}
    assert set(found) == trained == set(state) - {"norm.weight", "norm.bias"}
    if size == (24, 30):  # torch's backward of a resize to the same size ignores the given factors (so did theirs)
        trained.remove("pos_embed")
    for name in trained:
        assert naive.error(found[name], reference[name].grad) < 1e-4, name


@BOTH_MODES
@pytest.mark.parametrize("name", GOLDENS)
def test_agrees_with_released_code(shared, name, keep_maps):
    golden = np.load(shared / "goldens" / f"{name}.npz")
    state = {key[3:]: torch.tensor(golden[key]) for key in golden.files if key.startswith("sd/")}
    model = import_released_cam(state, num_heads=int(golden["cfg/num_heads"]), pool=str(golden["cfg/pool"]))
    model.encoder.keep_maps = keep_maps
    output = model(torch.tensor(golden["x"]))
    losses = cam_losses(output, torch.tensor(golden["y"]))
    sum(losses.values()).backward()
    weights = output.head_weights.transpose(1, 2).flatten(1)
    actual = {
        "cls_logits": output.cls_logits,
        "coarse_logits": output.coarse_logits,
        "fine_logits": output.fine_logits,
        "head_weights": weights,
        "patch_attn": output.patch_attention,
    }
    actual |= {f"loss_{name}": loss for name, loss in losses.items()}
    actual |= {f"cams/{kind}": cam_variant(output, kind, False) for kind in ("fused", "patchcam", "attn")}
    actual |= {f"attn/{layer}": maps for layer, maps in enumerate(output.attentions)}
    assert set(actual) == {k for k in golden.files if not k.startswith(("sd/", "grad/", "cfg/")) and k not in "xy"}
    for key, value in actual.items():
        assert naive.error(value, golden[key]) < 1e-5, key
    found = gradients(model)
    assert {f"grad/{key}" for key in found} == {key for key in golden.files if key.startswith("grad/")}
    for key, value in found.items():
        assert naive.error(value, golden[f"grad/{key}"]) < 1e-4, key


@BOTH_MODES
@pytest.mark.parametrize("fusion", ["adaptive", "mean", "random", "learned", "last-k"])
def test_fusion_variants_agree_with_naive_loops(fusion, keep_maps):
    torch.manual_seed(0)
    options = {"fusion": fusion, "last_k": 2, "reduction": 4, "keep_maps": keep_maps}
    model = create_cam_model(PLAIN, 3, pretrained=False, image_size=24, **options).eval()
    torch.nn.init.normal_(model.encoder.pos_embed)
    if fusion == "learned":
        torch.nn.init.normal_(model.fusion.logits)
    x, state = torch.randn(2, 3, 24, 24), exported(model)
    if fusion == "adaptive":
        weights = None
    elif fusion == "mean":
        weights = torch.ones(2, 6, 4)
    elif fusion == "random":  # head-major, like the vector of step 3
        vector = naive.gate(model.fusion.features.double().expand(2, -1), state)
        weights = vector.reshape(2, 4, 6).transpose(1, 2)
    elif fusion == "learned":
        weights = model.fusion.logits.detach().double().sigmoid().expand(2, 6, 4)
    else:  # plain mean over the heads of the last two blocks: the sum's 1/(L·H) becomes 1/(k·H)
        weights = torch.zeros(2, 6, 4)
        weights[:, 4:] = 6 / 2
    expected = naive.cam_network(state, x.double(), 4, weights=weights)
    output = model(x)
    for name in ("cross_attention", "patch_attention", "fused_cam", "fine_cam", "fine_logits"):
        assert naive.error(getattr(output, name), expected[name]) < 1e-5, name
    trained = {"adaptive": 6, "mean": 0, "random": 2, "learned": 1, "last-k": 0}[fusion]
    assert len(list(model.fusion.parameters())) == trained
    if fusion == "learned":
        assert sum(parameter.numel() for parameter in model.fusion.parameters()) == 6 * 4


@pytest.mark.parametrize("kind", ["fused", "patchcam", "attn"])
@pytest.mark.parametrize("refined", [False, True])
def test_cam_variants_agree_with_naive_loops(kind, refined):
    state = naive.random_cam_checkpoint(seed=5)
    x = torch.randn(2, 3, 24, 32)
    expected = naive.cam_network({k: v.double() for k, v in state.items()}, x.double(), 3)
    cam = expected[{"fused": "fused_cam", "patchcam": "patchcam", "attn": "cross_attention"}[kind]]
    cam = naive.refine(cam, expected["patch_attention"]) if refined else cam
    assert naive.error(cam_variant(import_released_cam(state, num_heads=3)(x), kind, refined), cam) < 1e-5


@pytest.mark.parametrize(
    "options",
    [{"fusion": "mean"}, {"fusion": "random"}, {"fusion": "learned"}, {"fusion": "last-k"}, {"reduction": 2}],
    ids=repr,
)
def test_one_seed_starts_one_network_whatever_the_fusion(options):
    """Only then are the differences of an ablation those of its fusions."""
    published, other = (
        (torch.manual_seed(5), create_cam_model(PLAIN, 3, pretrained=False, image_size=24, **given))[1].state_dict()
        for given in ({}, options)
    )
    shared = [name for name in published if not name.startswith("fusion.")]
    assert "head.weight" in shared and all(torch.equal(published[name], other[name]) for name in shared)


def test_weights_near_one_keep_their_gradient_in_bfloat16():
    """bfloat16 has no number between 0.998 and 1: a sigmoid in it would be 1 there, and the fusion frozen."""
    torch.manual_seed(0)
    fusion = AttentionFusion(3, 2, 16, reduction=2, feat_reduction=2)
    fusion.head_ffn.append(torch.nn.Linear(6, 6))
    torch.nn.init.constant_(fusion.head_ffn[-1].bias, 7)
    with torch.autocast("cpu", torch.bfloat16):
        weights = fusion.weights([torch.rand(2, 5, 16) for _ in range(3)])
    assert weights.min() > 0.998 and weights.max() < 1
    weights.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in fusion.parameters())


def test_fine_loss_trains_only_the_fusion():
    model = import_released_cam(naive.random_cam_checkpoint(), num_heads=3)
    model(torch.randn(8, 3, 24, 24)).fine_logits.sum().backward()  # of one image alone no hidden unit may be alive
    with_gradient = {name for name, grad in gradients(model).items() if grad is not None and grad.abs().max() > 0}
    assert with_gradient == {name for name in naive.random_cam_checkpoint() if name.startswith("adaptive")}


@BOTH_MODES
def test_bfloat16_stays_near_float32_and_trains(keep_maps):
    model = import_released_cam(naive.random_cam_checkpoint(), num_heads=3)
    model.encoder.keep_maps = keep_maps
    x = torch.randn(2, 3, 24, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    expected = model(x)
    for name in ("cls_logits", "coarse_logits", "fine_cam", "head_weights"):
        assert naive.error(getattr(output, name).float(), getattr(expected, name)) < 0.05, name
    sum(cam_losses(output, torch.ones(2, 3)).values()).backward()
    assert all(grad.isfinite().all() for grad in gradients(model).values())


def test_weights_file_fills_class_tokens_and_resizes_positions(tmp_path):
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, num_classes=0, **PLAIN)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    model = create_cam_model(PLAIN, 3, weights=str(tmp_path / "vit.safetensors"), image_size=48)
    state = exported(model)
    native = {name: tensor.double() for name, tensor in vit.state_dict().items()}
    grid = native["pos_embed"][0, 1:].reshape(4, 4, -1).permute(2, 0, 1)
    patches = naive.resize(grid, (6, 6), "bicubic").permute(1, 2, 0).reshape(36, -1)
    for c in range(3):
        assert torch.equal(state["cls_token"][0, c], native["cls_token"][0, 0])
        assert torch.equal(state["pos_embed"][0, c], native["pos_embed"][0, 0])
    assert naive.error(state["pos_embed"][0, 3:], patches) < 1e-5
    for name in native:
        if name.startswith(("blocks.", "patch_embed.")):
            assert torch.equal(state[name], native[name]), name


def test_released_size_of_deit_small():
    model = create_cam_model("deit_small_patch16_224", 20, pretrained=False)
    shapes = {released: tuple(model.state_dict()[name].shape) for name, released in released_names(model).items()}
    assert shapes["cls_token"] == (1, 20, 384) and shapes["pos_embed"] == (1, 20 + 14 * 14, 384)
    assert shapes["head.weight"] == (20, 384, 3, 3)
    assert shapes["adaptive_attention_fusion.attn_feat_ffn.0.weight"] == (8, 64)
    assert shapes["adaptive_attention_fusion.attn_head_ffn.0.weight"] == (9, 72)
    norms = {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert norms == {1e-6}


def test_drop_path_grows_linearly_from_zero():
    model = create_cam_model(TINY, 3, pretrained=False, image_size=24, drop_path=0.1)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.encoder.vit.blocks]
    assert rates == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])
    assert model.encoder.vit.blocks[-1].drop_path2.drop_prob == pytest.approx(0.1)


@pytest.mark.parametrize("fusion", ["adaptive", "random"])
def test_saved_model_comes_back_whole(tmp_path, fusion):
    torch.manual_seed(1)
    model = create_cam_model(TINY, 3, pretrained=False, image_size=24, fusion=fusion, reduction=4, pool="avg").eval()
    save_model(model, tmp_path / "model.safetensors", classes=["a", "b", "c"])
    loaded = load_model(tmp_path / "model.safetensors", step="cam", num_classes=3)
    x = torch.randn(1, 3, 24, 32)
    assert torch.equal(loaded(x).fine_cam, model(x).fine_cam)
    assert loaded.config == model.config and loaded.details == {"classes": ["a", "b", "c"]}
    assert list(loaded.config) == CONFIG
    assert not loaded.training
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_imported_model_can_be_saved(tmp_path):
    model = import_released_cam(naive.random_cam_checkpoint(), num_heads=3)
    save_model(model, tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 24, 24)
    assert torch.equal(load_model(tmp_path / "model.safetensors")(x).fine_cam, model(x).fine_cam)


# ---------------------------------------------------------------- maps kept and maps recomputed


def step_of(backbone, keep_maps, *, train, device="cpu", precision="fp32"):
    """Output, losses' sum and gradients of one step; weights, input and drop path from one seed in any mode."""
    torch.manual_seed(3)
    options = {"image_size": 32, "reduction": 2, "drop_path": 0.5, "keep_maps": keep_maps}
    model = create_cam_model(backbone, 4, pretrained=False, **options).train(train)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, labels = torch.randn(3, 3, 32, 40), torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]])
    model, x, labels = model.to(device), x.to(device), labels.to(device)
    torch.manual_seed(4)
    with set_precision(torch.device(device), precision):
        output = model(x)
    loss = sum(cam_losses(output, labels).values())
    # A part of the maps that the fine loss alone would not tell apart: it sees column means of the patch attention.
    loss = loss + (output.patch_attention.float() ** 2).mean() + output.cross_attention.float()[:, :, 1].std()
    loss.backward()
    return output, loss, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("backbone", [PLAIN, EVA, DINO, TINY], ids=["vit", "eva02", "dinov2", "tiny"])
def test_both_modes_give_the_same_step(backbone, train):
    kept, loss, expected = step_of(backbone, True, train=train)
    remade, same, found = step_of(backbone, False, train=train)
    for name in OUTPUTS:
        assert naive.error(getattr(remade, name), getattr(kept, name)) < 1e-5, name
    assert len(remade.attentions) == len(kept.attentions) > 1
    for ours, theirs in zip(remade.attentions, kept.attentions, strict=True):
        assert ours.shape == theirs.shape and naive.error(ours, theirs) < 1e-5
    assert same.item() == pytest.approx(loss.item(), rel=1e-5)
    assert set(found) == set(expected) and any(name.startswith("fusion.") for name in found)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0 and naive.error(found[name], gradient) < 1e-4, name


def test_drop_path_of_the_step_above_drops_something():
    outputs = [step_of(PLAIN, True, train=train)[0].cls_logits for train in (False, True)]
    assert naive.error(*outputs) > 0.01


def test_recomputed_maps_are_not_held():
    model = create_cam_model(TINY, 3, pretrained=False, image_size=24, keep_maps=False, reduction=4)
    output = model(torch.randn(2, 3, 24, 32))
    tokens, size = 3 + 4 + 12, 128 // 4
    assert isinstance(output.attentions, RemadeMaps)
    held = [*output.attentions.queries, *output.attentions.keys]
    assert [tensor.shape for tensor in held] == [(2, 4, tokens, size)] * 2 * 6
    assert all(not tensor.requires_grad for tensor in held)


def test_large_images_are_not_kept_unless_asked_for(monkeypatch):
    def kept(keep_maps, tokens):
        monkeypatch.setattr(encoders, "MOST_TOKENS_KEPT", tokens)
        options = {"image_size": 24, "reduction": 4, "keep_maps": keep_maps}
        output = create_cam_model(TINY, 3, pretrained=False, **options)(torch.randn(1, 3, 24, 32))
        return isinstance(output.attentions, KeptMaps)

    assert kept(None, 19) and not kept(None, 18)  # 3 classes, 4 registers, 12 patches
    assert kept(True, 18) and not kept(False, 19)
    with torch.inference_mode():
        assert kept(None, 1), "inference keeps more"
        monkeypatch.setattr(encoders, "MOST_TOKENS_KEPT_IN_INFERENCE", 18)
        assert not kept(None, 19)


def hooks(model):
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


@BOTH_MODES
def test_nothing_stays_hooked_after_a_forward_pass(keep_maps):
    model = create_cam_model(PLAIN, 3, pretrained=False, image_size=24, keep_maps=keep_maps)
    model(torch.randn(1, 3, 24, 24))
    assert not any(hooks(model))
    model.encoder.vit.blocks[-1].mlp = None  # the last block fails, after its attention
    with pytest.raises(TypeError):
        model(torch.randn(1, 3, 24, 24))
    assert not any(hooks(model))


@BOTH_MODES
def test_a_copy_has_maps_of_its_own(keep_maps):
    model = create_cam_model(PLAIN, 3, pretrained=False, image_size=24, keep_maps=keep_maps).eval()
    x = torch.randn(1, 3, 24, 24)
    first = model(x)
    second = copy.deepcopy(model)(x)
    assert len(first.attentions) == len(second.attentions) == 6
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.attentions, second.attentions, strict=True))


def test_tapped_collects_inputs_and_outputs_while_it_is_open():
    vit = make_vit({"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}, image_size=16)
    for block in vit.blocks:
        block.attn.fused_attn = False
    x = torch.randn(1, 3, 16, 16)
    with tapped(vit.blocks, inputs_of=["attn_drop"], outputs_of=["q_norm", "k_norm", "proj"]) as seen:
        vit(x)
    vit(x)
    assert {name: len(tensors) for name, tensors in seen.items()} == dict.fromkeys(seen, 2)
    for block in range(2):
        q, k, found = seen["q_norm"][block], seen["k_norm"][block], seen["attn_drop"][block]
        assert q.shape == (1, 3, 5, 8) and seen["proj"][block].shape == (1, 5, 24)
        scores = torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()) / 8**0.5
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        assert naive.error(found, weights) < 1e-6
    assert not any(tensor.requires_grad for tensors in seen.values() for tensor in tensors)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backbone", [PLAIN, EVA, DINO], ids=["vit", "eva02", "dinov2"])
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-3), ("bf16", 0.05)])
def test_both_modes_give_the_cpus_step_on_the_gpu(backbone, precision, within):
    expected, loss, gradients = step_of(backbone, True, train=False)
    for keep_maps in (True, False):
        output, found, on_gpu = step_of(backbone, keep_maps, train=False, device="cuda", precision=precision)
        for name in ("cls_logits", "fine_cam", "patch_attention", "head_weights"):
            assert naive.error(getattr(output, name).float().cpu(), getattr(expected, name)) < within, name
        assert found.item() == pytest.approx(loss.item(), rel=within)
        for name, gradient in gradients.items():
            assert naive.error(on_gpu[name].cpu(), gradient) < 4 * within, name


# ---------------------------------------------------------------- properties of the fusion


def maps_and_branches(seed, layers, heads, tokens=5, size=8):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.rand(2, heads, tokens, tokens, generator=generator).softmax(-1) for _ in range(layers)]
    return maps, [torch.randn(2, tokens, size * heads, generator=generator) for _ in range(layers)]


@PROPERTY
@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 4))
def test_all_weights_one_is_the_mean_fusion(seed, layers, heads):
    maps, branches = maps_and_branches(seed, layers, heads)
    learned = AttentionFusion(layers, heads, 8 * heads, variant="learned")
    torch.nn.init.constant_(learned.logits, 1e4)
    ones, fused = learned(KeptMaps(maps), branches)
    assert torch.equal(ones, torch.ones(2, layers, heads))
    assert naive.error(fused, torch.stack(maps).mean((0, 2))) < 1e-6
    _, mean = AttentionFusion(layers, heads, 8 * heads, variant="mean")(KeptMaps(maps), branches)
    assert naive.error(fused, mean) < 1e-6


@PROPERTY
@given(st.integers(0, 999), st.integers(1, 3), st.permutations(range(4)), st.sampled_from(["max", "avg"]))
def test_permuting_the_heads_permutes_their_weights(seed, layers, order, pool):
    maps, branches = maps_and_branches(seed, layers, heads=4)
    torch.manual_seed(seed)
    fusion = AttentionFusion(layers, 4, 32, pool=pool, reduction=2)
    weights, fused = fusion(KeptMaps(maps), branches)
    places = [head * layers + layer for head in order for layer in range(layers)]  # head-major
    first, second = fusion.head_ffn[0], fusion.head_ffn[2]
    first.weight.data, second.weight.data = first.weight.data[:, places], second.weight.data[places]
    channels = [d * 4 + head for d in range(8) for head in order]  # head index fastest
    permuted, same = fusion(KeptMaps([m[:, list(order)] for m in maps]), [b[..., channels] for b in branches])
    assert naive.error(permuted, weights[:, :, list(order)]) < 1e-5
    assert naive.error(same, fused) < 1e-5


# ---------------------------------------------------------------- beyond the paper


def test_balanced_attention_gives_away_as_much_as_it_takes_in():
    generator = torch.Generator().manual_seed(3)
    attention = torch.rand(2, 20, 20, generator=generator).softmax(-1)
    attention[:, :, 4] *= 50  # a patch that all others attend to
    balanced = balance(attention)
    assert torch.equal(balanced, balanced.transpose(1, 2))
    assert naive.error(balanced.sum(1), torch.ones(2, 20)) < 1e-3
    once_more = attention * torch.rand(2, 20, 1, generator=generator)  # what its rows add up to does not matter
    assert naive.error(balance(once_more), balanced) < 1e-2


def test_compositions_beyond_the_paper_follow_their_definitions():
    model = import_released_cam(naive.random_cam_checkpoint(), num_heads=3)
    with torch.inference_mode():
        output = model(torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(5)))
    lifted = cam_variant(output, "lifted", refined=False)
    for image, c in np.ndindex(lifted.shape[:2]):
        coarse = output.coarse_cam[image, c]
        assert torch.equal(lifted[image, c], output.cross_attention[image, c] * (coarse - coarse.min()))
    for refined in (True, False):
        published = cam_variant(output, "fused", refined)
        assert torch.equal(published, output.fine_cam if refined else output.fused_cam)
    attention = output.patch_attention.numpy().astype(float)
    for _ in range(3):
        attention = attention / attention.sum(2)[:, :, None]
        attention = attention / attention.sum(1)[:, None, :]
    symmetric = (attention + attention.transpose(0, 2, 1)) / 2
    expected = np.einsum("bij,bcj->bci", symmetric, output.fused_cam.flatten(2).numpy())
    made = cam_variant(output, "fused", True, balanced=True)
    assert naive.error(made.flatten(2), torch.from_numpy(expected)) < 1e-5


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("fusion", "adaptve", ["adaptive", "mean", "random", "learned", "last-k"]),
        ("pool", "median", ["max", "avg"]),
    ],
)
def test_unknown_option_is_refused_with_the_choices(option, value, choices):
    with pytest.raises(ValueError) as caught:
        create_cam_model(TINY, 3, pretrained=False, image_size=24, **{option: value})
    assert all(word in str(caught.value) for word in [repr(value), *choices])


def test_unknown_cam_kind_is_refused_with_the_choices():
    output = import_released_cam(naive.random_cam_checkpoint(), num_heads=3)(torch.randn(1, 3, 24, 24))
    with pytest.raises(ValueError, match=r"'coarse'.*fused, patchcam, attn"):
        cam_variant(output, "coarse")


@pytest.mark.parametrize("last_k", [0, 7, -1])
def test_last_k_outside_the_depth_is_refused(last_k):
    with pytest.raises(ValueError, match=rf"{last_k}\b.*6"):
        create_cam_model(TINY, 3, pretrained=False, image_size=24, fusion="last-k", last_k=last_k)


def test_reduction_that_leaves_no_unit_is_refused():
    with pytest.raises(ValueError, match="25"):
        create_cam_model(TINY, 3, pretrained=False, image_size=24, reduction=25)


@pytest.mark.parametrize("backbone", ["deit_smal_patch16_224", "resnet18", ""])
def test_backbone_that_is_no_plain_vit_is_refused_by_name(backbone):
    with pytest.raises(UserError, match=f"'{backbone}'"):
        create_cam_model(backbone, 3, pretrained=False)


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="0"):
        create_cam_model(TINY, 0, pretrained=False, image_size=24)


def test_missing_weights_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"absent\.safetensors"):
        create_cam_model(TINY, 3, weights=str(tmp_path / "absent.safetensors"))


@pytest.mark.parametrize(
    "key",
    [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.bias",
        "blocks.1.attn.qkv.bias",
        "head.weight",
        "head.bias",
        "adaptive_attention_fusion.attn_feat_ffn.0.weight",
        "adaptive_attention_fusion.attn_head_ffn.2.weight",
    ],
)
def test_import_names_a_missing_key(key):
    state = naive.random_cam_checkpoint()
    del state[key]
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        import_released_cam(state, num_heads=3)


@pytest.mark.parametrize("key", ["blocks.0.attn.rel_pos", "head.extra", "optimizer"])
def test_import_names_an_unknown_key(key):
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        import_released_cam(naive.random_cam_checkpoint() | {key: torch.zeros(2)}, num_heads=3)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("blocks.1.mlp.fc1.weight", (7, 48)),
        ("head.bias", (9,)),
        ("adaptive_attention_fusion.attn_head_ffn.2.weight", (6, 2)),
        ("patch_embed.proj.bias", (47,)),
    ],
)
def test_import_names_a_misshapen_key_and_its_shape(key, shape):
    state = naive.random_cam_checkpoint() | {key: torch.zeros(shape)}
    with pytest.raises(UserError) as caught:
        import_released_cam(state, num_heads=3)
    assert key in str(caught.value) and str(tuple(shape)) in str(caught.value)


def test_import_reads_any_reduction_off_the_tensors():
    state = naive.random_cam_checkpoint(layers=3, reduction=1.25)  # 9 maps, 7 hidden units
    assert state["adaptive_attention_fusion.attn_head_ffn.0.weight"].shape == (7, 9)
    output = import_released_cam(state, num_heads=3)(torch.ones(1, 3, 24, 24))
    assert output.head_weights.shape == (1, 3, 3)


def test_import_refuses_other_steps_and_head_counts():
    with pytest.raises(UserError, match="step-2"):
        import_released_cam(naive.random_segmenter_checkpoint(), num_heads=3)
    for heads in (5, 6, 12):
        with pytest.raises(UserError, match=f"num_heads {heads}"):
            import_released_cam(naive.random_cam_checkpoint(), num_heads=heads)


def test_unreadable_checkpoints_are_refused_by_name(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(path)
    save_model(import_released_cam(naive.random_cam_checkpoint(), num_heads=3), path)
    with pytest.raises(UserError, match=r"num_classes 3.*20"):
        load_model(path, num_classes=20)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(path)

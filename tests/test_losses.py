"""Losses of both steps against naive loops and against the authors' released code."""

from types import SimpleNamespace

import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weaktr.method.cam_training import cam_losses
from weaktr.method.clipping import gradient_clipping

SCOPES = ["batch", "image", "own", "local", "global", "none"]
PROPERTY = settings(deadline=None, derandomize=True, max_examples=40)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_batch(seed, batch=2, classes=3, height=12, width=18, void=0.1, confidence=3.0):
    generator = np.random.default_rng(seed)
    logits = confidence * generator.standard_normal((batch, classes, height, width)).astype(np.float32)
    target = generator.integers(0, classes, (batch, height, width))
    target[generator.random(target.shape) < void] = 255
    return torch.tensor(logits, requires_grad=True), torch.tensor(target)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("start_value", [0.5, 100.0], ids=["above-start-value", "clipping"])
def test_clipping_agrees_with_naive_loops(scope, start_value):
    logits, target = random_batch(seed=3)
    clipped = gradient_clipping(logits, target, start_value, 6, scope=scope)
    clipped.loss.backward()
    expected = naive.gradient_clipping(logits.detach().numpy(), target.numpy(), start_value, 6, scope=scope)
    assert naive.error(clipped.loss, expected["loss"]) < 1e-6
    assert naive.error(clipped.pixel_loss, expected["pixel_loss"]) < 1e-6
    assert np.array_equal(clipped.kept.numpy(), expected["kept"])
    threshold = clipped.threshold.expand_as(clipped.pixel_loss).numpy()
    assert np.array_equal(np.isinf(threshold), np.isinf(expected["threshold"]))
    assert np.allclose(threshold, expected["threshold"], rtol=1e-6)
    assert naive.error(logits.grad, expected["grad"]) < 1e-5
    if start_value == 100 and scope != "none":
        assert 0 < expected["kept"].mean() < 1


@pytest.mark.parametrize("case", range(4))
def test_clipping_agrees_with_released_code(shared, case):
    golden = np.load(shared / "goldens" / "clipping.npz")
    logits = torch.tensor(golden[f"{case}/logits"], requires_grad=True)
    clipped = gradient_clipping(
        logits,
        torch.tensor(golden[f"{case}/target"]),
        float(golden[f"{case}/start_value"]),
        int(golden[f"{case}/patch_size"]),
    )
    clipped.loss.backward()
    assert naive.error(clipped.loss, golden[f"{case}/loss"]) < 1e-5
    assert naive.error(clipped.pixel_loss, golden[f"{case}/loss_map"]) < 1e-5
    clipped_map = torch.minimum(clipped.pixel_loss, clipped.threshold)
    assert naive.error(clipped_map, golden[f"{case}/clipped_map"]) < 1e-5
    assert naive.error(logits.grad, golden[f"{case}/grad"]) < 1e-4


def test_equal_losses_are_all_kept_with_their_whole_gradient():
    logits = torch.zeros(2, 2, 8, 8)
    logits[:, 1] = 32  # every loss is exactly 32 in float32, and so is every mean
    logits.requires_grad_()
    clipped = gradient_clipping(logits, torch.zeros(2, 8, 8, dtype=torch.long), 50.0, 4)
    clipped.loss.backward()
    assert (clipped.pixel_loss == 32).all() and (clipped.threshold == 32).all() and clipped.kept.all()
    assert torch.allclose(logits.grad[:, 0], torch.tensor(-1 / 128))


@pytest.mark.parametrize("scope", SCOPES)
def test_rounding_of_the_mean_clips_no_equal_loss(scope):
    logits = torch.zeros(3, 3, 12, 18, requires_grad=True)  # every loss is log 3, whose float32 mean may be lower
    clipped = gradient_clipping(logits, torch.zeros(3, 12, 18, dtype=torch.long), 3.0, 6, scope=scope)
    assert clipped.kept.all() and clipped.loss.item() == pytest.approx(np.log(3))


def test_a_batch_of_void_pixels_has_no_loss_and_no_gradient():
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    clipped = gradient_clipping(logits, torch.full((1, 8, 8), 255), 1.2, 4)
    clipped.loss.backward()
    assert clipped.loss.item() == 0 and logits.grad.abs().max() == 0


def test_void_pixels_count_in_the_means():
    logits = torch.zeros(1, 2, 4, 4)
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[:, :2] = 255
    assert gradient_clipping(logits, target, 0.0, 4).loss.item() == pytest.approx(np.log(2) / 2)


def test_another_ignore_label():
    logits, target = random_batch(seed=1, classes=3, void=0.0)
    expected = naive.gradient_clipping(logits.detach().numpy(), target.numpy(), 9.0, 6, ignore_index=1)
    assert naive.error(gradient_clipping(logits, target, 9.0, 6, ignore_index=1).loss, expected["loss"]) < 1e-6


def test_cam_losses_agree_with_naive_formula():
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (3, 5)).float()
    output = SimpleNamespace(**{f"{name}_logits": torch.randn(3, 5) for name in ("cls", "coarse", "fine")})
    losses = cam_losses(output, labels)
    assert list(losses) == ["cls", "coarse", "fine"]
    for name, loss in losses.items():
        expected = naive.soft_margin(getattr(output, f"{name}_logits").double(), labels.double())
        assert naive.error(loss, expected) < 1e-6


# ---------------------------------------------------------------- properties


@PROPERTY
@given(st.integers(0, 9999), st.sampled_from(SCOPES), st.sampled_from([1, 2, 3, 6]), st.floats(0, 5))
def test_clipping_never_raises_the_loss(seed, scope, patch_size, start_value):
    logits, target = random_batch(seed)
    clipped = gradient_clipping(logits, target, start_value, patch_size, scope=scope)
    assert clipped.loss.item() <= clipped.pixel_loss.mean().item() * (1 + 1e-6)
    assert torch.equal(clipped.kept, clipped.pixel_loss <= clipped.threshold)


@PROPERTY
@given(st.integers(0, 9999), st.sampled_from(SCOPES), st.sampled_from([2, 6]), st.floats(0.01, 0.999))
def test_nothing_is_clipped_while_the_mean_is_above_the_start_value(seed, scope, patch_size, share):
    logits, target = random_batch(seed)
    plain = gradient_clipping(logits, target, 0.0, patch_size, scope="none")
    clipped = gradient_clipping(logits, target, share * plain.loss.item(), patch_size, scope=scope)
    assert clipped.kept.all() and torch.isinf(clipped.threshold).all()
    assert clipped.loss.item() == plain.loss.item()


@PROPERTY
@given(st.integers(0, 9999), st.sampled_from(["batch", "image", "own", "local", "global"]), st.sampled_from([2, 3, 6]))
def test_clipped_pixels_have_no_gradient_and_the_others_the_plain_one(seed, scope, patch_size):
    logits, target = random_batch(seed)
    clipped = gradient_clipping(logits, target, 100.0, patch_size, scope=scope)
    (gradient,) = torch.autograd.grad(clipped.loss, logits)
    plain = gradient_clipping(logits, target, 100.0, patch_size, scope="none").loss
    (expected,) = torch.autograd.grad(plain, logits)
    kept = clipped.kept[:, None].expand_as(gradient)
    assert gradient[~kept].abs().sum() == 0
    assert torch.allclose(gradient[kept], expected[kept], rtol=1e-5, atol=1e-9)
    assert not clipped.threshold.requires_grad and not clipped.pixel_loss.requires_grad


@PROPERTY
@given(st.integers(0, 9999), st.sampled_from([1, 2, 3, 6]), st.floats(0.5, 4))
def test_an_image_alone_is_a_batch_of_one(seed, patch_size, start_value):
    logits, target = random_batch(seed, batch=1)
    own, batch = (gradient_clipping(logits, target, start_value, patch_size, scope=scope) for scope in ("own", "batch"))
    assert torch.equal(own.loss, batch.loss) and torch.equal(own.kept, batch.kept)
    assert torch.equal(own.threshold.expand_as(own.kept), batch.threshold.expand_as(batch.kept))


@PROPERTY
@given(st.integers(0, 9999), st.sampled_from([1, 2, 3, 6]), st.floats(0.5, 4))
def test_own_clipping_is_the_mean_over_images_clipped_alone(seed, patch_size, start_value):
    """Loss, gradient, thresholds and clipped pixels; images of different confidence start at different times."""
    logits, target = random_batch(seed, batch=3)
    logits = (logits * torch.tensor([0.5, 1.0, 2.0])[:, None, None, None]).detach().requires_grad_()
    together = gradient_clipping(logits, target, start_value, patch_size, scope="own")
    alone = [gradient_clipping(logits[b : b + 1], target[b : b + 1], start_value, patch_size) for b in range(3)]
    loss = torch.stack([one.loss for one in alone]).mean()
    assert together.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.equal(together.kept, torch.cat([one.kept for one in alone]))
    thresholds = torch.cat([one.threshold.expand(1, 12, 18) for one in alone])
    assert torch.equal(together.threshold.expand_as(thresholds), thresholds)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (together.loss, loss)]
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-9)


@PROPERTY
@given(st.integers(0, 9999), st.sampled_from(SCOPES), st.permutations(range(3)))
def test_the_order_of_the_images_does_not_matter(seed, scope, order):
    logits, target = random_batch(seed, batch=3)
    first = gradient_clipping(logits, target, 2.5, 6, scope=scope)
    second = gradient_clipping(logits[order], target[order], 2.5, 6, scope=scope)
    assert second.loss.item() == pytest.approx(first.loss.item(), rel=1e-6)
    thresholds = [clipped.threshold.expand(3, 12, 18) for clipped in (first, second)]
    assert torch.allclose(thresholds[1], thresholds[0][order], rtol=1e-6)


def test_each_image_has_its_own_start():
    """One image above τ and one below it: with "own" only the latter is clipped, with "image" both or none."""
    logits, target = random_batch(5)
    logits = logits.detach() * torch.tensor([0.2, 3.0])[:, None, None, None]
    means = gradient_clipping(logits, target, 0.0, 6, scope="none").pixel_loss.mean((1, 2))
    low, high = means.min().item(), means.max().item()
    clipped = ~gradient_clipping(logits, target, (low + 0.4 * (high - low)), 6, scope="own").kept
    assert clipped[means.argmin()].any() and not clipped[means.argmax()].any()
    assert gradient_clipping(logits, target, (low + 0.4 * (high - low)), 6, scope="image").kept.all()


# ---------------------------------------------------------------- bad input


def test_unknown_scope_is_refused_with_the_choices():
    logits, target = random_batch(0)
    with pytest.raises(ValueError) as caught:
        gradient_clipping(logits, target, 1.2, 6, scope="pixel")
    assert all(word in str(caught.value) for word in ["'pixel'", *SCOPES])


@pytest.mark.parametrize("patch_size", [5, 0, -2, 24])
def test_cells_that_do_not_divide_the_crop_are_refused(patch_size):
    logits, target = random_batch(0)
    with pytest.raises(ValueError, match=rf"{patch_size}\b.*12.*18"):
        gradient_clipping(logits, target, 1.2, patch_size)


@pytest.mark.parametrize("cut", [np.s_[:1], np.s_[:, :6], np.s_[..., :17]])
def test_logits_and_target_of_different_sizes_are_refused(cut):
    logits, target = random_batch(0)
    with pytest.raises(ValueError, match=r"\(2, 3, 12, 18\)"):
        gradient_clipping(logits, target[cut], 1.2, 6)


@pytest.mark.parametrize("label", [3, 254, -1])
def test_labels_outside_the_classes_are_refused_by_value(label):
    logits, target = random_batch(0)
    target[0, 4, 5] = label
    with pytest.raises(ValueError, match=rf"{label}\b"):
        gradient_clipping(logits, target, 1.2, 6)

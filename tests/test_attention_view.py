"""What is seen from a patch, with heads weighed by hand: against loops, and against the network's own CAM."""

import numpy as np
import pytest
import torch

from weaktr import plots
from weaktr.method import attention_view
from weaktr.method.cam_generation import look
from weaktr.models.cam import create_cam_model
from weaktr.workbench.attention_widget import AttentionWidget

CLASSES = ["cat", "dog", "owl"]
BOTH_MODES = pytest.mark.parametrize("keep_maps", [True, False], ids=["kept", "remade"])


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def make_model(keep_maps=None):
    torch.manual_seed(0)
    network = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "reg_tokens": 2}
    model = create_cam_model(
        network, len(CLASSES), pretrained=False, image_size=40, reduction=2, keep_maps=keep_maps
    ).eval()
    with torch.no_grad():
        for layer in model.fusion.head_ffn[::2]:
            layer.weight.mul_(10)  # else every head of every image weighs 0.5
    return model


def naive_maps(output, weights, c, place):
    """The five maps by loops over heads and patches, in float64."""
    layers, heads = weights.shape
    rows, columns = output.coarse_cam.shape[2:]
    patches, classes = rows * columns, len(CLASSES)
    fused = sum(
        weights[layer, head] * output.attentions[layer][0, head].double().numpy()
        for layer in range(layers)
        for head in range(heads)
    )
    fused = fused / (layers * heads)
    first = len(fused) - patches
    assert first == classes + 2, "class tokens, then registers"
    coarse = output.coarse_cam[0, c].double().numpy().ravel()
    cam = np.array([fused[c, first + j] * max(coarse[j], 0) for j in range(patches)])
    fine = np.array([sum(fused[first + i, first + j] * cam[j] for j in range(patches)) for i in range(patches)])
    patch = fused[first + place[0] * columns + place[1], first:]
    return {"patch": patch, "class token": fused[c, first:], "coarse": coarse, "fused": cam, "fine": fine}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert np.abs(found[name].ravel() - values).max() <= 1e-6 * max(np.abs(values).max(), 1e-3), name


@BOTH_MODES
def test_the_network_s_own_weights_give_its_own_cam(image, keep_maps):
    """To the last bit: the same functions in the same order."""
    output = look(make_model(keep_maps), image)
    weights = attention_view.head_weights(output)
    composed = attention_view.compose_weighed(output, weights)
    for name in ("cross_attention", "patch_attention", "fused_cam", "fine_cam"):
        assert torch.equal(getattr(composed, name), getattr(output, name)), name
    seen = attention_view.seen_from(output, 1, (2, 3), weights)
    assert np.array_equal(seen["fine"], output.fine_cam[0, 1].numpy())
    assert np.array_equal(seen["patch"].ravel(), output.patch_attention[0, 2 * 7 + 3].numpy())
    assert_same(seen, naive_maps(output, weights, 1, (2, 3)))


@BOTH_MODES
def test_heads_that_are_off_weigh_nothing(image, keep_maps):
    output = look(make_model(keep_maps), image)
    weights = attention_view.head_weights(output)
    weights[1] = 0
    weights[2, 3] = 0
    assert_same(attention_view.seen_from(output, 2, (0, 6), weights), naive_maps(output, weights, 2, (0, 6)))
    none = attention_view.seen_from(output, 2, (0, 6), np.zeros_like(weights))
    assert not any(none[name].any() for name in ("patch", "class token", "fused", "fine")) and none["coarse"].any()


def test_a_layer_and_a_head_by_themselves(image):
    """They choose whose rows are seen; the CAMs stay those of all heads. A head is seen even while it is off."""
    output = look(make_model(), image)
    weights = attention_view.head_weights(output)
    weights[1, 2] = 0
    whole = attention_view.seen_from(output, 0, (4, 1), weights)
    alone = np.zeros_like(weights)
    alone[1] = weights[1]
    of_layer = naive_maps(output, alone, 0, (4, 1))
    layer = attention_view.seen_from(output, 0, (4, 1), weights, 1)
    one = attention_view.seen_from(output, 0, (4, 1), weights, 1, 2)
    for name, row in (("patch", 3 + 2 + 4 * 7 + 1), ("class token", 0)):
        assert np.allclose(layer[name].ravel(), of_layer[name], atol=1e-7)
        share = output.attentions[1][0, 2, row, 5:].numpy() / weights.size
        assert np.allclose(one[name].ravel(), share, atol=1e-7)
    for name in ("coarse", "fused", "fine"):
        assert np.array_equal(layer[name], whole[name]) and np.array_equal(one[name], whole[name])


def test_the_brightest_patch_is_that_of_the_class(image):
    output = look(make_model(), image)
    for c in range(3):
        place = attention_view.brightest(output, c)
        assert output.fine_cam[0, c][place] == output.fine_cam[0, c].max()


def test_the_figure_says_what_it_shows(image):
    output = look(make_model(), image)
    weights = attention_view.head_weights(output)
    seen = attention_view.seen_from(output, 1, (2, 3), weights)
    figure = plots.attention_of_place(image, seen, (2, 3), weights, "dog")
    titles = [ax.get_title() for ax in figure.axes]
    assert "attention of “dog”" in [title.replace("\n", " ") for title in titles] and "fine CAM" in titles
    *pictures, bars = figure.axes
    assert [bar.get_height() for bar in bars.patches] == weights.ravel().tolist()
    for ax in pictures:
        (square,) = ax.patches
        assert square.get_xy() == (3 * 8 - 0.5, 2 * 8 - 0.5) and square.get_width() == square.get_height() == 8


# ── The kernel's half of the widget; the browser's is tested in test_browser.py ──────────────────────────────────
@pytest.fixture
def widget(image):
    model = make_model()
    images = {"first": image, "small": image[:24, :32]}
    choices = {"first · dog": ("first", 1), "small · owl": ("small", 2)}
    return AttentionWidget(lambda shown: look(model, shown), images.get, choices, CLASSES)


def maps_of(widget):
    rows, columns = widget.view["grid"]
    return np.frombuffer(widget.view["maps"], np.uint8).reshape(5, rows, columns)


def test_a_touch_makes_other_maps(widget):
    assert maps_of(widget)[4][tuple(widget.place)] == 255, "it starts where the fine CAM is highest"
    start = maps_of(widget)
    widget.place = [1, 1] if widget.place != [1, 1] else [2, 2]
    moved = maps_of(widget)
    assert (moved[0] != start[0]).any() and np.array_equal(moved[1:], start[1:])
    widget.shown = [2, 1]
    other = maps_of(widget)
    assert (other[:2] != moved[:2]).any((1, 2)).all() and np.array_equal(other[2:], moved[2:])
    widget.on = [False, *[True] * 11]
    assert (maps_of(widget)[4] != other[4]).any() and "11 of 12 heads" in widget.view["text"]
    widget.on = [False] * 12
    assert not maps_of(widget)[3:].any()


def test_another_image_has_its_own_grid_and_weights(widget):
    widget.place = [4, 6]
    before = widget.scene
    widget.choice = 1
    assert widget.view["grid"] == [3, 4] and widget.view["place"] == [2, 3], "as far as the smaller image reaches"
    assert "attention of “owl”" in widget.scene["titles"]
    assert widget.scene["photo"][:2] == b"\xff\xd8" and widget.scene["photo"] != before["photo"]
    assert widget.scene["weights"] != before["weights"]


def test_the_widget_s_state_stays_small(widget):
    """A map has a byte for each patch; the network's output is no part of it."""
    assert len(widget.view["maps"]) == 5 * 5 * 7
    own = {name: widget.get_state()[name] for name in ("choices", "colours", "scene", "view", "place", "shown", "on")}
    assert len(repr(own)) < 20_000

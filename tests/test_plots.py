"""Every figure: the right panels, the data it was given, and no clipped or overlapping text."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from weaktr import plots
from weaktr.data.coco import NAMES as COCO_NAMES
from weaktr.data.coco import USED
from weaktr.data.voc import VOC_CLASSES
from weaktr.evaluation.scores import clipping_scores
from weaktr.plots.labels import CHANGES, CLIPPING
from weaktr.plots.style import style

CLASSES = ("bear", "cat", "elephant", "lion", "owl", "parrot", "pig", "rabbit")


def drawn_texts(figure):
    """Texts of a figure that has been drawn, without the tick labels outside an axis' range."""
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-6 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (ax.get_visible() and ax.axison and low - margin <= tick.get_loc() <= high + margin):
                    hidden |= {tick.label1, tick.label2}
        if not ax.get_visible():
            hidden |= set(ax.findobj(Text))
    return [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def check(figure):
    """Draw with Agg; no text may leave the figure or touch another text. Returns the texts' strings."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = drawn_texts(figure)
    boxes = np.array([text.get_window_extent(canvas.get_renderer()).extents for text in texts])
    width, height = figure.bbox.size
    for text, (left, bottom, right, top) in zip(texts, boxes):
        inside = left > -1 and bottom > -1 and right < width + 1 and top < height + 1
        assert inside, f"{text.get_text()!r} leaves the figure: {left:.0f} {bottom:.0f} {right:.0f} {top:.0f}"
    shared = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    clashes = np.argwhere(np.triu((shared > 1.5).all(-1), 1))
    assert not len(clashes), [(texts[i].get_text(), texts[j].get_text()) for i, j in clashes[:5]]
    assert not plt.get_fignums(), "pyplot holds a figure"
    return [text.get_text() for text in texts]


def pictures(figure):
    """Array drawn in each axes that shows an image or a matrix."""
    shown = [[*ax.images, *(drawn for drawn in ax.collections if isinstance(drawn, QuadMesh))] for ax in figure.axes]
    return [drawn[-1].get_array() for drawn in shown if drawn]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def scenes(rng):
    """Images and masks of four shapes, an object of class i + 1 in a void border."""
    out = []
    for i, (height, width) in enumerate(((56, 48), (48, 56), (52, 52), (48, 64))):
        mask = np.zeros((height, width), np.uint8)
        mask[10:40, 10:40] = 255
        mask[12:38, 12:38] = i + 1
        out.append((rng.integers(0, 256, (height, width, 3), dtype=np.uint8), mask))
    return out


@pytest.fixture
def history():
    epoch = np.arange(1, 9)
    terms = {f"loss_{name}": np.exp(-epoch / k) for name, k in (("cls", 3), ("coarse", 4), ("fine", 5))}
    return pd.DataFrame(
        {"epoch": epoch, "lr": 1e-3 / epoch, "loss": sum(terms.values()), **terms, "map_val": 9.0 * epoch}
    )


@pytest.fixture
def curve():
    t = np.linspace(0, 1, 41)
    return pd.DataFrame(
        {"threshold": t, "miou": 60 - 100 * (t - 0.4) ** 2, "background": 80 - 9 * t, "cat": 50 - 9 * t}
    )


# ── The room ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_room_exports_what_it_names():
    assert sorted(plots.__all__) == plots.__all__
    assert all(hasattr(plots, name) for name in plots.__all__)


def test_notebooks_use_only_what_the_room_exports():
    used = set()
    for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        used |= set(re.findall(r"\bplots\.(\w+)", code))
    assert len(used) > 20 and used <= set(plots.__all__)


# ── Style and masks ───────────────────────────────────────────────────────────────────────────────────────────────
def test_style_is_paper_ready_and_leaves_no_trace():
    before = plt.rcParams["pdf.fonttype"]
    with style():
        assert plt.rcParams["pdf.fonttype"] == 42 and not plt.rcParams["text.usetex"]
    assert plt.rcParams["pdf.fonttype"] == before
    with plt.rc_context():
        plots.use_style()
        assert plt.rcParams["pdf.fonttype"] == 42


def test_colour_mask_is_the_palette_lightened_with_a_light_void():
    colours = plots.colour_mask(np.array([[0, 1, 2, 255]], np.uint8))
    assert colours.shape == (1, 4, 3) and colours.dtype == np.uint8
    assert colours[0, :3].tolist() == [[0, 0, 0], [180, 0, 0], [0, 180, 0]] and colours[0, 3].min() > 220
    every = plots.colour_mask(np.arange(21, dtype=np.uint8)[None])[0].astype(int)
    apart = np.abs(every[:, None] - every[None]).sum(-1) + 999 * np.eye(21, dtype=int)
    assert apart.min() >= 40, "no class of VOC12 looks like another, or like background"


def test_heat_lies_over_the_grey_image():
    image = np.full((4, 6, 3), 200, np.uint8)
    picture = plots.heat(image, np.linspace(0, 1, 24).reshape(4, 6))
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert picture[0, 0].max() < 70 < 120 < picture[-1, -1].min(), "dark where there is none"
    assert (plots.heat(0 * image, np.zeros((4, 6))) < plots.heat(image, np.zeros((4, 6)))).all()


# ── Picture grids ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("count", [1, 4, 9])
def test_sample_sheet(scenes, count):
    images, masks = zip(*(scenes * 3)[:count])
    titles = (["cat, elephant, parrot", "owl", "rabbit", "lion, bear"] * 3)[:count]
    figure = plots.sample_sheet(images, masks, titles, CLASSES)
    assert {"background", "bear", "void"} <= set(check(figure))
    np.testing.assert_array_equal(pictures(figure)[0], images[0])
    np.testing.assert_array_equal(pictures(figure)[min(count, 6)], plots.colour_mask(masks[0]))


def test_sample_sheet_refuses_a_missing_title(scenes):
    images, masks = zip(*scenes)
    with pytest.raises(ValueError):
        plots.sample_sheet(images, masks, ["one"], CLASSES)


def test_qualitative_grid(scenes):
    rows = [{"image": image, "seed": mask, "truth": mask} for image, mask in scenes[:2]]
    figure = plots.qualitative_grid(rows, CLASSES)
    texts = check(figure)
    assert len(figure.axes) == 6 and {"image", "seed", "truth", "bear", "cat"} <= set(texts) and "elephant" not in texts
    np.testing.assert_array_equal(pictures(figure)[5], plots.colour_mask(rows[1]["truth"]))


@pytest.mark.parametrize("height, rotation", [(240, 90), (100, 0)])
def test_names_of_flat_rows_stay_beside_their_rows(height, rotation):
    flat = np.zeros((height, 320, 3), np.uint8)
    figure = plots.qualitative_grid([{"image": flat, "truth": flat[..., 0]}] * 3, CLASSES, ["horse, person, cow"] * 3)
    check(figure)
    names = [ax.yaxis.label for ax in figure.axes[::2]]
    assert [name.get_text().replace("\n", " ") for name in names] == ["horse, person, cow"] * 3
    assert {name.get_rotation() for name in names} == {rotation}


def test_label_outside_the_classes_is_named_by_number(scenes):
    image, mask = scenes[0]
    assert "label 77" in check(
        plots.qualitative_grid([{"image": image, "mask": np.where(mask == 1, 77, mask)}], CLASSES)
    )


def test_a_legend_of_many_long_names_stays_in_the_figure(rng):
    """Four photographs that show all of COCO's classes."""
    images = [rng.integers(0, 256, (60, 80, 3), np.uint8) for _ in range(4)]
    masks = np.arange(1, 81, dtype=np.uint8).repeat(60).reshape(4, 60, 20).repeat(4, axis=2)
    names = [COCO_NAMES[i - 1] for i in USED]
    figure = plots.sample_sheet(images, list(masks), ["" for _ in images], names)
    assert set(names) <= set(check(figure))


def test_a_grid_without_masks_has_no_legend(scenes):
    figure = plots.qualitative_grid([{"photograph": scenes[0][0]}], CLASSES)
    assert check(figure) == ["photograph"] and not figure.legends


def test_cam_stages(scenes, rng):
    rows = []
    for i, (image, mask) in enumerate(scenes):
        maps = {name: rng.normal(size=(6, 7)).astype(np.float16) for name in ("coarse", "attention", "fused", "fine")}
        rows.append({"image": image, "truth": mask, "class_index": i, **maps})
    figure = plots.cam_stages(rows, CLASSES)
    texts = check(figure)
    assert len(figure.axes) == 4 * 6 + 1 and {"coarse CAM", "attention CAM", "fine CAM", "elephant"} <= set(texts)
    drawn = pictures(figure)[1]
    positive = np.maximum(rows[0]["coarse"].astype(float), 0)
    np.testing.assert_allclose(drawn, positive / positive.max(), atol=1e-3)


def test_cam_stages_takes_an_empty_map_and_a_class_that_is_not_there(scenes):
    image, mask = scenes[0]
    maps = dict.fromkeys(("coarse", "attention", "fused", "fine"), np.zeros((4, 4)))
    check(plots.cam_stages([{"image": image, "truth": mask, "class_index": 5, **maps}], CLASSES))


@pytest.mark.parametrize("layers, heads", [(2, 2), (8, 3), (12, 6)])
def test_attention_gallery(scenes, rng, layers, heads):
    weights = rng.uniform(0.3, 0.7, (layers, heads))
    figure = plots.attention_gallery(scenes[0][0], rng.random((layers, heads, 7, 6)), weights, "elephant")
    texts = check(figure)
    assert len(figure.axes) == layers * heads + 2
    assert f"{weights[1, 0]:.2f}" in texts and f"layer {layers}" in texts and f"head {heads}" in texts
    frames = [ax.spines["left"].get_edgecolor() for ax in figure.axes[: layers * heads]]
    brightness = np.array([np.dot(frame[:3], (0.3, 0.59, 0.11)) for frame in frames]).reshape(layers, heads)
    assert brightness.argmax() == weights.argmax() and brightness.argmin() == weights.argmin()


def test_label_grid_colours_what_the_crf_changed(scenes):
    image, truth = scenes[0]
    seed, refined = np.where(truth == 255, 0, truth), np.where(truth == 255, 0, truth)
    seed[20, 20] = 0  # fixed
    refined[25, 25] = 3  # broken
    seed[30, 30], refined[30, 30] = 0, 3  # wrong before and after
    figure = plots.label_grid(
        [{"image": image, "seed": seed, "refined": refined, "truth": truth}] * 2, CLASSES, ["+9", "-9"]
    )
    assert {"+9", "-9", "fixed by CRF", "broken by CRF", "change", "elephant"} <= set(check(figure))
    change = pictures(figure)[4]
    places = {"right before and after": (0, 0), "fixed by CRF": (20, 20), "broken by CRF": (25, 25),
              "wrong before and after": (30, 30), "not counted": (10, 10)}  # fmt: skip
    for label, place in places.items():
        np.testing.assert_allclose(change[place] / 255, to_rgb(CHANGES[label]), atol=0.01, err_msg=label)


def test_clipped_pixels_colours_hits_false_alarms_and_misses(scenes, rng, monkeypatch):
    image, truth = scenes[0]
    label, clipped = np.where(truth == 255, 0, truth), np.zeros(truth.shape, bool)
    label[20, 20] = label[20, 21] = 0
    clipped[20, 20] = clipped[30, 30] = clipped[10, 10] = True
    row = {"image": image, "label": label, "truth": truth, "loss": rng.random(truth.shape), "clipped": clipped}
    few = clipping_scores([row])
    assert few["wrong"][0] > 0 and few[["precision", "recall"]].isna().all(axis=None), "too few"
    monkeypatch.setattr("weaktr.evaluation.scores.FEW", 1)
    figure = plots.clipped_pixels([row, {**row, "clipped": clipped & False, "label": truth}], CLASSES)
    texts = check(figure)
    assert "precision 50%\nrecall 50%" in texts and "precision –\nrecall –" in texts
    scores = clipping_scores([row, {**row, "clipped": clipped & False, "label": truth}])
    known = (truth != 255).sum()
    np.testing.assert_allclose(scores, [[2 / known, 0.5, 0.5], [0, np.nan, np.nan]])
    places = {"kept, label right": (0, 0), "clipped, label wrong": (20, 20), "clipped, label right": (30, 30),
              "kept, label wrong": (20, 21), "not counted": (10, 10)}  # fmt: skip
    for label, place in places.items():
        np.testing.assert_allclose(pictures(figure)[5][place] / 255, to_rgb(CLIPPING[label]), atol=0.01, err_msg=label)
    np.testing.assert_array_equal(pictures(figure)[4], row["loss"])


def test_best_typical_worst(scenes):
    rows = [dict(image=image, truth=mask, prediction=mask, iou=11.0 * i) for i, (image, mask) in enumerate(scenes)]
    figure = plots.best_typical_worst({"best": rows[:3], "typical": rows[:2], "worst": rows[3:]}, CLASSES)
    texts = check(figure)
    assert {"best", "typical", "worst", "mIoU 33%"} <= set(texts)
    assert sum(text.startswith("mIoU") for text in texts) == 6


# ── Charts ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("names", [CLASSES, VOC_CLASSES])
def test_data_charts(rng, names):
    counts = pd.Series(rng.integers(1, 5000, len(names)), names)
    figure = plots.per_class_bars(counts, "Images that show each class", "images")
    assert f"{counts.max():,}" in check(figure)
    np.testing.assert_array_equal([bar.get_width() for bar in figure.axes[0].patches], sorted(counts, reverse=True))

    matrix = np.full((len(names), len(names)), 10) + 30 * np.eye(len(names), dtype=int)
    figure = plots.co_occurrence(matrix, names, "images of train (9)")
    assert check(figure).count("25") == len(names) * (len(names) - 1)
    assert np.isnan(np.diag(pictures(figure)[0].filled(np.nan))).all()


def test_training_history(history):
    figure = plots.training_history(history, "val (9)")
    assert "mAP on val (9) (%)" in check(figure)
    texts = check(figure)
    losses, _, rate = figure.axes
    assert {"epoch", "mAP on val (9) (%)", "Learning rate (1e-3)", "sum"} <= set(texts)
    np.testing.assert_allclose(losses.lines[3].get_ydata(), history["loss_fine"])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), history["lr"] * 1e3)
    history.loc[:5, "map_val"] = np.nan
    assert len(plots.training_history(history, "val (9)").axes[1].lines[0].get_ydata()) == 2


def test_training_history_of_one_epoch(history):
    one = plots.training_history(history.iloc[:1], "val (9)")
    assert "1" in check(one) and not any(text.startswith("0.9") for text in check(one))


def head_weight_table(weights, correlation):
    """What the training of step 1 logs of weights (epochs, heads)."""
    return pd.DataFrame(
        {
            "epoch": np.arange(1, len(weights) + 1),
            "head_weight_mean": weights.mean(1),
            "head_weight_std": weights.std(1),
            "head_weight_min": weights.min(1),
            "head_weight_max": weights.max(1),
            "head_weight_images_std": 0.1 * weights.std(1),
            "class_attention_correlation": correlation,
        }
    )


@pytest.mark.parametrize("low, high", [(1.0, 1.0), (0.9998, 1.0), (0.48, 0.52), (0.0, 1.0), (0.0, 6.0)])
@pytest.mark.parametrize("epochs", [1, 12, 200])
def test_head_weight_history(rng, low, high, epochs):
    weights = rng.uniform(low, high, (epochs, 24))
    table = head_weight_table(weights, np.linspace(1, -0.2, epochs))
    table.loc[1:2] = np.nan  # nothing was measured
    measured = table.dropna()
    figure = plots.head_weight_history(table, "val (9 images)")
    texts = check(figure)
    assert {"Weights of the heads\nval (9 images)", "std over heads", "mean ± std over heads", "epoch"} <= set(texts)
    mean, spread, attention = figure.axes
    np.testing.assert_array_equal(mean.lines[0].get_ydata(), measured["head_weight_mean"])
    np.testing.assert_array_equal(spread.lines[0].get_ydata(), measured["head_weight_std"])
    np.testing.assert_array_equal(spread.lines[1].get_ydata(), measured["head_weight_images_std"])
    np.testing.assert_array_equal(attention.lines[0].get_ydata(), measured["class_attention_correlation"])
    band = mean.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == measured["head_weight_min"].min() and band.max() == measured["head_weight_max"].max()
    inner = mean.collections[1].get_paths()[0].vertices[:, 1]
    assert inner.max() == (measured["head_weight_mean"] + measured["head_weight_std"]).max()
    # equal weights must look so in the left panel, whose scale is theirs, and be distinguished in the enlarged one
    top = max(1, measured["head_weight_max"].max())
    assert mean.get_ylim() == pytest.approx((-0.02 * top, 1.05 * top))
    assert spread.get_ylim()[1] <= max(1e-3, 1.2 * measured["head_weight_std"].max())
    assert attention.get_ylim()[0] <= measured["class_attention_correlation"].min() and attention.get_ylim()[1] > 1


def test_head_weight_history_without_a_measurement():
    nothing = head_weight_table(np.full((3, 8), np.nan), np.nan)
    assert "Weights of the heads\nval (9)" in check(plots.head_weight_history(nothing, "val (9)"))


def test_per_class_bars():
    values = pd.Series([60.0, np.nan, 90.0], ["bear", "cat", "owl"])
    figure = plots.per_class_bars(values, "AP by class", "AP (%)")
    assert {"AP by class", "AP (%)", "mean 75.0", "absent", "90.0"} <= set(check(figure))
    ax = figure.axes[0]
    assert [bar.get_width() for bar in ax.patches] == [90, 60, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["owl", "bear", "cat"]


@pytest.mark.parametrize("layers, heads", [(8, 3), (12, 6), (12, 1)])
def test_head_weights(rng, layers, heads):
    weights = rng.uniform(0.3, 0.7, (layers, heads))
    figure = plots.head_weights(weights, 0.02 * np.ones_like(weights), "9 images of val")
    assert {"layer", "head", "head 1"} <= set(check(figure))
    np.testing.assert_allclose(pictures(figure)[0], weights.T)
    np.testing.assert_allclose(figure.axes[1].containers[0].lines[0].get_ydata(), weights[:, 0])
    # weights that are nearly equal must look so in one of the panels, and be told apart in the other
    assert figure.axes[0].collections[0].get_clim() == (0, 1)
    equal = plots.head_weights(0.9995 + 0.0005 * weights, 1e-4 * np.ones_like(weights), "val")
    assert {"0.9996", "0.9997", "0.9998", "0.9999"} & set(check(equal))


@pytest.mark.parametrize(
    "low, high, words",
    [
        (1.0, 1.0, "mean 1.00, standard deviation below 0.005"),
        (0.48, 0.52, "mean 0.50, standard deviation 0.01"),
        (0.0, 1.0, "mean 0.50, standard deviation 0.30"),
        (0.0, 12.0, "mean 6.00, standard deviation 3.61"),
    ],
)
def test_head_weight_histogram(low, high, words):
    weights = np.linspace(low, high, 24).reshape(8, 3)
    figure = plots.head_weight_histogram(weights, "64 images of val")
    assert {words, "Weights of the 24 heads\n64 images of val", "weight in the fusion"} <= set(check(figure))
    (ax,) = figure.axes
    assert sum(bar.get_height() for bar in ax.patches) == 24
    filled = [bar for bar in ax.patches if bar.get_height()]
    assert filled[0].get_x() <= low + 1e-9 and filled[-1].get_x() + filled[-1].get_width() >= high - 1e-9
    assert ax.get_xlim()[0] < 0 and ax.get_xlim()[1] > max(1, high), "a bar at an end is seen whole"


def test_threshold_curve(curve):
    curve = curve.assign(false_positive=30 * (1 - curve["threshold"]), false_negative=30 * curve["threshold"])
    figure = plots.threshold_curve(curve, "train (9 images)", 0.3, "Otsu on the CAMs", 0.4)
    texts = check(figure)
    assert (
        "chosen, Otsu on the CAMs: t = 0.30, mIoU 59.0%" in texts
        and "best, oracle on masks: t = 0.40, mIoU 60.0%" in texts
    )
    np.testing.assert_allclose(figure.axes[0].lines[2].get_ydata(), curve["miou"])
    np.testing.assert_allclose(figure.axes[1].lines[-1].get_ydata(), curve["false_negative"])
    assert {"false positives", "false negatives", "Seed mIoU on train (9 images) (%)"} <= set(texts)
    assert not any(text.startswith("best") for text in check(plots.threshold_curve(curve, "val", chosen=0.3)))


@pytest.mark.parametrize(
    "names, panels", [(CLASSES, 1), (["background", *VOC_CLASSES], 1), ([f"a class {i}" for i in range(80)], 3)]
)
def test_iou_comparison(rng, names, panels):
    table = pd.DataFrame(rng.uniform(40, 90, (len(names), 3)), names, ["seed", "after CRF", "retrained, multi-scale"])
    figure = plots.iou_comparison(table)
    assert f"seed (mean {table['seed'].mean():.1f})" in check(figure) and len(figure.axes) == panels
    heights = [bar.get_height() for ax in figure.axes for bar in ax.containers[1]]
    np.testing.assert_allclose(heights, table["after CRF"])


def test_crf_gain():
    figure = plots.crf_gain(pd.DataFrame({"before": [50.0, 60, 70, 80], "after": [55.0, 70, 65, 80]}), "val (4 images)")
    assert "Change by CRF on val (4 images)" in check(figure)
    assert {"helped: 2 (50%)", "harmed: 1 (25%)", "unchanged: 1 (25%)", "mean +2.5"} <= set(check(figure))
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), [[50, 55], [60, 70]])


@pytest.mark.parametrize("length", [1, 4, 200])
def test_clipping_history(rng, length):
    """Shares of all pixels in the last 25th of the training; nothing is found before something is clipped."""
    history = pd.DataFrame({name: rng.random(length) for name in ("loss", "loss_unclipped")})
    history = history.assign(epoch=np.arange(length) / 10, labelled=1000, known=900, wrong=rng.integers(1, 90, length))
    clipped = rng.integers(1, 60, length)
    history = history.assign(clipped=clipped, clipped_known=clipped, clipped_wrong=clipped // 2)
    history.loc[: length // 2, ["clipped", "clipped_known", "clipped_wrong"]] = 0
    if length > 9:  # above the start value again
        history.loc[length - 2, ["clipped", "clipped_known", "clipped_wrong"]] = 0
    active = history["clipped"] > 0
    history = history.assign(known_active=history["known"] * active, wrong_active=history["wrong"] * active)
    figure = plots.clipping_history(history, "train (9 images)", start_value=0.8)
    assert {"start value 0.80", "epoch", "Share of clipped pixels"} <= set(check(figure)) and len(figure.axes) == 3
    unknown = plots.clipping_history(history, "train (9 images)", start_value=float("nan"))
    assert not any(text.startswith("start value") for text in check(unknown))
    precision, recall, base = (np.asarray(line.get_ydata()) for line in figure.axes[2].lines)
    assert np.isnan([part[: length // 2] for part in (precision, recall, base)]).all()
    last = history.iloc[-max(1, length // 25) :].sum()
    if length > 1:
        assert base[-1] == pytest.approx(last["wrong_active"] / last["known_active"])
        assert precision[-1] == pytest.approx(last["clipped_wrong"] / last["clipped_known"])
        assert recall[-1] == pytest.approx(last["clipped_wrong"] / last["wrong_active"])


@pytest.mark.parametrize("names", [CLASSES, ["background", *VOC_CLASSES], [f"name {i}" for i in range(81)]])
def test_confusion(names):
    matrix = np.diag(np.full(len(names), 300))
    matrix[0, 1] = 100
    matrix[2, 2] = 0  # a class that does not occur
    figure = plots.confusion(matrix, names, "val (9 images), no CRF")
    texts = check(figure)
    share = pictures(figure)[0]
    assert share[0, 0] == 75 and share[0, 1] == 25 and share[2].sum() == 0
    assert "Where each class' pixels go (%)\nval (9 images), no CRF" in texts
    assert (
        "true" in texts and any(text.startswith("predicted") for text in texts) and ("75" in texts) == (len(names) < 30)
    )


def test_size_against_iou(rng):
    size = np.exp(rng.uniform(-1, 3.5, 120))
    table = pd.DataFrame({"size": size, "iou": rng.uniform(0, 100, 120)})
    figure = plots.size_against_iou(table, "val (120 images)")
    assert {"a class in an image", "mean of each sixth, by size"} <= set(check(figure))
    assert "IoU of each class in an image (%)\nval (120 images)" in check(figure)
    smallest = table.nsmallest(20, "size")["iou"].mean()
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata()[0], smallest)
    check(plots.size_against_iou(table.iloc[:2], "val"))


def test_stage_bars():
    results = pd.DataFrame({
        "stage": ["raw CAM · train (2400)", "best t, oracle · train (2400)", "retrained, multi-scale · val (400)"],
        "value": [50.0, 52.0, 66.0], "list": ["train", "train", "val"], "oracle": [False, True, False],
    })  # fmt: skip
    figure = plots.stage_bars(results)
    assert {"66.0", "train", "val", "oracle: made or chosen with masks"} <= set(check(figure))
    bars = figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == [50, 52, 66] and [bool(bar.get_hatch()) for bar in bars] == [
        False,
        True,
        False,
    ]
    gap = plots.stage_bars(results.assign(value=[50.0, np.nan, 70.0]))
    assert [text.get_text() for text in gap.axes[0].texts] == ["50.0", "absent", "70.0"]


def test_score_histogram_parts_background_and_objects():
    counts = np.zeros(1000)
    counts[100:110], counts[805:815] = 60, 20
    figure = plots.score_histogram(counts, "9 images of train", 0.47, "Otsu of the CAMs, no mask")
    assert "chosen, Otsu of the CAMs, no mask: t = 0.47" in check(figure)
    heights = {round(bar.get_x(), 2): bar.get_height() for bar in figure.axes[0].patches if bar.get_height()}
    assert heights == pytest.approx({0.1: 75, 0.8: 25})
    assert len({bar.get_facecolor() for bar in figure.axes[0].patches if bar.get_height()}) == 2


def test_curves_name_the_best_of_each():
    table = pd.DataFrame({"coarse": [10.0, 30.0, 20.0], "fine": [15.0, 35.0, 45.0]}, index=[0.1, 0.2, 0.3])
    figure = plots.curves(table, "background score", "Seed mIoU (%)")
    assert {"coarse: best 30.0 at 0.20", "fine: best 45.0 at 0.30", "background score"} <= set(check(figure))
    np.testing.assert_array_equal(figure.axes[0].lines[2].get_ydata(), table["fine"])
    many = pd.DataFrame(np.random.default_rng(0).random((50, 6)), columns=list("abcdef"))
    lines = plots.curves(many, "x", "y").axes[0].lines[::2]
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 6, "told apart without colour"


def test_seed_view_shows_the_seed_of_all_classes(scenes):
    image, mask = scenes[0]
    cams = {c: (mask == c + 1) * 0.8 for c in range(len(CLASSES)) if (mask == c + 1).any()}
    first = next(iter(cams))
    figure = plots.seed_view(image, cams, first, 0.5, CLASSES)
    assert {f"CAM of {CLASSES[first]}", "seed at 0.50", "background"} <= set(check(figure))
    seed = figure.axes[2].images[0].get_array()
    np.testing.assert_array_equal(seed, plots.colour_mask(np.where(mask == 255, 0, mask).astype(np.uint8)))

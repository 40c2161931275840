"""Figures of notebook 02: how a CAM is made, the attention heads and their weights, and the background score."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..evaluation.metrics import seed_mask
from .parts import Line, Row, add_title, bare, class_legend, draw_lines, fit, grid, heat_map, overlay, show, stretched
from .style import BLACK, BLUE, COLUMN, DASHES, GREEN, MARKERS, OKABE_ITO, ORANGE, SKY, VERMILLION, WIDTH, style

STAGES = {"coarse": "coarse CAM", "attention": "attention CAM", "fused": "fused CAM", "fine": "fine CAM"}
SEED_ERRORS = (
    Line("false_positive", "false positives", ORANGE, "-"),
    Line("false_negative", "false negatives", GREEN, "--"),
)


# ── CAMs ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def cam_stages(rows: Sequence[Row], class_names: Sequence[str]) -> Figure:
    """How a CAM is made, one image and class a row.

    Negative values count as 0 and every map is stretched to 0…1 by itself; the white line is the truth's outline.

    Args:
        rows: each with image, class_index (from 0), the maps coarse, attention, fused and fine, and truth (mask).
        class_names: of the C foreground classes.
    """
    titles = ["image", *STAGES.values(), "truth"]
    names = [class_names[row["class_index"]] for row in rows]
    figure, axes = grid([row["image"].shape[:2] for row in rows], len(titles), titles, names)
    for line, row in zip(axes, rows):
        show(line[0], row["image"])
        show(line[-1], row["truth"])
        outline = row["truth"] == row["class_index"] + 1
        for ax, stage in zip(line[1:], STAGES):
            drawn = overlay(ax, row["image"], stretched(row[stage]))
            if outline.any() and not outline.all():
                ax.contour(outline, levels=[0.5], colors="white", linewidths=0.8)
    text = "activation, each map from its least to its greatest"
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.4, aspect=40, label=text)
    class_legend(figure, [row["truth"] for row in rows], class_names)
    return fit(figure)


@style()
def seed_view(
    image: np.ndarray, cams: Mapping[int, np.ndarray], class_index: int, threshold: float, class_names: Sequence[str]
) -> Figure:
    """The CAM of one class over its image, and the seed of all CAMs.

    Args:
        image: the image.
        cams: {class from 0: map (H, W) of 0…1}.
        class_index: the class whose CAM is shown, from 0.
        threshold: the background score of the seed, in 0…1.
        class_names: of the C foreground classes.
    """
    titles = ["image", f"CAM of {class_names[class_index]}", f"seed at {threshold:.2f}"]
    figure, axes = grid([image.shape[:2]], len(titles), titles)
    seed = seed_mask(cams, threshold)
    show(axes[0, 0], image)
    overlay(axes[0, 1], image, cams[class_index])
    show(axes[0, 2], seed)
    class_legend(figure, [seed], class_names)
    return fit(figure)


# ── Attention heads ───────────────────────────────────────────────────────────────────────────────────────────────
@style()
def attention_gallery(
    image: np.ndarray, maps: np.ndarray, weights: np.ndarray, class_name: str, first: tuple[int, int] = (0, 0)
) -> Figure:
    """The attention of one class token in every layer and head, beside its image.

    Each tile is stretched to its own range; its number and the colour of its frame are its weight in the fusion.

    Args:
        image: the image.
        maps: attention maps (L, H, h, w) of L layers with H heads.
        weights: their learned weights (L, H).
        class_name: of the class token.
        first: layer and head, from 0, of the first tile.
    """
    layers, heads = weights.shape
    beside = min(2, layers)  # columns of the image
    ratio = image.shape[0] / image.shape[1]
    tile = min(2.0, (WIDTH - 0.3) / (layers + beside))  # inches
    height = max(heads * (tile * ratio + 0.2), beside * tile * ratio + 0.4) + 0.8
    layout = ConstrainedLayoutEngine(w_pad=0.025, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(tile * (layers + beside) + 0.3, height), layout=layout)
    cells = figure.add_gridspec(heads, layers + beside)
    colours = ScalarMappable(Normalize(0, max(1, weights.max())), "cividis")
    tiles = []
    for layer, head in np.ndindex(layers, heads):
        ax = figure.add_subplot(cells[head, beside + layer])
        tiles.append(ax)
        weight = weights[layer, head]
        bare(ax)
        overlay(ax, image, stretched(maps[layer, head]))
        ax.spines[:].set(visible=True, color=colours.to_rgba(weight), linewidth=2.4)
        ax.set_title(f"{weight:.2f}", loc="center", fontsize=7, pad=3)
        if head == heads - 1:
            ax.set_xlabel(f"layer {first[0] + layer + 1}", fontsize=6.5)
        if layer == 0:
            ax.set_ylabel(f"head {first[1] + head + 1}", fontsize=7)
    picture = figure.add_subplot(cells[:, :beside])
    bare(picture)
    show(picture, image)
    picture.set_anchor("N")
    add_title(picture, "image", inches=beside * tile)
    figure.suptitle(f"Attention of “{class_name}”, each head in its own range", fontsize=picture.title.get_fontsize())
    figure.colorbar(colours, ax=tiles, location="bottom", shrink=0.5, aspect=40, label="weight in the fusion")
    return figure


def place_titles(class_name: str) -> list[str]:
    """What the five maps of `attention_of_place` are, in their order."""
    return ["attention of the patch", f"attention of “{class_name}”", "coarse CAM", "fused CAM", "fine CAM"]


@style()
def attention_of_place(
    image: np.ndarray, maps: Mapping[str, np.ndarray], place: tuple[int, int], weights: np.ndarray, class_name: str
) -> Figure:
    """What is seen from one patch, what the fusion and the refinement make of it, and the weights of the heads.

    Negative values count as 0 and every map is stretched to 0…1 by itself; the square is the patch.

    Args:
        image: the image.
        maps: five maps (h, w), as `place_titles` names them.
        place: row and column of the patch, from 0.
        weights: of the heads (L, H); 0 for one that is switched off.
        class_name: of the class.
    """
    height, width = image.shape[:2]
    tile = (WIDTH - 0.3) / len(maps)  # inches
    pictures = tile * height / width
    layout = ConstrainedLayoutEngine(w_pad=0.025, h_pad=0.04, wspace=0, hspace=0)
    figure = Figure(figsize=(WIDTH, pictures + 1.9), layout=layout)
    cells = figure.add_gridspec(2, len(maps), height_ratios=[pictures + 0.3, 1.3])
    for number, (title, values) in enumerate(zip(place_titles(class_name), maps.values(), strict=True)):
        ax = figure.add_subplot(cells[0, number])
        bare(ax)
        overlay(ax, image, stretched(values))
        rows, columns = values.shape
        corner = (place[1] * width / columns - 0.5, place[0] * height / rows - 0.5)
        ax.add_patch(Rectangle(corner, width / columns, height / rows, fill=False, edgecolor=SKY, linewidth=1.2))
        add_title(ax, title, tile)
    _weight_bars(figure.add_subplot(cells[1, :]), weights)
    return figure


def _weight_bars(ax: Axes, weights: np.ndarray) -> None:
    """A bar for each head, those of a layer side by side."""
    layers, heads = weights.shape
    x = np.arange(layers)[:, None] + (np.arange(heads) + 0.5) / heads * 0.8 - 0.4
    ax.bar(x.ravel(), weights.ravel(), width=0.7 / heads, color=SKY)
    ax.set(title="Weight of each head in the fusion", xlabel="layer", xlim=(-0.6, layers - 0.4))
    ax.set_ylim(0, max(1, weights.max()))
    ax.set_xticks(range(layers), [f"{layer + 1}" for layer in range(layers)])
    ax.grid(False, axis="x")


@style()
def head_weights(weights: np.ndarray, std: np.ndarray, on: str) -> Figure:
    """Weights of the attention heads in the fusion, as a table and, enlarged, by layer.

    Args:
        weights: learned weights (L, H) of L layers with H heads, mean over images.
        std: their standard deviation (L, H) over the images.
        on: the list, with its size.
    """
    weights = np.asarray(weights, float)
    heads = weights.shape[1]
    figure = Figure(figsize=(WIDTH, 0.5 * max(2.6, 0.42 * heads) + 1.3))
    table, strip = figure.subplots(1, 2, width_ratios=[1.15, 1])
    _weight_table(table, weights)
    _weight_strip(strip, weights, np.asarray(std))
    table.set_title(f"Mean weight, {on}")
    if heads <= 8:
        figure.legend(loc="outside lower center", ncols=heads, columnspacing=1, handletextpad=0.2)
    return figure


def _weight_table(ax: Axes, weights: np.ndarray) -> None:
    """Layers from left to right, heads from the top down."""
    layers, heads = weights.shape
    numbers = pd.DataFrame(
        weights.T,
        [f"{head + 1}" for head in range(heads)],
        [f"{layer + 1}" for layer in range(layers)],
    )
    heat_map(ax, numbers, "{:.2f}".format, high=max(1, weights.max()), inches=3.4, colours="cividis")
    ax.set(xlabel="layer", ylabel="head")


def _weight_strip(ax: Axes, weights: np.ndarray, std: np.ndarray) -> None:
    """A mark for each head, side by side at its layer, and a line for the layer's mean."""
    layers, heads = weights.shape
    x = np.arange(1, layers + 1)
    offsets = np.linspace(-0.25, 0.25, heads) if heads > 1 else np.zeros(1)
    for head, offset in enumerate(offsets):
        ax.errorbar(
            x + offset,
            weights[:, head],
            std[:, head],
            fmt=MARKERS[head % len(MARKERS)],
            color=OKABE_ITO[head % len(OKABE_ITO)],
            elinewidth=0.8,
            markersize=3.5,
            label=f"head {head + 1}",
        )
    ax.hlines(weights.mean(1), x - 0.36, x + 0.36, color=BLACK, linewidth=1.5)
    ax.set(title="Per layer, enlarged (line: mean), ± std", xlabel="layer")
    ax.set_xticks(range(1, layers + 1))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(False, axis="x")


@style()
def head_weight_histogram(weights: np.ndarray, on: str) -> Figure:
    """How the weights of all attention heads are distributed; the legend says their mean and spread.

    Args:
        weights: learned weights of all heads, such as (L, H), mean over images, in 0…1; the axis reaches further for
            fusions whose weights do.
        on: the list, with its size.
    """
    weights = np.ravel(weights)
    top = max(1, weights.max())
    mean = weights.mean()
    std = weights.std()
    spread = f"{std:.2f}" if std >= 0.005 else "below 0.005"
    figure = Figure(figsize=(COLUMN, 2.5))
    ax = figure.subplots()
    ax.hist(weights, np.linspace(0, top, 26).tolist(), color=SKY, edgecolor="white", linewidth=0.5)
    ax.axvline(mean, color=BLACK, linestyle="--", linewidth=1, label=f"mean {mean:.2f}, standard deviation {spread}")
    ax.set(title=f"Weights of the {weights.size} heads\n{on}", xlabel="weight in the fusion", ylabel="heads")
    ax.set_xlim(-0.02 * top, 1.02 * top)  # a bar at an end is seen whole
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower center")
    return figure


@style()
def head_correlation(correlation: np.ndarray, heads: int, on: str) -> Figure:
    """How alike the attention heads look.

    Args:
        correlation: between the class attention maps of all heads (L·H, L·H), heads of a layer side by side.
        heads: H, heads of a layer.
        on: the list, with its size.
    """
    correlation = np.array(correlation, float)
    np.fill_diagonal(correlation, np.nan)
    layers = len(correlation) // heads
    strongest = np.nanmax(np.abs(correlation), initial=0.1)
    figure = Figure(figsize=(COLUMN, 0.88 * COLUMN))
    ax = figure.subplots()
    picture = ax.imshow(correlation, cmap="RdBu_r", vmin=-strongest, vmax=strongest)
    ax.grid(False)
    middle = np.arange(layers) * heads + (heads - 1) / 2
    numbers = [f"{layer + 1}" for layer in range(layers)]
    ax.set_xticks(middle, numbers)
    ax.set_yticks(middle, numbers)
    ax.tick_params(length=0)
    for edge in np.arange(1, layers) * heads - 0.5:
        ax.axhline(edge, color="0.7", linewidth=1)
        ax.axvline(edge, color="0.7", linewidth=1)
    title = f"Correlation between heads ({heads} a layer)\n{on}, mean {np.nanmean(correlation):.2f}"
    ax.set(title=title, xlabel="layer", ylabel="layer")
    figure.colorbar(picture, ax=ax, shrink=0.9)
    return figure


# ── Background score ──────────────────────────────────────────────────────────────────────────────────────────────
@style()
def curves(table: pd.DataFrame, xlabel: str, title: str) -> Figure:
    """Every column of a table over its index, with the greatest value of each in the legend and ringed."""
    figure = Figure(figsize=(COLUMN, 2.5 + 0.17 * table.shape[1]))
    ax = figure.subplots()
    apart = max(1, len(table) // 8)  # so many marks that each line is known by its own, also in grey
    for i, (name, values) in enumerate(table.items()):
        best = values.idxmax()
        look: dict[str, Any] = {
            "color": OKABE_ITO[i % len(OKABE_ITO)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i % len(DASHES)],
        }
        label = f"{name}: best {values[best]:.1f} at {best:.2f}"
        ax.plot(table.index, values, markevery=(i, apart), markersize=4, label=label, **look)
        ax.plot(best, values[best], markersize=7, markeredgecolor=BLACK, **look)
    ax.set(xlabel=xlabel, title=title, ylim=(0, None))
    figure.legend(loc="outside lower center")
    return figure


@style()
def score_histogram(counts: np.ndarray, on: str, chosen: float, chosen_from: str) -> Figure:
    """Pixels of a list by the height of their strongest CAM, and the background score in use.

    Args:
        counts: pixels in n equal steps of 0…1; n is a multiple of 50.
        on: the list, with its size.
        chosen: the background score.
        chosen_from: what it was chosen from.
    """
    bins = 50
    middles = (np.arange(bins) + 0.5) / bins
    shares = 100 * counts.reshape(bins, -1).sum(1) / counts.sum()
    colours = np.where(np.arange(bins) + 0.5 < bins * chosen, "0.75", SKY)
    figure = Figure(figsize=(COLUMN, 2.5))
    ax = figure.subplots()
    ax.bar(middles, shares, 1 / bins, color=colours)
    ax.axvline(chosen, color=BLUE, linestyle="--", linewidth=1, label=f"chosen, {chosen_from}: t = {chosen:.2f}")
    ax.set(title=f"Pixels by their strongest CAM (%)\n{on}", xlabel="CAM (left of t: background)", xlim=(0, 1))
    figure.legend(loc="outside lower center")
    return figure


@style()
def threshold_curve(
    curve: pd.DataFrame,
    on: str,
    chosen: float | None = None,
    chosen_from: str = "without masks",
    best: float | None = None,
) -> Figure:
    """Seed mIoU and the two kinds of error over the background score.

    Args:
        curve: a row per threshold (0…1), in percent: miou, false_positive and false_negative (of a class' union with
            its truth, mean over classes), and one more column per class, drawn thin.
        on: the list, with its size.
        chosen: the threshold in use.
        chosen_from: what it was chosen from.
        best: the threshold found on masks, an oracle.
    """
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots(1, 2)
    miou, errors = axes
    x = curve["threshold"]
    error_columns = [line.column for line in SEED_ERRORS]
    for name in curve.columns.difference(["threshold", "miou", *error_columns]):
        miou.plot(x, curve[name], color="0.75", linewidth=0.7)
    miou.plot(x, curve["miou"], color=BLACK, linewidth=2, label="mIoU (grey: each class)")
    if chosen is not None:
        _mark_threshold(axes, curve, chosen, Line("miou", f"chosen, {chosen_from}", BLUE, "--", "o"))
    if best is not None:
        _mark_threshold(axes, curve, best, Line("miou", "best, oracle on masks", VERMILLION, ":", "D"))
    draw_lines(errors, x, curve, SEED_ERRORS)
    miou.set(title=f"Seed mIoU on {on} (%)", ylim=(0, None))
    errors.set(title="Errors, mean over classes (% of the union)", ylim=(0, None))
    for ax in axes:
        ax.set(xlabel="background score t", xlim=(x.min(), x.max()))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _mark_threshold(axes: np.ndarray, curve: pd.DataFrame, threshold: float, line: Line) -> None:
    """A dot on the mIoU curve, and a line through both panels."""
    value = np.interp(threshold, curve["threshold"], curve[line.column])
    label = f"{line.label}: t = {threshold:.2f}, mIoU {value:.1f}%"
    axes[0].plot(threshold, value, color=line.colour, marker=line.marker, linestyle="", markersize=6, label=label)
    for ax in axes:
        ax.axvline(threshold, color=line.colour, linestyle=line.dashes, linewidth=1)

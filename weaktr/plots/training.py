"""Figures of the two trainings and of the data they see: notebook 01, and the history of notebook 04."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .parts import Line, add_title, bars, class_legend, draw_lines, fit, grid, percent_matrix, show, tallest
from .style import BLACK, BLUE, COLUMN, GREEN, GREY, ORANGE, SKY, VERMILLION, WIDTH, style

LOSS_TERMS = (
    Line("loss", "sum", BLACK, "-", "o"),
    Line("loss_cls", "class tokens", BLUE, "-", "s"),
    Line("loss_coarse", "coarse CAM", VERMILLION, "--", "D"),
    Line("loss_fine", "fine CAM", GREEN, "-.", "^"),
)
CLIPPED_LOSSES = (
    Line("loss_unclipped", "before clipping", GREY, "--"),
    Line("loss", "after clipping", BLUE, "-"),
)
CLIPPING_FINDS = (
    Line("precision", "precision: clipped pixels whose label is wrong", BLUE, "-"),
    Line("recall", "recall: wrong labels that are clipped", ORANGE, "-."),
    Line("chance", "wrong labels among all pixels (clipping at random)", BLACK, ":"),
)
HEAD_WEIGHT_MEAN = Line("head_weight_mean", "mean of all heads", BLACK)
HEAD_WEIGHT_SPREADS = (
    Line("head_weight_std", "std over heads", BLUE, "-"),
    Line("head_weight_images_std", "std over images", ORANGE, "--"),
)
CLASS_ATTENTION = Line("class_attention_correlation", "between classes of an image", VERMILLION)


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def sample_sheet(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], titles: Sequence[str], class_names: Sequence[str]
) -> Figure:
    """Contact sheet: every image above its mask, six pairs a line, with a title over each image."""
    columns = min(6, len(images))
    blocks = math.ceil(len(images) / columns)
    figure, axes = grid([tallest(images)] * 2 * blocks, columns)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (image, mask, title) in enumerate(zip(images, masks, titles, strict=True)):
        block, column = divmod(i, columns)
        top = axes[2 * block, column]
        bottom = axes[2 * block + 1, column]
        add_title(top, title, inches=(WIDTH - 0.3) / 6)
        show(top, image)
        show(bottom, mask)
        top.set_anchor("S")
        bottom.set_anchor("N")
    class_legend(figure, masks, class_names)
    return fit(figure)


@style()
def per_class_bars(values: pd.Series, title: str, xlabel: str) -> Figure:
    """Horizontal bars by class, the largest on top, with the mean as a line.

    Args:
        values: a number for each class, indexed by its name; NaN stands at the bottom as "absent". Whole numbers are
            written without decimals.
        title: of the figure.
        xlabel: what the numbers are, with their unit.
    """
    values = values.sort_values(ascending=False, kind="stable", na_position="last")
    text = "{:,.0f}".format if pd.api.types.is_integer_dtype(values.dtype) else "{:.1f}".format
    figure = Figure(figsize=(COLUMN, 0.19 * len(values) + 1.0))
    ax = figure.subplots()
    bars(ax, list(map(str, values.index)), values.to_numpy(float), text, SKY)
    ax.set(title=title, xlabel=xlabel, xlim=(0, None))
    if values.notna().any():
        ax.axvline(values.mean(), color=BLACK, linestyle="--", linewidth=1, label=f"mean {text(values.mean())}")
        figure.legend(loc="outside lower center")
    return figure


@style()
def co_occurrence(matrix: np.ndarray, names: Sequence[str], on: str) -> Figure:
    """Which classes share images of a list, in percent of the images of the row's class.

    Args:
        matrix: counts of images (C, C) that show both classes; on the diagonal the images of a class.
        names: of the C classes.
        on: the list, with its size.
    """
    matrix = np.asarray(matrix, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 100 * matrix / np.diag(matrix)[:, None]
    np.fill_diagonal(share, np.nan)
    title = "Images of the row's class that\nalso show the column's class (%)"
    return percent_matrix(share, names, "{:.0f}".format, around=1.4, title=title, xlabel=on)


# ── Step 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def training_history(history: pd.DataFrame, on: str) -> Figure:
    """Loss terms, mAP on a list and learning rate over the epochs of step 1.

    Args:
        history: a row per epoch with epoch, lr, loss, loss_cls, loss_coarse, loss_fine and map_val (%, NaN where it was
            not measured).
        on: the list of the mAP, with its size.
    """
    figure = Figure(figsize=(WIDTH, 2.5))
    losses, precision, rate = figure.subplots(1, 3)
    draw_lines(losses, history["epoch"], history, LOSS_TERMS)
    losses.set(title="Training loss", ylim=(0, None))
    figure.legend(loc="outside lower left", ncols=4)
    measured = history.dropna(subset="map_val")
    precision.plot(measured["epoch"], measured["map_val"], marker="o")
    precision.set(title=f"mAP on {on} (%)")
    power = int(np.floor(np.log10(history["lr"].max())))
    scaled = history["lr"] / 10.0**power
    rate.plot(history["epoch"], scaled, marker="o", color=GREY)
    rate.set(title=f"Learning rate (1e{power})", ylim=(0, 1.08 * scaled.max()))
    for ax in (losses, precision, rate):
        _over_epochs(ax)
    return figure


@style()
def head_weight_history(history: pd.DataFrame, on: str) -> Figure:
    """Whether the training of step 1 moves the weights of the attention heads, and the classes' attention apart.

    Left the weights themselves, in the middle their spread, enlarged; at the right how alike the attention maps of the
    classes of an image are: at 1 the class tokens are still copies of each other.

    Args:
        history: a row per measurement with epoch (whole or not), and of the weights of all heads head_weight_mean,
            head_weight_std, head_weight_min and head_weight_max (over heads, of the means over images),
            head_weight_images_std (over images, mean of the heads), and class_attention_correlation (-1…1); NaN where
            nothing was measured.
        on: the list of the measurements, with its size.
    """
    measured = history.dropna(subset="head_weight_mean")
    figure = Figure(figsize=(WIDTH, 2.9))
    weights, spread, attention = figure.subplots(1, 3)
    _head_weights(weights, measured)
    draw_lines(spread, measured["epoch"], measured, _or_points(HEAD_WEIGHT_SPREADS, measured))
    draw_lines(attention, measured["epoch"], measured, _or_points([CLASS_ATTENTION], measured))
    attention.axhline(1, color=GREY, linestyle=":", label="1: copies of each other")
    weights.set_title(f"Weights of the heads\n{on}")
    spread.set_title("Their spread, enlarged\n(standard deviation)")
    attention.set_title("Attention of the classes:\ncorrelation")
    widest = measured[[line.column for line in HEAD_WEIGHT_SPREADS]].max(axis=None)
    spread.set_ylim(0, 1.1 * widest if widest > 0 else 1e-3)
    spread.ticklabel_format(axis="y", style="plain", useOffset=False)
    attention.set_ylim(min(0, measured[CLASS_ATTENTION.column].min() - 0.05), 1.05)
    for ax in (weights, spread, attention):
        _over_epochs(ax)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _head_weights(ax: Axes, history: pd.DataFrame) -> None:
    """Mean weight with two bands: all heads, and one standard deviation over heads."""
    epoch = history["epoch"]
    mean = history["head_weight_mean"]
    std = history["head_weight_std"]
    least = history["head_weight_min"]
    greatest = history["head_weight_max"]
    # The outlines keep the bands visible where they are thin, and where there is only one epoch.
    ax.fill_between(epoch, least, greatest, color=SKY, alpha=0.3, linewidth=1, label="least to greatest head")
    below = (mean - std).clip(lower=least)  # no head lies outside
    above = (mean + std).clip(upper=greatest)
    ax.fill_between(epoch, below, above, color=BLUE, alpha=0.4, linewidth=1, label="mean ± std over heads")
    draw_lines(ax, epoch, history, _or_points([HEAD_WEIGHT_MEAN], history))
    top = max(1, greatest.max())
    ax.set_ylim(-0.02 * top, 1.05 * top)


def _or_points(lines: Iterable[Line], table: pd.DataFrame) -> list[Line]:
    """The lines, or marks in their place where the table has one row only, of which no line can be drawn."""
    return [line._replace(marker="o") if len(table) == 1 else line for line in lines]


def _over_epochs(ax: Axes) -> None:
    """Label x by whole epochs, also where there is only one."""
    ax.set(xlabel="epoch")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


# ── Step 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def clipping_history(history: pd.DataFrame, on: str, start_value: float | None = None) -> Figure:
    """How much gradient clipping clips in the training of step 2, and whether that is label noise.

    Faint: as logged; bold: the last 25th of the training together, as shares of all its pixels. The lower panels begin
    with the first clipped pixel; precision, recall and chance are those of the iterations that clip.

    Args:
        history: a row per logged iteration with epoch, loss, loss_unclipped and the pixel counts of
            `method.clipping.COUNTS`.
        on: the list, with its size.
        start_value: the loss from which on pixels are clipped; None or NaN before it is known.
    """
    figure = Figure(figsize=(WIDTH, 5.2))
    losses, share, finds = figure.subplots(3, 1, height_ratios=[1.3, 0.8, 1.1])
    window = max(1, len(history) // 25)
    clipping = history["clipped"].cumsum() > 0
    whole = clipping.rolling(window).min() == 1  # before that, a few pixels would stand for all
    _clipped_losses(losses, history, window, start_value)
    _clipped_share(share, history, window, whole)
    _clipping_finds(finds, history, window, whole)
    losses.set_title(f"Loss on {on} (faint: as logged)")
    for ax in (share, finds):
        if clipping.iloc[:-1].any():
            ax.set_xlim(history["epoch"][clipping].iloc[0], history["epoch"].iloc[-1])
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.yaxis.set_major_locator(MaxNLocator(4))
    figure.legend(*finds.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _clipped_losses(ax: Axes, history: pd.DataFrame, window: int, start_value: float | None) -> None:
    """Mean loss before and after clipping."""
    for line in CLIPPED_LOSSES:
        logged = history[line.column]
        mean = logged.rolling(window, min_periods=1).mean()
        ax.plot(history["epoch"], logged, color=line.colour, alpha=0.25, linewidth=0.7)
        ax.plot(history["epoch"], mean, color=line.colour, linestyle=line.dashes, label=line.label)
    if start_value is not None and np.isfinite(start_value):
        ax.axhline(start_value, color=VERMILLION, linestyle=":", label=f"start value {start_value:.2f}")
    ax.set_ylim(0, None)
    ax.legend(loc="upper right", ncols=3)


def _clipped_share(ax: Axes, history: pd.DataFrame, window: int, whole: pd.Series) -> None:
    """Share of the labelled pixels that are clipped."""
    sums = history[["clipped", "labelled"]].rolling(window, min_periods=1).sum()
    share = (sums["clipped"] / sums["labelled"]).where(whole)
    ax.plot(history["epoch"], history["clipped"] / history["labelled"], color=BLUE, alpha=0.25, linewidth=0.7)
    ax.plot(history["epoch"], share, color=BLUE)
    ax.set(title="Share of clipped pixels", ylim=(0, None))


def _clipping_finds(ax: Axes, history: pd.DataFrame, window: int, whole: pd.Series) -> None:
    """Precision and recall of clipping as a detector of wrong labels, and what clipping at random would find."""
    counts = ["clipped_known", "clipped_wrong", "known_active", "wrong_active"]
    sums = history[counts].rolling(window, min_periods=1).sum()
    found = {
        "precision": sums["clipped_wrong"] / sums["clipped_known"],
        "recall": sums["clipped_wrong"] / sums["wrong_active"],
        "chance": sums["wrong_active"] / sums["known_active"],
    }
    drawn = pd.DataFrame({name: share.where(whole) for name, share in found.items()})
    draw_lines(ax, history["epoch"], drawn, CLIPPING_FINDS)
    ax.set(title="Does clipping find label noise? Iterations that clip", ylim=(0, None), xlabel="epoch")

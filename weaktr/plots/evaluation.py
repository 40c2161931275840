"""Figures of notebook 05: masks beside the truth, where pixels go, and the chain from image labels to masks."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from .parts import SMALL, Row, add_title, bars, class_legend, fit, grid, percent_matrix, show, tallest
from .style import BLACK, BLUE, COLUMN, GREEN, ORANGE, SKY, WIDTH, style

SIZE_TICKS = (0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10, 20, 40, 80)  # percent of an image
LIST_COLOURS = (BLUE, ORANGE, GREEN)
ORACLE = "////"  # hatch of what was made or chosen with masks


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def qualitative_grid(rows: Sequence[Row], class_names: Sequence[str], names: Sequence[str] = ()) -> Figure:
    """Images and masks in columns.

    Args:
        rows: each {column title: image or mask}, all with the same keys.
        class_names: of the C foreground classes.
        names: of the rows, at their left.
    """
    titles = list(rows[0])
    figure, axes = grid([row[titles[0]].shape[:2] for row in rows], len(titles), titles, names)
    for line, row in zip(axes, rows):
        for ax, title in zip(line, titles):
            show(ax, row[title])
    class_legend(figure, [picture for row in rows for picture in row.values() if picture.ndim == 2], class_names)
    return fit(figure)


@style()
def best_typical_worst(groups: Mapping[str, Sequence[Row]], class_names: Sequence[str]) -> Figure:
    """Best and worst predictions, two images a line.

    Args:
        groups: {group name: rows}, each row with image, the masks truth and prediction, and iou (the image's mIoU, %).
        class_names: of the C foreground classes.
    """
    pairs = [(name, rows[i : i + 2]) for name, rows in groups.items() for i in range(0, len(rows), 2)]
    shapes = [tallest([row["image"] for row in pair]) for _, pair in pairs]
    figure, axes = grid(shapes, 6, names=[name for name, _ in pairs])
    for number, (line, (_, pair)) in enumerate(zip(axes, pairs)):
        for ax in line[3 * len(pair) :]:
            ax.set_visible(False)
        for row, (image, truth, prediction) in zip(pair, line.reshape(2, 3)):
            show(image, row["image"])
            show(truth, row["truth"])
            show(prediction, row["prediction"])
            if number == 0:
                add_title(image, "image", inches=1.1)
                add_title(truth, "truth", inches=1.1)
            add_title(prediction, f"mIoU {row['iou']:.0f}%", inches=1.1)
    masks = [row[key] for rows in groups.values() for row in rows for key in ("truth", "prediction")]
    class_legend(figure, masks, class_names)
    return fit(figure)


# ── Charts ────────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def confusion(matrix: np.ndarray, names: Sequence[str], on: str) -> Figure:
    """Where the pixels of each class go, in percent of a row; cells under 0.5 % stay blank.

    Args:
        matrix: pixels (K, K), truth in rows, prediction in columns.
        names: of the K classes, with background.
        on: the list, with its size.
    """
    matrix = np.asarray(matrix, float)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    has_numbers = len(names) <= SMALL
    return percent_matrix(
        share,
        names,
        lambda percent: f"{percent:.0f}" if percent >= 0.5 else "",
        around=1.0,
        title=f"Where each class' pixels go (%)\n{on}",
        xlabel="predicted (blank: below 0.5)" if has_numbers else "predicted",
        ylabel="true",
    )


@style()
def size_against_iou(table: pd.DataFrame, on: str) -> Figure:
    """Whether small objects fail.

    Args:
        table: a row per image and class with its size (% of the image) and iou (%).
        on: the list, with its size.
    """
    figure = Figure(figsize=(COLUMN, 3.0))
    ax = figure.subplots()
    ax.scatter(table["size"], table["iou"], s=10, color=SKY, alpha=0.7, linewidth=0, label="a class in an image")
    means = _means_by_size(table)
    ax.plot(means["size"], means["iou"], color="white", linestyle="-", linewidth=4, marker="o", markersize=8)
    label = "mean of each sixth, by size"
    ax.plot(means["size"], means["iou"], color=BLACK, linestyle="-", linewidth=1.8, marker="o", label=label)
    ax.annotate(
        f"{(table['iou'] == 0).sum()} of {len(table)} at zero",
        xy=(1, 0),
        xycoords="axes fraction",
        xytext=(0, 8),
        textcoords="offset points",
        horizontalalignment="right",
        fontsize=7.5,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )
    low = table["size"].min() * 0.9
    high = table["size"].max() * 1.1
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in SIZE_TICKS if low <= tick <= high]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="size (% of the image, log)", xlim=(low, high), ylim=(-2, 102))
    ax.set_title(f"IoU of each class in an image (%)\n{on}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _means_by_size(table: pd.DataFrame) -> pd.DataFrame:
    """Median size and mean IoU of each sixth of the rows, by size; fewer groups where sizes repeat."""
    size = table["size"]
    edges = np.unique(np.quantile(size, np.linspace(0, 1, 7)))
    last = max(1, len(edges) - 1)
    sixth = np.clip(np.searchsorted(edges, size, "right"), 1, last)  # the largest size belongs to the last
    groups = table.groupby(sixth)
    return pd.DataFrame({"size": groups["size"].median(), "iou": groups["iou"].mean()})


@style()
def stage_bars(results: pd.DataFrame, title: str = "From image labels to masks: mIoU (%)") -> Figure:
    """The chain of stages, from the top down.

    Args:
        results: a row per stage with stage (what it is), value (mIoU, %), list (sets the colour) and oracle (hatched:
            made or chosen with masks).
        title: of the figure.
    """
    lists = list(dict.fromkeys(results["list"]))
    colours = {name: LIST_COLOURS[i % len(LIST_COLOURS)] for i, name in enumerate(lists)}
    oracle = results["oracle"].astype(bool)
    figure = Figure(figsize=(WIDTH, 0.3 * len(results) + 1.0))
    ax = figure.subplots()
    bars(
        ax,
        results["stage"],
        results["value"].to_numpy(float),
        "{:.1f}".format,
        [colours[name] for name in results["list"]],
        hatch=[ORACLE if mark else "" for mark in oracle],
        edgecolor="white",
    )
    ax.set(title=title, xlim=(0, None))
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    if oracle.any():
        label = "oracle: made or chosen with masks"
        handles.append(Patch(facecolor="0.7", edgecolor="white", hatch=ORACLE, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure

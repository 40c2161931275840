"""Pictures and charts of labels: what the CRF does to seeds (notebook 03), and what clipping finds in them (04)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.images import VOID
from ..evaluation.scores import clipping_scores, wrong_and_clipped
from .parts import HEAT, Row, class_legend, colour_legend, fit, grid, show, show_categories
from .style import BLACK, BLUE, GREY, HATCHES, OKABE_ITO, SKY, VERMILLION, WIDTH, style

CHANGES = {
    "right before and after": "0.82",
    "fixed by CRF": SKY,
    "broken by CRF": VERMILLION,
    "wrong before and after": "0.3",
    "not counted": "white",
}
CLIPPING = {
    "kept, label right": "0.82",
    "clipped, label wrong": SKY,
    "clipped, label right": VERMILLION,
    "kept, label wrong": "0.3",
    "not counted": "white",
}
CLASSES_A_PANEL = 27


# ── Seeds and pseudo labels ───────────────────────────────────────────────────────────────────────────────────────
@style()
def iou_comparison(table: pd.DataFrame, title: str = "IoU by class (%)") -> Figure:
    """Grouped bars by class, in as many panels as the classes need; means stand in the legend.

    Args:
        table: IoU (%), a row per class and a column per stage.
        title: of the figure.
    """
    panels = np.array_split(np.arange(len(table)), math.ceil(len(table) / CLASSES_A_PANEL))
    most = max(map(len, panels))
    figure = Figure(figsize=(WIDTH, 2.3 * len(panels) + 0.6))
    axes = figure.subplots(len(panels), 1, squeeze=False, sharey=True)[:, 0]
    for ax, rows in zip(axes, panels):
        _grouped_bars(ax, table.iloc[rows], [f"{name} (mean {table[name].mean():.1f})" for name in table])
        letters = max(len(str(name)) for name in table.index) * len(rows)
        ax.set_xticks(range(len(rows)), table.index[rows], rotation=90 if letters > 95 else 0)
        ax.tick_params(axis="x", length=0)
        ax.grid(False, axis="x")
        ax.set(xlim=(-0.6, most - 0.4), ylim=(0, 100))
    axes[0].set_title(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure


def _grouped_bars(ax: Axes, table: pd.DataFrame, labels: Sequence[str]) -> None:
    """A group of bars per row of the table, a bar per column."""
    columns = table.shape[1]
    width = 0.84 / columns
    for i, (label, (_, values)) in enumerate(zip(labels, table.items())):
        x = np.arange(len(table)) + (i - (columns - 1) / 2) * width
        ax.bar(
            x,
            values,
            width,
            color=OKABE_ITO[i % len(OKABE_ITO)],
            hatch=HATCHES[i % len(HATCHES)],
            edgecolor="white",
            label=label,
        )


@style()
def crf_gain(table: pd.DataFrame, on: str) -> Figure:
    """Where the CRF helps and where it harms: each image before against after, and the distribution of the change.

    Args:
        table: an image's own mIoU (%) before and after, a row per image.
        on: the list, with its size.
    """
    gain = table["after"] - table["before"]
    figure = Figure(figsize=(WIDTH, 3.1))
    scatter, histogram = figure.subplots(1, 2)
    _before_and_after(scatter, table, gain)
    _gains(histogram, gain)
    histogram.set_title(f"Change by CRF on {on}")
    figure.legend(loc="outside lower center", ncols=4, markerscale=1.8)
    return figure


def _before_and_after(ax: Axes, table: pd.DataFrame, gain: pd.Series) -> None:
    """A point for each image."""
    groups = (
        ("helped", gain > 0, BLUE, "o"),
        ("harmed", gain < 0, VERMILLION, "D"),
        ("unchanged", gain == 0, GREY, "s"),
    )
    for name, chosen, colour, marker in groups:
        ax.scatter(
            table["before"][chosen],
            table["after"][chosen],
            s=7,
            alpha=0.6,
            color=colour,
            marker=marker,
            linewidth=0,
            label=f"{name}: {chosen.sum()} ({chosen.mean():.0%})",
            clip_on=False,
        )
    ax.axline((0, 0), slope=1, color=GREY, linewidth=1)
    ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    ax.set(title="mIoU of each image (%)", xlabel="seed", ylabel="after CRF")


def _gains(ax: Axes, gain: pd.Series) -> None:
    """How many images gain how much, and the mean."""
    edge = max(1.0, np.ceil(gain.abs().max()))
    bins = np.linspace(-edge, edge, 41).tolist()  # zero is an edge
    ax.hist(gain[gain > 0], bins, color=BLUE)
    ax.hist(gain[gain < 0], bins, color=VERMILLION)
    mean = f"{gain.mean():+.1f}".replace("-", "−")
    ax.axvline(gain.mean(), color=BLACK, linestyle="--", linewidth=1, label=f"mean {mean}")
    ax.set(xlabel="points of mIoU", ylabel="images")


@style()
def label_grid(rows: Sequence[Row], class_names: Sequence[str], names: Sequence[str] = ()) -> Figure:
    """What the CRF does to seeds, with the pixels that it fixes and breaks.

    Args:
        rows: each with image, and the masks seed, refined and truth.
        class_names: of the C foreground classes.
        names: of the rows, at their left.
    """
    titles = ["image", "seed", "after CRF", "truth", "change"]
    masks = ("seed", "refined", "truth")
    figure, axes = grid([row["image"].shape[:2] for row in rows], len(titles), titles, names)
    for line, row in zip(axes, rows):
        for ax, key in zip(line, ("image", *masks)):
            show(ax, row[key])
        before = row["seed"] == row["truth"]
        after = row["refined"] == row["truth"]
        change = {
            "not counted": row["truth"] == VOID,
            "right before and after": before & after,
            "fixed by CRF": ~before & after,
            "broken by CRF": before & ~after,
            "wrong before and after": ~before & ~after,
        }
        show_categories(line[-1], change, CHANGES)
    colour_legend(figure, CHANGES, above=True)
    class_legend(figure, [row[key] for row in rows for key in masks], class_names)
    return fit(figure)


# ── Clipping ──────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def clipped_pixels(rows: Sequence[Row], class_names: Sequence[str]) -> Figure:
    """Whether clipping finds label noise.

    Void pixels of the label or of the truth are left out of the errors and of precision and recall.

    Args:
        rows: each with image, label (pseudo label, mask), truth (mask), loss (map (H, W), per pixel, before clipping)
            and clipped (bool (H, W)).
        class_names: of the C foreground classes.
    """
    titles = ["image", "pseudo label", "truth", "errors (dark)", "pixel loss", "clipped pixels"]
    figure, axes = grid([row["image"].shape[:2] for row in rows], len(titles), titles)
    greatest = max(np.percentile(row["loss"], 99) for row in rows)
    for line, row, score in zip(axes, rows, clipping_scores(rows).itertuples()):
        image, label, truth, errors, loss, clipping = line
        show(image, row["image"])
        show(label, row["label"])
        show(truth, row["truth"])
        _errors_and_clipping(errors, clipping, row)
        drawn = loss.imshow(row["loss"], cmap=HEAT, vmin=0, vmax=greatest)
        wrong = np.nan_to_num(score.wrong)
        digits = 1 if wrong < 0.1 else 0
        errors.set_xlabel(f"{wrong:.{digits}%} wrong", fontsize=7, labelpad=2)
        found = f"precision {_percent(score.precision)}\nrecall {_percent(score.recall)}"
        clipping.set_xlabel(found, fontsize=7, labelpad=2)
    text = "cross entropy before clipping"
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.4, aspect=40, extend="max", label=text)
    colour_legend(figure, CLIPPING, above=True)
    class_legend(figure, [row[key] for row in rows for key in ("label", "truth")], class_names)
    return fit(figure)


def _errors_and_clipping(errors: Axes, clipping: Axes, row: Row) -> None:
    """Wrong labels in one panel; in the other how clipping meets them."""
    void, wrong, clipped = wrong_and_clipped(row)
    show_categories(errors, {"not counted": void, "kept, label wrong": wrong, "kept, label right": ~wrong}, CLIPPING)
    show_categories(
        clipping,
        {
            "not counted": void,
            "clipped, label wrong": clipped & wrong,
            "clipped, label right": clipped & ~wrong,
            "kept, label wrong": ~clipped & wrong,
            "kept, label right": ~clipped & ~wrong,
        },
        CLIPPING,
    )


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}"

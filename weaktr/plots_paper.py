"""Figures that sum up many runs: sweeps, published numbers, correlation between heads. As in `plots.py`: tables in, a
new matplotlib Figure out, two columns (WIDTH) wide or one (COLUMN)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .plots import list_rows
from .plots_dense import BLACK, BLUE, COLUMN, GREEN, ORANGE, VERMILLION, WIDTH, style
from .statistics import runs_in_words, variant_in_words

SUPERVISION = {  # what a method is given besides image labels → colour, marker
    "image labels only": (BLUE, "o"),
    "and CLIP or text": (ORANGE, "s"),
    "and SAM": (GREEN, "^"),
    "and unsupervised features": (VERMILLION, "D"),
}


def main_rows(found):
    """What a sweep's figure shows of its summary: every measure of a sweep of one variant, else the first measure."""
    return found[found["by_measure"] | (found["measure"] == found["measure"].iloc[0])]


@style()
def sweep(found, table, title, width=WIDTH):
    """The variants of a sweep: DataFrames of `sweep_results.summary` (one row a variant or measure) and `results`.

    Strokes are seeds, the dot is their mean, the line its bootstrap interval. Hollow: the paired difference from the
    baseline (dashed where there is but one) could be chance, or is not known.
    """
    by_measure, narrow = bool(found["by_measure"].iloc[0]), width <= COLUMN
    name, rows = "measure" if by_measure else "variant", main_rows(found)
    values = table if by_measure else table[table["measure"] == rows["measure"].iloc[0]]
    figure = Figure(figsize=(width, 0.27 * len(rows) + (2.15 if narrow else 1.15)))
    ax = figure.subplots()
    base = rows[rows["is_baseline"]]
    for y, row in enumerate(rows.itertuples()):
        dots = values[values[name] == getattr(row, name)]["value"]
        ax.plot(dots, np.full(len(dots), y + 0.26), "|", color=BLACK, markersize=4, markeredgewidth=0.9)
        told = row.is_baseline or row.difference_low > 0 or row.difference_high < 0
        if np.isfinite(row.low):
            ax.plot([row.low, row.high], [y, y], color=BLUE, linewidth=1.2, zorder=3)
        ax.plot(row.mean, y, "o", color=BLUE, markerfacecolor=BLUE if told else "white", markersize=6, zorder=4)
    if len(base) == 1:
        ax.axvline(base["mean"].iloc[0], color="0.45", linestyle="--", linewidth=1, zorder=1)
    texts = rows["mean"].map("{:.1f}".format)
    for column, form in (("std", " ± {:.1f}"), ("difference", "  {:+.1f}")):
        texts += [form.format(value).replace("-", "−") if np.isfinite(value) else "" for value in rows[column]]
    list_rows(ax, rows[name].map(variant_in_words), texts)
    lists = ", ".join(f"{a} ({b} images)" for a, b in values[["list", "list_size"]].drop_duplicates().to_numpy())
    what = "mIoU (%)" if by_measure else f"{rows['measure'].iloc[0]}, mIoU (%)"
    runs = runs_in_words(rows["runs"]) + (" · oracle" if rows["oracle"].any() else "")
    right = "right: mean ± SD" + (", paired difference" if rows["difference"].notna().any() else "")
    ax.set(title=title, xlabel=("\n" if narrow else " · ").join([what, lists, runs, right]))
    marks = [
        Line2D([], [], color=BLUE, marker="o", label="mean, 95 % interval"),
        *([Line2D([], [], color="0.45", linestyle="--", label="baseline")] if len(base) == 1 else []),
        Line2D([], [], color=BLUE, marker="o", markerfacecolor="white", linestyle="", label="chance, or not compared"),
        Line2D([], [], color=BLACK, marker="|", linestyle="", label="one seed"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2 if narrow else 4)
    return figure


def _given(supervision):
    for word, kind in (("SAM", "and SAM"), ("CLIP", "and CLIP or text"), ("text", "and CLIP or text")):
        if word in supervision:
            return kind
    return "and unsupervised features" if "unsupervised" in supervision else "image labels only"


def _free_places(table, size=(300, 230)):
    """Where the number of each point fits: offsets in points, on axes of about `size` points, one after the other."""
    columns = table[["voc12_val", "coco14_val"]].to_numpy(float)
    points = (columns - columns.min(0)) / np.ptp(columns, 0) * size
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + np.pi / 2
    taken, offsets = list(points), []
    for point in points:
        tries = [r * np.array([np.cos(a), np.sin(a)]) for r in (10, 17, 25, 34) for a in angles]
        gaps = [min(np.linalg.norm(point + offset - other) for other in taken) for offset in tries]
        best = next((i for i, gap in enumerate(gaps) if gap >= 9.9), int(np.argmax(gaps)))
        taken.append(point + tries[best])
        offsets.append(tries[best])
    return offsets


@style()
def published(table):
    """Published mIoU on VOC12 val against COCO14 val: DataFrame as assets/published_miou.csv.

    Numbers refer to the list at the right; hollow marks, † there: read from another paper's comparison table. Methods
    that lack one of the two numbers are left out.
    """
    table = table.dropna(subset=["voc12_val", "coco14_val"]).sort_values("voc12_val", ascending=False)
    figure = Figure(figsize=(WIDTH, 4.3))
    ax, key = figure.subplots(1, 2, width_ratios=[1.9, 1])
    lines = []
    for number, row in enumerate(table.itertuples(), start=1):
        colour, marker = SUPERVISION[_given(row.supervision)]
        ours, primary = row.method == "WeakTr", row.read_from == "primary"
        ax.plot(
            row.voc12_val, row.coco14_val, marker, color=colour, markersize=8 if ours else 6,
            markerfacecolor=colour if primary else "none", markeredgewidth=1.2,
        )  # fmt: skip
        backbone = "backbone not stated" if row.backbone == "not stated" else row.backbone
        lines.append((f"{number}  {row.method}, {backbone}{'' if primary else ' †'}", ours))
    for number, (row, (dx, dy)) in enumerate(zip(table.itertuples(), _free_places(table)), start=1):
        ax.annotate(
            str(number), (row.voc12_val, row.coco14_val), (dx, dy), textcoords="offset points",
            ha="center", va="center", fontsize=7.5, fontweight="bold" if row.method == "WeakTr" else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "shrinkA": 3, "shrinkB": 0},
        )  # fmt: skip
    key.axis("off")
    for i, (text, ours) in enumerate(lines):
        weight = "bold" if ours else "normal"
        key.text(
            0, 1 - i / max(len(lines) - 1, 1), text, fontsize=7.5, va="top", weight=weight, transform=key.transAxes
        )
    ax.set(title="Published mIoU (%)", xlabel="VOC12 val", ylabel="COCO14 val")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
        for name, (colour, marker) in SUPERVISION.items()
    ]
    told = "hollow, †: number from another paper's table"
    handles.append(Line2D([], [], color=BLACK, marker="o", markerfacecolor="white", linestyle="", label=told))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure


@style()
def head_correlation(correlation, heads):
    """How alike the heads look: correlation (L·H, L·H) of their class attention maps, heads of a layer side by side."""
    correlation = np.asarray(correlation, float)
    layers = len(correlation) // heads
    figure = Figure(figsize=(COLUMN, 0.88 * COLUMN))
    ax = figure.subplots()
    picture = ax.imshow(correlation, cmap="cividis", vmin=min(0, correlation.min()), vmax=1)
    ax.grid(False)
    middle = np.arange(layers) * heads + (heads - 1) / 2
    ax.set_xticks(middle, range(1, layers + 1))
    ax.set_yticks(middle, range(1, layers + 1))
    ax.tick_params(length=0)
    for edge in np.arange(1, layers) * heads - 0.5:
        ax.axhline(edge, color="white", linewidth=1)
        ax.axvline(edge, color="white", linewidth=1)
    ax.set(title=f"Correlation between heads ({heads} a layer)", xlabel="layer", ylabel="layer")
    figure.colorbar(picture, ax=ax, shrink=0.9)
    return figure

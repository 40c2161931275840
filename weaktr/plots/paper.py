"""Figures that sum up many runs: sweeps, published numbers, correlation between heads. As in `plots.py`: tables in, a
new matplotlib Figure out, two columns (WIDTH) wide or one (COLUMN).
"""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .captions import runs_in_words, variant_in_words
from .dense import BLACK, BLUE, COLUMN, GREEN, ORANGE, VERMILLION, WIDTH, style
from .figures import GREY, list_rows

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

    Strokes are random seeds, the dot is their mean, the line its bootstrap interval. Where there is room, a second
    panel shows the paired differences from the baseline. Hollow: the difference's interval holds zero; grey: nothing
    to compare with.
    """
    by_measure, narrow = bool(found["by_measure"].iloc[0]), width <= COLUMN
    name, rows = "measure" if by_measure else "variant", main_rows(found)
    values = table if by_measure else table[table["measure"] == rows["measure"].iloc[0]]
    compared = rows["difference"].notna()
    panels = 1 if narrow or not compared.any() else 2
    figure = Figure(figsize=(width, 0.27 * len(rows) + (2.15 if narrow else 1.3)))
    (ax, *others) = figure.subplots(1, panels, squeeze=False, width_ratios=[1.6, 1][:panels])[0]
    base = rows[rows["is_baseline"]]
    for y, row in enumerate(rows.itertuples()):
        dots = values[values[name] == getattr(row, name)]["value"]
        ax.plot(dots, np.full(len(dots), y + 0.26), "|", color=BLACK, markersize=4, markeredgewidth=0.9)
        told, known = row.difference_low > 0 or row.difference_high < 0, np.isfinite(row.difference)
        colour = BLUE if known or row.is_baseline else GREY
        look = {"color": colour, "markerfacecolor": "white" if known and not told else colour, "markersize": 6}
        for panel, low, mean, high in (
            (ax, row.low, row.mean, row.high),
            *((other, row.difference_low, row.difference, row.difference_high) for other in others if known),
        ):
            if np.isfinite(low):
                panel.plot([low, high], [y, y], color=colour, linewidth=1.2, zorder=3)
            panel.plot(mean, y, "o", zorder=4, **look)
    if len(base) == 1:
        ax.axvline(base["mean"].iloc[0], color=GREY, linestyle="--", linewidth=1, zorder=1)
    means, spreads, differences = (
        [form.format(value).replace("-", "−") if np.isfinite(value) else "" for value in rows[column]]
        for column, form in (("mean", "{:.1f}"), ("std", " ± {:.1f}"), ("difference", "{:+.1f}"))
    )
    beside = [f"  {text}" if narrow and text else "" for text in differences]
    texts = [mean + spread + difference for mean, spread, difference in zip(means, spreads, beside)]
    list_rows(ax, rows[name].map(variant_in_words), texts)
    for other in others:
        list_rows(other, [""] * len(rows), differences)
        other.axvline(0, color=GREY, linestyle="--", linewidth=1, zorder=1)
        other.set(title="Paired difference", xlabel="points of mIoU")
    lists = ", ".join(f"{a} ({b} images)" for a, b in values[["list", "list_size"]].drop_duplicates().to_numpy())
    what = "mIoU (%)" if by_measure else f"{rows['measure'].iloc[0]}, mIoU (%)"
    runs = runs_in_words(rows["runs"]) + (" · oracle" if rows["oracle"].any() else "")
    right = "right: mean ± SD" + (", paired difference" if narrow and compared.any() else " over seeds")
    ax.set(title=textwrap.fill(title, 40 if narrow else 60), xlabel="\n".join([what, f"{lists} · {runs}", right]))
    dot = {"color": BLUE, "marker": "o"}
    marks = [
        Line2D([], [], **dot, label="mean, 95 % interval"),
        Line2D([], [], color=BLACK, marker="|", linestyle="", label="one random seed"),
    ]
    if others or len(base) == 1:
        marks.append(Line2D([], [], color=GREY, linestyle="--", label="baseline"))
    if compared.any():
        told = "difference's interval holds 0"
        marks.append(Line2D([], [], **dot, markerfacecolor="white", linestyle="", label=told))
    if not (compared | rows["is_baseline"]).all():
        marks.append(Line2D([], [], color=GREY, marker="o", linestyle="", label="not compared"))
    figure.legend(handles=marks, loc="outside lower center", ncols=2 if narrow else 5, columnspacing=1.2)
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
def head_correlation(correlation, heads, on):
    """How alike the heads look: correlation (L·H, L·H) of their class attention maps, heads of a layer side by side."""
    correlation = np.array(correlation, float)
    np.fill_diagonal(correlation, np.nan)
    layers, most = len(correlation) // heads, np.nanmax(np.abs(correlation), initial=0.1)
    figure = Figure(figsize=(COLUMN, 0.88 * COLUMN))
    ax = figure.subplots()
    picture = ax.imshow(correlation, cmap="RdBu_r", vmin=-most, vmax=most)
    ax.grid(False)
    middle = np.arange(layers) * heads + (heads - 1) / 2
    ax.set_xticks(middle, range(1, layers + 1))
    ax.set_yticks(middle, range(1, layers + 1))
    ax.tick_params(length=0)
    for edge in np.arange(1, layers) * heads - 0.5:
        ax.axhline(edge, color="0.7", linewidth=1)
        ax.axvline(edge, color="0.7", linewidth=1)
    title = f"Correlation between heads ({heads} a layer)\n{on}, mean {np.nanmean(correlation):.2f}"
    ax.set(title=title, xlabel="layer", ylabel="layer")
    figure.colorbar(picture, ax=ax, shrink=0.9)
    return figure

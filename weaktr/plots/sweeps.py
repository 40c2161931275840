"""Figures that sum up many runs: notebook 06's sweeps and the published methods."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .captions import IN_PERCENT, metric_in_words, runs_in_words, variant_in_words
from .parts import list_rows
from .style import BLACK, BLUE, COLUMN, GREEN, GREY, ORANGE, VERMILLION, WIDTH, style

MEAN = ["low", "mean", "high"]  # columns of a value with its interval
DIFFERENCE = ["difference_low", "difference", "difference_high"]
SUPERVISION = {  # what a method is given besides image labels → colour, marker
    "image labels only": (BLUE, "o"),
    "and CLIP or text": (ORANGE, "s"),
    "and SAM": (GREEN, "^"),
    "and unsupervised features": (VERMILLION, "D"),
}


# ── Sweeps ────────────────────────────────────────────────────────────────────────────────────────────────────────
def main_rows(found: pd.DataFrame) -> pd.DataFrame:
    """What a sweep's figure shows of its summary: every measure of a sweep of one variant, else the first measure.

    Where there are several baselines, each is followed by what is compared with it.
    """
    rows = found[found["by_measure"] | (found["measure"] == found["measure"].iloc[0])]
    if rows["baseline"].nunique() < 2:
        return rows
    group = rows["baseline"].fillna(rows["variant"])
    order = group.map({name: place for place, name in enumerate(dict.fromkeys(group))})
    return rows.loc[order.sort_values(kind="stable").index]


@style()
def sweep(found: pd.DataFrame, table: pd.DataFrame, title: str, width: float = WIDTH) -> Figure:
    """The variants of a sweep with their intervals, and their differences from the baseline.

    Strokes are random seeds, the dot is their mean, the line its bootstrap interval. A second panel shows the paired
    differences. Hollow: the interval of the difference includes zero; grey: nothing to compare with.

    Args:
        found: a row per variant and measure, as `sweeps.results.summary` gives them.
        table: a row per run and measure, as `sweeps.results.results` gives them.
        title: of the figure.
        width: inches; within COLUMN there is one panel, and the differences stand beside the means.
    """
    rows = main_rows(found)
    by_measure = bool(found["by_measure"].iloc[0])
    name = "measure" if by_measure else "variant"
    values = table if by_measure else table[table["measure"] == rows["measure"].iloc[0]]
    narrow = width <= COLUMN
    compared = rows["difference"].notna()
    two_panels = compared.any() and not narrow
    ratios = [1.6, 1] if two_panels else [1]
    figure = Figure(figsize=(width, 0.27 * len(rows) + (2.15 if narrow else 1.3)))
    axes = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    ax = axes[0]
    _strokes(ax, [values["value"][values[name] == row] for row in rows[name]])
    _intervals(ax, rows, MEAN)
    baseline = rows["mean"][rows["is_baseline"]]
    if len(baseline) == 1:
        _baseline(ax, baseline.iloc[0])
    list_rows(ax, [variant_in_words(row) for row in rows[name]], _mean_texts(rows, with_difference=narrow))
    difference = "paired difference" + (" in each group" if rows["baseline"].nunique() > 1 else "")
    right = "right: mean ± SD" + (f", {difference}" if narrow and compared.any() else " over random seeds")
    ax.set_title(textwrap.fill(title, 40 if narrow else 60), loc="center" if narrow else None)
    ax.set_xlabel("\n".join([_measured(values, by_measure), f"{_lists(values)} · {_runs(rows)}", right]))
    if two_panels:
        _differences(axes[1], rows, values, difference)
    _legend(figure, rows, has_baseline=two_panels or len(baseline) == 1, narrow=narrow)
    if narrow:
        _centre(figure, ax)
    return figure


def _centre(figure: Figure, ax: Axes) -> None:
    """Set title and label in the middle of a figure: long names leave its panel less width than these need."""
    figure.draw_without_rendering()
    panel = ax.get_position()
    middle = (0.5 - panel.x0) / panel.width
    ax.title.set_x(middle)
    ax.xaxis.label.set_x(middle)


def _strokes(ax: Axes, runs: Sequence[pd.Series]) -> None:
    """The values of each row's random seeds, just below its dot."""
    for y, values in enumerate(runs):
        height = np.full(len(values), y + 0.26)
        ax.plot(values, height, color=BLACK, marker="|", linestyle="", markersize=4, markeredgewidth=0.9)


def _intervals(ax: Axes, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """The value of each row as a dot and its interval as a line, where it has them; columns: low, value, high."""
    for y, ((low, value, high), row) in enumerate(zip(rows[columns].to_numpy(float), rows.itertuples())):
        compared = np.isfinite(row.difference)
        excludes_zero = row.difference_low > 0 or row.difference_high < 0
        colour = BLUE if compared or row.is_baseline else GREY
        filling = "white" if compared and not excludes_zero else colour
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=colour, linewidth=1.2, zorder=3)
        if np.isfinite(value):
            ax.plot(value, y, color=colour, linestyle="", marker="o", markerfacecolor=filling, markersize=6, zorder=4)


def _differences(ax: Axes, rows: pd.DataFrame, values: pd.DataFrame, title: str) -> None:
    """The panel of paired differences of the rows' values from the baseline, which is the line at zero."""
    _intervals(ax, rows, DIFFERENCE)
    list_rows(ax, [""] * len(rows), _numbers(rows["difference"], "{:+z.1f}"))
    _baseline(ax, 0)
    names = {metric.partition(" ")[0] for metric in values["metric"]}
    in_points = len(names) == 1 and names.issubset(IN_PERCENT)
    ax.set(title=title.capitalize(), xlabel=f"points of {names.pop()}" if in_points else "in the unit of each row")


def _baseline(ax: Axes, x: float) -> None:
    ax.axvline(x, color=GREY, linestyle="--", linewidth=1, zorder=1)


def _numbers(values: pd.Series, form: str) -> list[str]:
    """Numbers as texts with a true minus; what is not finite is left blank."""
    return [form.format(value).replace("-", "−") if np.isfinite(value) else "" for value in values]


def _mean_texts(rows: pd.DataFrame, *, with_difference: bool) -> list[str]:
    """Mean and standard deviation over seeds of each row, and the difference where it has no panel of its own."""
    means = _numbers(rows["mean"], "{:.1f}")
    spreads = _numbers(rows["std"], " ± {:.1f}")
    differences = _numbers(rows["difference"], "  {:+z.1f}") if with_difference else [""] * len(rows)
    return [mean + spread + difference for mean, spread, difference in zip(means, spreads, differences)]


def _measured(values: pd.DataFrame, by_measure: bool) -> str:
    """What the values are, with their units; where a row is a measure, its name stands beside it."""
    units = ", ".join(dict.fromkeys(metric_in_words(metric) for metric in values["metric"]))
    return units if by_measure else f"{values['measure'].iloc[0]}, {units}"


def _lists(values: pd.DataFrame) -> str:
    """The lists that the values are from, with their sizes."""
    lists = values[["list", "list_size"]].drop_duplicates()
    return ", ".join(f"{name} ({size} images)" for name, size in lists.to_numpy())


def _runs(rows: pd.DataFrame) -> str:
    return runs_in_words(rows["runs"]) + (" · oracle" if rows["oracle"].any() else "")


def _legend(figure: Figure, rows: pd.DataFrame, *, has_baseline: bool, narrow: bool) -> None:
    """What the marks mean that a sweep's figure has."""
    compared = rows["difference"].notna()
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="mean, 95 % interval"),
        Line2D([], [], color=BLACK, marker="|", linestyle="", label="one random seed"),
    ]
    if has_baseline:
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="baseline"))
    if (compared & (rows["difference_low"] <= 0) & (rows["difference_high"] >= 0)).any():
        label = "interval includes 0"
        handles.append(Line2D([], [], color=BLUE, marker="o", markerfacecolor="white", linestyle="", label=label))
    if not (compared | rows["is_baseline"]).all():
        handles.append(Line2D([], [], color=GREY, marker="o", linestyle="", label="not compared"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if narrow else 5, columnspacing=1.2)


# ── Published methods ─────────────────────────────────────────────────────────────────────────────────────────────
@style()
def published(table: pd.DataFrame) -> Figure:
    """Published mIoU on VOC12 val against COCO14 val, a mark for each method.

    Numbers refer to the list at the right; hollow marks, † there: read from another paper's comparison table. Methods
    that lack one of the two numbers are left out.

    Args:
        table: a row per method and backbone, as assets/published_miou.csv: method, backbone, supervision, voc12_val and
            coco14_val (mIoU, %) and read_from ("primary" or "secondary").
    """
    table = table.dropna(subset=["voc12_val", "coco14_val"]).sort_values("voc12_val", ascending=False)
    figure = Figure(figsize=(WIDTH, 4.3))
    ax, key = figure.subplots(1, 2, width_ratios=[1.9, 1])
    _method_marks(ax, table)
    _method_numbers(ax, table)
    _method_names(key, table)
    ax.set(title="Published mIoU (%)", xlabel="VOC12 val", ylabel="COCO14 val")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=name)
        for name, (colour, marker) in SUPERVISION.items()
    ]
    label = "hollow, †: number from another paper's table"
    handles.append(Line2D([], [], color=BLACK, marker="o", markerfacecolor="white", linestyle="", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1, handletextpad=0.2)
    return figure


def _method_marks(ax: Axes, table: pd.DataFrame) -> None:
    """A mark for each method: its form and colour say what it is given, its filling where the number was read."""
    for row in table.itertuples():
        colour, marker = SUPERVISION[_supervision(row.supervision)]
        ax.plot(
            row.voc12_val,
            row.coco14_val,
            linestyle="",
            color=colour,
            marker=marker,
            markersize=8 if row.method == "WeakTr" else 6,
            markerfacecolor=colour if row.read_from == "primary" else "none",
            markeredgewidth=1.2,
        )


def _supervision(words: str) -> str:
    """The key of SUPERVISION that the words of a table mean."""
    if "SAM" in words:
        return "and SAM"
    if "CLIP" in words or "text" in words:
        return "and CLIP or text"
    if "unsupervised" in words:
        return "and unsupervised features"
    return "image labels only"


def _method_numbers(ax: Axes, table: pd.DataFrame) -> None:
    """The number of each method beside its mark."""
    for number, (row, offset) in enumerate(zip(table.itertuples(), _free_places(table)), start=1):
        ax.annotate(
            str(number),
            xy=(row.voc12_val, row.coco14_val),
            xytext=tuple(offset),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment="center",
            fontsize=7.5,
            fontweight="bold" if row.method == "WeakTr" else "normal",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.6", "shrinkA": 3, "shrinkB": 0},
        )


def _free_places(table: pd.DataFrame, size: tuple[float, float] = (300, 230)) -> list[np.ndarray]:
    """Where the number of each point fits: offsets in points, on axes of about `size` points, one after the other."""
    columns = table[["voc12_val", "coco14_val"]].to_numpy(float)
    points = (columns - columns.min(0)) / np.ptp(columns, 0) * size
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + np.pi / 2
    candidates = [radius * np.array([np.cos(angle), np.sin(angle)]) for radius in (10, 17, 25, 34) for angle in angles]
    enough = 9.9  # points between a number and all else
    taken = list(points)
    offsets = []
    for point in points:
        gaps = [min(np.linalg.norm(point + offset - other) for other in taken) for offset in candidates]
        free = [offset for offset, gap in zip(candidates, gaps) if gap >= enough]
        offset = free[0] if free else candidates[int(np.argmax(gaps))]
        taken.append(point + offset)
        offsets.append(offset)
    return offsets


def _method_names(ax: Axes, table: pd.DataFrame) -> None:
    """The list that the numbers refer to."""
    ax.axis("off")
    last = max(len(table) - 1, 1)
    for i, row in enumerate(table.itertuples()):
        backbone = "backbone not stated" if row.backbone == "not stated" else row.backbone
        secondary = "" if row.read_from == "primary" else " †"
        ax.text(
            0,
            1 - i / last,
            f"{i + 1}  {row.method}, {backbone}{secondary}",
            transform=ax.transAxes,
            verticalalignment="top",
            fontsize=7.5,
            fontweight="bold" if row.method == "WeakTr" else "normal",
        )

"""Every figure of the notebooks: charts here, picture grids in `plots_dense.py`, all reachable from this module.

Pure functions: pandas or numpy in, a new `matplotlib.figure.Figure` out. pyplot does not know the figures, so there is
nothing to close. mIoU, IoU, AP and mAP are in percent; shares, precision and recall in 0..1.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from .dense import BLACK, BLUE, COLUMN, GREEN, OKABE_ITO, ORANGE, SKY, VERMILLION, WIDTH, style

LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX*"
GREY = "0.45"
SMALL = 10  # classes whose matrix fits one column


# ── Parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _heat_map(ax, values, rows, columns, text, *, inches, colours="Blues", low=0.0, high=None):
    """A matrix with its numbers: `text(value)` in each cell, NaN cells blank; no numbers where cells are too small."""
    import seaborn  # takes seconds, and most stages draw no matrix

    values = np.asarray(values, float)
    high = max(np.nanmax(values) if high is None else high, low + 1e-9)
    size = min(8, 72 * inches / len(columns) / 2.2)
    texts = np.vectorize(text, otypes=[str])(values) if size >= 4 else None
    seaborn.heatmap(
        values, vmin=low, vmax=high, cmap=colours, cbar=False, annot=texts, fmt="", annot_kws={"fontsize": size},
        xticklabels=columns, yticklabels=rows, ax=ax,
    )  # fmt: skip
    ax.grid(False)
    ax.tick_params(length=0, labelsize=min(8, 72 * inches / len(columns) / 1.25))
    ax.tick_params(axis="x", rotation=90 if max(map(len, columns)) > 3 else 0)
    ax.tick_params(axis="y", rotation=0)


def _square(values, names, text, *, height, high=None, **labels):
    """A figure of a square matrix, one column wide where that is enough; height: inches of what stands around it."""
    width = COLUMN if len(names) <= SMALL else WIDTH
    figure = Figure(figsize=(width, width - 1.0 + height))
    ax = figure.subplots()
    _heat_map(ax, values, names, names, text, inches=width - 1.0, high=high)
    ax.set(**labels)
    return figure


def list_rows(ax, names, texts):
    """Rows from the top down, at y = 0, 1, …: names at the left, texts in a column at the right."""
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.4, -0.6))
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center", "fontsize": 7.5}
    for y, text in enumerate(texts):
        ax.annotate(text, (1, y), (4, 0), **beside)


def _bars(ax, values, labels, colours, texts, **keywords):
    """Horizontal bars from the top down, their values as texts at the right; NaN reads "absent"."""
    ax.barh(np.arange(len(values)), np.nan_to_num(values), color=colours, height=0.72, **keywords)
    list_rows(ax, labels, [text if np.isfinite(value) else "absent" for value, text in zip(values, texts)])


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def co_occurrence(matrix, names, on):
    """Which classes share images of a list: counts (C, C), on the diagonal the images of a class → percent of a row."""
    matrix = np.asarray(matrix, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 100 * matrix / np.diag(matrix)[:, None]
    np.fill_diagonal(share, np.nan)
    title = "Images of the row's class that\nalso show the column's class (%)"
    return _square(share, names, "{:.0f}".format, height=1.4, high=100, title=title, xlabel=on)


# ── 01 · CAM training ─────────────────────────────────────────────────────────────────────────────────────────────
@style()
def training_history(history, on):
    """Loss terms, mAP on a list and rate: DataFrame epoch, lr, loss, loss_cls, loss_coarse, loss_fine, map_val (%)."""
    figure = Figure(figsize=(WIDTH, 2.5))
    losses, precision, rate = figure.subplots(1, 3)
    terms = {"loss": "sum", "loss_cls": "class tokens", "loss_coarse": "coarse CAM", "loss_fine": "fine CAM"}
    for (column, label), colour, dashes, marker in zip(terms.items(), (BLACK, *OKABE_ITO), ("-", *LINES), MARKERS):
        losses.plot(history["epoch"], history[column], color=colour, linestyle=dashes, marker=marker, label=label)
    losses.set(title="Training loss", ylim=(0, None))
    figure.legend(loc="outside lower left", ncols=4)
    measured = history.dropna(subset="map_val")
    precision.plot(measured["epoch"], measured["map_val"], marker="o")
    precision.set(title=f"mAP on {on} (%)")
    power = int(np.floor(np.log10(history["lr"].max())))
    rate.plot(history["epoch"], history["lr"] / 10.0**power, marker="o", color=GREY)
    rate.set(title=f"Learning rate (1e{power})", ylim=(0, None))
    for ax in (losses, precision, rate):
        ax.set(xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    return figure


@style()
def per_class_bars(values, title, xlabel):
    """Horizontal bars by class, the largest on top, with the mean as a line; NaN classes at the bottom as "absent".

    `values` is a Series by class name.
    """
    values = values.sort_values(ascending=False, kind="stable", na_position="last")
    text = "{:,.0f}".format if pd.api.types.is_integer_dtype(values.dtype) else "{:.1f}".format
    figure = Figure(figsize=(COLUMN, 0.19 * len(values) + 1.0))
    ax = figure.subplots()
    _bars(ax, values.to_numpy(float), list(map(str, values.index)), SKY, map(text, values))
    ax.axvline(values.mean(), color=BLACK, linestyle="--", linewidth=1, label=f"mean {text(values.mean())}")
    ax.set(title=title, xlabel=xlabel, xlim=(0, None))
    figure.legend(loc="outside lower center")
    return figure


# ── 02 · CAM generation ───────────────────────────────────────────────────────────────────────────────────────────
@style()
def head_weights(weights, std, on):
    """Learned fusion weights (L, H), a mean over the images of `on`, with their standard deviation (L, H)."""
    weights = np.asarray(weights, float)
    layers, heads = weights.shape
    figure = Figure(figsize=(WIDTH, 0.5 * max(2.6, 0.42 * heads) + 1.3))
    table, strip = figure.subplots(1, 2, width_ratios=[1.15, 1])
    numbers = [f"{i + 1}" for i in range(max(layers, heads))]
    _heat_map(
        table, weights.T, numbers[:heads], numbers[:layers], "{:.2f}".format, inches=3.4, colours="cividis",
        low=0, high=max(1, weights.max()),
    )  # fmt: skip
    table.set(title=f"Mean weight, {on}", xlabel="layer", ylabel="head")
    across = np.linspace(-0.25, 0.25, heads) if heads > 1 else np.zeros(1)
    for head in range(heads):
        x, spread = np.arange(1, layers + 1) + across[head], np.asarray(std)[:, head]
        colour, marker = OKABE_ITO[head % 8], MARKERS[head % 8]
        look = {"fmt": marker, "color": colour, "elinewidth": 0.8, "markersize": 3.5, "label": f"head {head + 1}"}
        strip.errorbar(x, weights[:, head], spread, **look)
    middle = weights.mean(1)
    strip.hlines(middle, np.arange(1, layers + 1) - 0.36, np.arange(1, layers + 1) + 0.36, color=BLACK, linewidth=1.5)
    strip.set(title="Per layer, enlarged (line: mean), ± std", xlabel="layer")
    strip.set_xticks(range(1, layers + 1))
    strip.ticklabel_format(axis="y", useOffset=False)
    strip.grid(False, axis="x")
    if heads <= 8:
        figure.legend(loc="outside lower center", ncols=heads, columnspacing=1, handletextpad=0.2)
    return figure


@style()
def threshold_curve(curve, on, chosen=None, chosen_from="without masks", best=None):
    """Seed mIoU over the background score: DataFrame threshold, miou and one column per class (drawn thin), in percent.

    `on` is the list with its size, `chosen` the threshold in use, found as `chosen_from` says, `best` the one found on
    masks, an oracle. Second panel: columns false_positive and false_negative (% of a class' union with its truth, mean
    over classes).
    """
    errors = {"false_positive": "false positives", "false_negative": "false negatives"}
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots(1, 2)
    x = curve["threshold"]
    for name in curve.columns.difference(["threshold", "miou", *errors]):
        axes[0].plot(x, curve[name], color="0.75", linewidth=0.7)
    axes[0].plot(x, curve["miou"], color=BLACK, linewidth=2, label="mIoU (grey: each class)")
    marks = ((chosen, f"chosen, {chosen_from}", BLUE, "o", "--"), (best, "best, oracle on masks", VERMILLION, "D", ":"))
    for at, label, colour, marker, dashes in marks:
        if at is None:
            continue
        value = np.interp(at, x, curve["miou"])
        axes[0].plot(at, value, marker, color=colour, markersize=6, label=f"{label}: t = {at:.2f}, mIoU {value:.1f}%")
        for ax in axes:
            ax.axvline(at, color=colour, linestyle=dashes, linewidth=1)
    axes[0].set(title=f"Seed mIoU on {on} (%)", ylim=(0, None))
    for (column, label), colour, dashes in zip(errors.items(), (ORANGE, GREEN), LINES):
        axes[1].plot(x, curve[column], color=colour, linestyle=dashes, label=label)
    axes[1].set(title="Errors, mean over classes (% of the union)", ylim=(0, None))
    for ax in axes:
        ax.set(xlabel="background score t", xlim=(x.min(), x.max()))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@style()
def score_histogram(counts, on, chosen, chosen_from):
    """Pixels of a list by the height of their strongest CAM, (n,) counts over 0…1, and the background score in use."""
    shares = 100 * counts.reshape(50, -1).sum(1) / counts.sum()
    figure = Figure(figsize=(COLUMN, 2.5))
    ax = figure.subplots()
    ax.bar((np.arange(50) + 0.5) / 50, shares, 0.02, color=np.where(np.arange(50) + 0.5 < 50 * chosen, "0.75", SKY))
    ax.axvline(chosen, color=BLUE, linestyle="--", linewidth=1, label=f"chosen, {chosen_from}: t = {chosen:.2f}")
    ax.set(title=f"Pixels by their strongest CAM (%)\n{on}", xlabel="CAM (left of t: background)", xlim=(0, 1))
    figure.legend(loc="outside lower center")
    return figure


@style()
def curves(table, xlabel, title):
    """Every column of a DataFrame over its index, with the greatest value of each in the legend and ringed."""
    figure = Figure(figsize=(COLUMN, 2.5 + 0.17 * table.shape[1]))
    ax = figure.subplots()
    for i, (name, values) in enumerate(table.items()):
        at, look = values.idxmax(), {"color": OKABE_ITO[i % 8], "marker": MARKERS[i % 8], "linestyle": LINES[i % 4]}
        every = (i, max(1, len(table) // 8))  # so many marks that each line is known by its own, also in grey
        label = f"{name}: best {values[at]:.1f} at {at:.2f}"
        ax.plot(table.index, values, **look, markevery=every, markersize=4, label=label)
        ax.plot(at, values[at], **look, markersize=7, markeredgecolor=BLACK)
    ax.set(xlabel=xlabel, title=title, ylim=(0, None))
    figure.legend(loc="outside lower center")
    return figure


# ── 03 · pseudo labels ────────────────────────────────────────────────────────────────────────────────────────────
@style()
def iou_comparison(table, title="IoU by class (%)"):
    """Grouped bars: DataFrame of IoU (%) by class with one column per stage; means stand in the legend."""
    panels = np.array_split(np.arange(len(table)), -(-len(table) // 27))
    figure = Figure(figsize=(WIDTH, 2.3 * len(panels) + 0.6))
    width = 0.84 / table.shape[1]
    for ax, rows in zip(figure.subplots(len(panels), 1, squeeze=False, sharey=True)[:, 0], panels):
        for i, (name, values) in enumerate(table.iloc[rows].items()):
            x = np.arange(len(rows)) + (i - (table.shape[1] - 1) / 2) * width
            label = f"{name} (mean {table[name].mean():.1f})"
            look = {"color": OKABE_ITO[i % 8], "hatch": ("", "///", "...", "xxx")[i % 4], "edgecolor": "white"}
            ax.bar(x, values, width, label=label, **look)
        upright = max(len(str(name)) for name in table.index) * len(rows) > 95
        ax.set_xticks(range(len(rows)), table.index[rows], rotation=90 if upright else 0)
        ax.tick_params(axis="x", length=0)
        ax.grid(False, axis="x")
        ax.set(xlim=(-0.6, max(map(len, panels)) - 0.4), ylim=(0, 100))
    figure.axes[0].set_title(title)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure


@style()
def crf_gain(table, on):
    """Where the CRF helps and harms on a list: a row per image, with columns before and after (its own mIoU, %)."""
    gain = table["after"] - table["before"]
    figure = Figure(figsize=(WIDTH, 3.1))
    scatter, histogram = figure.subplots(1, 2)
    looks = {
        "helped": (gain > 0, BLUE, "o"),
        "harmed": (gain < 0, VERMILLION, "D"),
        "unchanged": (gain == 0, GREY, "s"),
    }
    for name, (chosen, colour, marker) in looks.items():
        points, label = table[chosen], f"{name}: {chosen.sum()} ({chosen.mean():.0%})"
        scatter.scatter(
            points["before"], points["after"], s=7, alpha=0.6, color=colour, marker=marker, linewidth=0, label=label,
            clip_on=False,
        )  # fmt: skip
    scatter.axline((0, 0), slope=1, color=GREY, linewidth=1)
    labels = {"xlabel": "seed", "ylabel": "after CRF", "title": "mIoU of each image (%)"}
    scatter.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", **labels)
    edge = max(1.0, np.ceil(gain.abs().max()))
    bins = np.linspace(-edge, edge, 41)  # zero is an edge
    histogram.hist(gain[gain > 0], bins, color=BLUE)
    histogram.hist(gain[gain < 0], bins, color=VERMILLION)
    histogram.axvline(gain.mean(), color=BLACK, linestyle="--", linewidth=1, label=f"mean {gain.mean():+.1f}")
    histogram.set(title=f"Change by CRF on {on}", xlabel="points of mIoU", ylabel="images")
    figure.legend(loc="outside lower center", ncols=4, markerscale=1.8)
    return figure


# ── 04 · online retraining ────────────────────────────────────────────────────────────────────────────────────────
@style()
def clipping_history(history, on, start_value=None):
    """Clipping in training on a list: DataFrame epoch, loss, loss_unclipped and what `train_segmenter` has RECORDED.

    Faint: as logged; bold: the last 25th of the training together, shares of all its pixels. Below, from the first
    clipped pixel on, precision, recall and chance are those of the iterations that clip. `start_value` is the loss from
    which on pixels are clipped.
    """
    figure = Figure(figsize=(WIDTH, 5.2))
    loss, share, finds = figure.subplots(3, 1, height_ratios=[1.3, 0.8, 1.1])
    window, epoch = max(1, len(history) // 25), history["epoch"]
    rolling, clipping = history.rolling(window, min_periods=1), history["clipped"].cumsum() > 0
    means, sums = rolling.mean(), rolling.sum()
    whole = clipping.rolling(window).min() == 1  # before that, a few pixels would stand for all
    losses = (("loss_unclipped", GREY, "--", "before clipping"), ("loss", BLUE, "-", "after clipping"))
    for column, colour, dashes, label in losses:
        loss.plot(epoch, history[column], color=colour, alpha=0.25, linewidth=0.7)
        loss.plot(epoch, means[column], color=colour, linestyle=dashes, label=label)
    if start_value is not None:
        loss.axhline(start_value, color=VERMILLION, linestyle=":", label=f"start value {start_value:.2f}")
    share.plot(epoch, history["clipped"] / history["labelled"], color=BLUE, alpha=0.25, linewidth=0.7)
    share.plot(epoch, (sums["clipped"] / sums["labelled"]).where(whole), color=BLUE)
    for part, of, colour, dashes, label in (
        ("clipped_wrong", "clipped_known", BLUE, "-", "precision: clipped pixels whose label is wrong"),
        ("clipped_wrong", "wrong_active", ORANGE, "-.", "recall: wrong labels that are clipped"),
        ("wrong_active", "known_active", BLACK, ":", "wrong labels among all pixels (clipping at random)"),
    ):
        finds.plot(epoch, (sums[part] / sums[of]).where(whole), color=colour, linestyle=dashes, label=label)
    loss.set(title=f"Loss on {on} (faint: as logged)", ylim=(0, None))
    share.set(title="Share of clipped pixels", ylim=(0, None))
    finds.set(title="Does clipping find label noise? Iterations that clip", ylim=(0, None), xlabel="epoch")
    for ax in (share, finds):
        if clipping.iloc[:-1].any():
            ax.set_xlim(epoch[clipping].iloc[0], epoch.iloc[-1])
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.yaxis.set_major_locator(MaxNLocator(4))
    loss.legend(loc="upper right", ncols=3)
    figure.legend(*finds.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


# ── 05 · evaluation ───────────────────────────────────────────────────────────────────────────────────────────────
@style()
def confusion(matrix, names, on):
    """Confusion matrix (K, K) of a list's pixels, truth in rows, in percent of each row; under 0.5 % left blank."""
    matrix = np.asarray(matrix, float)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    title = f"Where each class' pixels go (%)\n{on}"
    labels = {"title": title, "xlabel": "predicted" + " (blank: below 0.5)" * (len(names) <= SMALL), "ylabel": "true"}
    return _square(share, names, lambda x: f"{x:.0f}" if x >= 0.5 else "", height=1.0, high=100, **labels)


@style()
def size_against_iou(table, on):
    """Whether small objects of a list fail: a row per image and class with its size (% of the image) and iou (%)."""
    figure = Figure(figsize=(COLUMN, 3.0))
    ax = figure.subplots()
    ax.scatter(table["size"], table["iou"], s=10, color=SKY, alpha=0.7, linewidth=0, label="a class in an image")
    edges = np.unique(np.quantile(table["size"], np.linspace(0, 1, 7)))
    bins = table.groupby(np.clip(np.searchsorted(edges, table["size"], "right"), 1, max(1, len(edges) - 1)))
    middle, mean = bins["size"].median(), bins["iou"].mean()
    ax.plot(middle, mean, "-o", color="white", linewidth=4, markersize=8)
    ax.plot(middle, mean, "-o", color=BLACK, linewidth=1.8, label="mean of each sixth, by size")
    ax.set_xscale("log")
    missed = f"{(table['iou'] == 0).sum()} of {len(table)} at zero"
    ax.annotate(missed, (1, 0), (0, 8), xycoords="axes fraction", textcoords="offset points", ha="right", fontsize=7.5)
    low, high = table["size"].min() * 0.9, table["size"].max() * 1.1
    ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10, 20, 40, 80) if low <= tick <= high]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    title = f"IoU of each class in an image (%)\n{on}"
    ax.set(title=title, xlabel="size (% of the image, log)", xlim=(low, high), ylim=(-2, 102))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@style()
def stage_bars(results, title="From image labels to masks: mIoU (%)"):
    """The chain of stages, from the top down: DataFrame stage (what it is), value (%), list (sets the colour) and
    oracle (hatched: made or chosen with masks).
    """
    lists, oracle = list(dict.fromkeys(results["list"])), results["oracle"].astype(bool)
    colours = [(BLUE, ORANGE, GREEN)[lists.index(name) % 3] for name in results["list"]]
    figure = Figure(figsize=(WIDTH, 0.3 * len(results) + 1.0))
    ax = figure.subplots()
    values = results["value"].to_numpy(float)
    hatches = ["////" if mark else "" for mark in oracle]
    _bars(ax, values, results["stage"], colours, [f"{value:.1f}" for value in values], hatch=hatches, edgecolor="white")
    ax.set(title=title, xlim=(0, None))
    handles = [Patch(color=(BLUE, ORANGE, GREEN)[i % 3], label=name) for i, name in enumerate(lists)]
    if oracle.any():
        handles.append(Patch(fc="0.7", hatch="////", ec="white", label="oracle: made or chosen with masks"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure

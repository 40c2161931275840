"""Picture grids: images, activation maps and label masks side by side. Used through `weaktr.plots`.

Everywhere: an image is uint8 (H, W, 3); a mask is uint8 (H, W) with 0 background, c + 1 for class c, 255 void; a map
is float (h, w) of any size and is stretched over its image; `class_names` are the C foreground names. Every function
takes data and returns a new `matplotlib.figure.Figure` that pyplot does not know, so there is nothing to close.
"""

import textwrap
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..data.images import palette
from ..evaluation.metrics import seed_mask
from ..evaluation.scores import clipping_scores, wrong_and_clipped

STYLE = Path(__file__).with_name("paper.mplstyle")
WIDTH, COLUMN = 7.2, 3.5  # inches, two columns of a paper and one
VOID_COLOUR = (236, 236, 228)
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW = OKABE_ITO = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442",
)  # fmt: skip
HEAT, OPACITY = "inferno", 0.7  # of maps laid over their image
LUMA = np.array([0.299, 0.587, 0.114])  # its grey, from red, green and blue
CHANGES = {
    "right before and after": "0.93",
    "fixed by CRF": SKY,
    "broken by CRF": VERMILLION,
    "wrong before and after": "0.3",
    "not counted": "white",
}
CLIPPING = {
    "kept, label right": "0.93",
    "clipped, label wrong": SKY,
    "clipped, label right": VERMILLION,
    "kept, label wrong": "0.3",
    "not counted": "white",
}


def style():
    """Context manager, and decorator, under which matplotlib draws in `paper.mplstyle`."""
    return mpl.style.context(STYLE)


def use_style():
    """Make `paper.mplstyle` the style of everything drawn and saved from here on (fonts stay text in PDFs)."""
    mpl.style.use(STYLE)


def colour_mask(mask):
    """Mask (H, W) → RGB uint8 (H, W, 3) in the hues of VOC's palette, void nearly white.

    Lighter than in the files, where some classes can hardly be told from the black of the background.
    """
    colours = np.uint8(255 * np.sqrt(np.array(palette()).reshape(256, 3) / 255))
    colours[255] = VOID_COLOUR
    return colours[np.asarray(mask, np.uint8)]


def heat(image, values):
    """A map of 0..1, as large as its image, over the image in grey → RGB uint8 (H, W, 3)."""
    colours = 255 * mpl.colormaps[HEAT](values)[..., :3]
    return np.uint8((1 - OPACITY) * (image @ LUMA)[..., None] + OPACITY * colours)


# ── Parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _grid(shapes, columns, titles=(), names=()):
    """Figure, too tall until `_fit`, and its bare axes (rows, columns), a row for each (height, width) of `shapes`."""
    tile = min(1.6, (WIDTH - 0.3) / columns)  # two tiles fill one column
    heights = [tile * height / width for height, width in shapes]
    figure = Figure(figsize=(tile * columns + 0.3, sum(heights) + 0.4 * len(heights) + 1), layout="compressed")
    figure.get_layout_engine().set(w_pad=0.025, h_pad=0.025, wspace=0, hspace=0)
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        _bare(ax)
    for ax, title in zip(axes[0], titles):
        _title(ax, title, tile)
    for ax, name in zip(axes[:, 0], names):
        ax.set_ylabel(name)
    return figure, axes


def _bare(ax):
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)


def _title(ax, text, inches, **keywords):
    ax.set_title(textwrap.fill(text, max(8, int(inches / 0.072))), loc="center", fontsize=8, pad=3, **keywords)


def _fit(figure):
    """Cut the height that the layout leaves empty, which it can tell in a grid whose tiles are limited by the width."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    rows, rest = {}, [legend.get_window_extent(renderer).height for legend in figure.legends]
    for ax in filter(Axes.get_visible, figure.axes):
        tile, whole, cell = ax.get_window_extent(renderer), ax.get_tightbbox(renderer), ax.get_subplotspec()
        if cell is None:  # a colour bar
            rest.append(whole.height + 0.05 * figure.dpi)
        else:
            rows.setdefault(cell.rowspan.start, []).append((tile.height, whole.y1 - tile.y1, tile.y0 - whole.y0))
    pixels = sum(map(sum, (map(max, zip(*sizes, strict=True)) for sizes in rows.values()))) + sum(rest)
    figure.set_figheight(pixels / figure.dpi + 0.07 * (len(rows) + len(rest)))
    return figure


def _legend(figure, colours, loc="outside lower center"):
    """Legend of {label: colour} outside the axes."""
    handles = [
        Patch(facecolor=colour, edgecolor="0.6", linewidth=0.5, label=label) for label, colour in colours.items()
    ]
    lines = -(-sum(0.37 + 0.067 * len(label) for label in colours) // figure.get_figwidth())
    columns = int(-(-len(colours) // lines))
    figure.legend(handles=handles, loc=loc, ncols=columns, handlelength=1.2, columnspacing=1.2, borderpad=0.9)


def _class_legend(figure, masks, class_names):
    """Legend of the labels that occur in `masks`, in their colours."""
    names = {0: "background", **dict(enumerate(class_names, start=1)), 255: "void"}
    values = sorted(set().union(*(np.unique(mask).tolist() for mask in masks)))
    _legend(figure, {names.get(value, f"label {value}"): colour_mask(value) / 255 for value in values})


def _unit(values):
    """A map's positive part, stretched to 0..1."""
    values = np.maximum(np.asarray(values, np.float32), 0)
    return (values - values.min()) / max(np.ptp(values), 1e-8)


def _overlay(ax, image, values, **keywords):
    """A map laid over its image in grey."""
    height, width = image.shape[:2]
    ax.imshow(image @ LUMA, cmap="gray", vmin=0, vmax=255)
    keywords = {"cmap": HEAT, "vmin": 0, "vmax": 1, "alpha": OPACITY, "interpolation": "bilinear", **keywords}
    return ax.imshow(values, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **keywords)


def _codes(ax, codes, colours):
    """An integer map (H, W) drawn in the colours of {label: colour}, by position."""
    table = np.array([mpl.colors.to_rgb(colour) for colour in colours.values()])
    ax.imshow((table * 255).round().astype(np.uint8)[codes])


def _show(ax, picture):
    ax.imshow(picture if picture.ndim == 3 else colour_mask(picture))


# ── Figures ───────────────────────────────────────────────────────────────────────────────────────────────────────
@style()
def sample_sheet(images, masks, titles, class_names):
    """Contact sheet: every image above its mask, six pairs a line, with `titles` (list of str) over the images."""
    columns, tile = min(6, len(images)), (WIDTH - 0.3) / 6
    blocks = -(-len(images) // columns)
    tallest = max((image.shape[:2] for image in images), key=lambda shape: shape[0] / shape[1])
    figure, axes = _grid([tallest] * 2 * blocks, columns)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (image, mask, title) in enumerate(zip(images, masks, titles, strict=True)):
        top, bottom = axes[i // columns * 2, i % columns], axes[i // columns * 2 + 1, i % columns]
        _title(top, title, tile)
        _show(top, image)
        _show(bottom, mask)
        top.set_anchor("S"), bottom.set_anchor("N")
    _class_legend(figure, masks, class_names)
    return _fit(figure)


@style()
def qualitative_grid(rows, class_names, names=()):
    """Images and masks in columns: each row is a dict {column title: image or mask}, all with the same keys; names
    stand at their left.
    """
    titles = list(rows[0])
    figure, axes = _grid([next(iter(row.values())).shape[:2] for row in rows], len(titles), titles, names)
    for line, row in zip(axes, rows):
        for ax, title in zip(line, titles):
            _show(ax, row[title])
    _class_legend(figure, [picture for row in rows for picture in row.values() if picture.ndim == 2], class_names)
    return _fit(figure)


@style()
def cam_stages(rows, class_names):
    """How a CAM is made, one image and class a row.

    Each row is a dict: image, class_index (from 0), coarse, attention, fused, fine (maps), truth (mask). Negative
    values count as 0 and every map is stretched to 0..1 by itself; the white line is the truth's outline.
    """
    stages = {"coarse": "coarse CAM", "attention": "attention CAM", "fused": "fused CAM", "fine": "fine CAM"}
    titles = ["image", *stages.values(), "truth"]
    names = [class_names[row["class_index"]] for row in rows]
    figure, axes = _grid([row["image"].shape[:2] for row in rows], len(titles), titles, names)
    for line, row in zip(axes, rows):
        _show(line[0], row["image"])
        _show(line[-1], row["truth"])
        outline = row["truth"] == row["class_index"] + 1
        for ax, stage in zip(line[1:], stages):
            drawn = _overlay(ax, row["image"], _unit(row[stage]))
            if outline.any() and not outline.all():
                ax.contour(outline, levels=[0.5], colors="white", linewidths=0.8)
    text = "activation, each map from its least to its greatest"
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.4, aspect=40, label=text)
    _class_legend(figure, [row["truth"] for row in rows], class_names)
    return _fit(figure)


@style()
def seed_view(image, cams, class_index, threshold, class_names):
    """The CAM of one class over its image, and the seed of all CAMs {class from 0: (H,W)} at `threshold`."""
    title = f"CAM of {class_names[class_index]}"
    figure, axes = _grid([image.shape[:2]], 3, ["image", title, f"seed at {threshold:.2f}"])
    _show(axes[0, 0], image)
    _overlay(axes[0, 1], image, cams[class_index])
    seed = seed_mask(cams, threshold)
    _show(axes[0, 2], seed)
    _class_legend(figure, [seed], class_names)
    return _fit(figure)


@style()
def attention_gallery(image, maps, weights, class_name, first=(0, 0)):
    """The attention of one class token in every layer and head: maps (L, H, h, w), learned weights (L, H).

    Each tile is stretched to its own range; its number and the colour of its frame are its weight in the fusion.
    first: layer and head, from 0, of the first tile.
    """
    layers, heads = weights.shape
    columns = min(2, layers)  # of the image beside them
    ratio, tile = image.shape[0] / image.shape[1], min(2.0, (WIDTH - 0.3) / (layers + columns))
    height = max(heads * (tile * ratio + 0.2), columns * tile * ratio + 0.4) + 0.8
    figure = Figure(figsize=(tile * (layers + columns) + 0.3, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.025, h_pad=0.02, wspace=0, hspace=0)
    cells = figure.add_gridspec(heads, layers + columns)
    norm, colours = Normalize(0, max(1, weights.max())), mpl.colormaps["cividis"]
    tiles = np.array(
        [[figure.add_subplot(cells[head, columns + layer]) for head in range(heads)] for layer in range(layers)]
    )
    for (layer, head), ax in np.ndenumerate(tiles):
        weight = weights[layer, head]
        _bare(ax)
        _overlay(ax, image, _unit(maps[layer, head]))
        ax.spines[:].set(visible=True, color=colours(norm(weight)), linewidth=2.4)
        ax.set_title(f"{weight:.2f}", loc="center", fontsize=7, pad=3)
        if head == heads - 1:
            ax.set_xlabel(f"layer {first[0] + layer + 1}", fontsize=6.5)
        if layer == 0:
            ax.set_ylabel(f"head {first[1] + head + 1}", fontsize=7)
    picture = figure.add_subplot(cells[:, :columns])
    _bare(picture)
    _show(picture, image)
    picture.set_anchor("N")
    _title(picture, f"attention of “{class_name}”", columns * tile)
    bar = mpl.cm.ScalarMappable(norm, colours)
    figure.colorbar(bar, ax=tiles.ravel(), location="bottom", shrink=0.5, aspect=40, label="weight in the fusion")
    return figure


@style()
def label_grid(rows, class_names, names=()):
    """What the CRF does to seeds: each row is a dict image, seed, refined, truth (masks); names stand at their left."""
    titles = ["image", "seed", "after CRF", "truth", "change"]
    figure, axes = _grid([row["image"].shape[:2] for row in rows], len(titles), titles, names)
    for line, row in zip(axes, rows):
        for ax, key in zip(line, ("image", "seed", "refined", "truth")):
            _show(ax, row[key])
        before, after = row["seed"] == row["truth"], row["refined"] == row["truth"]
        codes = np.select([row["truth"] == 255, before & after, after, before], [4, 0, 1, 2], 3)
        _codes(line[-1], codes, CHANGES)
    _legend(figure, CHANGES, "outside upper center")
    _class_legend(figure, [row[key] for row in rows for key in ("seed", "refined", "truth")], class_names)
    return _fit(figure)


@style()
def clipped_pixels(rows, class_names):
    """Whether clipping finds label noise: each row is a dict image, label (pseudo label), truth (masks), loss (map, per
    pixel, before clipping) and clipped (bool (H, W)).

    Void pixels of the label or of the truth are left out of the errors and of precision and recall.
    """
    titles = ["image", "pseudo label", "truth", "errors (dark)", "pixel loss", "clipped pixels"]
    figure, axes = _grid([row["image"].shape[:2] for row in rows], len(titles), titles)
    greatest = max(np.percentile(row["loss"], 99) for row in rows)
    for line, row, score in zip(axes, rows, clipping_scores(rows).itertuples()):
        void, wrong, clipped = wrong_and_clipped(row)
        for ax, key in zip(line, ("image", "label", "truth")):
            _show(ax, row[key])
        _codes(line[3], np.where(void, 4, 3 * wrong), CLIPPING)
        drawn = line[4].imshow(row["loss"], cmap=HEAT, vmin=0, vmax=greatest)
        _codes(line[5], np.select([void, wrong & clipped, clipped, wrong], [4, 1, 2, 3], 0), CLIPPING)
        precision, recall = ("–" if np.isnan(share) else f"{share:.0%}" for share in (score.precision, score.recall))
        share = np.nan_to_num(score.wrong)
        line[3].set_xlabel(f"{share:.{int(share < 0.1)}%} wrong", fontsize=7, labelpad=2)
        line[5].set_xlabel(f"precision {precision}\nrecall {recall}", fontsize=7, labelpad=2)
    figure.colorbar(
        drawn, ax=axes, location="bottom", shrink=0.4, aspect=40, extend="max", label="cross entropy before clipping"
    )
    _legend(figure, CLIPPING, "outside upper center")
    _class_legend(figure, [row[key] for row in rows for key in ("label", "truth")], class_names)
    return _fit(figure)


@style()
def best_typical_worst(groups, class_names):
    """Best and worst predictions, two a line: {group name: [dict image, truth, prediction (masks), iou (%)]}."""
    lines = [(name, rows[i : i + 2]) for name, rows in groups.items() for i in range(0, len(rows), 2)]
    shapes = [max((row["image"].shape[:2] for row in pair), key=lambda s: s[0] / s[1]) for _, pair in lines]
    names = [name for name, _ in lines]
    figure, axes = _grid(shapes, 6, names=names)
    for number, (line, (_, pair)) in enumerate(zip(axes, lines)):
        for ax in line[3 * len(pair) :]:
            ax.set_visible(False)
        for i, row in enumerate(pair):
            for ax, key in zip(line[3 * i :], ("image", "truth", "prediction")):
                _show(ax, row[key])
                if key == "prediction":
                    _title(ax, f"mIoU {row['iou']:.0f}%", 1.1)
                elif number == 0:
                    _title(ax, key, 1.1)
    masks = [row[key] for rows in groups.values() for row in rows for key in ("truth", "prediction")]
    _class_legend(figure, masks, class_names)
    return _fit(figure)

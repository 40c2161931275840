"""What figures share: grids of pictures, their legends, maps over images, bars and matrices of numbers."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from ..data.images import VOID, palette
from .style import COLUMN, WIDTH

VOID_COLOUR = (236, 236, 228)
HEAT = "inferno"  # colours of maps laid over their image
OPACITY = 0.7
LUMA = np.array([0.299, 0.587, 0.114])  # the image's grey, from red, green and blue
SMALL = 10  # classes whose matrix fits one column
LETTER = 0.072  # inches that a letter of eight points takes

Row = Mapping[str, Any]  # the pictures and numbers of one row of a grid, by name


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────
def colour_mask(mask: ArrayLike) -> np.ndarray:
    """A mask (H, W) in the hues of VOC's palette → RGB uint8 (H, W, 3), void nearly white.

    The colours are lighter than in the files, where some classes hardly differ from the black of the background.
    """
    colours = (255 * np.sqrt(np.array(palette()).reshape(256, 3) / 255)).astype(np.uint8)
    colours[VOID] = VOID_COLOUR
    return colours[np.asarray(mask, np.uint8)]


def mask_over(image: np.ndarray, mask: ArrayLike) -> np.ndarray:
    """A mask (H, W) in its colours over its image, which stays as it is in the background → RGB uint8 (H, W, 3)."""
    labels = np.asarray(mask, np.uint8)
    coloured = (1 - OPACITY) * image + OPACITY * colour_mask(labels)
    return np.where((labels == 0)[..., None], image, coloured).astype(np.uint8)


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map of 0…1, as large as its image, over the image in grey → RGB uint8 (H, W, 3)."""
    colours = 255 * mpl.colormaps[HEAT](values)[..., :3]
    grey = (image @ LUMA)[..., None]
    return ((1 - OPACITY) * grey + OPACITY * colours).astype(np.uint8)


def stretched(values: ArrayLike) -> np.ndarray:
    """The positive part of a map, stretched to 0…1."""
    positive = np.maximum(np.asarray(values, np.float32), 0)
    return (positive - positive.min()) / max(np.ptp(positive), 1e-8)


def tallest(images: Iterable[np.ndarray]) -> tuple[int, int]:
    """(height, width) of the image that is tallest for its width."""
    return max((image.shape[:2] for image in images), key=lambda shape: shape[0] / shape[1])


def show(ax: Axes, picture: np.ndarray) -> None:
    """Draw an image as it is, or a mask in the colours of its classes."""
    ax.imshow(picture if picture.ndim == 3 else colour_mask(picture))


def overlay(ax: Axes, image: np.ndarray, values: np.ndarray) -> AxesImage:
    """Draw a map of 0…1, of any size, over its image in grey."""
    height, width = image.shape[:2]
    ax.imshow(image @ LUMA, cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return ax.imshow(values, cmap=HEAT, vmin=0, vmax=1, alpha=OPACITY, interpolation="bilinear", extent=extent)


def show_categories(ax: Axes, categories: Mapping[str, np.ndarray], colours: Mapping[str, str]) -> None:
    """Draw every pixel in the colour of its category.

    Args:
        ax: where to draw.
        categories: {category: bool (H, W)}; where several hold, the first counts. One holds for every pixel.
        colours: {category: colour}.
    """
    table = np.array([mpl.colors.to_rgb(colours[name]) for name in categories])
    codes = np.select(list(categories.values()), list(range(len(categories))))
    ax.imshow((table * 255).round().astype(np.uint8)[codes])


# ── Grids of pictures ─────────────────────────────────────────────────────────────────────────────────────────────
def grid(
    shapes: Sequence[tuple[int, ...]], columns: int, titles: Iterable[str] = (), names: Iterable[str] = ()
) -> tuple[Figure, np.ndarray]:
    """A figure of bare axes for pictures. It is too tall until `fit`.

    Args:
        shapes: (height, width) of the pictures of each row.
        columns: pictures in a row.
        titles: of the columns.
        names: of the rows, at their left.

    Returns:
        The figure and its axes (rows, columns).
    """
    tile = min(1.6, (WIDTH - 0.3) / columns)  # inches; two tiles fill one column of a paper
    heights = [tile * height / width for height, width in shapes]
    size = (tile * columns + 0.3, sum(heights) + 0.4 * len(heights) + 1)
    layout = ConstrainedLayoutEngine(w_pad=0.025, h_pad=0.025, wspace=0, hspace=0, compress=True)
    figure = Figure(figsize=size, layout=layout)
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        bare(ax)
    for ax, title in zip(axes[0], titles):
        add_title(ax, title, tile)
    for ax, name, height in zip(axes[:, 0], names, heights):
        name_row(ax, name, height)
    return figure, axes


def bare(ax: Axes) -> None:
    """Take ticks, frame and grid lines away."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)


def add_title(ax: Axes, text: str, inches: float) -> None:
    """Set a title in the middle over a picture that is so many inches wide."""
    ax.set_title(wrapped(text, inches), loc="center", fontsize=8, pad=3)


def name_row(ax: Axes, name: str, inches: float) -> None:
    """Set a name along the left side of a picture that is so many inches high; across, where it is too flat."""
    text = wrapped(name, inches)
    longest = max(map(len, text.splitlines()), default=0)
    if longest * LETTER <= inches:
        ax.set_ylabel(text)
    else:
        ax.set_ylabel(text, rotation=0, ha="right", va="center")


def wrapped(text: str, inches: float) -> str:
    """A text in lines that are no longer than a picture's side, at eight points."""
    return textwrap.fill(text, max(8, int(inches / LETTER)))


def fit(figure: Figure) -> Figure:
    """Cut the height that the layout leaves empty in a `grid`, and return the figure.

    The width limits the tiles of a grid, so only a layout that has been drawn knows how high they are.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    rows: dict[int, list[tuple[float, float, float]]] = {}  # of each picture: height, and what juts out above and below
    others = [legend.get_window_extent(renderer).height for legend in figure.legends]
    for ax in figure.axes:
        whole = ax.get_tightbbox(renderer)
        if whole is None:  # not shown
            continue
        picture = ax.get_window_extent(renderer)
        cell = ax.get_subplotspec()
        if cell is None:  # a colour bar
            others.append(whole.height + 0.05 * figure.dpi)
        else:
            around = (picture.height, whole.y1 - picture.y1, picture.y0 - whole.y0)
            rows.setdefault(cell.rowspan.start, []).append(around)
    pixels = sum(sum(map(max, zip(*row, strict=True))) for row in rows.values()) + sum(others)
    figure.set_figheight(pixels / figure.dpi + 0.07 * (len(rows) + len(others)))
    return figure


def colour_legend(figure: Figure, colours: Mapping[str, Any], *, above: bool = False) -> None:
    """Legend of {label: colour} below or above the axes, in as many lines as its width asks for; none of nothing."""
    if not colours:
        return
    handles = [
        Patch(facecolor=colour, edgecolor="0.6", linewidth=0.5, label=label) for label, colour in colours.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center" if above else "outside lower center",
        ncols=_legend_columns(list(colours), figure.get_figwidth()),
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0.9,
    )


def _legend_columns(labels: Sequence[str], inches: float) -> int:
    """How many columns of a legend, which is filled column by column, go side by side into a width."""
    widths = [0.37 + 0.067 * len(label) for label in labels]  # a patch with its gaps, and a letter
    for columns in range(len(labels), 1, -1):
        if sum(max(column) for column in np.array_split(widths, columns)) <= inches:
            return columns
    return 1


def class_legend(figure: Figure, masks: Iterable[np.ndarray], class_names: Sequence[str]) -> None:
    """Legend of the labels that occur in `masks`, in their colours; unknown labels are named by number."""
    names = {0: "background", **dict(enumerate(class_names, start=1)), VOID: "void"}
    values = sorted(set().union(*(np.unique(mask).tolist() for mask in masks)))
    colour_legend(figure, {names.get(value, f"label {value}"): colour_mask(value) / 255 for value in values})


# ── Charts ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Line(NamedTuple):
    """A line of a chart: the column it draws, what the legend calls it, and its look."""

    column: str
    label: str
    colour: str
    dashes: str = "-"
    marker: str = ""


def draw_lines(ax: Axes, x: pd.Series, table: pd.DataFrame, lines: Iterable[Line]) -> None:
    """Draw columns of a table over x."""
    for line in lines:
        ax.plot(x, table[line.column], color=line.colour, linestyle=line.dashes, marker=line.marker, label=line.label)


def list_rows(ax: Axes, names: Sequence[str], texts: Iterable[str]) -> None:
    """Make rows from the top down, at y = 0, 1, …: names at the left, texts in a column at the right."""
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.4, -0.6))
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    for y, text in enumerate(texts):
        ax.annotate(
            text,
            xy=(1, y),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=7.5,
        )


def bars(
    ax: Axes,
    names: Sequence[str],
    values: np.ndarray,
    text: Callable[[float], str],
    colours: str | Sequence[str],
    **keywords: Any,
) -> None:
    """Draw horizontal bars from the top down.

    Args:
        ax: where to draw.
        names: of the bars, at their left.
        values: lengths of the bars; NaN reads "absent".
        text: how a value is written at the right.
        colours: of all bars, or of each.
        **keywords: for `Axes.barh`.
    """
    ax.barh(np.arange(len(values)), np.nan_to_num(values), color=colours, height=0.72, **keywords)
    list_rows(ax, names, [text(value) if np.isfinite(value) else "absent" for value in values])


def heat_map(
    ax: Axes, table: pd.DataFrame, text: Callable[[float], str], *, high: float, inches: float, colours: str = "Blues"
) -> None:
    """Draw a matrix with its numbers.

    Args:
        ax: where to draw.
        table: the numbers, with the names of rows and columns; NaN cells stay blank.
        text: how a number is written in its cell; cells too small for text have none.
        high: the number of the last colour; the first is that of 0.
        inches: width of the matrix, on which the sizes of the letters rest.
        colours: name of the colour map.
    """
    import seaborn  # takes seconds, and most stages draw no matrix

    values = table.to_numpy(float)
    rows = list(table.index)
    columns = list(table.columns)
    cell = 72 * inches / len(columns)  # points
    size = min(8, cell / 2.2)
    seaborn.heatmap(
        values,
        ax=ax,
        vmin=0,
        vmax=high,
        cmap=colours,
        cbar=False,
        annot=np.vectorize(text, otypes=[str])(values) if size >= 4 else None,
        fmt="",
        annot_kws={"fontsize": size},
        xticklabels=columns,
        yticklabels=rows,
    )
    _write_legibly(ax, np.isfinite(values))
    ax.grid(False)
    ax.tick_params(length=0, labelsize=min(8, cell / 1.25))
    ax.tick_params(axis="x", rotation=90 if max(map(len, columns)) > 3 else 0)
    ax.tick_params(axis="y", rotation=0)


def _write_legibly(ax: Axes, written: np.ndarray) -> None:
    """Write the numbers of a heat map in black or white, whichever stands out more from its cell.

    seaborn writes white up to a relative luminance of 0.41; by the contrast ratio of WCAG 2 black is better from 0.2.
    """
    from seaborn.utils import relative_luminance

    cells = ax.collections[0]
    cells.update_scalarmappable()
    for text, colour in zip(ax.texts, np.asarray(cells.get_facecolor())[written.ravel()]):
        text.set_color("0.15" if relative_luminance(colour) > 0.2 else "white")


def percent_matrix(
    share: np.ndarray, names: Sequence[str], text: Callable[[float], str], *, around: float, **labels: str
) -> Figure:
    """A square matrix of percentages by class, one column wide where that is enough.

    Args:
        share: (K, K), in percent; NaN cells stay blank.
        names: of the K classes.
        text: how a number is written in its cell.
        around: inches of height for what stands above and below the matrix.
        **labels: title, xlabel, ylabel.
    """
    width = COLUMN if len(names) <= SMALL else WIDTH
    figure = Figure(figsize=(width, width - 1.0 + around))
    ax = figure.subplots()
    heat_map(ax, pd.DataFrame(share, names, names), text, high=100, inches=width - 1.0)
    ax.set(**labels)
    return figure

"""Metrics records as rows of texts, such rows as aligned tables, and the words of a figure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TITLES = 8  # of the panels of a figure that make its title; a sheet of pictures has a title for each
PLACES: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")  # of a title over its panel

HEAD = ("stage", "list (size)", "threshold (from)", "scales", "CRF", "metric", "value", "")


def results_rows(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Metrics records as rows of texts, the head first; those for which pixel masks were used are marked `oracle`."""
    return [HEAD, *map(_row, records)]


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    threshold = "–"
    if record["threshold"] is not None:
        threshold = f"{record['threshold']:.3g} ({record['threshold_from']})"

    scales = record["scales"]
    if not isinstance(scales, list | tuple):
        scales = [scales]

    value = record["value"]
    notes = []
    if record["oracle"]:
        notes.append("oracle")
    if record.get("published"):
        notes.append(f"published {record['published']}")
    return (
        record["stage"],
        f"{record['list']} ({record['list_size']})",
        threshold,
        ", ".join("–" if scale is None else str(scale) for scale in scales),
        {None: "–", True: "yes", False: "no"}.get(record["crf"], str(record["crf"])),
        record["metric"],
        f"{value:.2f}" if isinstance(value, float) else str(value),
        " · ".join(notes),
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as lines with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def figure_in_words(figure: "Figure") -> dict[str, str]:
    """What is written in a figure, for its caption and for whoever does not see it.

    Returns:
        The `title`, "" where there are too many, and `alt`: titles, axes and legend in one line.
    """
    panels = [ax for ax in figure.axes if ax.get_visible()]
    headings = [figure.get_suptitle(), *(ax.get_title(place) for ax in panels for place in PLACES)]
    legends = [*figure.legends, *filter(None, (ax.get_legend() for ax in panels))]
    titles = _once(headings)
    words = {
        "": titles,
        "axes: ": _once(label for ax in panels for label in (ax.get_xlabel(), ax.get_ylabel())),
        "legend: ": _once(entry.get_text() for legend in legends for entry in legend.get_texts()),
    }
    alt = "; ".join(kind + ", ".join(own) for kind, own in words.items() if own)
    return {"title": ", ".join(titles) if len(titles) <= MOST_TITLES else "", "alt": alt}


def _once(texts: Iterable[str]) -> list[str]:
    """Each of some texts that is not empty once, in a line, in their order."""
    return list(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))

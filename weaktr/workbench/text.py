"""Metrics records as rows of texts, and such rows as aligned tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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

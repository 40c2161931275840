"""Rows of texts as aligned tables, and metrics records as such rows."""


def results_rows(records):
    """Metrics records as rows of texts, the head first; those in which pixel masks had a part are marked `oracle`."""
    rows = [("stage", "list (size)", "threshold (from)", "scales", "CRF", "metric", "value", "")]
    for record in records:
        threshold = "–" if record["threshold"] is None else f"{record['threshold']:.3g} ({record['threshold_from']})"
        published = record.get("published")
        scales = record["scales"] if isinstance(record["scales"], list | tuple) else [record["scales"]]
        rows.append(
            (
                record["stage"],
                f"{record['list']} ({record['list_size']})",
                threshold,
                ", ".join("–" if scale is None else str(scale) for scale in scales),
                {None: "–", True: "yes", False: "no"}.get(record["crf"], str(record["crf"])),
                record["metric"],
                f"{record['value']:.2f}" if isinstance(record["value"], float) else str(record["value"]),
                " · ".join(["oracle"] * bool(record["oracle"]) + ([f"published {published}"] if published else [])),
            )
        )
    return rows


def aligned(rows):
    """Rows of texts as lines with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

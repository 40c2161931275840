"""Tables for papers: DataFrames as LaTeX (booktabs) and Markdown, and the published results with measured ones."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import atomic, read_json, resolve, stage_folders, write_table
from ..plots.captions import metric_in_words, runs_in_words, variant_in_words
from ..workbench import presets
from ..workbench.keys import stale
from ..workbench.published import as_published, published
from .file import Measure, Sweep

NAMES = {"cam": "DeiT-S", "deit_s": "DeiT-S", "dinov2_s": "DINOv2-S", "vit_s": "ViT-S", "eva02_s": "EVA-02-S"}
ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"±": "$\\pm$", "…": "\\dots{}", "–": "--", "−": "$-$", "“": "``", "”": "''"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
)
NOTHING = "–"  # in a cell without a number


# ── Any table ─────────────────────────────────────────────────────────────────────────────────────────────────────
def to_latex(table: pd.DataFrame, caption: str = "") -> str:
    """A booktabs table; text columns left, numbers right, NaN as a dash."""
    alignment = "".join("r" if pd.api.types.is_numeric_dtype(table[name]) else "l" for name in table)
    head, *body = [" & ".join(cell.translate(ESCAPES) for cell in row) + r" \\" for row in _cells(table)]
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    lines.append(r"\end{tabular}")
    if caption:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption.translate(ESCAPES)}}}", *lines, r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_markdown(table: pd.DataFrame, caption: str = "") -> str:
    """A Markdown table; text columns left, numbers right, NaN as a dash."""
    alignment = ["--:" if pd.api.types.is_numeric_dtype(table[name]) else "---" for name in table]
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in _cells(table)]
    lines = [f"| {' | '.join(row)} |" for row in (head, alignment, *body)]
    if caption:
        lines = [caption, "", *lines]
    return "\n".join(lines) + "\n"


def _cells(table: pd.DataFrame) -> Iterator[list[str]]:
    """The heads, then the cells of every row."""
    yield [str(name) for name in table.columns]
    for row in table.itertuples(index=False):
        yield [_cell(value) for value in row]


def _cell(value: Any) -> str:
    if pd.isna(value):
        return NOTHING
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def write(table: pd.DataFrame, folder: Path, name: str, caption: str = "") -> None:
    """Write folder/<name>.csv, .tex and .md."""
    write_table(table, folder / f"{name}.csv")
    for suffix, text in (("tex", to_latex(table, caption)), ("md", to_markdown(table, caption))):
        with atomic(folder / f"{name}.{suffix}") as aside:
            aside.write_text(text, encoding="utf-8")


# ── A sweep ───────────────────────────────────────────────────────────────────────────────────────────────────────
def summary_table(found: pd.DataFrame) -> pd.DataFrame:
    """The columns of `results.summary` that belong into a paper, numbers as text. Nothing is set in bold.

    The measures may be of different metrics: `caption` says of which.
    """
    table = pd.DataFrame([_summary_row(row) for row in found.itertuples()])
    compares_measures = len(found) and found["by_measure"].iloc[0]
    return table.drop(columns="variant") if compares_measures else table


def _summary_row(row: Any) -> dict[str, Any]:
    spread = "" if pd.isna(row.std) else f" ± {row.std:.1f}"
    return {
        "variant": variant_in_words(row.variant),
        "measure": row.measure + (" (oracle)" if row.oracle else ""),
        "runs": row.runs,
        "mean ± SD": f"{row.mean:.1f}{spread}",
        "95 % interval": _interval(row.low, row.high),
        "difference": NOTHING if pd.isna(row.difference) else f"{row.difference:+.1f}".replace("-", "−"),
        "its interval": _interval(row.difference_low, row.difference_high, sign="+"),
    }


def write_summary(sweep: Sweep, found: pd.DataFrame, folder: Path, note: str = "") -> str:
    """Write the summary of a sweep as <sweep>_table.csv, .tex and .md.

    Args:
        sweep: The sweep.
        found: As from `results.summary`.
        folder: For the files.
        note: Ends the caption.

    Returns:
        The table and what each comparison says, as Markdown.
    """
    from ..plots import main_rows  # not above: the command line must not wait for matplotlib

    shown = summary_table(found)
    title = caption(sweep, found) + note
    write(shown, folder, f"{sweep.name}_table", title)
    verdicts = main_rows(found)["verdict"].dropna()
    return to_markdown(shown, title) + "\n\n" + "\n".join(f"- {verdict}" for verdict in verdicts)


def _interval(low: float, high: float, sign: str = "") -> str:
    if pd.isna(low):
        return NOTHING
    return f"{low:{sign}.1f} … {high:{sign}.1f}".replace("-", "−")


def caption(sweep: Sweep, found: pd.DataFrame) -> str:
    """What a reader of a sweep's table has to know. found: from `results.summary`."""
    compares_measures = found["by_measure"].iloc[0]
    baseline = sweep.measures[0]["label"] if compares_measures else variant_in_words(sweep.baseline)
    text = (
        f"{sweep.title}: {metrics_in_words(sweep.measures)}, mean ± standard deviation "
        f"({runs_in_words(found['runs'])}), 95 % bootstrap interval over images and seeds. "
        f"Differences are from “{baseline}”, on the same images and seeds."
    )
    if found["oracle"].any():
        text += " Oracle: pixel masks were used."
    return text


def metrics_in_words(measures: Iterable[Measure]) -> str:
    """The metric of a sweep's measures with its unit; where there are several, each with the labels of its measures."""
    labels: dict[str, list[str]] = {}
    for measure in measures:
        labels.setdefault(metric_in_words(measure["metric"]), []).append(f"“{measure['label']}”")
    if len(labels) == 1:
        return next(iter(labels))
    return "; ".join(f"{metric} of {', '.join(own)}" for metric, own in labels.items())


# ── The published results ─────────────────────────────────────────────────────────────────────────────────────────
def published_results(run_folders: Iterable[str | Path] = ()) -> pd.DataFrame:
    """The published table, with what finished runs of its presets measured beside it.

    Args:
        run_folders: Folders of runs, relative to the repository.

    Returns:
        A row per step, data set and backbone with the mIoU (%) on val and on the training list, published and
        measured; NaN where nothing was. Of several runs, such as random seeds, the mean.
    """
    measured = _measured(run_folders)
    rows = []
    for name, (val, train) in presets.PUBLISHED.items():
        data, _, backbone = name.partition("_")
        rows.append(
            {
                "step": "1, CAM label" if val is None else "2, mask",
                "data": data.upper(),
                "backbone": NAMES[backbone],
                "val, published": val,
                "val, measured": measured.get((name, "val")),
                "train, published": train,
                "train, measured": measured.get((name, "train")),
            }
        )
    numbers = ["val, published", "val, measured", "train, published", "train, measured"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def _measured(run_folders: Iterable[str | Path]) -> dict[tuple[str, str], float]:
    """{(row of the published table, list): mean over the finished runs that may be held against it}."""
    records = []
    for folder in map(resolve, run_folders):
        for stage in ("03_pseudo_labels", "05_evaluation"):
            records += _comparable(folder / stage)
    if not records:
        return {}
    table = pd.DataFrame(records).drop_duplicates(["row", "list", "key"], keep="last")  # runs that share a stage
    return table.groupby(["row", "list"])["value"].mean().to_dict()


def _comparable(stage: Path) -> list[dict[str, Any]]:
    """What a finished stage measured that was published as well: row of the published table, list, value and key."""
    manifest = read_json(stage / "manifest.json")
    preset = manifest.get("preset")
    if preset not in presets.PUBLISHED or stale(stage):
        return []
    parameters: dict[str, Any] = {}  # of this stage and of those before it
    for folder in stage_folders(stage.parent):
        if folder.name <= stage.name:
            parameters |= read_json(folder / "params.json")
    if not as_published(preset, parameters):
        return []
    # CAM labels are the same whichever backbone step 2 has.
    row = preset if stage.name == "05_evaluation" else f"{preset.split('_')[0]}_cam"
    found = []
    for record in read_json(stage / "metrics.json", list):
        if published(preset, record):
            found.append({"row": row, "list": record["list"], "key": manifest["key"], "value": record["value"]})
    return found

"""Tables for papers: DataFrames as LaTeX (booktabs) and Markdown, and the published results with measured ones."""

import pandas as pd

from ..files import atomic, read_json, resolve
from ..plots.captions import runs_in_words, variant_in_words
from ..workbench import presets
from ..workbench.keys import stale
from ..workbench.published import as_published, published

NAMES = {"cam": "DeiT-S", "deit_s": "DeiT-S", "dinov2_s": "DINOv2-S", "vit_s": "ViT-S", "eva02_s": "EVA-02-S"}
ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"±": "$\\pm$", "…": "\\dots{}", "–": "--", "−": "$-$", "“": "``", "”": "''"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
)


def to_latex(table, caption=""):
    """A booktabs table; text columns left, numbers right, NaN as a dash."""
    kinds = "".join("r" if pd.api.types.is_numeric_dtype(table[name]) else "l" for name in table)
    rows = [" & ".join(str(cell).translate(ESCAPES) for cell in row) + r" \\" for row in _cells(table)]
    lines = [r"\begin{tabular}{" + kinds + "}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    lines.append(r"\end{tabular}")
    if caption:
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption.translate(ESCAPES)}}}", *lines, r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_markdown(table, caption=""):
    """A Markdown table."""
    rows = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in _cells(table)]
    kinds = ["--:" if pd.api.types.is_numeric_dtype(table[name]) else "---" for name in table]
    return "\n".join([*([caption, ""] if caption else []), rows[0], f"| {' | '.join(kinds)} |", *rows[1:]]) + "\n"


def write(table, folder, name, caption=""):
    """Write folder/<name>.csv, .tex and .md."""
    with atomic(folder / f"{name}.csv") as aside:
        table.to_csv(aside, index=False)
    for suffix, text in (("tex", to_latex(table, caption)), ("md", to_markdown(table, caption))):
        with atomic(folder / f"{name}.{suffix}") as aside:
            aside.write_text(text, encoding="utf-8")


def _cells(table):
    yield list(table.columns)
    for row in table.itertuples(index=False):
        yield ["–" if pd.isna(cell) else f"{cell:.1f}" if isinstance(cell, float) else cell for cell in row]


def summary_table(found):
    """The columns of `sweep_results.summary` that belong into a paper, numbers as text. Nothing is set in bold."""

    def pair(low, high, sign=""):
        return "–" if pd.isna(low) else f"{low:{sign}.1f} … {high:{sign}.1f}".replace("-", "−")

    rows = []
    for row in found.itertuples():
        spread = "" if pd.isna(row.std) else f" ± {row.std:.1f}"
        rows.append(
            {
                "variant": variant_in_words(row.variant),
                "measure": row.measure + (" (oracle)" if row.oracle else ""),
                "runs": row.runs,
                "mIoU (%)": f"{row.mean:.1f}{spread}",
                "95 % interval": pair(row.low, row.high),
                "difference": "–" if pd.isna(row.difference) else f"{row.difference:+.1f}".replace("-", "−"),
                "its interval": pair(row.difference_low, row.difference_high, "+"),
            }
        )
    table = pd.DataFrame(rows)
    return table.drop(columns="variant") if len(found) and found["by_measure"].iloc[0] else table


def caption(sweep, found):
    """What a reader of a sweep's table has to know. found: from `sweep_results.summary`."""
    base = sweep.measures[0]["label"] if found["by_measure"].iloc[0] else variant_in_words(sweep.baseline)
    return (
        f"{sweep.title}: mIoU, mean ± standard deviation ({runs_in_words(found['runs'])}), 95 % bootstrap "
        f"interval over images and seeds. Differences are from “{base}”, on the same images and seeds."
        + (" Oracle: pixel masks had a part in it." if found["oracle"].any() else "")
    )


def published_results(run_folders=()):
    """The published table, a row per backbone and data set, with what finished runs of its presets measured beside it.

    run_folders: folders of runs, relative to the repository. → DataFrame step, data, backbone, published and measured
    mIoU (%) on val and on the training list; NaN where nothing was published or measured. Of several runs, such as
    seeds, the mean.
    """
    measured = {}  # what was measured → {the key of a stage: value}
    for folder in map(resolve, run_folders):
        for stage in ("03_pseudo_labels", "05_evaluation"):
            manifest = read_json(folder / stage / "manifest.json")
            preset = manifest.get("preset")
            if preset not in presets.PUBLISHED or stale(folder / stage):
                continue
            so_far = sorted(folder.glob("[0-9][0-9]_*/params.json"))
            made = {k: v for path in so_far if path.parent.name <= stage for k, v in read_json(path).items()}
            if as_published(preset, made):
                row = preset if stage.startswith("05") else f"{preset.split('_')[0]}_cam"
                for record in read_json(folder / stage / "metrics.json"):
                    if published(preset, record):
                        measured.setdefault((row, stage, record["list"]), {})[manifest["key"]] = record["value"]
    measured = {what: sum(values.values()) / len(values) for what, values in measured.items()}
    rows = []
    for name, (val, train) in presets.PUBLISHED.items():
        data, _, backbone = name.partition("_")
        step = "03_pseudo_labels" if val is None else "05_evaluation"
        values = {"val, published": val, "val, measured": measured.get((name, step, "val"))}
        values |= {"train, published": train, "train, measured": measured.get((name, step, "train"))}
        rows.append(
            {"step": "1, CAM label" if val is None else "2, mask", "data": data.upper(), "backbone": NAMES[backbone]}
            | {key: float("nan") if value is None else value for key, value in values.items()}
        )
    return pd.DataFrame(rows)

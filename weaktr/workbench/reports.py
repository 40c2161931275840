"""Finished runs side by side, a run as one HTML page that needs no network, and the figures of a run in one folder.

Stages whose inputs have changed since are left out, and named.
"""

import html
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..errors import UserError
from ..files import atomic, read_json, resolve, short, stage_folders, write_table
from ..files import run_folder as find_run
from .keys import stale
from .text import results_rows

COLLECTED = ("figures/*", "*.csv", "*.tex", "*.md")  # of a stage's folder, for `collect_figures`
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
h1, h2, h3 {{ line-height: 1.2 }} img {{ max-width: 100% }} a {{ color: #0072b2 }}
pre {{ background: #f5f6f8; padding: .6rem .8rem; overflow-x: auto; font-size: .82rem; line-height: 1.4 }}
table {{ border-collapse: collapse; font-size: .88rem }} td, th {{ padding: .15rem .6rem; text-align: right }}
thead {{ border-bottom: 1px solid #888 }} .results td, table.results thead th {{ text-align: left }}
nav a {{ margin-right: 1rem }} .prompt, .anchor-link {{ display: none }}
section {{ border-top: 3px solid #0072b2; margin-top: 3rem }}
</style></head><body><h1>{title}</h1><nav>{links}</nav><h2>Results</h2>{results}<p>{left_out}</p>
{sections}</body></html>
"""


class FinishedStages(NamedTuple):
    """The finished stages of a run that belong together."""

    folders: list[Path]  # in order
    left_out: str  # a sentence on those left out, which are stale; empty where none is


class Comparison(NamedTuple):
    """What differs between runs."""

    parameters: pd.DataFrame  # a row per parameter that differs, a column per run, values as Python writes them
    metrics: pd.DataFrame  # a row per metric, a column per run, NaN where a run lacks it
    left_out: list[str]  # a sentence for each run with stale stages


def finished_stages(run_folder: str | Path) -> FinishedStages:
    """The finished stages of a run, without those made before an earlier stage or the weights changed.

    Args:
        run_folder: Relative to the working directory or to the repository's root, or absolute.

    Raises:
        UserError: Where none is left.
    """
    stages = stage_folders(find_run(run_folder))
    finished = [stage for stage in stages if (stage / "metrics.json").is_file()]
    if not finished:
        raise UserError(f"{run_folder}: no finished stage here; give a run's folder, such as papermill_runs/demo")
    outdated = [stage for stage in finished if stale(stage)]
    if not outdated:
        return FinishedStages(finished, "")
    names = ", ".join(stage.name for stage in outdated)
    left_out = f"{run_folder}: {names} left out, made before an earlier stage or the weights changed"
    if len(outdated) == len(finished):
        raise UserError(left_out)
    return FinishedStages([stage for stage in finished if stage not in outdated], left_out)


def report(run_folder: str | Path) -> Path:
    """Write a run's results and executed notebooks as report.html into its folder.

    Args:
        run_folder: As for `finished_stages`.

    Returns:
        The page's path.
    """
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    stages, left_out = finished_stages(run_folder)
    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # lines of progress in one block
    links = []
    sections = []
    for stage in stages:
        links.append(f'<a href="#{stage.name}">{stage.name}</a>')
        notebook = stage / "notebook.ipynb"
        if notebook.is_file():
            try:
                body, _ = exporter.from_filename(str(notebook))
            except Exception as error:  # nbformat, nbconvert and their templates raise many kinds
                raise UserError(
                    f"{notebook} is damaged ({type(error).__name__}: {error}); delete it, and run its stage again with "
                    "--force where its pictures are needed"
                ) from error
            sections.append(f'<section id="{stage.name}">{body}</section>')
    folder = stages[0].parent
    page = PAGE.format(
        title=html.escape(f"weaktr · {folder.name}"),
        links="".join(links),
        results=_results_as_html(stages),
        left_out=html.escape(left_out),
        sections="".join(sections),
    )
    with atomic(folder / "report.html") as aside:
        aside.write_text(page, encoding="utf-8")
    return folder / "report.html"


def _results_as_html(stages: Iterable[Path]) -> str:
    """The table of a run's own results: those of 06 are other runs'."""
    records = [record for stage in stages if stage.name < "06" for record in read_json(stage / "metrics.json", list)]
    head, *rows = results_rows(records)
    with pd.option_context("display.max_colwidth", None):
        return pd.DataFrame(rows, columns=head).to_html(index=False, border=0, classes="results")


def compare(run_folders: Iterable[str | Path]) -> Comparison:
    """Parameters and metrics of finished runs side by side.

    Args:
        run_folders: As for `finished_stages`.
    """
    parameters = {}
    metrics = {}
    notes = []
    for run_folder in run_folders:
        stages, left_out = finished_stages(run_folder)
        if left_out:
            notes.append(left_out)
        own: dict[str, Any] = {}
        for stage in stages:
            own |= read_json(stage / "params.json")
        name = str(run_folder).rstrip("/").removeprefix("papermill_runs/")
        parameters[name] = {key: repr(value) for key, value in own.items() if key != "run_folder"}
        metrics[name] = _values_by_name(stages)
    table = pd.DataFrame(parameters).fillna("–")
    return Comparison(table[table.nunique(axis=1) > 1], pd.DataFrame(metrics), notes)


def _values_by_name(stages: Iterable[Path]) -> dict[str, float]:
    """What the stages of a run measured, under names that are alike in other runs."""
    values = {}
    for stage in stages:
        for record in read_json(stage / "metrics.json", list):
            name = f"{stage.name[:2]} {record['metric']}, {record['list']} ({record['list_size']})"
            if record["crf"]:
                name += ", CRF"
            if record["oracle"]:
                name += ", oracle"
            if name in values:  # the same at another threshold, or of other counts
                name += f", {record['threshold_from'] or record.get('counts')}"
            values[name] = record["value"]
    return values


def collect_figures(run_folder: str | Path, target: str | Path) -> pd.DataFrame:
    """Copy what the stages of a run drew into the folder `target`, with sources.csv.

    Figures are PDF, PNG and the CSV behind each; tables are CSV, LaTeX and Markdown. A stage has its folder there, and
    so has a sweep, as sweeps/<sweep>.

    Args:
        run_folder: As for `finished_stages`.
        target: Relative to the repository's root, or absolute.

    Returns:
        What sources.csv says, a row per file: file, run, stage, and key, commit and seed of the stage's manifest.

    Raises:
        UserError: Where a stage is stale.
    """
    stages, left_out = finished_stages(run_folder)
    if left_out:
        raise UserError(f"{left_out}; make them again first")
    target = resolve(target)
    rows = []
    for stage in stages:
        manifest = read_json(stage / "manifest.json")
        source = {
            "run": short(stage.parent),
            "stage": stage.name,
            "key": manifest["key"],
            "commit": manifest["git"]["commit"],
            "seed": manifest["seed"],
        }
        sweep_of = _sweeps_shown(stage)
        for path in sorted(path for pattern in COLLECTED for path in stage.glob(pattern)):
            sweep = sweep_of.get(path.stem)
            name = f"sweeps/{sweep}/{path.name}" if sweep else f"{stage.name}/{path.name}"
            with atomic(target / name) as aside:
                shutil.copyfile(path, aside)
            rows.append({"file": name, **source})
    sources = _with_earlier(pd.DataFrame(rows, columns=["file", "run", "stage", "key", "commit", "seed"]), target)
    write_table(sources, target / "sources.csv")
    return sources


def _sweeps_shown(stage: Path) -> dict[str, str]:
    """{name of a file, without ending: the sweep that it shows}, of the sweeps that a stage sums up."""
    sweep_of: dict[str, str] = {}
    for summary in stage.glob("*_summary.csv"):
        sweep = summary.stem.removesuffix("_summary")
        figures = (f"sweep_{sweep}", f"sweep_{sweep}_one_column")
        tables = (f"{sweep}_table", f"{sweep}_summary", f"{sweep}_runs")
        sweep_of |= dict.fromkeys(figures + tables, sweep)
    return sweep_of


def _with_earlier(sources: pd.DataFrame, target: Path) -> pd.DataFrame:
    """Sources, with the earlier rows of files that the same stages made and that lie in `target` alone.

    A clone has the PDFs of the reference run in figures/, and not in the run's folder.
    """
    if not (target / "sources.csv").is_file():
        return sources
    try:
        before = pd.read_csv(target / "sources.csv")
        still_there = before["file"].map(lambda name: (target / name).is_file())
        same_stage = before["key"].isin(sources["key"])
    except Exception as error:  # pandas raises many kinds about damaged tables
        raise UserError(
            f"{target / 'sources.csv'} is damaged ({type(error).__name__}: {error}); restore or delete it"
        ) from error
    return pd.concat([sources, before[still_there & same_stage]]).drop_duplicates("file").sort_values("file")

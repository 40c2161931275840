"""The figures and tables of a run in one folder, with where each comes from."""

import shutil
from pathlib import Path

import pandas as pd

from ..errors import UserError
from ..files import atomic, read_json, resolve, short, write_table
from .finished import finished_stages

COLLECTED = ("figures/*", "*.csv", "*.tex", "*.md")  # of a stage's folder


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

"""A sweep as one HTML page that needs no network: question, figure, verdicts, table, and the runs behind it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..files import read_json, run_folder, short
from ..plots.captions import runs_in_words
from ..progress import clock
from ..workbench.page import Picture, Table, drawn, table_of, write_page
from ..workbench.parameters import NOTEBOOKS
from ..workbench.text import figure_in_words
from . import tables
from .file import Sweep, sweep_of
from .results import Tables, collected, earlier_data, load
from .run import folder_name
from .schedule import STATES

TEMPLATE = Path(__file__).with_name("templates") / "sweep.html"


def is_sweep(folder: str | Path) -> bool:
    """Whether a folder is a sweep's: that of its runs, or that of its collected figures."""
    folder = run_folder(folder)
    return (folder / STATES).is_file() or (folder / f"{folder.name}_summary.csv").is_file()


def report(folder: str | Path, notebooks: str | Path = NOTEBOOKS) -> Path:
    """Write the page of a sweep as report.html into its folder; runs that are not finished are named.

    Args:
        folder: Of the sweep's runs, such as papermill_runs/sweeps/demo_fusion, or of its collected figures, such as
            figures/sweeps/demo_fusion.
        notebooks: The folder of the notebooks.

    Returns:
        The page's path.

    Raises:
        UserError: Where it is not known what the sweep asks.
    """
    folder = run_folder(folder)
    sweep = sweep_of(folder, notebooks=notebooks)
    kept = collected(sweep.name, folder)
    if kept:
        results = kept
        source = "Numbers of an earlier time, without the runs" + earlier_data(sweep, kept.runs, notebooks)
    else:
        *made, source = load(sweep, notebooks=notebooks)
        results = Tables(*made)
        source = f"From {source} in {short(folder.resolve())}"
    found = results.summary
    return write_page(
        folder / "report.html",
        TEMPLATE,
        title=f"weaktr · {sweep.title}",
        heading=sweep.title,
        question=[part.strip() for part in sweep.question.split("\n\n") if part.strip()],
        summary=f"{source}. {_plan(sweep)}",
        notices=_not_done(folder),
        picture=_picture(results, sweep) if len(found) else None,
        verdicts=_verdicts(found),
        numbers=_numbers(sweep, found) if len(found) else None,
        variants=_variants(sweep),
        runs=_runs(folder, sweep, results),
        cost=_cost(results.runs),
    )


def _plan(sweep: Sweep) -> str:
    """What the sweep is made of, in words."""
    count = len(sweep.overrides)
    seeds = runs_in_words([len(sweep.seeds)])
    return f"Preset {sweep.preset}, {count} {'variant' if count == 1 else 'variants'}, {seeds}."


def _not_done(folder: Path) -> list[str]:
    """A sentence on each run that is not done, with what is in its way."""
    notices = []
    for name, state in read_json(folder / STATES).items():
        if state["state"] != "done":
            message = state["message"].partition("\n")[0]
            notices.append(f"{name} is {state['state']}" + (f": {message}" if message else "") + ".")
    return notices


# ── The answer ────────────────────────────────────────────────────────────────────────────────────────────────────
def _picture(results: Tables, sweep: Sweep) -> Picture:
    """The figure of a sweep, with the values of its runs to download."""
    from .. import plots  # not above: the command line must not wait for matplotlib

    figure, narrow = (
        plots.sweep(results.summary, results.results, sweep.title, width) for width in (plots.WIDTH, plots.COLUMN)
    )
    caption = (
        "Strokes are random seeds, the dot is their mean, the line its 95 % interval. A dot is hollow where the "
        "interval of its difference from the baseline holds zero"
    )
    csv = results.results.to_csv(index=False).encode()
    return Picture(
        png=drawn(figure),
        alt=figure_in_words(figure)["alt"],
        caption=caption,
        csv=csv,
        file=f"{sweep.name}_results.csv",
        narrow=drawn(narrow),
    )


def _verdicts(found: pd.DataFrame) -> list[str]:
    """What each comparison of the figure says."""
    if not len(found):
        return []
    from ..plots import main_rows

    return list(main_rows(found)["verdict"].dropna())


def _numbers(sweep: Sweep, found: pd.DataFrame) -> Table:
    table = tables.summary_table(found).astype(str)
    rows = table.itertuples(index=False)
    made = table_of(list(table), rows, tables.caption(sweep, found), file=f"{sweep.name}_table.csv")
    return made._replace(numbers=made.numbers - {1} if "variant" in table else made.numbers)


# ── What is behind it ─────────────────────────────────────────────────────────────────────────────────────────────
def _variants(sweep: Sweep) -> Table:
    """What each variant sets that not all of them set."""
    every = list(sweep.overrides.values())
    common = {name for name, value in every[0].items() if all(own.get(name, ...) == value for own in every)}
    rows = []
    for variant, own in sweep.overrides.items():
        settings = [f"{name} = {value!r}" for name, value in own.items() if name not in common]
        rows.append((variant, ", ".join(settings) or "as the notebooks have it"))
    shared = ", ".join(f"{name} = {every[0][name]!r}" for name in every[0] if name in common)
    table = table_of(("variant", "sets"), rows, f"All runs: {shared or 'as the notebooks have it'}")
    return table._replace(numbers=frozenset())


def _runs(folder: Path, sweep: Sweep, results: Tables) -> Table:
    """A row per run: its state, what it measured, and the commit that made it."""
    states = read_json(folder / STATES)
    labels = [measure["label"] for measure in sweep.measures]
    rows = []
    for variant in sweep.overrides:
        for seed in sweep.seeds:
            name = folder_name(variant, seed)
            rows.append(_run_row(folder, name, labels, _of_run(results.results, variant, seed), states))
    heads = ["run", "state", *labels, "commit"]
    made = table_of(heads, rows)
    csv = results.runs.to_csv(index=False).encode() if len(results.runs) else b""
    caption = "All parameters and manifests of their stages" if csv else ""
    measured = frozenset(range(2, 2 + len(labels)))
    return made._replace(caption=caption, csv=csv, file=f"{sweep.name}_runs.csv", numbers=measured)


def _of_run(table: pd.DataFrame, variant: str, seed: int) -> pd.DataFrame:
    """The rows of the results that are a run's."""
    return table[(table["variant"] == variant) & (table["seed"] == seed)] if len(table) else table


def _run_row(
    folder: Path, name: str, labels: list[str], measured: pd.DataFrame, states: Mapping[str, Any]
) -> list[str]:
    values = dict(zip(measured["measure"], measured["value"])) if len(measured) else {}
    state = states.get(name, {}).get("state", "waiting")
    if values or state == "done":
        state = "done" if values else "out of date"
    commits = {str(commit)[:7] for commit in measured["commit"].dropna()} if len(measured) else set()
    cells = [f"{values[label]:.2f}" if label in values else tables.NOTHING for label in labels]
    shown = name
    if (folder / name / "report.html").is_file():
        shown = Markup('<a href="{0}/report.html">{0}</a>').format(name)
    return [shown, state, *cells, ", ".join(sorted(commits)) or tables.NOTHING]


def _cost(runs: pd.DataFrame) -> str:
    """How long the stages of the finished runs took; those that runs share are counted once."""
    if not len(runs) or "seconds" not in runs:
        return ""
    once = runs.drop_duplicates(["stage", "made" if "made" in runs else "key"])
    shared = len(runs) - len(once)
    text = f"The stages of the finished runs took {clock(once['seconds'].fillna(0).sum())}, one after the other"
    return f"{text}; {shared} stages of runs are others', shared." if shared else f"{text}."

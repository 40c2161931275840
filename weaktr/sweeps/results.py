"""What came out of a sweep: every measure of every run, and a summary with intervals and paired differences."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import RunError, UserError
from ..evaluation import intervals
from ..files import read_json, stage_folders, write_table
from ..plots.captions import verdict
from ..workbench.keys import data_source
from ..workbench.parameters import NOTEBOOKS, catalogue, check_parameters
from ..workbench.text import aligned
from . import tables
from .file import Measure, Sweep
from .plan import plan
from .run import SweepRun

FACTS = ("metric", "list", "list_size", "crf", "oracle", "value", "counts")  # of a metrics record


# ── What was measured ─────────────────────────────────────────────────────────────────────────────────────────────
def results(sweep: Sweep, notebooks: str | Path = NOTEBOOKS) -> pd.DataFrame:
    """Every measure of every finished run, a row each, with the run's folder, key and commit.

    Raises:
        RunError: Where a finished run has not exactly one record that fits a measure.
    """
    rows = []
    for run in plan([sweep], notebooks=notebooks, check=False):
        if run.state == "done":
            rows += [_result(run, measure) for measure in sweep.measures if measure["stage"] in run.place.stages]
    return pd.DataFrame(rows)


def _result(run: SweepRun, measure: Measure) -> dict[str, Any]:
    """The row of a finished run and a measure."""
    stage = run.place.path / measure["stage"]
    wanted = {name: value for name, value in measure.items() if name not in ("label", "stage")}
    fitting = [record for record in read_json(stage / "metrics.json", list) if wanted.items() <= record.items()]
    if len(fitting) != 1:
        raise RunError(f"{stage}/metrics.json has {len(fitting)} records that fit {wanted}; one is needed")
    manifest = read_json(stage / "manifest.json")
    row = {"sweep": run.sweep.name, "variant": run.variant, "seed": run.seed, "measure": measure["label"]}
    row |= {name: fitting[0].get(name) for name in FACTS}
    row["run"] = str(run.place.path.relative_to(run.sweep.folder.parent))
    row["stage"] = measure["stage"]
    row["key"] = manifest.get("key")
    row["commit"] = (manifest.get("git") or {}).get("commit")
    return row


def manifests(sweep: Sweep, table: pd.DataFrame) -> pd.DataFrame:
    """Manifest and parameters of every stage behind `table`, from `results`: a row per run and stage."""
    rows = []
    for run in table["run"].unique():
        for stage in stage_folders(sweep.folder.parent / run):
            manifest = read_json(stage / "manifest.json")
            rows.append({"run": run} | manifest | {"parameters": read_json(stage / "params.json")})
    return pd.json_normalize(rows).convert_dtypes()  # whole numbers stay whole beside stages that lack them


# ── The summary ───────────────────────────────────────────────────────────────────────────────────────────────────
class Side(NamedTuple):
    """What one row of a summary is about, and one side of a comparison."""

    variant: str
    measure: str


@dataclass(frozen=True)
class Comparison:
    """Two rows of a summary that are compared.

    Attributes:
        of: What is compared.
        against: What it is compared with; the same as `of` for the baseline itself.
        name: What `of` is called beside the other.
        baseline: What `against` is called.
        on: The measure on which both are compared; "" where it is the measures that are compared.
    """

    of: Side
    against: Side
    name: str
    baseline: str
    on: str = ""


def against_baseline(sweep: Sweep, side: Side) -> Comparison:
    """A variant compared with its baseline, on the same measure."""
    baseline = sweep.baselines[side.variant]
    against = Side(baseline, side.measure)
    return Comparison(of=side, against=against, name=side.variant, baseline=baseline, on=side.measure)


def against_first_measure(sweep: Sweep, side: Side) -> Comparison:
    """A measure compared with the sweep's first one, of the same variant."""
    first = sweep.measures[0]["label"]
    return Comparison(of=side, against=Side(side.variant, first), name=side.measure, baseline=first)


@dataclass
class SummaryRow:
    """A row of `summary`, its columns in this order. NaN: not known, because per-image counts are missing."""

    variant: str
    measure: str
    runs: int
    mean: float
    is_baseline: bool
    by_measure: bool
    std: float
    oracle: bool
    low: float = math.nan
    high: float = math.nan
    baseline: str | float = math.nan
    difference: float = math.nan
    p: float = math.nan
    seeds: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    verdict: str | float = math.nan


def summary(sweep: Sweep, table: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread and bootstrap interval of every variant and measure, and its difference from the baseline.

    A sweep of one variant compares its measures instead, with the first. Differences use the seeds that both sides
    finished.

    Args:
        sweep: The sweep.
        table: From `results`.

    Returns:
        The columns of `SummaryRow`; NaN where per-image counts are missing.
    """
    by_measure = len(sweep.overrides) == 1
    compare = against_first_measure if by_measure else against_baseline
    rows = []
    for (variant, measure), _ in table.groupby(["variant", "measure"], sort=False):
        comparison = compare(sweep, Side(variant, measure))
        rows.append(_summary_row(sweep, table, comparison, by_measure))
    return pd.DataFrame(rows, columns=list(SummaryRow.__dataclass_fields__))


def _summary_row(sweep: Sweep, table: pd.DataFrame, comparison: Comparison, by_measure: bool) -> SummaryRow:
    measured = _rows_of(table, comparison.of)
    row = SummaryRow(
        variant=comparison.of.variant,
        measure=comparison.of.measure,
        runs=len(measured),
        mean=measured["value"].mean(),
        is_baseline=comparison.of == comparison.against,
        by_measure=by_measure,
        std=measured["value"].std(),
        oracle=bool(measured["oracle"].any()),
    )
    counts = _counts(sweep, measured)
    if counts:
        estimate = intervals.estimate(np.stack(list(counts.values())))
        row.low = estimate.low
        row.high = estimate.high
    difference = None if row.is_baseline else _difference(sweep, measured, _rows_of(table, comparison.against))
    if difference is not None:
        row.baseline = comparison.baseline
        row.difference = difference.value
        row.p = difference.p
        row.seeds = difference.seeds
        row.difference_low = difference.low
        row.difference_high = difference.high
        row.verdict = verdict(difference, comparison.name, comparison.baseline)
        if comparison.on:
            row.verdict = f"{comparison.on}: {row.verdict}"
    return row


def _rows_of(table: pd.DataFrame, side: Side) -> pd.DataFrame:
    return table[(table["variant"] == side.variant) & (table["measure"] == side.measure)]


def _difference(sweep: Sweep, measured: pd.DataFrame, baseline: pd.DataFrame) -> intervals.Estimate | None:
    """The paired difference over the seeds that both have; None where their images are not known to be the same."""
    counts = _counts(sweep, measured)
    others = _counts(sweep, baseline)
    seeds = [seed for seed in counts if seed in others]
    if not seeds or set(measured["list"]) != set(baseline["list"]):
        return None
    if counts[seeds[0]].shape != others[seeds[0]].shape:
        return None
    return intervals.difference(np.stack([counts[seed] for seed in seeds]), np.stack([others[seed] for seed in seeds]))


def _counts(sweep: Sweep, rows: pd.DataFrame) -> dict[int, np.ndarray]:
    """{seed: per-image pixel counts (n,3,K)} of rows of `results`; empty where a run stored none."""
    counts = {}
    for row in rows.itertuples():
        path = sweep.folder.parent / row.run / row.stage / "counts.npz"
        if not isinstance(row.counts, str) or not path.is_file():
            return {}
        with np.load(path) as arrays:
            counts[row.seed] = arrays[row.counts]
    return counts


# ── Written and read back ─────────────────────────────────────────────────────────────────────────────────────────
class Tables(NamedTuple):
    """What is kept of a sweep, each as <name>.csv in its folder: `results`, `summary` and `manifests`."""

    results: pd.DataFrame
    summary: pd.DataFrame
    runs: pd.DataFrame


def write_results(sweep: Sweep, notebooks: str | Path = NOTEBOOKS) -> Tables:
    """Write results.csv, summary.csv and runs.csv into the sweep's folder.

    Where no run is finished all three are empty and nothing is written.
    """
    table = results(sweep, notebooks)
    if not len(table):
        return Tables(table, table, table)
    made = Tables(table, summary(sweep, table), manifests(sweep, table))
    for name, frame in made._asdict().items():
        write_table(frame, sweep.folder / f"{name}.csv")
    return made


def load(
    sweep: Sweep, otherwise: str | Path | None = None, notebooks: str | Path = NOTEBOOKS
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
    """What `write_results` gives, recomputed from the runs of a sweep, and where it comes from.

    Args:
        sweep: The sweep.
        otherwise: A folder such as figures/, which holds sweep_<sweep>.csv, <sweep>_summary.csv and <sweep>_runs.csv of
            an earlier time in sweeps/<sweep>/: read where no run is finished.
        notebooks: The folder of the notebooks.

    Returns:
        The three tables, empty where there is nothing to read, and their source in words.
    """
    if sweep.folder.is_dir():
        made = write_results(sweep, notebooks)
        if len(made.results):
            runs = made.results[["variant", "seed"]].drop_duplicates()
            return *made, f"{len(runs)} finished runs"
    if otherwise:
        kept = collected(sweep.name, Path(otherwise) / "sweeps" / sweep.name)
        if kept:
            return *kept, "the committed reference" + earlier_data(sweep, kept.runs, notebooks)
    return pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), "no finished run"


def collected(name: str, folder: Path) -> Tables | None:
    """The tables of an earlier time in a sweep's folder of collected figures; None where they are not there."""
    paths = [folder / f"{table}.csv" for table in (f"sweep_{name}", f"{name}_summary", f"{name}_runs")]
    return Tables(*map(pd.read_csv, paths)) if all(path.is_file() for path in paths) else None


def records(sweep: Sweep, table: pd.DataFrame, found: pd.DataFrame, note: str = "") -> list[dict[str, Any]]:
    """Metrics records of a sweep, one for each row of its summary: the mean over the runs.

    Args:
        sweep: The sweep.
        table: As from `results`.
        found: As from `summary`.
        note: Ends the name of each metric.
    """
    facts = table.groupby(["variant", "measure"], sort=False)[["list", "list_size", "crf"]].first()
    made = []
    for row in found.itertuples():
        measured = facts.loc[(row.variant, row.measure)]
        made.append(
            {
                "metric": f"{sweep.name}, {row.variant}: {row.measure}, mean over {row.runs} runs{note}",
                "value": float(row.mean),
                "list": measured["list"],
                "list_size": int(measured["list_size"]),
                "crf": bool(measured["crf"]),
                "oracle": bool(row.oracle),
            }
        )
    return made


def earlier_data(sweep: Sweep, runs: pd.DataFrame, notebooks: str | Path = NOTEBOOKS) -> str:
    """A note for `manifests` of runs whose data were not those that the sweep would read now."""
    if "data_fingerprint" not in runs:
        return ""
    with contextlib.suppress(UserError):  # data that are not here cannot be compared
        values = check_parameters(next(iter(sweep.overrides.values())), catalogue(notebooks))
        source = data_source(values)
        now = source[1] if source else ""
        made = {str(fingerprint).partition("-")[0] for fingerprint in runs["data_fingerprint"].dropna()}
        if made - {"", now}:
            return ", made with an earlier version of the data: not to be compared with newer runs"
    return ""


def text(found: pd.DataFrame) -> str:
    """A summary as plain text."""
    if not len(found):
        return "no run is finished yet"
    table = tables.summary_table(found).astype(str)
    return aligned([tuple(table), *table.itertuples(index=False)])

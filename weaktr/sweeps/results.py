"""What came out of a sweep: every measure of every run, and a summary with intervals and paired differences."""

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import RunError, UserError
from ..evaluation import intervals
from ..files import atomic, read_json
from ..plots.captions import verdict
from ..workbench.keys import data_source
from ..workbench.parameters import NOTEBOOKS, catalogue, check_parameters
from ..workbench.text import aligned
from . import tables
from .plan import plan

FACTS = ("metric", "list", "list_size", "crf", "oracle", "value", "counts")


def results(sweep, notebooks=NOTEBOOKS):
    """Every measure of every finished run → DataFrame, a row each, with the run's folder, key and commit.

    Raises RunError where a finished run has not exactly one record that fits a measure.
    """
    rows = []
    for one in plan([sweep], notebooks=notebooks, check=False):
        for measure in sweep.measures if one.state == "done" else ():
            stage = one.place.path / measure["stage"]
            wanted = {name: value for name, value in measure.items() if name not in ("label", "stage")}
            fits = [r for r in read_json(stage / "metrics.json") if wanted.items() <= r.items()]
            if len(fits) != 1:
                raise RunError(f"{stage}/metrics.json has {len(fits)} records that fit {wanted}; one is needed")
            manifest = read_json(stage / "manifest.json")
            rows.append(
                {"sweep": sweep.name, "variant": one.variant, "seed": one.seed, "measure": measure["label"]}
                | {name: fits[0].get(name) for name in FACTS}
                | {"run": str(one.place.path.relative_to(sweep.folder.parent)), "stage": measure["stage"]}
                | {"key": manifest.get("key"), "commit": (manifest.get("git") or {}).get("commit")}
            )
    return pd.DataFrame(rows)


def summary(sweep, table):
    """Mean, spread and bootstrap interval of every variant and measure, and its difference from the baseline.

    table: from `results`. A sweep of one variant compares its measures instead, with the first. Differences use the
    seeds that both sides finished. → DataFrame with columns variant, measure, runs, mean, std, low, high, is_baseline,
    by_measure, baseline, difference, difference_low, difference_high, p; NaN where per-image counts are missing.
    """
    rows, by_measure = [], len(sweep.overrides) == 1
    for (variant, measure), group in table.groupby(["variant", "measure"], sort=False):
        base = (variant, sweep.measures[0]["label"]) if by_measure else (sweep.baselines[variant], measure)
        other = table[(table["variant"] == base[0]) & (table["measure"] == base[1])]
        counts, others = _counts(sweep, group), _counts(sweep, other)
        row = {"variant": variant, "measure": measure, "runs": len(group), "mean": group["value"].mean()}
        row |= {"is_baseline": (variant, measure) == base, "by_measure": by_measure}
        row |= {"std": group["value"].std(), "oracle": bool(group["oracle"].any())}
        if counts:
            found = intervals.estimate(np.stack(list(counts.values())))
            row |= {"low": found.low, "high": found.high}
        both = [seed for seed in counts if seed in others]
        same_list = set(group["list"]) == set(other["list"])
        comparable = both and same_list and counts[both[0]].shape == others[both[0]].shape
        if (variant, measure) != base and comparable:
            found = intervals.difference(*(np.stack([side[seed] for seed in both]) for side in (counts, others)))
            row |= {"baseline": base[by_measure], "difference": found.value, "p": found.p, "seeds": found.seeds}
            row |= {"difference_low": found.low, "difference_high": found.high}
            sentence = verdict(found, (variant, measure)[by_measure], base[by_measure])
            row["verdict"] = sentence if by_measure else f"{measure}: {sentence}"
        rows.append(row)
    columns = ["low", "high", "baseline", "difference", "difference_low", "difference_high", "p", "seeds", "verdict"]
    found = pd.DataFrame(rows)
    return found.reindex(columns=[*found.columns, *[name for name in columns if name not in found]])


def _counts(sweep, rows):
    """{seed: per-image pixel counts (n,3,K)} of rows of `results`; empty where a run stored none."""
    found = {}
    for row in rows.itertuples():
        path = sweep.folder.parent / row.run / row.stage / "counts.npz"
        if not isinstance(row.counts, str) or not path.is_file():
            return {}
        with np.load(path) as arrays:
            found[row.seed] = arrays[row.counts]
    return found


def manifests(sweep, table):
    """Manifest and parameters of every stage behind `table`, from `results` → DataFrame, a row per run and stage."""
    rows = []
    for run in table["run"].unique():
        for stage in sorted((sweep.folder.parent / run).glob("[0-9][0-9]_*")):
            facts = read_json(stage / "manifest.json") | {"parameters": read_json(stage / "params.json")}
            rows.append({"run": run} | facts)
    return pd.json_normalize(rows).convert_dtypes()  # whole numbers stay whole beside stages that lack them


def write_results(sweep, notebooks=NOTEBOOKS):
    """Write results.csv, summary.csv and runs.csv into the sweep's folder → `results`, `summary` and `manifests`.

    Where no run is finished all three are empty and nothing is written.
    """
    table = results(sweep, notebooks)
    if not len(table):
        return table, table, table
    made = table, summary(sweep, table), manifests(sweep, table)
    for name, frame in zip(("results", "summary", "runs"), made, strict=True):
        with atomic(sweep.folder / f"{name}.csv") as aside:
            frame.to_csv(aside, index=False)
    return made


def load(sweep, otherwise=None, notebooks=NOTEBOOKS):
    """What `write_results` gives, made anew from the runs of a sweep, and where it comes from.

    Where no run is finished it is read from the folder `otherwise`, such as figures/, which holds 06_sweep_<sweep>.csv,
    06_<sweep>_summary.csv and 06_<sweep>_runs.csv of an earlier time; empty DataFrames where it does not.
    """
    made = write_results(sweep, notebooks) if sweep.folder.is_dir() else [pd.DataFrame()] * 3
    if len(made[0]):
        return *made, f"{len(made[0][['variant', 'seed']].drop_duplicates())} finished runs"
    names = (f"06_sweep_{sweep.name}.csv", f"06_{sweep.name}_summary.csv", f"06_{sweep.name}_runs.csv")
    paths = [Path(otherwise) / name for name in names] if otherwise else []
    if paths and all(path.is_file() for path in paths):
        tables = [pd.read_csv(path) for path in paths]
        return *tables, "the committed reference" + _earlier_data(sweep, tables[2], notebooks)
    return *made, "no finished run"


def _earlier_data(sweep, runs, notebooks):
    """A note for `manifests` of runs whose data were not those that the sweep would read now."""
    with contextlib.suppress(UserError):  # data that are not here cannot be compared
        values = check_parameters(next(iter(sweep.overrides.values())), catalogue(notebooks))
        _, now = data_source(values) or ("", "")
        made = {str(one).partition("-")[0] for one in runs.get("data_fingerprint", pd.Series()).dropna()}
        if made - {"", now}:
            return ", made with an earlier version of the data: not to be compared with newer runs"
    return ""


def text(found):
    """A summary as plain text."""
    if not len(found):
        return "no run is finished yet"
    table = tables.summary_table(found).astype(str)
    return aligned([tuple(table), *table.itertuples(index=False)])

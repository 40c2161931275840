"""Finished runs side by side: parameters that differ, and all that was measured."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..errors import UserError
from .finished import FinishedStages, finished_stages, records_of


class Comparison(NamedTuple):
    """What differs between runs."""

    parameters: pd.DataFrame  # a row per parameter that differs, a column per run, values as Python writes them
    metrics: pd.DataFrame  # a row per metric, a column per run, NaN where a run lacks it
    left_out: list[str]  # a sentence for each run with stale stages


def by_name(run_folders: Iterable[str | Path]) -> dict[str, FinishedStages]:
    """{what a run is called beside others: its finished stages}.

    Args:
        run_folders: As for `finished_stages`.

    Raises:
        UserError: For a run that is given twice.
    """
    runs: dict[str, FinishedStages] = {}
    for run_folder in run_folders:
        name = str(run_folder).rstrip("/").removeprefix("papermill_runs/")
        if name in runs:
            raise UserError(f"{run_folder}: given twice; a run is compared with others")
        runs[name] = finished_stages(run_folder)
    return runs


def compare(run_folders: Iterable[str | Path]) -> Comparison:
    """Parameters and metrics of finished runs side by side.

    Args:
        run_folders: As for `finished_stages`.

    Raises:
        UserError: For a run that is given twice.
    """
    return side_by_side(by_name(run_folders))


def side_by_side(runs: Mapping[str, FinishedStages]) -> Comparison:
    """As `compare`, of runs by their names, as from `by_name`."""
    parameters = {}
    for name, stages in runs.items():
        parameters[name] = {key: repr(value) for key, value in stages.parameters.items() if key != "run_folder"}
    table = pd.DataFrame(parameters).fillna("–")
    metrics = pd.DataFrame({name: _values_by_name(stages.folders) for name, stages in runs.items()})
    left_out = [stages.left_out for stages in runs.values() if stages.left_out]
    return Comparison(table[table.nunique(axis=1) > 1], metrics, left_out)


def _values_by_name(stages: Iterable[Path]) -> dict[str, float]:
    """What the stages of a run measured, under names that are alike in other runs."""
    values = {}
    for stage in stages:
        for record in records_of(stage):
            name = f"{stage.name[:2]} {record['metric']}, {record['list']} ({record['list_size']})"
            if record["crf"]:
                name += ", CRF"
            if record["oracle"]:
                name += ", oracle"
            if name in values:  # the same at another threshold, or of other counts
                name += f", {record['threshold_from'] or record.get('counts')}"
            values[name] = record["value"]
    return values

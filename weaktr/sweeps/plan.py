"""What sweeps have to compute: their runs, checked, the stages that each still lacks, and how long those will take.

Each run has its folder `papermill_runs/sweeps/<sweep>/<variant>-seed<seed>`. The folders are the state: a second call
plans what is missing.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..data import LISTS
from ..errors import UserError
from ..files import read_json, resolve
from ..workbench.given import GIVEN, steps_to_train
from ..workbench.keys import data_source, starting_weights
from ..workbench.parameters import NOTEBOOKS, catalogue, check_parameters
from ..workbench.runner import RunFolder
from .file import Sweep
from .run import SweepRun, folder_name
from .sharing import run_folders


# ── The plan ──────────────────────────────────────────────────────────────────────────────────────────────────────
def plan(sweeps: Iterable[Sweep], *, notebooks: str | Path = NOTEBOOKS, check: bool = True) -> list[SweepRun]:
    """All runs of the sweeps, each with the stages that it still lacks.

    Args:
        sweeps: As from `read_sweep`.
        notebooks: The folder of the notebooks.
        check: Read every list, image and mask that a run will read, and load the weights it starts from, each once.

    Raises:
        UserError: For parameters or data that cannot be used, and for a run folder of another version of weaktr.
    """
    declared = catalogue(notebooks)
    checker = Checker()
    sources = {}  # of each data set: its lists are read once
    runs = []
    for sweep in sweeps:
        for variant, seed in itertools.product(sweep.overrides, sweep.seeds):
            folder = sweep.folder / folder_name(variant, seed)
            given = of_seed(sweep.overrides[variant], seed) | {"run_folder": str(folder)}
            values = check_parameters(given, declared)
            if check:
                checker.check(values, sweep.stages)
            data_set = (values.get("dataset"), values.get("data_root"))
            if data_set not in sources:
                sources[data_set] = data_source(values)
            place = RunFolder(values, folder, declared, sources[data_set])
            _refuse_other_version(place)
            stages = [stage for stage in sweep.stages if stage in place.stages]
            run = SweepRun(sweep, variant, seed, values, place, stages)
            run.skip_finished()
            runs.append(run)
    return runs


def of_seed(overrides: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What one random seed of a variant sets: `{seed}` in a text is the seed, so that each may have its own network."""
    values = {
        name: value.replace("{seed}", str(seed)) if isinstance(value, str) else value
        for name, value in overrides.items()
    }
    return values | {"seed": seed}


@dataclass(frozen=True)
class WhatIsRead:
    """What decides which files of a data set a run reads, and what they have to hold."""

    dataset: str
    data_root: str
    lists: tuple[str, ...]
    needs_training_masks: bool
    checkpoint: str  # the rule that chooses it, which may need labels or masks of its own list
    given: tuple[str, ...]  # networks and labels that are not made

    @classmethod
    def of(cls, values: dict[str, Any]) -> "WhatIsRead":
        """What a run with these parameters reads."""
        return cls(
            dataset=values["dataset"],
            data_root=values.get("data_root", ""),
            lists=tuple(values.get(name, "") for name in LISTS),
            needs_training_masks=values.get("oracle_noise", -1) >= 0,
            checkpoint=values.get("cam_checkpoint", ""),
            given=tuple(values.get(name, "") for name in GIVEN),
        )


class Checker:
    """Checks runs; files of one data set are read once, and weights are loaded once, however many runs use them."""

    def __init__(self) -> None:
        self._extremes: dict[WhatIsRead, Any] = {}  # what was read → its largest and its narrowest image
        self._fetched: set[tuple[str, str]] = set()  # backbones with the files of their weights

    def check(self, values: dict[str, Any], stages: Sequence[str]) -> None:
        """Raise UserError for the first thing that these stages would stumble over; runs without data pass."""
        if "dataset" not in values:
            return
        from ..workbench.checks import check_run  # takes seconds to import, for networks that some sweeps never need

        read = WhatIsRead.of(values)
        starts = {step: starting_weights(values, step) for step in steps_to_train(values, stages)}
        self._extremes[read] = check_run(
            values,
            data=read not in self._extremes,
            weights=[step for step, start in starts.items() if start not in self._fetched],
            extremes=self._extremes.get(read),
        )
        self._fetched |= set(starts.values())


def _refuse_other_version(place: RunFolder) -> None:
    """Results of two versions are not to be compared within one sweep."""
    now = metadata.version("weaktr")
    for stage in place.stages:
        folder = place.path / stage
        made = read_json(folder / "manifest.json").get("versions", {}).get("weaktr", now)
        if made != now:
            raise UserError(
                f"{folder}: made by weaktr {made}, this is {now}; move the sweep's folder away, or delete it"
            )


# ── What is left to compute, and for how long ─────────────────────────────────────────────────────────────────────
def to_compute(runs: Iterable[SweepRun]) -> dict[str, tuple[SweepRun, str]]:
    """The stages that have to be computed, shared ones once → {what the stage is made from: (run, stage)}."""
    found: dict[str, tuple[SweepRun, str]] = {}
    for run in runs:
        for stage in run.stages:
            found.setdefault(run.recipe(stage), (run, stage))
    return found


def estimate_seconds(
    runs: Sequence[SweepRun], elsewhere: Iterable[str | Path] = ("papermill_runs/reference", "papermill_runs/demo")
) -> float:
    """Seconds that the missing stages will take, one after the other; NaN where nothing like one of them was finished.

    Args:
        runs: As from `plan`.
        elsewhere: Folders of runs that finished stages are also sought in, besides those of all sweeps.
    """
    if not runs:
        return 0.0
    folders = [*run_folders(runs[0].sweep.folder.parent), *map(resolve, elsewhere)]
    manifests: dict[str, list[dict]] = {}  # of each stage: those of all runs that have it
    total = 0.0
    for run, stage in to_compute(runs).values():
        if stage not in manifests:
            manifests[stage] = [read_json(folder / stage / "manifest.json") for folder in folders]
        total += _typical_seconds(manifests[stage], run.sweep.preset)
    return total


def _typical_seconds(manifests: Iterable[dict[str, Any]], preset: str) -> float:
    """The median of a stage's finished runs, of those of the preset where there are some; NaN without any."""
    finished = [manifest for manifest in manifests if "seconds" in manifest]
    alike = [manifest for manifest in finished if manifest.get("preset") == preset]
    seconds = [manifest["seconds"] for manifest in alike or finished]
    return float(np.median(seconds)) if seconds else math.nan

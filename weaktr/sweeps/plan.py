"""Sweeps: many runs that differ in a few parameters, planned, shared and executed. The files: `sweep_files.py`.

Each run has its folder `papermill_runs/sweeps/<sweep>/<variant>-seed<seed>`. A stage that several runs share, in this
sweep or another, is computed once and hard-linked. The folders are the state: a second call runs what is missing.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from importlib import metadata

import numpy as np

from ..data import LISTS
from ..errors import UserError
from ..files import read_json, resolve
from ..workbench.keys import WITHOUT_EFFECT, data_source, finished_key
from ..workbench.parameters import NOTEBOOKS, catalogue, check_parameters
from ..workbench.runner import RunFolder
from ..workbench.stage import remove
from .file import SWEEPS, Sweep


@dataclass
class SweepRun:
    """One run of a sweep and how far it is. state: waiting, running, done or failed."""

    sweep: Sweep
    variant: str
    seed: int
    values: dict
    place: RunFolder
    stages: list  # still to do, in order
    state: str = "waiting"
    message: str = ""
    shared: int = 0  # stages taken over from other runs
    seconds: float = 0.0
    began: float = field(default=0.0, repr=False)

    @property
    def name(self):
        """Folder name of the run."""
        return f"{self.variant}-seed{self.seed}"


# ── The plan ──────────────────────────────────────────────────────────────────────────────────────────────────────
def plan(sweeps, *, notebooks=NOTEBOOKS, check=True):
    """All runs of the sweeps, each with the stages that it still lacks → list of SweepRun.

    Reads every list and file that a run will read, once for each data set. Raises UserError for parameters or data
    that cannot be used and for a run folder that another version of weaktr made.
    """
    from ..workbench.checks import check_run

    declared, sources, extremes, loaded, runs = catalogue(notebooks), {}, {}, set(), []
    for sweep in sweeps:
        for variant, overrides in sweep.overrides.items():
            for seed in sweep.seeds:
                folder = sweep.folder / f"{variant}-seed{seed}"
                given = overrides | {"seed": seed, "run_folder": str(folder)}
                values = check_parameters(given, declared)
                source = (values.get("dataset"), values.get("data_root"))
                noisy, rule = values.get("oracle_noise", -1) >= 0, values.get("cam_checkpoint")
                files = repr([*source, *map(values.get, LISTS), noisy, rule])
                start = repr([values.get(n) for n in ("backbone", "weights", "seg_backbone", "seg_weights")])
                if check and "dataset" in values:
                    extremes[files] = check_run(values, files not in extremes, start not in loaded, extremes.get(files))
                    loaded.add(start)
                if source not in sources:
                    sources[source] = data_source(values)
                place = RunFolder(values, folder, declared, sources[source])
                _check_version(place)
                runs.append(SweepRun(sweep, variant, seed, values, place, list(sweep.stages)))
                _skip_finished(runs[-1])
    return runs


def _check_version(place):
    now = metadata.version("weaktr")
    for stage in place.stages:
        made = read_json(place.path / stage / "manifest.json").get("versions", {}).get("weaktr", now)
        if made != now:
            path = place.path / stage
            raise UserError(f"{path}: made by weaktr {made}, this is {now}; move the sweep's folder away, or delete it")


def _skip_finished(one):
    while one.stages and one.place.up_to_date(one.stages[0]):
        one.stages.pop(0)
    if not one.stages:
        one.state = "done"


def _take_over(one, folders):
    """Link the next stages of a run from folders that hold them under this run's keys."""
    while one.stages:
        stage, key = one.stages[0], one.place.key(one.stages[0])
        source = next((folder / stage for folder in folders if finished_key(folder / stage) == key), None)
        if source is None:
            return
        with contextlib.suppress(OSError):  # another sweep may be making it anew this moment
            _link(source, one.place.path / stage)
        if not one.place.up_to_date(stage):
            return
        one.stages.pop(0)
        one.shared += 1
    one.state = "done"


def _link(source, target):
    """A copy of a finished stage's folder that shares its files, whole or not at all."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source, aside, copy_function=os.link)
    except OSError:  # a file system without links
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside)
    if target.exists():
        remove(target)
    aside.rename(target)


def run_folders(root=SWEEPS):
    """The folders of all runs of all sweeps below `root`."""
    return sorted({path.parents[1] for path in resolve(root).glob("*/*/[0-9][0-9]_*/manifest.json")})


def to_compute(runs):
    """The stages that have to be computed, shared ones once → {what tells them apart: (run, stage)}."""
    found = {}
    for one in runs:
        for stage in one.stages:
            found.setdefault(_identity(one, stage), (one, stage))
    return found


def _identity(one, stage):
    """What a stage will be made from: the same for two runs that can share it."""
    chain = [(other, one.place.parameters[other]) for other in one.place.stages if other <= stage]
    return repr([(other, {k: v for k, v in own.items() if k not in WITHOUT_EFFECT}) for other, own in chain])


def estimate_seconds(runs, elsewhere=("papermill_runs/reference", "papermill_runs/demo")):
    """Seconds that the missing stages will take, one after the other, from finished ones of the same name, of the same
    preset where there are some; NaN where a stage was never finished.
    """
    folders = [*run_folders(runs[0].sweep.folder.parent), *map(resolve, elsewhere)] if runs else []
    wanted, total = to_compute(runs).values(), 0.0
    stages = {stage for _, stage in wanted}
    made = {stage: [read_json(folder / stage / "manifest.json") for folder in folders] for stage in stages}
    for one, stage in wanted:
        finished = [manifest for manifest in made[stage] if "seconds" in manifest]
        alike = [manifest for manifest in finished if manifest.get("preset") == one.sweep.preset]
        total += float(np.median([manifest["seconds"] for manifest in alike or finished] or [np.nan]))
    return total

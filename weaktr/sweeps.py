"""Sweeps: many runs that differ in a few parameters, planned, shared and executed. The files: `sweep_files.py`.

Each run has its folder `papermill_runs/sweeps/<sweep>/<variant>-seed<seed>`. A stage that several runs share, in this
sweep or another, is computed once and hard-linked. The folders are the state: a second call runs what is missing.
"""

import contextlib
import os
import shutil
import signal
import time
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil

from .data import LISTS
from .errors import UserError
from .files import read_json, write_json
from .parameters import NOTEBOOKS, catalogue, check_parameters
from .processes import spawned
from .runs import RunFolder, run, short
from .stages import WITHOUT_EFFECT, cores, data_source, finished_key, remove, resolve
from .sweep_files import SWEEPS, Sweep

POLL_SECONDS = 0.2


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
    from .checks import check_run

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
    preset where there are some; NaN where a stage was never finished."""
    folders = [*run_folders(runs[0].sweep.folder.parent), *map(resolve, elsewhere)] if runs else []
    wanted, total = to_compute(runs).values(), 0.0
    stages = {stage for _, stage in wanted}
    made = {stage: [read_json(folder / stage / "manifest.json") for folder in folders] for stage in stages}
    for one, stage in wanted:
        finished = [manifest for manifest in made[stage] if "seconds" in manifest]
        alike = [manifest for manifest in finished if manifest.get("preset") == one.sweep.preset]
        total += float(np.median([manifest["seconds"] for manifest in alike or finished] or [np.nan]))
    return total


# ── Execution ─────────────────────────────────────────────────────────────────────────────────────────────────────
def execute_stage(parameters, folder, stage, preset, notebooks):
    """One stage of one run, in a process of its own; what it prints goes to log.txt in the run's folder."""
    log_path = resolve(folder) / "log.txt"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log_path, "a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        run(parameters, folder, stages=[stage], preset=preset, notebooks=Path(notebooks), check=False)


def _gpus():
    import torch

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [gpu for gpu in visible.split(",") if gpu] or [str(i) for i in range(torch.cuda.device_count())]


def local_jobs(jobs=0):
    """How many stages run at a time here: `jobs`, or for 0 one per GPU, or one per two cores."""
    return jobs or len(_gpus()) or max(1, cores() // 2)


def _settle(threads, gpu):
    """In a new process: its share of the threads and, where there are any, a GPU of its own."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


class LocalPool:
    """`jobs` spawned processes that share cores, and GPUs where there are any, fairly.

    Each is an executor of its own: a process that is killed takes its own stage with it and no other.
    """

    def __init__(self, jobs):
        gpus, threads = _gpus(), max(1, cores() // jobs)
        self._shares = [(threads, gpus[i % len(gpus)] if gpus else None) for i in range(jobs)]
        self._executors, self._running = [self._start(i) for i in range(jobs)], [None] * jobs

    def _start(self, i):
        return spawned(1, _settle, *self._shares[i])

    def submit(self, function, *arguments):
        """Start function(*arguments) in a process that has nothing to do → Future. No more than `jobs` at a time."""
        i = next(i for i, job in enumerate(self._running) if job is None or job.done())
        try:
            self._running[i] = self._executors[i].submit(function, *arguments)
        except BrokenExecutor:  # its process was killed
            self._executors[i] = self._start(i)
            self._running[i] = self._executors[i].submit(function, *arguments)
        return self._running[i]

    def stop(self):
        """Interrupt what runs: kernels end their stage where it can be continued."""
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        workers = []
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "multiprocessing.resource_tracker" not in " ".join(one.cmdline()):  # which ends by itself
                    one.send_signal(signal.SIGINT)
                    workers.append(one)
        for worker in psutil.wait_procs(workers, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()


def slurm_pool(folder, *, cluster="slurm", partition="", gpus=1, cpus=8, minutes=1440):
    """submitit's executor, one Slurm job per stage → executor. cluster "local" runs them here, for tests.

    Raises UserError where there is no Slurm.
    """
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=resolve(folder) / "slurm", cluster=cluster)
    except RuntimeError as error:
        raise UserError(f"{error}; start the sweep where sbatch is, or with --executor local") from error
    executor.update_parameters(timeout_min=minutes, cpus_per_task=cpus, gpus_per_node=gpus, name="weaktr")
    if partition:
        executor.update_parameters(slurm_partition=partition)
    return executor


def run_sweeps(runs, executor, jobs, *, notebooks=NOTEBOOKS, show=lambda runs: None):
    """Bring all planned runs up to date, `jobs` stages at a time; a failing run is recorded and the others go on.

    executor: has submit(function, *arguments), whose result has done() and result(). show(runs): called after every
    change of a state. Interrupted, the state on disk is one from which the next call continues.
    """
    from submitit.core.utils import UncompletedJobError

    active, failed, changed = {}, {}, True
    try:
        while changed or active:
            for one in [one for one in runs if changed and one.state == "waiting"]:
                _take_over(one, run_folders(one.sweep.folder.parent))
                what = _identity(one, one.stages[0]) if one.stages else None
                if what in failed:
                    one.state, one.message = "failed", f"shares a stage with {failed[what].name}, which failed there"
                elif one.stages and len(active) < jobs and what not in {key for _, key in active.values()}:
                    given = {name: value for name, value in one.values.items() if name != "run_folder"}
                    arguments = (given, short(one.place.path), one.stages[0], one.sweep.preset, str(notebooks))
                    try:
                        job = executor.submit(execute_stage, *arguments)
                    except Exception as error:  # a full queue, for example: tried again when a job ends
                        one.state, one.message = "waiting" if active else "failed", f"not started: {error}"
                        continue
                    active[job] = (one, what)
                    one.state, one.message, one.began = "running", one.stages[0], time.monotonic()
            if changed:
                _record(runs, show)
            time.sleep(POLL_SECONDS if active else 0)
            finished = [job for job in active if job.done()]
            changed = bool(finished)
            for job in finished:
                one, what = active.pop(job)
                one.seconds += time.monotonic() - one.began
                try:
                    job.result()
                    one.state, one.message, stage = "waiting", "", one.stages[0]
                    _skip_finished(one)
                    if one.stages and one.stages[0] == stage:
                        raise UserError("made, but not under its key: the data changed; start the sweep again")
                except Exception as error:  # whatever it was, it is this run's: the others go on
                    killed = isinstance(error, BrokenExecutor | UncompletedJobError)
                    reason = "its process was killed, most often for lack of memory or time" if killed else error
                    one.state, one.message = "failed", f"{one.stages[0]}: {reason}"
                    if not killed:  # runs that share the stage would fail there, too
                        failed[what] = one
    except BaseException:  # Ctrl-C above all
        for job in active:
            job.cancel()
        if isinstance(executor, LocalPool):
            executor.stop()
        for one, _ in active.values():
            one.state, one.message = "waiting", "interrupted"
        _record(runs, show)
        raise


def _record(runs, show):
    """The state of every sweep, for a reader while it runs and afterwards."""
    for folder in {one.sweep.folder for one in runs}:
        names = ("variant", "seed", "state", "message", "shared", "seconds")
        states = {one.name: {n: getattr(one, n) for n in names} for one in runs if one.sweep.folder == folder}
        write_json(folder / "sweep.json", states)
    show(runs)

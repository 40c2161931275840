"""Runs the stages of planned runs, several at a time, and records what became of them."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, Protocol

from ..files import write_json
from ..workbench.parameters import NOTEBOOKS
from .file import keep
from .pools import JobLost
from .run import SweepRun
from .sharing import take_over

POLL_SECONDS = 0.2
STATES = "sweep.json"  # how far each run is, in the sweep's folder
RECORDED = ("variant", "seed", "state", "message", "shared", "seconds")
KILLED = "its process was killed, most often for lack of memory or time"


class Job(Protocol):
    """A stage at work, as a concurrent.futures.Future or a SlurmJob."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def result(self) -> Any:
        """What it returned; raises what it raised."""


class Executor(Protocol):
    """Where stages run: a LocalPool, a SlurmPool, or anything like them."""

    def submit(self, runs: Sequence[SweepRun], notebooks: str) -> Sequence[Any]:
        """Start the next stage of each run → its Job. Raises any exception where it cannot take all of them now."""

    def where(self, job: Any) -> str:
        """Where a job at work is, in words, or ""."""

    def stop(self) -> None:
        """End the jobs at work; they have ended when it returns."""


def run_sweeps(
    runs: Sequence[SweepRun],
    executor: Executor,
    jobs: int,
    *,
    notebooks: str | Path = NOTEBOOKS,
    show: Callable[[Sequence[SweepRun]], Any] = lambda runs: None,
) -> None:
    """Bring all planned runs up to date; a failing run is recorded and the others go on.

    Interrupted, it leaves a state on disk from which the next call continues.

    Args:
        runs: As from `plan`; their states change.
        executor: Where stages run.
        jobs: How many stages at a time.
        notebooks: The folder of the notebooks.
        show: Called with all runs after every change of a state.
    """
    for sweep in {run.sweep.folder: run.sweep for run in runs}.values():
        keep(sweep)
    scheduler = Scheduler(runs, executor, jobs, notebooks=notebooks, show=show)
    try:
        scheduler.start_waiting()
        while scheduler.active:
            time.sleep(POLL_SECONDS)
            if scheduler.collect_finished():
                scheduler.start_waiting()
            elif scheduler.look():
                scheduler.record()
    except BaseException:  # Ctrl-C above all
        scheduler.interrupt()
        raise


class Scheduler:
    """Starts the stages of runs as soon as there is room, a shared one once.

    Attributes:
        active: {job: the run whose stage it is}.
        failed: {what a stage is made from: the run in which it failed}, for the runs that share the stage.
    """

    def __init__(
        self,
        runs: Sequence[SweepRun],
        executor: Executor,
        jobs: int,
        *,
        notebooks: str | Path,
        show: Callable[[Sequence[SweepRun]], Any],
    ) -> None:
        self.runs = runs
        self.executor = executor
        self.jobs = jobs
        self.notebooks = notebooks
        self.show = show
        self.active: dict[Any, SweepRun] = {}
        self.failed: dict[str, SweepRun] = {}

    def start_waiting(self) -> None:
        """Start what can be started now, after taking over what other runs have finished meanwhile."""
        self._start()
        while not self.active and any(run.state == "waiting" for run in self.runs):
            self._start()  # what was refused had held back those that share its stage
        self.record()

    def _start(self) -> None:
        chosen: dict[str, SweepRun] = {}
        for run in self.runs:
            if run.state == "waiting":
                take_over(run)
            if run.state == "waiting":
                self._choose(run, chosen)
        groups: dict[tuple[str, int], list[SweepRun]] = {}
        for run in chosen.values():
            groups.setdefault((run.sweep.name, run.processes), []).append(run)
        for group in groups.values():
            self._submit(group)

    def _choose(self, run: SweepRun, chosen: dict[str, SweepRun]) -> None:
        """Choose a run, unless its next stage failed in another one, is at work there, or there is no room."""
        recipe = run.recipe(run.stage)
        if recipe in self.failed:
            run.fail(f"shares a stage with {self.failed[recipe].name}, which failed there")
            return
        at_work = {other.recipe(other.stage) for other in self.active.values()}
        if len(self.active) + len(chosen) < self.jobs and recipe not in at_work:
            chosen.setdefault(recipe, run)

    def _submit(self, runs: Sequence[SweepRun]) -> None:
        """Submit the next stages of runs of one sweep at once, or by halves where the executor takes fewer."""
        try:
            jobs = self.executor.submit(runs, str(self.notebooks))
        except Exception as error:  # a full queue, for example
            if len(runs) > 1:
                half = len(runs) // 2
                self._submit(runs[:half])
                self._submit(runs[half:])
                return
            (run,) = runs
            reason = f"not started: {error}"
            if self.active:
                run.wait(reason)  # tried again when a job ends
            else:
                run.fail(reason)
            return
        for job, run in zip(jobs, runs, strict=True):
            self.active[job] = run
            run.start()

    def look(self) -> bool:
        """Ask where the jobs at work are → whether there is something new."""
        return any([run.move(self.executor.where(job)) for job, run in self.active.items()])

    def collect_finished(self) -> bool:
        """Record how jobs ended → whether any did."""
        finished = [job for job in self.active if job.done()]
        for job in finished:
            self._collect(job)
        return bool(finished)

    def _collect(self, job: Job) -> None:
        run = self.active.pop(job)
        stage = run.stage
        recipe = run.recipe(stage)
        run.stop_clock()
        try:
            job.result()
            run.finish_stage()
        except BrokenExecutor:
            run.fail(f"{stage}: {KILLED}")  # but not those that share the stage: they try it themselves
        except JobLost as error:
            run.fail(f"{stage}: {error}")
        except Exception as error:  # whatever it was, it is this run's: the others go on
            run.fail(f"{stage}: {error}")
            self.failed[recipe] = run

    def interrupt(self) -> None:
        """End the jobs at work; their runs wait for the next call."""
        try:
            self.executor.stop()
        finally:
            for run in self.active.values():
                run.wait("interrupted")
            self.record()

    def record(self) -> None:
        """Write the state of every sweep, for a reader while it runs and afterwards, and show it."""
        for folder in {run.sweep.folder for run in self.runs}:
            states = {}
            for run in self.runs:
                if run.sweep.folder == folder:
                    states[run.name] = {name: getattr(run, name) for name in RECORDED}
            write_json(folder / STATES, states)
        self.show(self.runs)

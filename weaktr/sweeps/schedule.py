"""Runs the stages of planned runs, several at a time, and records what became of them."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any, Protocol

from ..files import short, write_json
from ..workbench.parameters import NOTEBOOKS
from .file import keep
from .pools import LocalPool, execute_stage
from .run import SweepRun
from .sharing import take_over

POLL_SECONDS = 0.2
STATES = "sweep.json"  # how far each run is, in the sweep's folder
RECORDED = ("variant", "seed", "state", "message", "shared", "seconds")
KILLED = "its process was killed, most often for lack of memory or time"


class Job(Protocol):
    """A stage at work, as a concurrent.futures.Future or a submitit.Job."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""

    def result(self) -> Any:
        """What it returned; raises what it raised."""

    def cancel(self) -> Any:
        """Ask for its end."""


class Executor(Protocol):
    """Where stages run: a LocalPool, submitit's executor, or anything like them."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start function(*arguments) → Job. Raises any exception where it takes no more jobs now."""


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
        for run in self.runs:
            if run.state == "waiting":
                take_over(run)
            if run.state == "waiting":
                self._start(run)
        self.record()

    def _start(self, run: SweepRun) -> None:
        """Start the next stage of a run, unless it failed in another one, is at work there, or there is no room."""
        recipe = run.recipe(run.stage)
        if recipe in self.failed:
            run.fail(f"shares a stage with {self.failed[recipe].name}, which failed there")
            return
        at_work = {other.recipe(other.stage) for other in self.active.values()}
        if len(self.active) < self.jobs and recipe not in at_work:
            self._submit(run)

    def _submit(self, run: SweepRun) -> None:
        given = {name: value for name, value in run.values.items() if name != "run_folder"}
        arguments = (given, short(run.place.path), run.stage, run.sweep.preset, str(self.notebooks))
        try:
            job = self.executor.submit(execute_stage, *arguments)
        except Exception as error:  # a full queue, for example
            reason = f"not started: {error}"
            if self.active:
                run.wait(reason)  # tried again when a job ends
            else:
                run.fail(reason)
        else:
            self.active[job] = run
            run.start()

    def collect_finished(self) -> bool:
        """Record how jobs ended → whether any did."""
        finished = [job for job in self.active if job.done()]
        for job in finished:
            self._collect(job)
        return bool(finished)

    def _collect(self, job: Job) -> None:
        from submitit.core.utils import UncompletedJobError

        run = self.active.pop(job)
        stage = run.stage
        recipe = run.recipe(stage)
        run.stop_clock()
        try:
            job.result()
            run.finish_stage()
        except (BrokenExecutor, UncompletedJobError):
            run.fail(f"{stage}: {KILLED}")  # but not those that share the stage: they try it themselves
        except Exception as error:  # whatever it was, it is this run's: the others go on
            run.fail(f"{stage}: {error}")
            self.failed[recipe] = run

    def interrupt(self) -> None:
        """End the jobs at work; their runs wait for the next call."""
        for job in self.active:
            job.cancel()
        if isinstance(self.executor, LocalPool):  # whose jobs cannot be cancelled once they run
            self.executor.stop()
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

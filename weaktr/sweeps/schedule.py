"""Runs the stages of planned runs, several at a time, and records what became of them."""

import time
from concurrent.futures import BrokenExecutor

from ..errors import UserError
from ..files import short, write_json
from ..workbench.parameters import NOTEBOOKS
from .plan import _identity, _skip_finished, _take_over, run_folders
from .pools import LocalPool, execute_stage

POLL_SECONDS = 0.2


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

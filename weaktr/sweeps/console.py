"""What `weaktr sweep` shows: a live table on a terminal, one line per finished run elsewhere."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import counted
from ..progress import clock
from .run import SweepRun

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {"running": "cyan", "failed": "bold red", "waiting": "dim", "done": "green"}  # in the table's order
ENDED = ("done", "failed")


def counts(runs: Sequence[SweepRun]) -> str:
    """How many runs are in which state, in words."""
    states = [run.state for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in COLOURS if state in states)


def _headline(run: SweepRun) -> str:
    """The first line of its message."""
    return run.message.partition("\n")[0]


def _seconds(run: SweepRun) -> float:
    """How long its stages have taken, up to now."""
    running = time.monotonic() - run.began if run.state == "running" else 0
    return run.seconds + running


# ── While it runs ─────────────────────────────────────────────────────────────────────────────────────────────────
@contextlib.contextmanager
def progress(runs: Sequence[SweepRun]) -> Iterator[Callable[[Sequence[SweepRun]], None]]:
    """Yields the function that `run_sweeps` calls after each change of a state."""
    if not sys.stdout.isatty():
        yield LinePerRun(runs)
        return
    from rich.live import Live

    with Live(get_renderable=lambda: table(runs), refresh_per_second=1) as live:
        yield lambda runs: live.refresh()


def table(runs: Sequence[SweepRun]) -> "Table":
    """A rich table of all runs, on top those that a short terminal should not cut off."""
    from rich.markup import escape
    from rich.table import Table

    view = Table("sweep", "run", "state", "stage, or what went wrong", "shared", "time", title=counts(runs))
    order = list(COLOURS)
    for run in sorted(runs, key=lambda run: order.index(run.state)):
        view.add_row(
            run.sweep.name,
            run.name,
            f"[{COLOURS[run.state]}]{run.state}[/]",
            escape(_headline(run)),
            str(run.shared or ""),
            clock(_seconds(run)),
        )
    return view


class LinePerRun:
    """Called with all runs, prints a line for each that has ended since; for logs."""

    def __init__(self, runs: Sequence[SweepRun]) -> None:
        self._printed = {id(run) for run in runs if run.state == "done"}

    def __call__(self, runs: Sequence[SweepRun]) -> None:
        """Print a line for each run that has ended since the last call."""
        for run in runs:
            if run.state in ENDED and id(run) not in self._printed:
                self._printed.add(id(run))
                print(f"{run.sweep.name} · {run.name} · {_outcome(run)} · {counts(runs)}", flush=True)


def _outcome(run: SweepRun) -> str:
    """How a run ended, in words."""
    if run.state == "failed":
        return f"failed · {_headline(run)}"
    outcome = f"done in {clock(run.seconds)}"
    if run.shared:
        outcome += f", {counted(run.shared, 'stages')} shared"
    return outcome


# ── Before it runs ────────────────────────────────────────────────────────────────────────────────────────────────
def plan_text(runs: Sequence[SweepRun], to_compute: Collection, seconds: float, jobs: int) -> str:
    """What a sweep will do, for --dry-run and as its first line.

    Args:
        runs: As from `plan`.
        to_compute: Their stages that have to be computed, as from the function of this name.
        seconds: As from `estimate_seconds`.
        jobs: How many stages run at a time.
    """
    done = sum(run.state == "done" for run in runs)
    text = f"{counted(len(runs), 'runs')}, {done} done already; {counted(len(to_compute), 'stages')} to compute"
    if not to_compute:
        return text
    missing = sum(len(run.stages) for run in runs)
    if missing > len(to_compute):
        text += f", {missing - len(to_compute)} more are shared"
    if math.isnan(seconds):
        return f"{text}; no estimate, since not all of these stages have been finished here before"
    return f"{text}; estimate {clock(seconds / jobs)} with {counted(jobs, 'jobs')}"

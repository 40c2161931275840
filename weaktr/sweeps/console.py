"""What `python -m weaktr sweep` shows: a live table on a terminal, one line per finished run elsewhere."""

import contextlib
import math
import sys
import time

from ..progress import clock

COLOURS = {"running": "cyan", "failed": "bold red", "waiting": "dim", "done": "green"}


def counts(runs):
    """How many runs are in which state, in words."""
    states = [one.state for one in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in COLOURS if state in states)


def _headline(one):
    return one.message.partition("\n")[0]


def table(runs):
    """A rich table of all runs, on top those that a short terminal should not cut off."""
    from rich.markup import escape
    from rich.table import Table

    view = Table("sweep", "run", "state", "stage, or what went wrong", "shared", "time", title=counts(runs))
    for one in sorted(runs, key=lambda one: list(COLOURS).index(one.state)):
        state = f"[{COLOURS[one.state]}]{one.state}[/]"
        seconds = one.seconds + (time.monotonic() - one.began if one.state == "running" else 0)
        view.add_row(one.sweep.name, one.name, state, escape(_headline(one)), str(one.shared or ""), clock(seconds))
    return view


@contextlib.contextmanager
def progress(runs):
    """Yields the function that `run_sweeps` calls after each change of a state."""
    if sys.stdout.isatty():
        from rich.live import Live

        with Live(get_renderable=lambda: table(runs), refresh_per_second=1) as live:
            yield lambda runs: live.refresh()
        return
    told = {id(one) for one in runs if one.state == "done"}

    def tell(runs):
        for one in runs:
            if one.state in ("done", "failed") and id(one) not in told:
                told.add(id(one))
                shared = f", {one.shared} stage{'s' if one.shared > 1 else ''} shared" if one.shared else ""
                detail = f" · {_headline(one)}" if one.state == "failed" else f" in {clock(one.seconds)}{shared}"
                print(f"{one.sweep.name} · {one.name} · {one.state}{detail} · {counts(runs)}", flush=True)

    yield tell


def plan_text(runs, to_compute, seconds, jobs):
    """What a sweep will do, for --dry-run and as its first line."""
    done = sum(one.state == "done" for one in runs)
    stages = sum(len(one.stages) for one in runs)
    text = f"{len(runs)} runs, {done} done already; {len(to_compute)} stages to compute"
    if stages > len(to_compute):
        text += f", {stages - len(to_compute)} more are shared"
    left = "unknown time, no stage like these was finished here" if math.isnan(seconds) else clock(seconds / jobs)
    return f"{text}; estimate {left} with {jobs} job{'s' if jobs > 1 else ''}" if to_compute else text

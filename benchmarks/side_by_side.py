"""Times several ways of doing the same thing in turns, so that a noisy machine disturbs all of them alike."""

import gc
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

from weaktr.device import auto_precision, pick_device
from weaktr.processes import cores
from weaktr.workbench.manifest import environment

RESULTS = Path(__file__).parent / "results"


def measure(ways, *, rounds=5, name, unit="s"):
    """Run every way once to warm up, then `rounds` times in turns, each round from another one on; print and write.

    ways: {name: function of no arguments}; the first is what the others are held against. → DataFrame way, median,
    spread (half the distance from the least to the greatest), ratio to the first, which is the median of the rounds'.
    """
    for way in ways.values():
        way()
    seconds, labels = {label: [] for label in ways}, list(ways)
    for number in range(rounds):
        for label in np.roll(labels, -number).tolist():
            gc.collect()
            start = time.perf_counter()
            ways[label]()
            seconds[label].append(time.perf_counter() - start)
    table = pd.DataFrame(seconds)
    first = next(iter(ways))
    found = pd.DataFrame(
        {
            "way": list(ways),
            f"median ({unit})": table.median().to_numpy(),
            f"spread ({unit})": ((table.max() - table.min()) / 2).to_numpy(),
            f"ratio to {first}": (table.div(table[first], axis=0)).median().to_numpy(),
            "rounds": rounds,
        }
    )
    return write(found, name)


def write(found, name):
    """Print a table, and write it to results/<name>.csv with the machine, the commit and the day it was measured."""
    facts = environment()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else facts["hardware"]["cpu"]
    machine = f"{device}, {cores()} cores, {auto_precision(pick_device())}"
    print(f"{name} · {machine}\n{found.round(3).to_string(index=False)}\n", flush=True)
    RESULTS.mkdir(exist_ok=True)
    measured = {"machine": machine, "commit": facts["git"]["commit"], "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    found.assign(**measured).to_csv(RESULTS / f"{name}.csv", index=False)
    return found


def profile(way, name, rows=12):
    """Write the operators in which `way` spends its time, most first, as text to results/<name>_profile.txt."""
    device = "CUDA" if torch.cuda.is_available() else "CPU"
    activities = {getattr(torch.profiler.ProfilerActivity, kind) for kind in ("CPU", device)}
    with torch.profiler.profile(activities=activities) as recorded:
        way()
    sort = f"self_{device.lower()}_time_total"
    table = recorded.key_averages().table(sort_by=sort, row_limit=rows, max_name_column_width=40)
    keep = [line.rstrip() for line in table.splitlines() if line.strip()]
    (RESULTS / f"{name}_profile.txt").write_text("\n".join(keep) + "\n")


def peak_memory(make, arguments):
    """Two calls of the function make(*arguments) → the most memory (MB) above what the process had before.

    On a GPU what its tensors took, else what the operating system gave: the C library's unused heap counts.
    """
    before = psutil.Process().memory_info().rss
    way = make(*arguments)
    way()
    way()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6


def measure_memory(make, ways, *, name):
    """`peak_memory` of every way, in a process of its own; print and write a table.

    make: function of a module, which makes a way from its arguments; ways: {name: arguments}; the first is what the
    others are held against. Call it before anything large is made: a child's peak starts from its parent's size.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["timm"])  # loaded once, not by every process
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        peaks = [pool.submit(peak_memory, make, arguments).result() for arguments in ways.values()]
    found = pd.DataFrame({"way": list(ways), "peak (MB)": peaks})
    found[f"ratio to {next(iter(ways))}"] = found["peak (MB)"] / peaks[0]
    write(found, name)

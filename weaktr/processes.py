"""Processes that help another one: spawned, since libraries with threads do not bear a fork, and ended with it."""

import contextlib
import ctypes
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread

WORTH_A_PROCESS = 200  # images: reading them takes about as long as starting another process


def spawned(workers, initializer=None, *arguments):
    """A ProcessPoolExecutor of `workers` processes, in each of which `initializer(*arguments)` is called first.

    When the process that asks for it is killed, its workers, which would wait for work for ever, end as well.
    """
    return ProcessPoolExecutor(max(1, workers), get_context("spawn"), _begin, (initializer, arguments))


def _begin(initializer, arguments):
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    if initializer:
        initializer(*arguments)


def keep_freed_memory():
    """Let glibc keep what is freed: else every large array begins with pages to be zeroed, up to half of its time."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt, (mmap_threshold, trim_threshold) = ctypes.CDLL(None).mallopt, (-3, -1)  # of malloc.h
        if mallopt(mmap_threshold, 2**30):  # else it has another limit, and the second alone would do harm
            mallopt(trim_threshold, 2**31 - 1)


def parallel(function, items, workers, progress=None):
    """`[function(item) for item in items]` in `workers` processes, in order; progress.update(1) after each.

    The function goes to each process once, not with every item: bound to a data set it can be megabytes.
    """
    results = []
    with spawned(workers, _receive, function) as pool:
        for result in pool.map(_apply, items):
            results.append(result)
            if progress:
                progress.update(1)
    return results


def _receive(function):
    keep_freed_memory()
    _apply.function = function


def _apply(item):
    return _apply.function(item)


def in_shares(function, ids, workers):
    """[function(share of the ids)], one share for each process, in order. A short list stays in this process."""
    processes = max(1, min(workers, len(ids) // WORTH_A_PROCESS))
    shares = [ids[len(ids) * n // processes : len(ids) * (n + 1) // processes] for n in range(processes)]
    keep_freed_memory()
    return parallel(function, shares, processes) if processes > 1 else [function(ids)]


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

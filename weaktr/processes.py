"""Processes that help another one: spawned, since libraries with threads do not bear a fork, and ended with it."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread


def spawned(workers, initializer=None, *arguments):
    """A ProcessPoolExecutor of `workers` processes, in each of which `initializer(*arguments)` is called first.

    When the process that asks for it is killed, its workers, which would wait for work for ever, end as well.
    """
    return ProcessPoolExecutor(max(1, workers), get_context("spawn"), _begin, (initializer, arguments))


def _begin(initializer, arguments):
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    if initializer:
        initializer(*arguments)

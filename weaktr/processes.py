"""Worker processes, spawned because libraries with threads are not fork-safe, and ended with their parent."""

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from .errors import UserError
from .progress import Progress

WORTH_A_PROCESS = 200  # images: reading them takes about as long as starting another process
MOST_IN_A_CHUNK = 16  # items that a worker is given at once

# For the environment of a process that allocates large arrays; glibc reads it when the process starts. Without it, what
# is freed goes back to the system and comes back as pages to be zeroed: scoring the CAMs of 60 images of 500×375 takes
# 0.45 s of CPU time instead of 0.36, their generation with DeiT-S 5.2 s an image instead of 4.3.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}

# Processes talk through sockets in the folder of temporary files. The path of a socket has at most 103 bytes on macOS,
# 107 on Linux, and multiprocessing's own part of it is "/pymp-xxxxxxxx/listener-xxxxxxxx".
LONGEST_TMPDIR = 103 - 32
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shorten_tmpdir() -> None:
    """Where the folder of temporary files is too deep for sockets, as on clusters: another one from now on.

    It is that of this process and of those that it starts. A line says so.

    Raises:
        UserError: No other folder can be written.
    """
    given = tempfile.gettempdir()
    if os.name != "posix" or len(os.fsencode(given)) <= LONGEST_TMPDIR:
        return
    for folder in SHORT_FOLDERS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            os.environ["TMPDIR"] = folder
            tempfile.tempdir = None  # asks for TMPDIR again
            print(f"TMPDIR {given} is too long a path for sockets; they and other temporary files go to {folder}")
            return
    raise UserError(
        f"TMPDIR {given} is too long for the path of a socket ({len(os.fsencode(given))} bytes, at most "
        f"{LONGEST_TMPDIR}), and none of {', '.join(SHORT_FOLDERS)} can be written; set TMPDIR to a shorter one"
    )


def spawned(workers: int, initializer: Callable[..., object] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """A pool of processes that end when this one does, also when it is killed while they wait for work.

    A spawned process imports the main module again, so a script that uses this needs `if __name__ == "__main__":`.

    Args:
        workers: how many processes at most, at least one; each starts when there is work for it.
        initializer: called first in every process, with `arguments`.
        *arguments: of the initializer, picklable as it is.
    """
    shorten_tmpdir()
    for name, value in KEEP_FREED_MEMORY.items():
        os.environ.setdefault(name, value)  # of no effect on this process: its workers inherit it
    return ProcessPoolExecutor(max(1, workers), get_context("spawn"), _begin, (initializer, arguments))


def _begin(initializer: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """The first call in a worker."""
    watch_parent()
    if initializer is not None:
        initializer(*arguments)


def watch_parent(_: int = 0) -> None:
    """Begin to watch over the process that started this one, see `end_with_parent`.

    It is the `worker_init_fn` of loaders: torch's own watch asks for the parent's id, which is that of a fork server
    where Python starts processes so, and the processes of a loader would outlive one that was killed.
    """
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait until the process that started this one has ended, then end this one at once."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, progress: Progress | None = None
) -> list[Result]:
    """`[function(item) for item in items]` in several processes.

    The function is pickled for every chunk of items, not for every item. Even one that is bound to COCO14, with 4.4 MB
    of annotations, then costs a worker 0.3 s for 16 images whose CRF takes 8 s.

    Args:
        function: picklable, such as a `functools.partial` of a function of a module.
        items: picklable as well.
        workers: how many processes.
        progress: its `update(1)` is called for each result, in the order of the items.

    Returns:
        The results, in the order of the items.
    """
    four_chunks_each = len(items) // (4 * max(1, workers))
    chunk = max(1, min(four_chunks_each, MOST_IN_A_CHUNK))
    results = []
    with spawned(workers) as pool:
        for result in pool.map(function, items, chunksize=chunk):
            results.append(result)
            if progress is not None:
                progress.update(1)
    return results


def in_shares(function: Callable[[Sequence[Item]], Result], ids: Sequence[Item], workers: int) -> list[Result]:
    """Call a function on equal shares of a list, each in a process of its own.

    Args:
        function: takes a share; picklable.
        ids: the list. A share has at least WORTH_A_PROCESS of them: a short list stays in this process.
        workers: how many processes at most.

    Returns:
        The result for each share, in the order of the list.
    """
    processes = max(1, min(workers, len(ids) // WORTH_A_PROCESS))
    if processes == 1:
        return [function(ids)]
    borders = [len(ids) * n // processes for n in range(processes + 1)]
    shares = [ids[start:end] for start, end in pairwise(borders)]
    return parallel(function, shares, processes)

"""Where stages run: in processes on this machine. As Slurm jobs: `slurm`."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..files import resolve
from ..processes import cores, spawned
from ..workbench.runner import run
from .run import SweepRun

SECONDS_TO_END = 30  # for an interrupted worker and its kernel (some 4 measured), before it is killed


class JobLost(RunError):
    """A job that ended through no fault of its stage: other runs that share the stage try it themselves."""


# ── A stage ───────────────────────────────────────────────────────────────────────────────────────────────────────
def execute_stage(parameters: Mapping[str, Any], folder: str, stage: str, preset: str, notebooks: str) -> None:
    """One stage of one run, in a process of its own; what it prints goes to log.txt in the run's folder."""
    log_path = resolve(folder) / "log.txt"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log_path, "a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        run(parameters, folder, stages=[stage], preset=preset, notebooks=Path(notebooks), check=False)


# ── This machine ──────────────────────────────────────────────────────────────────────────────────────────────────
def local_jobs(jobs: int = 0) -> int:
    """How many stages run at a time here: `jobs`, or for 0 one per GPU, or one per two cores without a GPU."""
    return jobs or len(_gpus()) or max(1, cores() // 2)


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process may use."""
    import torch

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [gpu for gpu in visible.split(",") if gpu] or [str(i) for i in range(torch.cuda.device_count())]


def _take_share(threads: int, gpu: str | None) -> None:
    """In a new process: its share of the threads and, where there are GPUs, one of them."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


class LocalPool:
    """`jobs` spawned processes that share cores, and GPUs where there are any, fairly.

    Each is an executor of its own: a process that is killed takes its own stage with it and no other.
    """

    def __init__(self, jobs: int) -> None:
        self._threads = max(1, cores() // jobs)
        self._gpus = _gpus()
        self._executors = [self._new_executor(i) for i in range(jobs)]
        self._running: list[Future | None] = [None] * jobs

    def _new_executor(self, i: int) -> ProcessPoolExecutor:
        gpu = self._gpus[i % len(self._gpus)] if self._gpus else None
        return spawned(1, _take_share, self._threads, gpu)

    def submit(self, runs: Sequence[SweepRun], notebooks: str) -> list[Future]:
        """Start the next stage of each run in a process that has nothing to do. No more than `jobs` at a time."""
        return [self.call(execute_stage, *run.call(notebooks)) for run in runs]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Start function(*arguments) in a process that has nothing to do."""
        i = next(i for i, job in enumerate(self._running) if job is None or job.done())
        try:
            job = self._executors[i].submit(function, *arguments)
        except BrokenExecutor:  # its process was killed
            self._executors[i] = self._new_executor(i)
            job = self._executors[i].submit(function, *arguments)
        self._running[i] = job
        return job

    def where(self, job: Future) -> str:
        """Nothing to say of a job at work: they all are here."""
        return ""

    def stop(self) -> None:
        """Interrupt what runs; its workers have ended when it returns.

        Only workers are interrupted, by SIGINT: each ends its kernel, as `weaktr run` does, with the time to save what
        it can be continued from. Interrupted directly, as well, a kernel can lose that time.
        """
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        workers = multiprocessing.active_children()
        for worker in workers:
            if worker.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGINT)
        deadline = time.monotonic() + SECONDS_TO_END
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            worker.kill()  # nothing to one that has ended

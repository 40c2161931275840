"""Where stages run: in processes on this machine, or as Slurm jobs."""

import contextlib
import os
import signal
from concurrent.futures import BrokenExecutor
from pathlib import Path

import psutil

from ..errors import UserError
from ..files import resolve
from ..processes import cores, spawned
from ..workbench.runner import run


# ── Execution ─────────────────────────────────────────────────────────────────────────────────────────────────────
def execute_stage(parameters, folder, stage, preset, notebooks):
    """One stage of one run, in a process of its own; what it prints goes to log.txt in the run's folder."""
    log_path = resolve(folder) / "log.txt"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log_path, "a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        run(parameters, folder, stages=[stage], preset=preset, notebooks=Path(notebooks), check=False)


def _gpus():
    import torch

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [gpu for gpu in visible.split(",") if gpu] or [str(i) for i in range(torch.cuda.device_count())]


def local_jobs(jobs=0):
    """How many stages run at a time here: `jobs`, or for 0 one per GPU, or one per two cores."""
    return jobs or len(_gpus()) or max(1, cores() // 2)


def _settle(threads, gpu):
    """In a new process: its share of the threads and, where there are any, a GPU of its own."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


class LocalPool:
    """`jobs` spawned processes that share cores, and GPUs where there are any, fairly.

    Each is an executor of its own: a process that is killed takes its own stage with it and no other.
    """

    def __init__(self, jobs):
        gpus, threads = _gpus(), max(1, cores() // jobs)
        self._shares = [(threads, gpus[i % len(gpus)] if gpus else None) for i in range(jobs)]
        self._executors, self._running = [self._start(i) for i in range(jobs)], [None] * jobs

    def _start(self, i):
        return spawned(1, _settle, *self._shares[i])

    def submit(self, function, *arguments):
        """Start function(*arguments) in a process that has nothing to do → Future. No more than `jobs` at a time."""
        i = next(i for i, job in enumerate(self._running) if job is None or job.done())
        try:
            self._running[i] = self._executors[i].submit(function, *arguments)
        except BrokenExecutor:  # its process was killed
            self._executors[i] = self._start(i)
            self._running[i] = self._executors[i].submit(function, *arguments)
        return self._running[i]

    def stop(self):
        """Interrupt what runs: kernels end their stage where it can be continued."""
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        workers = []
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "multiprocessing.resource_tracker" not in " ".join(one.cmdline()):  # which ends by itself
                    one.send_signal(signal.SIGINT)
                    workers.append(one)
        for worker in psutil.wait_procs(workers, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()


def slurm_pool(folder, *, cluster="slurm", partition="", gpus=1, cpus=8, minutes=1440):
    """Submitit's executor, one Slurm job per stage → executor. cluster "local" runs them here, for tests.

    Raises UserError where there is no Slurm.
    """
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=resolve(folder) / "slurm", cluster=cluster)
    except RuntimeError as error:
        raise UserError(f"{error}; start the sweep where sbatch is, or with --executor local") from error
    executor.update_parameters(timeout_min=minutes, cpus_per_task=cpus, gpus_per_node=gpus, name="weaktr")
    if partition:
        executor.update_parameters(slurm_partition=partition)
    return executor

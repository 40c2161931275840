"""Several processes that train one network together, or share the work on a list: a GPU each, or a share of the cores.

A process among N is called a rank, from 0 to N − 1. Whatever differs with several of them is here: a loop asks for its
share of a batch and for means over all ranks; with one process, both are what they are given.

`run` starts the ranks out of a notebook and waits for them. Nothing comes back but the files that they write: a
training leaves its state, a list its maps or masks, and the caller reads these as it would after an interruption.
"""

import copy
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import islice
from multiprocessing import get_start_method, set_start_method
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessException, spawn
from torch.nn.parallel import DistributedDataParallel

from .errors import ParameterError, RunError
from .processes import cores, watch_parent
from .progress import Progress

LONGEST_WAIT = timedelta(hours=1)  # for another rank: the first one may have a slower disk, or write a checkpoint

Item = TypeVar("Item")


# ── Inside a rank; with one process, all of it does nothing ───────────────────────────────────────────────────────
def world() -> int:
    """How many ranks there are; 1 outside."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of the ranks this process is; 0 outside."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the rank that writes what all of them have in common."""
    return rank() == 0


def share(items: Iterable[Item]) -> list[Item]:
    """Every N-th item, beginning with this rank's own: together, the ranks have each item once."""
    return list(islice(items, rank(), None, world()))


def seeds() -> tuple[int, ...]:
    """What a rank adds to the seeds of a training: the first one nothing, so that one process draws as ever."""
    return () if is_first() else (rank(),)


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks; it has no gradient."""
    if world() == 1:
        return tensor
    tensor = tensor.detach().clone()
    distributed.all_reduce(tensor)
    return tensor


def mean(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all ranks; it has no gradient where there are several."""
    return tensor if world() == 1 else total(tensor) / world()


def gather(found: Item) -> list[Item]:
    """What every rank found, in their order."""
    if world() == 1:
        return [found]
    everything: list[Any] = [None] * world()
    distributed.all_gather_object(everything, found)
    return everything


def whole(own: NDArray[Any]) -> NDArray[Any]:
    """The array (n,…) whose rows the ranks have shared out by `share`, from the rows of each."""
    parts = gather(own)
    rows = np.empty((sum(map(len, parts)), *own.shape[1:]), own.dtype)
    for number, part in enumerate(parts):
        rows[number :: len(parts)] = part
    return rows


class SharedProgress:
    """Progress with a list that ranks share: the first one, who alone prints, takes the others to be as far as itself.

    Args:
        progress: counts what is done.
        total: of all ranks together.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._left = total

    def update(self, n: int = 1) -> None:
        """Count `n` more of this rank."""
        self._count(n * world())

    def finish(self) -> None:
        """Count what is left: all ranks are done."""
        self._count(self._left)

    def _count(self, n: int) -> None:
        counted = min(n, self._left)
        self._left -= counted
        if counted:
            self._progress.update(counted)


def wait() -> None:
    """Wait until every rank has come here."""
    if world() > 1:
        distributed.barrier()


def in_step(model: nn.Module) -> nn.Module:
    """The network whose backward pass averages gradients over all ranks; call it in place of `model`."""
    if world() == 1:
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(model, [device] if device.type == "cuda" else None, forward_sync_buffers=False)


# ── Outside ───────────────────────────────────────────────────────────────────────────────────────────────────────
def wanted(processes: int, device: torch.device) -> int:
    """How many ranks a stage works with.

    Args:
        processes: as a notebook has it; 0 for one per visible GPU, and for one on a CPU.
        device: where the networks run; "cuda:1" is one GPU, and so is asked for with one process.

    Raises:
        ParameterError: there are fewer GPUs, or cores.
    """
    if device.type == "cuda":
        available = torch.cuda.device_count() if device.index is None else 1
        kind = "GPU"
    else:
        available = cores()
        kind = "core"
    if processes > available:
        raise ParameterError(
            f"processes {processes}: there is one for each {kind}, and here are {available}; take at most {available}"
        )
    if processes == 0:
        return available if device.type == "cuda" else 1
    return processes


def run(function: Callable[..., object], processes: int, model: nn.Module, *arguments: Any, **named: Any) -> bool:
    """Call `function(model, *arguments, **named)` in every one of several ranks, and wait for them.

    Where one process is enough, nothing happens: the caller does the work, as a rank does that calls this.

    Each has a copy of the model on a device of its own. The first one prints, the others are silent. When one fails, or
    this process ends, all end.

    Args:
        function: of a module, so that it can be pickled, as its arguments are.
        processes: how many ranks, see `wanted`.
        model: copied; it stays as it is.
        *arguments: of the function, after the model.
        **named: more of them.

    Returns:
        Whether the ranks did it.

    Raises:
        RunError: a rank was killed.
        Exception: what a rank raised first.
    """
    if processes == 1 or world() > 1:
        return False
    device = next(model.parameters()).device
    # Not by torch's own pickling: the ranks would train the same memory.
    task = pickle.dumps((function, copy.deepcopy(model).cpu(), arguments, named))
    threads = max(1, torch.get_num_threads() // processes)
    with tempfile.TemporaryDirectory(prefix="weaktr-") as folder:
        context = spawn(
            _rank, (processes, device.type, threads, get_start_method(), folder, task), processes, join=False
        )
        assert context is not None  # because of join=False
        try:
            while not context.join():
                pass
        except ProcessException as error:
            killed = [process.exitcode == -signal.SIGKILL for process in context.processes]
            raise _cause(Path(folder), killed) or error from None
        finally:
            for process in context.processes:
                process.kill()
                process.join()
    return True


def _rank(
    rank: int, processes: int, device_type: str, threads: int, start_method: str, folder: str, task: bytes
) -> None:
    """The life of a rank. `folder` is where they find each other, by files: no port that another run could take."""
    watch_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started the ranks ends them
    set_start_method(start_method, force=True)  # of the processes that load; a spawned process would spawn these too
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if device_type == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    if rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    try:
        distributed.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            init_method=f"file://{folder}/meeting",
            rank=rank,
            world_size=processes,
            timeout=LONGEST_WAIT,
        )
        function, model, arguments, named = pickle.loads(task)
        function(model.to(device), *arguments, **named)
        wait()  # a rank that has gone would end the others' last collective
        distributed.destroy_process_group()
    except Exception as error:
        _leave(Path(folder), error)
        raise


def _leave(folder: Path, error: Exception) -> None:
    """Write down what went wrong, unless another rank was first: its end makes others fail, too."""
    try:
        with open(folder / "error", "xb") as file:
            pickle.dump(error, file)
    except (FileExistsError, pickle.PicklingError, TypeError, AttributeError):
        pass


def _cause(folder: Path, killed: list[bool]) -> Exception | None:
    """Why the ranks ended; killed: which of them were, whose end makes the others fail, too."""
    if any(killed):
        remedy = "most likely by the system, out of memory; take fewer processes, or a smaller batch"
        return RunError(f"process {killed.index(True) + 1} of {len(killed)} was killed, {remedy}")
    try:
        return pickle.loads((folder / "error").read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError, TypeError):
        return None

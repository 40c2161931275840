"""Kernels for the notebooks of a run, forked from a process that has loaded torch, timm and seaborn already.

Loading these is nine tenths of a kernel's start. Two notebooks that do no more than that take 10 s of CPU time with
forked kernels and 21 s with kernels that start cold. The standard library's fork server does it as fast as one of our
own with pipes did. A run of a single stage that needs nothing of all this pays for it once.

A fork has the environment of its own start, imports weaktr from its files as they are then, has a process group of its
own and ends with the process that runs its notebook, however that ends.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from ..errors import RunError
from ..processes import KEEP_FREED_MEMORY, shorten_tmpdir
from .stage import RUNNER

# Not the inline backend, which wants a shell. Each kernel would load the debugger, which nobody uses: 0.14 of 0.31 s.
LOADED = ("ipykernel.kernelapp", "ipykernel.debugger", "seaborn", "sklearn.metrics", "timm")
FORKS = sys.platform == "linux"  # elsewhere libraries are not fork-safe; kernels start cold there
ENVIRONMENT = {
    **KEEP_FREED_MEMORY,
    # Also where the caller's shell says agg: figures that a cell leaves open stay in the notebook.
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    # Threads that wait for the next small operation spin a little, not for good: they would rob loaders and CRF.
    # CAM generation beside a busy process: 2.6 times faster if they sleep at once, alone 2.3 times slower.
    "GOMP_SPINCOUNT": "100000",
    # What a kernel and its processes print reaches us in UTF-8, whatever the terminal's encoding.
    "PYTHONIOENCODING": "utf-8",
    # The debugger warns of frozen modules, in which it finds no breakpoints.
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def kernel_manager(notebooks: Path, sockets: str) -> type[AsyncKernelManager]:
    """A kernel manager class for the interpreter that runs now, whatever kernels are installed for the user.

    Args:
        notebooks: The folder from which kernels learn their notebook's parameters.
        sockets: An empty folder for the kernels' sockets, addresses and IPython's own files: the home may be read-only,
            and what a person has set for IPython there changes no run.
    """

    class RunKernelManager(AsyncKernelManager):
        # Only a kernel's critical log: what a cell raises is reported once, by us.
        kernel_spec = KernelSpec(
            **get_kernel_dict(["--log-level=50"])
            | {"env": ENVIRONMENT | {RUNNER: str(notebooks), "IPYTHONDIR": f"{sockets}/ipython"}}
        )
        connection_file = f"{sockets}/kernel.json"
        if os.name == "posix":  # sockets in a folder: a free port could be taken by a kernel of another run
            transport = "ipc"
            ip = f"{sockets}/kernel"

        async def start_kernel(self, **options: Any) -> None:
            """Start the kernel; what its processes print reaches us as the notebook's output, and not a second time."""
            if FORKS:
                self.provisioner = Forking(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
            await super().start_kernel(stdout=subprocess.DEVNULL, **options)

    return RunKernelManager


class Forking(LocalProvisioner):
    """Starts a kernel as a fork; signals, waiting and the end are those of any local process."""

    async def launch_kernel(self, cmd: list[str], *, env: dict, cwd: str | None = None, **options: Any) -> dict:
        """Fork a kernel that takes the arguments of the command `cmd` → how to connect to it."""
        arguments = cmd[cmd.index("-f") :]
        self.process = ForkedKernel(arguments, dict(env), str(cwd or os.getcwd()))
        self.pid = self.process.pid
        self.pgid = self.process.pid
        return self.connection_info


class ForkedKernel:
    """A kernel forked from the loaded process, with what jupyter_client asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: str):
        """Raises RunError where no process can be forked."""
        warm_up()
        # Daemonic, so that it is terminated, not waited for, when this process ends while the kernel still runs.
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=become_kernel, args=(arguments, environment, folder), daemon=True)
        try:
            with _no_main_module():
                self._process.start()
        except (EOFError, ConnectionError) as error:
            raise RunError("the process that starts kernels ended at its own start; its message is above") from error
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """None while it runs, then its exit status."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Wait for its end → its exit status."""
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, to nobody if the kernel has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def warm_up() -> None:
    """Start the process that forks this one's kernels, if there is none: it loads while a run's data are checked.

    OpenMP and malloc read their variables when a process starts: the environment of now counts for all kernels. A run
    that is refused meanwhile leaves the process behind for the seconds that it still loads.
    """
    shorten_tmpdir()
    if not FORKS:
        return
    resource_tracker.ensure_running()  # by itself, as it ends with letting Ctrl-C through
    with _inherited():
        forkserver.set_forkserver_preload(list(LOADED))
        forkserver.ensure_running()


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """ENVIRONMENT set and Ctrl-C held back, for a process started meanwhile: Ctrl-C at the terminal is for us alone."""
    environment = dict(os.environ)
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide the script that runs now from a kernel started meanwhile, which would run it up to its `__main__` guard."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def become_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """In a process just forked: a group, environment and folder of its own, then a kernel until it is shut down."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which `_inherited` had blocked
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what its processes print reaches us as the notebook's output
    multiprocessing.current_process().daemon = False  # it may have children: loaders, and workers of the CRF
    threading.Thread(target=_end_with_parent, daemon=True).start()
    np.random.seed()  # noqa: NPY002 - reseed, or all kernels would draw the same unseeded numbers

    from ipykernel.kernelapp import launch_new_instance

    # The process that forked it is polled, too: without it nobody would see this one end.
    launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
    os._exit(0)


def _end_with_parent() -> None:
    """End this kernel when the process that runs its notebook has ended, however it did."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

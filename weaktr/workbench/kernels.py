"""Kernels for the notebooks of a run, forked from a process that has loaded torch, timm and seaborn already.

Loading these is nine tenths of a kernel's start, and a run starts five. A single stage that needs none pays for it.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from multiprocessing import resource_tracker

import psutil

from ..errors import RunError
from .stage import RUNNER

LOADED = ("ipykernel.kernelapp", "seaborn", "sklearn.metrics", "timm")  # not the inline backend: it wants a shell
FORKS = sys.platform == "linux"  # elsewhere libraries do not bear a fork; kernels start from nothing there
ENVIRONMENT = {
    # Also where the caller's shell says agg: figures that a cell leaves open stay in the notebook.
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    # Threads that wait for the next small operation spin a little, not for good: they would rob loaders and CRF.
    "GOMP_SPINCOUNT": "100000",
}
SERVERS = {}  # process that runs notebooks: the one that forks its kernels


def kernel_manager(notebooks, sockets):
    """A kernel manager class for the interpreter that runs now, whatever kernels are installed for the user.

    notebooks: the folder that kernels learn their notebook's parameters from; sockets: an empty folder for theirs.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning import LocalProvisioner

    class Forked(LocalProvisioner):
        async def launch_kernel(self, cmd, *, env, cwd=None, **given):
            self.process = fork(cmd[cmd.index("-f") :], dict(env), str(cwd or os.getcwd()))
            self.pid = self.pgid = self.process.pid
            return self.connection_info

    class OwnKernelManager(AsyncKernelManager):
        # Only a kernel's critical log: what a cell raises is reported once, by us.
        kernel_spec = KernelSpec(
            **get_kernel_dict(["--log-level=50"]) | {"env": ENVIRONMENT | {RUNNER: str(notebooks)}}
        )
        if os.name == "posix":  # sockets in a folder: a free port could be taken by a kernel of another run
            transport, ip = "ipc", f"{sockets}/kernel"

        async def start_kernel(self, **given):
            """What processes of the kernel print reaches us as the notebook's output, and no second time."""
            if FORKS:
                self.provisioner = Forked(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
            await super().start_kernel(stdout=subprocess.DEVNULL, **given)

    return OwnKernelManager


class Kernel(psutil.Process):
    """A forked kernel, with what jupyter_client asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def poll(self):
        """None while it runs, then 0."""
        return None if self.is_running() else 0

    def send_signal(self, sig):
        """Send a signal, to nobody if the kernel has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            super().send_signal(sig)


def load():
    """The process that forks this one's kernels, started if there is none: it loads while a run's data are checked.

    How many threads OpenMP has is read when libraries are loaded: the environment of now decides for all kernels.
    """
    server = SERVERS.get(os.getpid())
    if server is None or server.poll() is not None:
        server = SERVERS[os.getpid()] = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for us alone
        )
        atexit.register(server.kill)  # also while it loads, for a run that was refused
    return server


def fork(*request):
    """A new Kernel with command line arguments, environment and folder. Raises RunError where none can be started."""
    server = load()
    try:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
        answer = server.stdout.readline()
    except BaseException:  # its answer, not read, would be taken for the next one's
        SERVERS.pop(os.getpid()).kill()
        raise
    with contextlib.suppress(ValueError, psutil.NoSuchProcess):
        return Kernel(int(answer))
    raise RunError("the process that starts kernels, or the kernel, ended at its start; its message is above")


def _serve():
    """Fork a kernel for every line of input and answer with its process id, until whoever asks is gone."""
    asking = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a sweep that is interrupted tells all processes below it
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # for ipykernel, when it is loaded: kernels end when we do
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in LOADED:
        __import__(module)
    resource_tracker.ensure_running()  # for all kernels: ipykernel waits three seconds for a child that will not end
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no ended kernel stays in the table of processes
    while (line := sys.stdin.readline()) and os.getppid() == asking:
        if child := os.fork():
            with contextlib.suppress(BrokenPipeError):
                print(child, file=answers, flush=True)
        else:
            _become_kernel(*json.loads(line))


def _become_kernel(arguments, environment, folder):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (0, 1):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    for name in [name for name in sys.modules if name.partition(".")[0] == "weaktr"]:
        del sys.modules[name]  # the kernel takes its code from the files as they are now
    sys.modules["numpy"].random.seed()  # what nobody seeds is not to be the same in all kernels

    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(arguments)
    os._exit(0)  # not back into the loop that forked us


if __name__ == "__main__":
    _serve()

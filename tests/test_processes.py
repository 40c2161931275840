"""Processes that help another one end with it, also when it is killed."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from weaktr.processes import spawned

CODE = """if True:
    import os, signal, time
    from weaktr.processes import spawned
    if __name__ == "__main__":
        with spawned(2) as pool:
            print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
            pool.submit(time.sleep, %d)
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("busy", [0, 60])
def test_workers_of_a_killed_process_end_with_it(busy):
    """Those that wait for work, and those that have some."""
    done = subprocess.run([sys.executable, "-c", CODE % busy], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL and done.stdout
    workers = [psutil.Process(pid) for pid in map(int, done.stdout.split()) if psutil.pid_exists(pid)]
    left = psutil.wait_procs(workers, timeout=20)[1]
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def remember(value):
    os.environ["WEAKTR_TEST_VALUE"] = value


def remembered():
    return os.environ["WEAKTR_TEST_VALUE"]


def test_an_initializer_is_called_first():
    with spawned(0, remember, "called") as pool:
        assert pool.submit(remembered).result() == "called" and "WEAKTR_TEST_VALUE" not in os.environ

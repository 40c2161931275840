"""Worker processes: they end with their parent, and are given what they need, in chunks."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from weaktr.processes import KEEP_FREED_MEMORY, in_shares, parallel, spawned

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


LOADER = """if True:
    import os, signal
    import psutil, torch
    from weaktr.data.transforms import EpochLoader

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, key):
            return torch.zeros(3)

    if __name__ == "__main__":
        torch.multiprocessing.set_start_method({method!r})
        loader = EpochLoader(Samples(), 1, 504, range(100), 2)
        next(iter(loader))
        print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="how processes are started elsewhere")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_the_processes_of_a_loader_end_with_a_killed_training(method, tmp_path):
    """Also those that a fork server started, whom torch's own watch does not see orphaned."""
    (tmp_path / "script.py").write_text(LOADER.replace("{method!r}", repr(method)))
    command = [sys.executable, tmp_path / "script.py"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with open(tmp_path / "pids.txt", "w") as file:  # not a pipe, which those who are left would hold open
        done = subprocess.run(command, stdout=file, env=environment, check=False)
    pids = [int(pid) for pid in (tmp_path / "pids.txt").read_text().split()]
    assert done.returncode == -signal.SIGKILL and len(pids) >= 2
    left = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)[1]
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def remember(value):
    os.environ["WEAKTR_TEST_VALUE"] = value


def remembered():
    return os.environ["WEAKTR_TEST_VALUE"]


def test_an_initializer_is_called_first():
    with spawned(0, remember, "called") as pool:
        assert pool.submit(remembered).result() == "called" and "WEAKTR_TEST_VALUE" not in os.environ


def environment(name):
    return os.environ.get(name)


def test_workers_keep_freed_memory_unless_the_user_says_otherwise(monkeypatch):
    own, other = KEEP_FREED_MEMORY
    monkeypatch.setenv(own, "1000000")
    monkeypatch.delenv(other, raising=False)
    assert parallel(environment, [own, other], 1) == ["1000000", KEEP_FREED_MEMORY[other]]


class Adder:
    """A function that counts how often it is pickled."""

    pickled = 0

    def __call__(self, number):
        return number + 1

    def __reduce__(self):
        Adder.pickled += 1
        return Adder, ()


class Counter:
    done = 0

    def update(self, n):
        self.done += n


@pytest.mark.parametrize(("items", "chunks"), [(3, 3), (40, 4), (100, 7)])
def test_a_function_is_pickled_once_for_a_chunk(monkeypatch, items, chunks):
    monkeypatch.setattr(Adder, "pickled", 0)
    counter = Counter()
    assert parallel(Adder(), range(items), 1, counter) == list(range(1, items + 1))
    assert Adder.pickled == chunks and counter.done == items


def test_shares_are_the_list_in_order(monkeypatch):
    monkeypatch.setattr("weaktr.processes.WORTH_A_PROCESS", 2)
    monkeypatch.setattr(
        "weaktr.processes.parallel", lambda function, shares, workers: [workers, *map(function, shares)]
    )
    ids = list(range(7))
    assert in_shares(list, ids, 2) == [2, [0, 1, 2], [3, 4, 5, 6]]
    assert in_shares(list, ids, 9) == [3, [0, 1], [2, 3], [4, 5, 6]]
    assert in_shares(list, ids, 1) == [ids]
    assert in_shares(list, ids[:3], 9) == [ids[:3]]
    assert in_shares(list, [], 9) == [[]]

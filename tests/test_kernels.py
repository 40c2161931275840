"""Kernels of a run: forked from one process, with an environment and an end of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from test_runs import PARAMETERS, write_notebook

from weaktr import errors, files
from weaktr.workbench import kernels, runner

SAY = """import json, os, sys
order = list(sys.modules)
loaded = "torch" in order, "timm" in order[: order.index("weaktr.workbench.stage")]
import torch
facts = {"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "folder": os.getcwd(), "loaded": loaded,
         "variable": os.environ.get("WEAKTR_TEST"), "spin": os.environ.get("GOMP_SPINCOUNT"),
         "backend": __import__("matplotlib").get_backend()}
(stage.folder / "facts.json").write_text(json.dumps(facts))
stage.finish([])
import matplotlib.pyplot as plt
plt.figure(figsize=(1, 1)).subplots()"""


@pytest.fixture
def start(tmp_path):
    """Runs a notebook of one stage in a new folder → what its kernel says of itself."""
    write_notebook(tmp_path, "01_say", PARAMETERS, SAY)

    def once(name):
        runner.run({}, tmp_path / name, notebooks=tmp_path)
        return SimpleNamespace(**json.loads((tmp_path / name / "01_say" / "facts.json").read_text()))

    return once


def pictures(path):
    """How many PNG images the cells of an executed notebook show."""
    cells = nbformat.read(path, nbformat.NO_CONVERT).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.skipif(not kernels.FORKS, reason="kernels are not forked on this system")
def test_kernels_are_forked_from_a_process_that_has_loaded_what_is_slow(start, monkeypatch, tmp_path):
    monkeypatch.setenv("WEAKTR_TEST", "first")
    first = start("first")
    monkeypatch.setenv("WEAKTR_TEST", "second")
    second = start("second")
    assert pictures(tmp_path / "second" / "01_say" / "notebook.ipynb") == 1, "what a cell leaves open is shown"
    assert first.parent == second.parent == kernels.SERVERS[os.getpid()].pid
    assert first.pid != second.pid and not psutil.pid_exists(first.pid)
    assert (first.variable, second.variable) == ("first", "second"), "each has the environment of its own start"
    for one in (first, second):
        assert one.loaded == [True, True], "torch is there; weaktr comes from its files as they are now"
        assert one.session == one.pid and one.folder == str(files.ROOT)
        assert one.spin == "100000" and "inline" in one.backend

    kernels.SERVERS[os.getpid()].kill()
    kernels.SERVERS[os.getpid()].wait()
    third = start("third")
    assert third.parent not in (first.parent, os.getpid()), "a process that was killed is replaced"


def test_a_kernel_starts_from_nothing_where_forks_are_not_safe(start, monkeypatch):
    monkeypatch.setattr(kernels, "FORKS", False)
    found = start("plain")
    assert found.parent == os.getpid()
    assert found.loaded == [False, False] and found.spin == "100000" and "inline" in found.backend


@pytest.mark.skipif(not kernels.FORKS, reason="kernels are not forked on this system")
def test_a_process_that_cannot_fork_says_so(monkeypatch, capfd):
    monkeypatch.setattr(kernels, "SERVERS", {})
    monkeypatch.setattr(kernels, "ENVIRONMENT", {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"})
    with pytest.raises(errors.RunError, match="its message is above"):
        kernels.fork([], {}, "/")
    assert "encodings" in capfd.readouterr().err


def test_kernels_end_with_the_process_that_runs_them(tmp_path):
    wait = "import os, time\n(stage.folder / 'pids').write_text(f'{os.getpid()} {os.getppid()}')\ntime.sleep(100)"
    write_notebook(tmp_path, "01_wait", PARAMETERS, wait)
    code = (
        f"from pathlib import Path; from weaktr.workbench import runner; runner.run({{}}, {str(tmp_path / 'run')!r}, "
    )
    running = subprocess.Popen([sys.executable, "-c", code + f"notebooks=Path({str(tmp_path)!r}))"])
    said, until = tmp_path / "run" / "01_wait" / "pids", time.monotonic() + 100
    while not (said.exists() and said.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    pids = [int(pid) for pid in said.read_text().split()]
    assert all(map(psutil.pid_exists, pids))
    running.send_signal(signal.SIGKILL)
    running.wait()
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, pids))

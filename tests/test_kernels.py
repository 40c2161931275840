"""Kernels of a run: forked from one process, with an environment and an end of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from test_runs import PARAMETERS, write_notebook

from weaktr import errors, files, processes
from weaktr.workbench import kernels, runner

SAY = """import json, multiprocessing, os, sys
order = list(sys.modules)
loaded = "torch" in order, "timm" in order[: order.index("weaktr.workbench.stage")]
import numpy, torch
from weaktr.processes import spawned
with spawned(1) as pool:
    child = pool.submit(os.getpid).result()
facts = {"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "folder": os.getcwd(), "loaded": loaded,
         "variable": os.environ.get("WEAKTR_TEST"), "spin": os.environ.get("GOMP_SPINCOUNT"), "child": child,
         "backend": __import__("matplotlib").get_backend(), "unseeded": numpy.random.rand()}
(stage.folder / "facts.json").write_text(json.dumps(facts))
stage.finish([])
import matplotlib.pyplot as plt
plt.figure(figsize=(1, 1)).subplots()"""
WAIT = """import os, time
(stage.folder / 'pids').write_text(f'{os.getpid()} {os.getppid()}')
time.sleep(100)"""
ANYWHERE = """import os, tempfile, torch
from weaktr.processes import spawned
with spawned(1) as pool:
    pool.submit(print, "τ, which a process has to be able to write", flush=True).result()
loader = torch.utils.data.DataLoader(torch.arange(8.0), num_workers=1)
total = sum(float(batch) for batch in loader)
print("a figure · – → ï")
stage.finish([stage.record("τ – sum", total, on="val", size=8)])"""
FORKED = pytest.mark.skipif(not kernels.FORKS, reason="kernels are not forked on this system")


@pytest.fixture
def start(tmp_path):
    """Runs a notebook of one stage in a new folder → what its kernel says of itself."""
    write_notebook(tmp_path, "01_say", PARAMETERS, SAY)

    def once(name):
        runner.run({}, tmp_path / name, notebooks=tmp_path)
        return SimpleNamespace(**json.loads((tmp_path / name / "01_say" / "facts.json").read_text()))

    return once


@pytest.fixture
def nothing_loaded(monkeypatch):
    """Kernels of the test come from a process of their own, in which nothing slow is loaded."""
    monkeypatch.setattr(kernels, "LOADED", kernels.LOADED[:1])
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


@pytest.fixture
def running(tmp_path):
    """A process that runs a notebook whose only cell says which its processes are, then waits → process, said."""
    write_notebook(tmp_path, "01_wait", PARAMETERS, WAIT)
    code = (
        "from pathlib import Path; from weaktr.workbench import kernels, runner\n"
        "kernels.LOADED = kernels.LOADED[:1]\n"
        f"runner.run({{}}, {str(tmp_path / 'run')!r}, notebooks=Path({str(tmp_path)!r}))"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    yield process, tmp_path / "run" / "01_wait" / "pids"
    process.kill()
    process.communicate()


def until(condition, seconds=100):
    """Waits for a condition; fails where it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def gone(pid):
    """Whether a process has ended, if only as a zombie that nobody has waited for."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def pictures(path):
    """How many PNG images the cells of an executed notebook show."""
    cells = nbformat.read(path, nbformat.NO_CONVERT).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@FORKED
def test_kernels_are_forked_from_a_process_that_has_loaded_what_is_slow(start, monkeypatch, tmp_path):
    monkeypatch.setenv("WEAKTR_TEST", "first")
    first = start("first")
    monkeypatch.setenv("WEAKTR_TEST", "second")
    second = start("second")
    assert pictures(tmp_path / "second" / "01_say" / "notebook.ipynb") == 1, "what a cell leaves open is shown"
    assert first.parent == second.parent != os.getpid()
    assert psutil.Process(first.parent).ppid() == os.getpid()
    assert first.pid != second.pid and not psutil.pid_exists(first.pid)
    assert (first.variable, second.variable) == ("first", "second"), "each has the environment of its own start"
    assert first.unseeded != second.unseeded
    for one in (first, second):
        assert one.loaded == [True, True], "torch is there; weaktr comes from its files as they are now"
        assert one.session == one.pid and one.folder == str(files.ROOT)
        assert one.spin == "100000" and "inline" in one.backend
        assert one.child not in (one.pid, one.parent)
    assert "GOMP_SPINCOUNT" not in os.environ, "it is the kernels' alone"

    os.kill(first.parent, signal.SIGKILL)
    until(lambda: gone(first.parent))
    third = start("third")
    assert third.parent not in (first.parent, os.getpid()), "a process that was killed is replaced"


def test_a_kernel_starts_from_nothing_where_forks_are_not_safe(start, monkeypatch):
    monkeypatch.setattr(kernels, "FORKS", False)
    found = start("plain")
    assert found.parent == os.getpid()
    assert found.loaded == [False, False] and found.spin == "100000" and "inline" in found.backend


@FORKED
def test_a_process_that_cannot_fork_says_so(nothing_loaded, monkeypatch, capfd):
    monkeypatch.setattr(kernels, "ENVIRONMENT", {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"})
    with pytest.raises(errors.RunError, match="its message is above"):
        kernels.ForkedKernel([], {}, "/")
    assert "encodings" in capfd.readouterr().err


@FORKED
def test_a_killed_kernel_is_noticed_and_leaves_no_zombie(nothing_loaded, tmp_path):
    write_notebook(tmp_path, "01_die", PARAMETERS, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(errors.RunError, match="its process was killed, most often for lack of memory"):
        runner.run({}, tmp_path / "run", notebooks=tmp_path)
    assert all(not gone(process.pid) for process in psutil.Process().children(recursive=True))


@FORKED
def test_a_kernel_does_not_outlive_the_process_that_forked_it(running):
    """Nobody would see its end, and it would go on writing into its stage's folder."""
    process, said = running
    until(lambda: said.exists() and said.read_text())
    kernel, server = map(int, said.read_text().split())
    os.kill(server, signal.SIGKILL)
    assert "its process was killed" in process.communicate(timeout=60)[1]
    until(lambda: gone(kernel))


@FORKED
@pytest.mark.parametrize("loading", [True, False])
def test_ctrl_c_reaches_only_the_process_that_runs_the_notebook(running, loading):
    """A terminal sends it to the whole group of processes, of which the one that forks kernels may still load."""
    process, said = running
    ours = psutil.Process(process.pid)
    until(lambda: any("forkserver" in " ".join(child.cmdline()) for child in ours.children()))
    if not loading:
        until(lambda: said.exists() and said.read_text())
    others = ours.children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=100)
    assert "KeyboardInterrupt" in message and process.returncode != 0
    assert 'File "<string>", line 1,' not in message, "the traceback of a process that is not ours, which begins there"
    assert loading or "RunError: 01_wait interrupted; the same command continues there" in message
    until(lambda: all(gone(one.pid) for one in others))


@FORKED
def test_a_script_needs_no_guard_and_is_not_run_again(tmp_path):
    """Other processes of the standard library's fork server import the script that starts them."""
    write_notebook(tmp_path, "01_count", PARAMETERS, "stage.finish([])")
    (tmp_path / "script.py").write_text(
        "import pathlib, sys; from weaktr.workbench import kernels, runner\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "with open(place / 'runs.txt', 'a') as file:\n    file.write('once ')\n"
        "kernels.LOADED = kernels.LOADED[:1]\n"
        "runner.run({}, place / 'run', notebooks=place)\n"
    )
    subprocess.run([sys.executable, tmp_path / "script.py", tmp_path], cwd=files.ROOT, check=True)
    assert (tmp_path / "runs.txt").read_text() == "once "


def test_kernels_end_with_the_process_that_runs_them(running):
    process, said = running
    until(lambda: said.exists() and said.read_text())
    pids = [int(pid) for pid in said.read_text().split()]
    assert not any(map(gone, pids))
    process.kill()
    process.wait()
    until(lambda: all(map(gone, pids)))


@pytest.mark.skipif(os.name != "posix", reason="sockets in folders, and a home that is a system's own")
def test_a_run_on_a_cluster(tmp_path):
    """TMPDIR too long for sockets, a home in which nothing can be made, and output that is not UTF-8, all at once."""
    write_notebook(tmp_path, "01_any", PARAMETERS, ANYWHERE)
    long = tmp_path / ("scratch_of_a_job" * 6)
    long.mkdir()
    code = (
        "import sys; from functools import partial; from pathlib import Path; from weaktr import __main__\n"
        "from weaktr.workbench import kernels, runner\n"
        "kernels.LOADED = kernels.LOADED[:1]\n"
        f"runner.run = partial(runner.run, notebooks=Path({str(tmp_path)!r})); sys.exit(__main__.main())"
    )
    unset = ("MPLCONFIGDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "XDG_RUNTIME_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"TMPDIR": str(long), "HOME": "/sys", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code, "run", "--run-folder", str(tmp_path / "run"), "--stages", "01"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=files.ROOT, check=False)
    output = done.stdout.decode("ascii")
    assert done.returncode == 0, done.stderr.decode()
    assert "is too long a path for sockets; they and other temporary files go to" in output
    assert "a figure - - -> ?" in output
    assert output.splitlines()[-3].split()[-4:] == ["tau", "-", "sum", "28.00"]
    assert (tmp_path / "run/results.csv").read_text().splitlines()[-1].endswith("τ – sum,28.00,")
    assert not list(long.iterdir())


def test_a_tmpdir_that_is_too_long_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.tempfile, "tempdir", "/x" * 60)
    monkeypatch.setattr(processes, "SHORT_FOLDERS", (str(tmp_path / "absent"),))
    with pytest.raises(errors.UserError, match=r"TMPDIR /x.* is too long .*120 bytes.*absent can be written; set"):
        processes.shorten_tmpdir()


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (
            RuntimeError("Kernel died before replying"),
            "01_any.ipynb could not be executed .*Kernel died.*see what",
        ),
        (OSError(28, "No space left on device"), "could not be executed .*the disk is full: make room"),
    ],
)
def test_a_kernel_that_cannot_start_is_told_in_words(tmp_path, monkeypatch, raised, words):
    def refuse(*arguments, **named):
        raise raised

    write_notebook(tmp_path, "01_any", PARAMETERS, "stage.finish([])")
    monkeypatch.setattr(runner, "kernel_manager", refuse)
    monkeypatch.setattr(runner, "warm_up", lambda: None)
    with pytest.raises(errors.RunError, match=words):
        runner.run({}, tmp_path / "run", notebooks=tmp_path)

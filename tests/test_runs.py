"""The runner and the stage folders, on throw-away notebooks that take no time themselves."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from weaktr import files, progress
from weaktr.__main__ import main
from weaktr.errors import DataError, ParameterError, RunError, UserError
from weaktr.sweeps.file import read_sweep
from weaktr.workbench import keys, open_stage, presets, runner, text
from weaktr.workbench.parameters import Parameter, catalogue, check_parameters, declared_parameters
from weaktr.workbench.stage import Stage, hold, interactive, prepare, remove

PARAMETERS = """\
run_folder: str = "papermill_runs/demo"  # folder of the run
seed: int = 504  # seed of everything random
workers: int = 2  # processes that read images
"""
RECORD = '{"list": "val", "list_size": 9, "metric": "mIoU", "value": 50.5, "threshold": 0.4, "threshold_from": "rule"}'


def write_notebook(folder, name, parameters, *cells):
    """A notebook with a parameters cell, the call of open_stage, and `cells`."""
    opening = f"from weaktr.workbench import open_stage\nstage = open_stage({name!r}, globals())"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (parameters, opening, *cells)]
    )
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(tmp_path):
    """Two stages: 01 counts how often it ran in artefact.txt; 02 reads 01 and shows a figure."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    count = 'with open(stage.folder / "artefact.txt", "a") as file:\n    file.write("ran\\n")'
    finish = f"stage.finish([{RECORD}])"
    write_notebook(folder, "01_first", PARAMETERS + "lr: float = 0.1  # learning rate\n", count, finish)
    show = (
        'print((stage.input("01_first") / "artefact.txt").read_text())\nimport matplotlib.pyplot as plt\n'
        'figure, axes = plt.subplots(figsize=(1, 1))\nstage.show(figure, "empty")'
    )
    write_notebook(folder, "02_second", PARAMETERS + "t: float = 0.5  # threshold\n", show, finish)
    return folder


@pytest.fixture
def go(notebooks, tmp_path):
    """Runs the notebooks; returns {stage: key} of what is finished then."""

    def start(parameters=None, **options):
        runner.run(parameters or {}, tmp_path / "run", notebooks=notebooks, **options)
        return {name: keys.finished_key(tmp_path / "run" / name) for name in ("01_first", "02_second")}

    return start


# --- the parameters cell


def one_cell(tmp_path, source):
    write_notebook(tmp_path, "01_x", source)
    return declared_parameters(tmp_path / "01_x.ipynb")


def test_declared_parameters(tmp_path):
    declared = one_cell(tmp_path, 'lr: float = 1  # é rate\nname: str = "a#b"  # a # b\nscales: list = [1, 1.2]  # s\n')
    assert declared == {
        "lr": Parameter(float, 1.0, "é rate"),
        "name": Parameter(str, "a#b", "a # b"),
        "scales": Parameter(list, [1.0, 1.2], "s"),
    }
    assert [type(scale) for scale in declared["scales"].default] == [float, float]


@pytest.mark.parametrize(
    "line",
    [
        "lr = 0.1  # no type",
        "lr: float  # no value",
        "lr: float = 0.1",
        'lr: float = "0.1"  # text',
        "n: int = 1.0  # not an int",
        "lr: float | None = None  # union",
        "lr: float = float(1)  # call",
        "lr: float = 0.1  # help with = in it",
        "a: list = [\n1]  # two lines",
        "print(1)  # no parameter",
        "n: int = 1  # once\nn: int = 2  # twice",
        'a: list = [1, "b"]  # items of two types',
        "a: list = [[1]]  # a list of lists",
    ],
)
def test_strict_parameters_cell(tmp_path, line):
    with pytest.raises(ParameterError, match=r"01_x\.ipynb: parameters cell"):
        one_cell(tmp_path, line)


def test_shared_names_mean_the_same(tmp_path):
    write_notebook(tmp_path, "01_x", "seed: int = 1  # seed")
    write_notebook(tmp_path, "02_y", "seed: int = 2  # seed")
    with pytest.raises(ParameterError, match="seed: 01_x and 02_y"):
        catalogue(tmp_path)


# --- values

DECLARED = {
    "01_x": {
        "lr": Parameter(float, 0.1, ""),
        "epochs": Parameter(int, 3, ""),
        "ceiling": Parameter(bool, True, ""),
        "dataset": Parameter(str, "synthetic", ""),
        "scales": Parameter(list, [1.0, 1.2], ""),
        "names": Parameter(list, [], ""),
    }
}


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("lr", "1e-4", 1e-4),
        ("lr", 1, 1.0),
        ("epochs", "7", 7),
        ("ceiling", "False", False),
        ("dataset", "7", "7"),
        ("scales", "1, 1.5", [1.0, 1.5]),
        ("scales", "[1, 1.5]", [1.0, 1.5]),
        ("scales", (1,), [1.0]),
        ("scales", [1, 1.5], [1.0, 1.5]),
        ("scales", "", []),
        ("names", "a, b", ["a", "b"]),
        ("names", "[a, b]", ["a", "b"]),
        ("names", '["a", "b"]', ["a", "b"]),
    ],
)
def test_values(name, given, value):
    got = check_parameters({name: given}, DECLARED)[name]
    assert got == value
    assert type(got) is type(value)
    if isinstance(got, list):
        assert [type(item) for item in got] == [type(item) for item in value]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("lr", "fast"),
        ("lr", "nan"),
        ("lr", True),
        ("lr", None),
        ("epochs", 1.0),
        ("epochs", "1e3"),
        ("epochs", True),
        ("ceiling", "yes"),
        ("ceiling", 1),
        ("dataset", 7),
        ("scales", "1, big"),
        ("scales", "[1"),
        ("scales", 1.0),
        ("scales", ["1"]),
        ("names", [1]),
    ],
)
def test_wrong_types(name, given):
    with pytest.raises(ParameterError, match=f"parameter {name}: "):
        check_parameters({name: given}, DECLARED)


@given(st.floats(allow_nan=False, allow_infinity=False), st.lists(st.floats(-1e9, 1e9)))
def test_numbers_survive_as_text(number, numbers):
    got = check_parameters({"lr": repr(number), "scales": json.dumps(numbers)}, DECLARED)
    assert got["lr"] == number
    assert got["scales"] == numbers


def test_near_match():
    with pytest.raises(ParameterError, match="unknown parameter 'epoch', did you mean epochs"):
        check_parameters({"epoch": 1}, DECLARED)
    with pytest.raises(ParameterError, match="unknown preset 'dmo', did you mean demo"):
        presets.get("dmo")


# --- the run


def test_finished_stages_are_skipped_until_something_changes(go, tmp_path, capfd):
    artefact = tmp_path / "run/01_first/artefact.txt"
    first = go(preset="demo")
    output = capfd.readouterr().out
    assert "01_first · started" in output
    *_, last_row, _, after = output.splitlines()
    assert last_row.split()[:6] == ["02_second", "val", "(9)", "0.4", "(rule)", "–"]
    assert after.startswith("next · `weaktr report ")

    assert go({"workers": 1}) == first  # how many read images changes no result
    assert capfd.readouterr().out.count("up to date, skipped") == 2
    second = go({"t": "0.25"})
    assert (second["01_first"], artefact.read_text()) == (first["01_first"], "ran\n")
    assert second["02_second"] != first["02_second"]
    assert json.loads((tmp_path / "run/02_second/params.json").read_text())["t"] == 0.25

    with pytest.raises(UserError, match=r"01_first: needed by 02_second, but has other parameters.*add 01"):
        go({"lr": 1, "t": 0.25}, stages=["02"])
    third = go({"lr": 1, "t": 0.25})
    assert third["01_first"] != first["01_first"]
    assert third["02_second"] != second["02_second"]
    assert artefact.read_text() == "ran\n"  # the folder was cleared before

    executed = (tmp_path / "run/02_second/notebook.ipynb").read_text()
    assert "image/png" in executed
    assert {path.name for path in (tmp_path / "run/02_second/figures").iterdir()} == {"empty.png", "empty.pdf"}
    manifest = json.loads((tmp_path / "run/01_first/manifest.json").read_text())
    assert manifest["seed"] == 504
    assert manifest["preset"] == ""
    assert manifest["versions"]["papermill"]
    assert {"git", "hardware", "start", "end", "seconds", "peak_memory_mb", "data_fingerprint"} <= manifest.keys()


def test_a_skipped_stage_says_when_its_code_has_changed(go, notebooks, capfd):
    go()
    capfd.readouterr()
    go()
    assert "made by other code" not in capfd.readouterr().out
    second = notebooks / "02_second.ipynb"
    second.write_text(second.read_text().replace("figsize=(1, 1)", "figsize=(2, 1)"))
    go()
    output = capfd.readouterr().out
    assert "01_first · up to date, skipped\n" in output
    assert "02_second · up to date, skipped (made by other code than now; --force makes it again)" in output


def test_a_stage_that_is_finished_anew_keeps_what_it_took_before(go, notebooks, tmp_path):
    go(stages=["01"])
    folder = tmp_path / "run/01_first"
    files.write_json(folder / "manifest.json", files.read_json(folder / "manifest.json") | {"seconds": 1000.0})
    (folder / "metrics.json").unlink()
    first = notebooks / "01_first.ipynb"  # slower than the tenth of a second to which its time is rounded
    first.write_text(first.read_text().replace("stage.finish(", "import time; time.sleep(0.2); stage.finish("))
    go(stages=["01"])
    assert 1000 < files.read_json(folder / "manifest.json")["seconds"] < 1100


def test_a_folder_in_which_another_run_is_at_work_is_left_alone(go, tmp_path):
    go(stages=["01"])
    artefact = tmp_path / "run/01_first/artefact.txt"
    with FileLock(tmp_path / "run/.01_first.lock"):
        with pytest.raises(UserError, match="01_first: another run is at work there; wait for it"):
            go({"lr": 0.2}, stages=["01"])
        assert artefact.read_text() == "ran\n"
    go({"lr": 0.2}, stages=["01"])
    assert json.loads((tmp_path / "run/01_first/params.json").read_text())["lr"] == 0.2


def test_force(go, tmp_path):
    first = go(stages=["01"])
    time.sleep(1.1)
    start = json.loads((tmp_path / "run/01_first/manifest.json").read_text())["start"]
    assert go(stages=["01_first"], force=True) == first
    assert json.loads((tmp_path / "run/01_first/manifest.json").read_text())["start"] > start


def test_a_stage_made_again_makes_the_later_ones_stale(go, capfd):
    first = go()
    capfd.readouterr()
    again = go(stages=["01"], force=True)
    assert again["02_second"] == first["02_second"]
    go()
    output = capfd.readouterr().out
    assert "01_first · up to date, skipped" in output
    assert "02_second · made again: an earlier stage, the data or the weights changed" in output


def test_weights_enter_the_key_by_content(tmp_path):
    weights = tmp_path / "vit.safetensors"
    values = {"backbone": "vit", "weights": str(weights)}
    made = set()
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        made.add(keys.stage_key(values, "", []))
    assert len(made) == 2


@pytest.mark.parametrize(
    ("own", "start"),
    [
        ({}, ("vit", "step1.pth")),
        ({"seg_weights": "step2.pth"}, ("vit", "step2.pth")),
        ({"seg_backbone": "other"}, ("other", "")),  # never from the weights of another network
        ({"seg_backbone": "other", "seg_weights": "step2.pth"}, ("other", "step2.pth")),
    ],
)
def test_what_step_2_starts_from(own, start):
    values = {"backbone": "vit", "weights": "step1.pth", "seg_backbone": "", "seg_weights": ""} | own
    assert keys.starting_weights(values, step=1) == ("vit", "step1.pth")
    assert keys.starting_weights(values, step=2) == start
    assert keys.starting_weights({"backbone": "vit"}, step=2) == ("vit", "")


def test_shipped_weights_of_either_step_enter_the_key():
    """By content, as files that are given do: a package with others makes other stages."""
    tiny, shipped = "weaktr_tiny_patch8_96", files.shipped_weights("weaktr_tiny_patch8_96")
    given = {"backbone": "vit", "weights": "", "seg_backbone": tiny, "seg_weights": str(shipped)}
    assert keys.stage_key(given, "", []) == keys.stage_key(given | {"seg_weights": ""}, "", [])
    assert keys.stage_key(given, "", []) != keys.stage_key(given | {"seg_backbone": "vit", "seg_weights": ""}, "", [])


def test_failing_cell(notebooks, go, tmp_path, capfd):
    bad = "# why\nvalues = {}\nvalues['absent']"
    resume = (
        'print("resumed" if (stage.folder / "half.txt").exists() else "fresh")\n(stage.folder / "half.txt").touch()'
    )
    write_notebook(notebooks, "01_first", PARAMETERS, resume, bad)
    with pytest.raises(RunError) as failure:
        go()
    message = str(failure.value)
    assert re.search(r"KeyError: 'absent'\n  in .*01_first.ipynb, cell \[5\] 'values = \{\}'\n", message)
    executed = message.rsplit(": ", 1)[1]
    assert "KeyError" in Path(executed).read_text()
    assert keys.finished_key(tmp_path / "run/01_first") is None
    assert "fresh" in capfd.readouterr().out

    # the same parameters go on from what is there, others start afresh
    write_notebook(
        notebooks,
        "01_first",
        PARAMETERS,
        resume,
        "from weaktr.errors import DataError\nraise DataError('a.jpg: truncated')",
    )
    with pytest.raises(RunError, match=r"^a.jpg: truncated\n  in .*cell \[5\]"):
        go()
    assert "resumed" in capfd.readouterr().out
    manifest = json.loads((tmp_path / "run/01_first/manifest.json").read_text())
    assert [list(earlier) for earlier in manifest["passes"]] == [["start", "git", "code"]]
    assert manifest["passes"][0]["code"] != manifest["code"], "the notebook had been changed between the passes"
    write_notebook(notebooks, "01_first", PARAMETERS, resume)
    with pytest.raises(RunError, match=r"ended without stage.finish"):
        go({"seed": 1})
    assert "fresh" in capfd.readouterr().out


def test_nothing_starts_on_bad_input(notebooks, go, tmp_path):
    with pytest.raises(ParameterError, match="unknown parameter 'seeds', did you mean seed"):
        go({"seeds": 1})
    with pytest.raises(ParameterError, match="unknown stage '03'; there are 01_first, 02_second"):
        go(stages=["03"])
    with pytest.raises(UserError, match="01_first: needed by 02_second, but is not finished"):
        go(stages=["02"])
    assert not (tmp_path / "run").exists()
    (tmp_path / "run/01_first").mkdir(parents=True)
    (tmp_path / "run/01_first/thesis.txt").write_text("dear")
    with pytest.raises(UserError, match=r"no manifest.json, so no run made it"):
        go()
    assert (tmp_path / "run/01_first/thesis.txt").read_text() == "dear"


def test_progress_is_live(notebooks, tmp_path, monkeypatch):
    work = (
        "import time\nprogress = stage.progress(2, label='epoch 1/1')\nprogress.update(2)\n"
        "while not (stage.folder / 'seen').exists():\n    time.sleep(0.05)"
    )
    write_notebook(notebooks, "01_first", PARAMETERS, work, f"stage.finish([{RECORD}])")
    folder = tmp_path / "run/01_first"

    class Terminal(io.StringIO):
        def write(self, text):
            if "epoch 1/1 · 2/2 images" in text:
                (folder / "seen").touch()  # only a line that arrives while the cell runs lets the cell end
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Terminal())
    watchdog = threading.Timer(30, lambda: (folder / "seen").touch())
    watchdog.start()
    start = time.monotonic()
    runner.run({}, tmp_path / "run", stages=["01"], notebooks=notebooks)
    watchdog.cancel()
    assert time.monotonic() - start < 30


def test_interruption_says_how_to_continue(notebooks, tmp_path):
    write_notebook(notebooks, "01_first", PARAMETERS, "import time\nprint('working')\ntime.sleep(60)")
    code = (
        "import sys; from functools import partial; from weaktr import __main__\nfrom weaktr.workbench import runner\n"
        "runner.run = partial(runner.run, notebooks=sys.argv.pop(1)); sys.exit(__main__.main())"
    )
    arguments = ["run", "--run-folder", str(tmp_path / "run"), "--stages", "01"]
    command = [sys.executable, "-c", code, str(notebooks), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=files.ROOT)
    for line in process.stdout:
        if "working" in line:
            break
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "01_first interrupted; the same command continues there" in errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "run/01_first/manifest.json").read_text())["key"]


def test_papermill_is_imported_without_what_it_does_not_need():
    code = (
        "import importlib.util, sys; from weaktr.workbench.runner import import_papermill\n"
        "assert import_papermill().execute_notebook and 'rfc3987_syntax' not in sys.modules\n"
        "assert importlib.util.find_spec('rfc3987_syntax'), 'it is as installed as before'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=files.ROOT, check=True)


# --- in a notebook that a person steps through


def test_open_stage_by_hand(notebooks, tmp_path, monkeypatch):
    monkeypatch.setattr("weaktr.workbench.stage.NOTEBOOKS", notebooks)
    cell = {"run_folder": str(tmp_path / "run"), "seed": 504, "workers": 2, "lr": 0.1, "other": object()}
    stage = open_stage("01_first", cell)
    assert interactive()
    assert "other" not in stage.parameters
    stage.finish([])
    (stage.folder / "artefact.txt").touch()
    assert (open_stage("01_first", cell).folder / "artefact.txt").exists()
    with pytest.raises(UserError, match="02_second needs the finished stage 01_first") as failure:
        open_stage("02_second", cell | {"t": 0.5, "run_folder": str(tmp_path / "new")}).input("01_first")
    assert isinstance(failure.value, UserError)
    with pytest.raises(UserError, match=r"holds a finished stage \(lr 0.1 → 0.2\); choose another run_folder"):
        open_stage("01_first", cell | {"lr": 0.2})
    (stage.folder / "metrics.json").unlink()
    (stage.folder / "resume.pt").touch()
    with pytest.raises(UserError, match=r"holds an unfinished stage \(lr 0.1 → 0.2\); choose another run_folder"):
        open_stage("01_first", cell | {"lr": 0.2})
    assert (open_stage("01_first", cell).folder / "resume.pt").exists(), "the same parameters go on"
    (stage.folder / "resume.pt").unlink()
    with pytest.raises(UserError, match="holds an unfinished stage"):
        open_stage("01_first", cell | {"lr": 0.2})  # its artefact alone is worth as much
    assert (stage.folder / "artefact.txt").exists()
    with pytest.raises(ParameterError, match="lr: '1e-4' is not a float"):
        open_stage("01_first", cell | {"lr": "1e-4"})
    with pytest.raises(ParameterError, match="seed, workers, lr not set; run the parameters cell"):
        open_stage("01_first", {"run_folder": "x"})


def test_looking_at_a_finished_stage_by_hand_leaves_its_record_alone(go, notebooks, tmp_path, monkeypatch):
    """Who made it, when, by which code and preset: what the published table and `sources.csv` rest on."""
    go(preset="demo", stages=["01"])
    monkeypatch.setattr("weaktr.workbench.stage.NOTEBOOKS", notebooks)
    folder = tmp_path / "run/01_first"
    before = {name: (folder / name).read_bytes() for name in ("manifest.json", "params.json")}
    cell = json.loads(before["params.json"]) | {"run_folder": str(tmp_path / "run"), "workers": 7}
    stage = open_stage("01_first", cell)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert (
        json.loads(before["manifest.json"]).keys() >= {"end", "code"} and b'"preset": "demo"' in before["manifest.json"]
    )
    stage.finish([])
    assert json.loads((folder / "params.json").read_text())["workers"] == 7
    assert (folder / "manifest.json").read_bytes() == before["manifest.json"], "nothing was made anew"


def test_a_stage_that_a_person_is_making_is_left_alone(go, notebooks, tmp_path):
    """Until it is finished, or its kernel ends; the same kernel may open it again."""
    held = f"""
from pathlib import Path
from weaktr.workbench import open_stage, stage
stage.NOTEBOOKS = Path({str(notebooks)!r})
cell = {{"run_folder": {str(tmp_path / "run")!r}, "seed": 504, "workers": 2, "lr": 0.1}}
open_stage("01_first", cell)
stage = open_stage("01_first", cell)
print("open", flush=True)
input()
stage.finish([])
print("finished", flush=True)
input()
"""
    process = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    with pytest.raises(UserError, match="01_first: another run is at work there; wait for it"):
        go()
    process.stdin.write("\n")
    process.stdin.flush()
    while process.stdout.readline() != "finished\n":  # the stage prints its results before
        assert process.poll() is None
    go({"lr": 0.2}, stages=["01"])
    process.communicate("\n", timeout=30)
    assert json.loads((tmp_path / "run/01_first/params.json").read_text())["lr"] == 0.2


def test_two_runs_at_once_in_one_folder_are_refused(go, tmp_path):
    """Also while the other is at a later stage."""
    go()
    with FileLock(tmp_path / "run/.run.lock"):
        with pytest.raises(UserError, match="run: another run is at work there; wait for it"):
            go({"lr": 0.2})
        go()  # nothing to do
    assert json.loads((tmp_path / "run/01_first/params.json").read_text())["lr"] == 0.1


def test_a_stage_is_not_current_when_one_before_it_is_not(go, notebooks, tmp_path, capfd):
    third = f"stage.input('02_second')\nstage.finish([{RECORD}])"
    write_notebook(notebooks, "03_third", PARAMETERS, third)
    go()
    with pytest.raises(UserError, match=r"01_first: needed by 02_second, but has other parameters.*add 01 to --stages"):
        go({"lr": 0.2}, stages=["02", "03"])
    with pytest.raises(UserError, match=r"02_second: needed by 03_third, but has other .* or sources; add 02 to"):
        go({"lr": 0.2}, stages=["01", "03"])
    with pytest.raises(UserError, match=r"01_first: needed by 03_third, but has other .* or sources; add 01 02 to"):
        go({"lr": 0.2}, stages=["03"])
    capfd.readouterr()
    go({"lr": 0.2}, stages=["01"])
    table = capfd.readouterr().out.partition("Results in")[2]
    assert "01_first" in table and "02_second" not in table and "03_third" not in table


def test_a_stage_needs_all_stages_before_it(notebooks, go):
    """Its key covers them, whether its notebook reads them or not."""
    write_notebook(notebooks, "02_second", PARAMETERS + "t: float = 0.5  # threshold\n", f"stage.finish([{RECORD}])")
    with pytest.raises(UserError, match="01_first: needed by 02_second, but is not finished; add 01 to --stages"):
        go(stages=["02"])


def test_a_notebook_that_sums_up_sweeps_needs_no_stage_and_always_runs(notebooks, go, tmp_path, capfd):
    count = 'with open(stage.folder.parent / "ran.txt", "a") as file:\n    file.write("ran\\n")'
    parameters = PARAMETERS + "sweeps: list = []  # files\n"
    write_notebook(notebooks, "03_sums_up", parameters, count, f"stage.finish([{RECORD}])")
    for _ in range(2):
        go(stages=["03"])
        assert "03_sums_up" in capfd.readouterr().out.partition("Results in")[2]
    assert (tmp_path / "run/ran.txt").read_text() == "ran\nran\n"
    with FileLock(tmp_path / "run/.run.lock"), pytest.raises(UserError, match="another run is at work there"):
        go(stages=["03"])


def test_a_copy_of_a_stage_counts_in_another_run(go, notebooks, tmp_path, capfd):
    first = go()
    shutil.copytree(tmp_path / "run/01_first", tmp_path / "other/01_first")
    capfd.readouterr()
    runner.run({"t": 0.7}, tmp_path / "other", notebooks=notebooks)
    assert "01_first · up to date, skipped" in capfd.readouterr().out
    assert keys.finished_key(tmp_path / "other/01_first") == first["01_first"]


def test_a_copy_of_a_notebook_is_no_stage(go, notebooks):
    """JupyterLab's duplicates lie beside the notebooks."""
    first = go()
    source = (notebooks / "01_first.ipynb").read_text()
    (notebooks / "01_first-Copy1.ipynb").write_text(source.replace("lr: float = 0.1", "lr: float = 0.3"))
    assert list(catalogue(notebooks)) == ["01_first", "02_second"] and go() == first


def test_an_interrupted_second_photograph_is_not_up_to_date(notebooks, tmp_path, monkeypatch):
    """The key does not know the photograph, and the stage was finished with another one."""
    one = PARAMETERS + 'photograph: str = ""  # a picture\n'
    cells = ("import os\nassert 'STOP' not in os.environ", f"stage.finish([{RECORD}])")
    write_notebook(notebooks, "02_second", one, *cells)
    run = partial(runner.run, run_folder=tmp_path / "run", notebooks=notebooks, check=False)
    run({"photograph": "first.jpg"})
    monkeypatch.setenv("STOP", "1")
    with pytest.raises(RunError):
        run({"photograph": "second.jpg"})
    with pytest.raises(RunError):
        run({"photograph": "second.jpg"})
    monkeypatch.delenv("STOP")
    run({"photograph": "second.jpg"})
    assert json.loads((tmp_path / "run/02_second/params.json").read_text())["photograph"] == "second.jpg"


def test_finish_refuses_incomplete_records(tmp_path):
    stage = Stage("01_first", tmp_path, {})
    with pytest.raises(ValueError, match="lacks list_size"):
        stage.finish([{"list": "val", "metric": "mIoU", "value": 1.0}])
    assert not (tmp_path / "metrics.json").exists()


SEED = {"threshold": 0.4, "threshold_from": "rule", "scales": [1.0, 1.2], "oracle": False}  # as notebook 02 keeps it


def test_a_record_says_all_that_its_number_depends_on(tmp_path, capsys):
    stage = Stage("02_second", tmp_path, {})
    made = stage.record("mIoU of CAM (seed)", np.float64(61.5), on="train", size=np.int64(5), crf=False, **SEED)
    assert made == {
        "stage": "02_second",
        "list": "train",
        "list_size": 5,
        "metric": "mIoU of CAM (seed)",
        "value": 61.5,
        "crf": False,
        **SEED,
    }
    assert type(made["value"]) is float and type(made["list_size"]) is int
    bare = stage.record("mAP (image labels)", 50, on="val", size=9, mirrored=True, counts="seed")
    assert (bare["crf"], bare["oracle"], bare["mirrored"], bare["counts"]) == (None, False, True, "seed")
    stage.finish([made, bare])
    assert json.loads((tmp_path / "metrics.json").read_text()) == [made, bare]
    row = capsys.readouterr().out.splitlines()[1].split("  ")
    assert [cell.strip() for cell in row if cell] == [
        "train (5)", "0.4 (rule)", "1.0, 1.2", "no", "mIoU of CAM (seed)", "61.50",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"metric": ""}, "needs a metric and a list"),
        ({"on": float("nan")}, "needs a metric and a list"),
        ({"size": 0}, "list val has 0 images"),
        ({"threshold": 0.4}, "give both or none"),
        ({"threshold_from": "rule"}, "give both or none"),
    ],
)
def test_a_record_that_tells_too_little_is_refused(tmp_path, wrong, words):
    good = {"metric": "mIoU", "value": 50.0, "on": "val", "size": 9}
    stage = Stage("01_first", tmp_path, {})
    stage.record(**good)
    with pytest.raises(ValueError, match=words):
        stage.record(**good | wrong)


def test_every_committed_record_can_be_made_by_the_one_helper(tmp_path):
    """Those of all six notebooks, as they are in the reference run."""
    metrics = sorted((files.ROOT / "papermill_runs/reference").glob("0*/metrics.json"))
    assert len(metrics) == 6
    for path in metrics:
        stage = Stage(path.parent.name, tmp_path / path.parent.name, {})
        for record in json.loads(path.read_text()):
            given = {name: value for name, value in record.items() if name not in ("stage", "list", "list_size")}
            assert stage.record(**given, on=record["list"], size=record["list_size"]) == record


def test_a_table_is_replaced_and_never_written_into(tmp_path):
    """Runs of a sweep share a stage's files by hard links: what one writes must not change the other's."""
    stage = Stage("01_first", tmp_path / "mine/01_first", {})
    stage.write_table(pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25]}), "history")
    (tmp_path / "other").mkdir()
    others = tmp_path / "other/history.csv"
    os.link(stage.folder / "history.csv", others)
    stage.write_table(pd.DataFrame({"loss": [0.125]}, index=pd.Index([3], name="epoch")), "history", index=True)
    assert others.read_text() == "epoch,loss\n1,0.5\n2,0.25\n"
    assert (stage.folder / "history.csv").read_text() == "epoch,loss\n3,0.125\n"
    with pytest.raises(AttributeError):
        stage.write_table(None, "history")
    assert {path.name for path in stage.folder.iterdir()} >= {"history.csv"}
    assert (stage.folder / "history.csv").read_text() == "epoch,loss\n3,0.125\n", "whole or as it was"


def test_a_stage_with_a_device_says_what_it_ran_on(tmp_path):
    """Threads and precision belong to networks; a stage without them tells its memory alone, and loads no torch."""
    code = f"""
import json, sys
from pathlib import Path
from weaktr.workbench.stage import Stage
folder = Path({str(tmp_path)!r})
Stage("01_without", folder / "without", {{"device": "cpu"}}).finish([])
assert "torch" not in sys.modules
stage = Stage("02_with", folder / "with", {{"device": "auto"}})
assert stage.device("cpu").type == "cpu"
stage.finish([])
"""
    subprocess.run([sys.executable, "-c", code], cwd=files.ROOT, check=True)
    without, with_device = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("without", "with"))
    assert with_device.keys() - without.keys() == {"threads", "auto_precision"}
    assert with_device["threads"] >= 1 and with_device["auto_precision"] in ("bf16", "fp32")
    with pytest.raises(ParameterError, match="device 'tpu' is not there; give one of auto, cpu"):
        Stage("01_first", tmp_path / "other", {}).device("tpu")


def test_progress_lines(capsys, monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 15.0, 24.0, 25.0])  # at 24 the last line is a second away
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 10.0)
    bar = progress.Progress("01_cam_training · epoch 3/8", 2400, "images")
    for n, share in (600, ""), (600, "5.0% data wait"), (600, ""), (500, "4.5% data wait"), (100, "4.0% data wait"):
        bar.update(n, share)
    assert capsys.readouterr().out.splitlines() == [
        "01_cam_training · epoch 3/8 · 1200/2400 images · 120 images/s · 0:10 left · 5.0% data wait",
        "01_cam_training · epoch 3/8 · 2400/2400 images · 96 images/s · 0:25 in all · 4.0% data wait",
    ]


def test_oracle_rows_are_marked():
    record = {"stage": "02", "list": "train", "list_size": 5, "metric": "mIoU", "value": 61.234, "crf": False}
    record |= {"threshold": 0.43, "threshold_from": "masks", "scales": [1.0, 1.2], "oracle": True}
    header, row = text.aligned(text.results_rows([record])).splitlines()
    assert header.split()[0] == "stage"
    assert row.split() == ["02", "train", "(5)", "0.43", "(masks)", "1.0,", "1.2", "no", "mIoU", "61.23", "oracle"]


# --- files


def test_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "sub/x.npz"
    with pytest.raises(RuntimeError), files.atomic(path) as aside:
        assert aside.suffix == ".npz"
        assert aside.parent == path.parent
        aside.write_text("half")
        raise RuntimeError
    assert not list(path.parent.iterdir())
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Circular"):
        circular = []
        circular.append(circular)
        files.write_json(path, circular)
    assert json.loads(path.read_text()) == {"a": 1}
    assert len(list(path.parent.iterdir())) == 1


def test_what_a_killed_process_left_is_swept_when_the_stage_starts_again(tmp_path):
    """A real process, killed while it writes; nothing else goes, hidden files of a person least of all."""
    folder = tmp_path / "02_cam_generation"
    prepare(folder, "key", {})
    files.write_json(folder / "cams/whole.json", [1])
    (folder / "cams/.notes.txt").write_text("mine")
    code = (
        "import os, sys; from weaktr.files import atomic\nwith atomic(sys.argv[1]) as aside:\n aside.write_text('half')"
    )
    code += "\n os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(folder / "cams/a_1.npz")], cwd=files.ROOT, check=False)
    assert done.returncode == -9
    (left,) = (folder / "cams").glob(".a_1.*.npz")
    assert left.read_text() == "half" and not (folder / "cams/a_1.npz").exists()
    prepare(folder, "key", {})
    assert sorted(path.name for path in (folder / "cams").iterdir()) == [".notes.txt", "whole.json"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    """As some that are mounted by NFS: the presence of a file is the lock there, also after a process was killed."""

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    marker = tmp_path / ".run.soft.lock"
    with hold(tmp_path, tmp_path / ".run.lock"), hold(tmp_path, tmp_path / ".run.lock"):
        assert marker.is_file()
    assert not marker.exists()
    take = "import sys; from filelock import SoftFileLock; lock = SoftFileLock(sys.argv[1]); lock.acquire(); "
    other = subprocess.Popen(
        [sys.executable, "-c", take + "print('held', flush=True); input()", marker], stdin=-1, stdout=-1
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=r"another run is at work there; .* delete .*\.run\.soft\.lock"):
        hold(tmp_path, tmp_path / ".run.lock")
    other.kill()
    other.communicate()
    assert marker.exists()
    with hold(tmp_path, tmp_path / ".run.lock"):
        pass


def test_what_could_not_be_measured_is_said_and_left_out(tmp_path, capsys):
    stage = Stage("05_evaluation", tmp_path, {})
    records = [stage.record("mAP", float("nan"), on="val", size=4), stage.record("mIoU", 50.0, on="val", size=4)]
    assert json.loads((tmp_path / "records.json").read_text())[1]["value"] == 50, "written at once"
    stage.finish(records)
    assert "could not be measured, as the list lacks what it needs: mAP on val (4)" in capsys.readouterr().out
    assert [record["metric"] for record in files.read_json(tmp_path / "metrics.json", list)] == ["mIoU"]
    assert not (tmp_path / "records.json").exists()


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        ('RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")', "docker run --shm-size"),
        ('RuntimeError("unable to allocate shared memory(shm): No space left on device")', "docker run --shm-size"),
        ('OSError(28, "No space left on device", "cams/a.npz")', "make room"),
        ('OSError(24, "Too many open files")', "ulimit -n"),
        ('RuntimeError("A child process terminated abruptly, the process pool is not usable")', "lower workers"),
        ('RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")', "load images ended or was killed"),
        ('RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")', "load images ended or was killed"),
        ('MemoryError("Unable to allocate 7 TiB")', "lower the batch size"),
        ('OSError(30, "Read-only file system", "cams/a.npz")', "can be written"),
    ],
)
def test_what_a_library_says_comes_with_what_helps(tmp_path, raised, words, capsys, monkeypatch):
    """In a notebook's cell as in a command."""
    error = SimpleNamespace(ename=raised.partition("(")[0], evalue=str(eval(raised)), source="1 / 0", exec_count=3)
    failure = runner._failure(files.ROOT / "notebooks/01_x.ipynb", tmp_path / "notebook.ipynb", error)
    assert words in failure and error.evalue in failure

    def fail(*arguments, **named):
        raise eval(raised)

    monkeypatch.setattr(runner, "run", fail)
    assert main(["run"]) == 1
    said = capsys.readouterr().err
    assert words in said and "--debug shows where" in said and "Traceback" not in said


def test_an_error_in_a_loader_is_told_without_its_traceback(tmp_path):
    """torch gives it as the text of a traceback."""
    samples = torch.utils.data.DataLoader(Broken(), num_workers=1)
    with pytest.raises(DataError) as caught:
        next(iter(samples))
    assert "Traceback" in str(caught.value)
    error = SimpleNamespace(ename="DataError", evalue=str(caught.value), source="train()", exec_count=3)
    failure = runner._failure(files.ROOT / "notebooks/01_x.ipynb", tmp_path / "notebook.ipynb", error)
    assert failure.startswith("a.jpg is cut off; restore it\n  in ")


class Broken(torch.utils.data.Dataset):
    """A data set with one image, which is damaged."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("a.jpg is cut off; restore it")


# --- the command line


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_output_that_is_not_utf_8(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "weaktr", "presets"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=files.ROOT, check=True)
    assert "weaktr run --preset" in done.stdout.decode(encoding) and not done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "dmo"], "unknown preset 'dmo', did you mean demo"),
        (["run", "--set", "seed"], "--set 'seed': write it as name=value"),
        (["run", "--run-folder", "a", "--set", "run_folder=b"], "--run-folder a, run_folder=b: give one of them"),
        (["sweep", "some.toml", "--jobs", "-1"], "--jobs -1: give a number"),
    ],
)
def test_command_line_errors(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("weaktr: ")
    assert message in error
    assert "Traceback" not in error


def test_every_command_can_show_where_it_failed(capsys):
    assert main(["compare", "no/such/run"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["compare", "no/such/run", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_entry_point_and_the_module_are_one_program():
    for start in (["-m", "weaktr"], ["-c", "from weaktr.__main__ import console; console()"]):
        command = [sys.executable, *start, "run", "--preset", "dmo"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=files.ROOT, check=False)
        assert done.returncode == 2 and done.stderr.startswith("weaktr: unknown preset 'dmo', did you mean demo?")


def test_help_names_the_program(capsys):
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    assert capsys.readouterr().out.startswith("usage: weaktr data check ")


def test_environment_says_what_a_bug_report_needs(capsys):
    assert main(["environment"]) == 0
    text = capsys.readouterr().out
    names = ("git commit", "versions python", "versions torch", "hardware cpu", "hardware memory_gb")
    assert all(re.search(rf"^{name} +\S", text, re.M) for name in names)


def test_a_sweep_is_planned_and_not_started(tmp_path, capsys):
    measure = "[[measure]]\nlabel = 'mAP'\nstage = '01_cam_training'\nmetric = 'mAP'\n"
    (tmp_path / "dry.toml").write_text(f"preset = 'smoke'\nstages = ['01']\nseeds = [1, 2]\n{measure}")
    assert main(["sweep", str(tmp_path / "dry.toml"), "--dry-run", "--jobs", "2"]) == 0
    plan, *table = capsys.readouterr().out.splitlines()[-4:]
    assert plan.startswith("2 runs, 0 done already; 2 stages to compute; ") and plan.endswith("with 2 jobs")
    assert [row.split()[-1] for row in table] == ["do", "01_cam_training", "01_cam_training"]
    given = read_sweep(tmp_path / "dry.toml", given={"cam_epochs": "3"})
    assert [values["cam_epochs"] for values in given.overrides.values()] == ["3"]
    assert main(["sweep", str(tmp_path / "dry.toml"), "--dry-run", "--set", "cam_epoch=3"]) == 2
    assert "unknown parameter 'cam_epoch', did you mean cam_epochs" in capsys.readouterr().err


def test_presets_are_listed_without_torch():
    code = "import sys; from weaktr.__main__ import main; main(['presets']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=files.ROOT, check=True)
    table, differences, command = done.stdout.split("\n\n")
    assert {line.split()[0] for line in table.splitlines()} == {"preset", *presets.PRESETS}
    assert all(line in differences for line in presets.differences())
    assert "run --preset" in command


def test_a_published_run_says_first_how_it_differs_from_the_paper(tmp_path, capsys):
    assert main(["run", "--preset", "coco14_deit_s", "--set", f"data_root={tmp_path}"]) == 2
    said = capsys.readouterr().out
    assert said.startswith("coco14_deit_s and the paper: ") and presets.get("coco14_deit_s").differences in said


def test_tables_wrap_to_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")  # no bold heads, whose escapes would count
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()  # the commands below are no table
    assert max(map(len, lines)) <= 100
    assert {line.split()[0] for line in lines if line[:1].strip()} >= set(presets.PRESETS)


def test_removing_a_stage_finishes_what_a_killed_process_began(tmp_path):
    for name in ("01_first", ".01_first.7.gone", "02_second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    remove(tmp_path / "01_first")
    assert [path.name for path in tmp_path.iterdir()] == ["02_second"]

"""Sweeps on throw-away notebooks that take no time themselves: files, plan, sharing, failures, results."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from test_runs import PARAMETERS, write_notebook

from weaktr.__main__ import main
from weaktr.errors import ParameterError, RunError, UserError
from weaktr.models import weights
from weaktr.sweeps import console, file, plan, pools, reports, results, schedule, sharing, tables
from weaktr.workbench import kernels

ROOT = Path(__file__).resolve().parents[1]
FILE = """\
title = "Thresholds"
seeds = [1, 2]
[variants.low]
[variants.high]
t = 0.8
[[measure]]
label = "score"
stage = "02_second"
metric = "mIoU"
list = "val"
"""
FIRST = """\
with open(stage.folder / "artefact.txt", "a") as file:
    file.write("ran\\n")
stage.finish([{"list": "val", "list_size": 9, "metric": "rate", "value": lr}])
"""
SECOND = """\
import pathlib
import numpy as np
if pathlib.Path(stage.folder.parents[3] / "fail").exists() and t == 0.8 and seed == 2:
    raise ValueError("made to fail")
print((stage.input("01_first") / "artefact.txt").read_text())
rng = np.random.default_rng(seed)
truth = np.full((12, 3), 40)
hits = rng.integers(10, 20, (12, 3)) + int(10 * t)
np.savez_compressed(stage.folder / "counts.npz", main=np.stack([hits, truth, truth], 1).astype(np.int32))
miou = float(100 * (hits.sum(0) / (2 * truth - hits).sum(0)).mean())
stage.finish([{"list": "val", "list_size": 12, "metric": "mIoU", "value": miou, "counts": "main"}])
"""


def prepare(root):
    """notebooks/ of two stages and thresholds.toml in the folder `root`."""
    folder = root / "notebooks"
    folder.mkdir()
    write_notebook(folder, "01_first", PARAMETERS + "lr: float = 0.1  # learning rate\n", FIRST)
    write_notebook(folder, "02_second", PARAMETERS + "t: float = 0.5  # threshold\n", SECOND)
    (root / "thresholds.toml").write_text(FILE)
    return root


@pytest.fixture(scope="module", autouse=True)
def _nothing_slow_to_load(tmp_path_factory):
    """Processes of these tests find empty modules in place of the slow ones, which their notebooks do not use."""
    folder = tmp_path_factory.mktemp("empty")
    for name in kernels.LOADED[1:]:
        path = folder / Path(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


@pytest.fixture
def place(tmp_path):
    """A folder with notebooks and a sweep's file."""
    return prepare(tmp_path)


@pytest.fixture(scope="module")
def swept_once(tmp_path_factory):
    root = prepare(tmp_path_factory.mktemp("sweep"))
    go(root)
    return root


@pytest.fixture
def swept(swept_once, tmp_path):
    """A copy of a place whose sweep has run."""
    return Path(shutil.copytree(swept_once, tmp_path / "swept"))


def read(place, source=None, name=""):
    return file.read_sweep(
        place / "thresholds.toml" if source is None else source,
        name,
        root=place / "runs",
        notebooks=place / "notebooks",
    )


def go(place, *files, jobs=2, executor=None, show=lambda runs: None):
    """Plan and run; returns the runs by name."""
    runs = plan.plan(files or [read(place)], notebooks=place / "notebooks")
    pool = executor or pools.LocalPool(jobs)
    schedule.run_sweeps(runs, pool, jobs, notebooks=place / "notebooks", show=show)
    return {one.name: one for one in runs}


def times_run(run):
    return (run.place.path / "01_first" / "artefact.txt").read_text().count("ran")


# ── The file ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_grid_and_variants_multiply(place):
    source = {
        "grid": {"t": [0.1, 0.2]},
        "variants": {"a": {}, "b": {"lr": 0.2}},
        "seeds": [7],
        "measure": [{"label": "rate", "stage": "01_first", "metric": "rate"}],
        "set": {"workers": 3},
    }
    found = read(place, source, "both")
    assert list(found.overrides) == ["a t=0.1", "a t=0.2", "b t=0.1", "b t=0.2"]
    assert found.overrides["b t=0.2"] == {"workers": 3, "lr": 0.2, "t": 0.2}
    assert set(found.baselines.values()) == {"a t=0.1"}
    paired = read(place, source | {"baseline": "a"}, "both").baselines
    assert paired["b t=0.2"] == paired["a t=0.2"] == "a t=0.2" and paired["b t=0.1"] == "a t=0.1"
    assert found.stages == ("01_first", "02_second")


def test_each_random_seed_may_have_a_network_of_its_own(place):
    write_notebook(place / "notebooks", "01_first", PARAMETERS + 'network: str = ""  # file\n', FIRST)
    measure = [{"label": "rate", "stage": "01_first", "metric": "rate"}]
    source = {"seeds": [7, 8], "set": {"network": "runs/net{seed}.safetensors"}, "measure": measure, "stages": ["01"]}
    runs = plan.plan([read(place, source, "given")], notebooks=place / "notebooks")
    assert [one.values["network"] for one in runs] == ["runs/net7.safetensors", "runs/net8.safetensors"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("seeds", "seed", r"unknown entry 'seed', did you mean seeds"),
        ("t = 0.8", "tt = 0.8", r"variant 'high'.*unknown parameter 'tt', did you mean t"),
        ("t = 0.8", 't = "much"', r"variant 'high'.*parameter t: 'much' is not a float"),
        ("t = 0.8", "t = 0.5", r"'low' and 'high' are the same"),
        ("t = 0.8", "workers = 5", r"'low' and 'high' are the same to 01_first, 02_second; remove"),
        ("[variants.high]", "[variants.low]", r"cannot be read .*variants"),
        ("[[measure]]", "[grid]\n[[measure]]", r"\[grid\] is empty; give it an entry, or leave it out"),
        ("[variants.low]\n[variants.high]\nt = 0.8\n", "[variants]\n", r"\[variants\] is empty"),
        ("[variants.high]", '[variants."../up"]', r"'../up' is a folder's name"),
        ("[[measure]]", "[grid]\nlr = []\n[[measure]]", r"grid.lr is \[\]; give a list"),
        ("[[measure]]", "[grid]\nlr = 0.1\n[[measure]]", r"grid.lr is 0.1; give a list"),
        ("[1, 2]", "[1, 1]", r"seeds is \[1, 1\]; give different whole numbers"),
        ("[1, 2]", "[]", r"seeds is \[\]"),
        ("[1, 2]", '["1"]', r"seeds is \['1'\]"),
        ('title = "Thresholds"', 'preset = "demmo"', r"sweep .*unknown preset 'demmo', did you mean demo"),
        ('title = "Thresholds"', 'baseline = "lo"', r"baseline 'lo' is not a variant, did you mean low"),
        ('title = "Thresholds"', 'stages = ["1st"]', r"unknown stage '1st'"),
        ('title = "Thresholds"', 'stages = ["01"]', r"'low' and 'high' are the same to 01_first; remove"),
        ('stage = "02_second"', 'stage = "2"', r"measure 'score' reads unknown stage '2'"),
        ('metric = "mIoU"', "", r"a measure lacks metric"),
        (
            "[[measure]]",
            FILE[FILE.index("[[measure]]") :] + "[[measure]]",
            r"two measures are called 'score'",
        ),
        ('list = "val"', 'lst = "val"', r"measure 'score': unknown entry 'lst', did you mean list"),
        ("[1, 2]", "504", r"seeds is 504; write it as seeds = \[ … \]"),
        ('title = "Thresholds"', "title = 3", r'title is 3; write it as title = "…"'),
        ('title = "Thresholds"', 'preset = ["demo"]', r"preset is \['demo'\]; write it as preset = "),
        ('title = "Thresholds"', 'baseline = ["low"]', r"baseline is \['low'\]; write it as baseline = "),
        (FILE, 'measure = ["score"]', r"a measure is 'score'; write \[\[measure\]\]"),
        ("[[measure]]", "[measure]", r"measure is \{.*; write it as \[\[measure\]\]"),
        ("[variants.low]", "[variants]\nlow = 3", r"variant 'low' is 3; write \[variants.low\]"),
        ("t = 0.8", "seed = 7", r"high: seed is set by the sweep itself; give `seeds`"),
        (FILE[FILE.index("[[measure]]") :], "", r"no \[\[measure\]\]"),
        ("title =", "title = =", r"cannot be read \(Invalid value"),
    ],
)
def test_bad_files_are_refused(place, old, new, message):
    assert old in FILE
    (place / "thresholds.toml").write_text(FILE.replace(old, new, 1))
    with pytest.raises(ParameterError, match=message):
        read(place)
    assert not (place / "runs").exists()


def test_a_measure_of_a_stage_that_does_not_run_is_refused(place):
    measure = {"label": "score", "stage": "02_second", "metric": "mIoU"}
    with pytest.raises(ParameterError, match="measure 'score' reads a stage that `stages` leaves out"):
        read(place, {"stages": ["01"], "measure": [measure]}, "less")


def test_a_sweep_in_a_cell_needs_a_name(place):
    for name in ("", "../up", ".hidden"):
        with pytest.raises(ParameterError, match="its name becomes a folder's"):
            read(place, {"measure": [{"label": "x", "stage": "02_second", "metric": "mIoU"}]}, name)


@pytest.mark.parametrize(
    "override, message",
    [
        ({"fusion": "adaptve"}, r"parameter fusion: 'adaptve' is unknown, did you mean adaptive\?; one of"),
        ({"dataset": "voc12", "data_root": "nowhere"}, r"nowhere"),
        ({"train_list": "train_agu"}, r"train_agu"),
        ({"cam_batch_size": 64}, r"32 images, fewer than a batch of 64"),
        ({"cam_scales": [0.01]}, r"at scale 0\.01 it has no patch"),
        ({"backbone": "weaktr_tiny2_patch8_96"}, r"no weights of weaktr_tiny2_patch8_96 here"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(tmp_path, override, message, monkeypatch):
    """Values that no part of the method knows, data and weights that are not there: by the plan, on the real notebooks.

    The second variant has the data of the first, which are not read again.
    """
    shipped = weights.pretrained_state

    def here(backbone, weights=""):
        if "tiny2" in backbone:
            raise UserError(f"no weights of {backbone} here")
        return shipped(backbone, weights)

    monkeypatch.setattr("weaktr.workbench.checks.pretrained_state", here)
    measure = {"label": "mask", "stage": "05_evaluation", "metric": "mIoU of mask", "list": "val", "crf": False}
    source = {"preset": "smoke", "variants": {"base": {}, "other": override}, "measure": [measure]}
    sweep = file.read_sweep(source, "bad", root=tmp_path / "runs")
    with pytest.raises(UserError, match=message):
        plan.plan([sweep])
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_is_refused(place):
    with pytest.raises(ParameterError, match=r"none\.toml does not exist or is not a file"):
        read(place, place / "none.toml")


def test_a_run_of_another_version_is_refused(swept):
    path = swept / "runs/demo_thresholds/low-seed1/01_first/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["versions"]["weaktr"] = "0.0.1"
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"low-seed1.*made by weaktr 0\.0\.1"):
        go(swept)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*/*.toml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_shipped_sweeps_are_valid(path):
    found = file.read_sweep(path)
    trained = all("trained_cam" in given for given in found.overrides.values())  # of one network more seeds say nothing
    assert len(found.seeds) >= (1 if trained else 3) and found.question.strip() and found.title
    for runs in [plan.plan([found], check=False)] if path.parent.name == "demo" else []:
        last = {one.recipe(found.stages[-1]) for one in runs}
        assert len(last) == len(runs), "every variant and seed is another run to the last stage"
    twin = "voc12" if path.parent.name == "demo" else "demo"
    assert (path.parents[1] / twin / path.name).is_file(), "each sweep has a demo version and one for VOC12"
    if len(found.overrides) == 1:
        assert len(found.measures) > 1, "a sweep compares something"


# ── Execution ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_shared_stages_are_computed_once_and_a_second_call_does_nothing(place):
    planned = plan.plan([read(place)], notebooks=place / "notebooks")
    assert len(planned) == 4 and len(plan.to_compute(planned)) == 6, "01 once for each seed, 02 four times"
    seen = []
    runs = go(place, show=lambda all_of_them: seen.append(console.counts(all_of_them)))
    assert [one.state for one in runs.values()] == ["done"] * 4
    assert sum(one.shared for one in runs.values()) == 2 and seen[-1] == "4 done"
    for seed in (1, 2):
        low, high = (runs[f"{name}-seed{seed}"] for name in ("low", "high"))
        assert times_run(low) == 1
        files = [one.place.path / "01_first" / "artefact.txt" for one in (low, high)]
        assert os.path.samefile(*files)
    assert "started" in (place / "runs/demo_thresholds/low-seed1/log.txt").read_text()
    finished = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("metrics.json")}
    assert len(finished) == 8
    again = go(place)
    assert all(one.state == "done" and one.seconds == 0 for one in again.values())
    assert finished == {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("metrics.json")}


def test_stages_are_shared_with_other_sweeps(swept):
    source = {"grid": {"t": [0.5, 0.6]}, "seeds": [1], "measure": list(read(swept).measures)}
    runs = go(swept, read(swept, source, "finer"))
    assert [one.shared for one in runs.values()] == [2, 1] and times_run(runs["t=0.6-seed1"]) == 1


def test_a_stage_that_vanishes_while_it_is_linked_is_computed(swept, monkeypatch):
    def gone(source, *_, **__):
        raise shutil.Error([(source, "target", "No such file")])

    monkeypatch.setattr(sharing.shutil, "copytree", gone)
    source = {"seeds": [1], "measure": list(read(swept).measures)}
    (one,) = go(swept, read(swept, source, "other")).values()
    assert (one.state, one.shared, times_run(one)) == ("done", 0, 1)


def test_a_failing_run_does_not_stop_the_others_and_is_tried_again(swept):
    for name in ("low-seed2", "high-seed1", "high-seed2"):  # these run: one before the failing one, one beside it
        shutil.rmtree(swept / "runs/demo_thresholds" / name)
    (swept / "fail").touch()
    runs = go(swept)
    states = {name: one.state for name, one in runs.items()}
    assert states == {"low-seed1": "done", "low-seed2": "done", "high-seed1": "done", "high-seed2": "failed"}
    assert runs["low-seed2"].seconds > 0 and runs["high-seed1"].seconds > 0
    told = json.loads((swept / "runs/demo_thresholds/sweep.json").read_text())["high-seed2"]
    assert told["state"] == "failed" and "02_second: ValueError: made to fail" in told["message"]
    table, found, _ = results.write_results(read(swept), swept / "notebooks")
    assert len(table) == 3 and found.set_index("variant")["runs"].to_dict() == {"low": 2, "high": 1}
    assert found.set_index("variant").loc["high", "seeds"] == 1, "only the seed that both have is compared"
    (swept / "fail").unlink()
    again = go(swept)
    assert {one.state for one in again.values()} == {"done"} and again["high-seed2"].seconds > 0
    assert sum(one.seconds > 0 for one in again.values()) == 1, "only what was missing ran"


def test_a_killed_worker_is_its_own_run_s_failure(swept):
    """As by the kernel when memory runs out: SIGKILL for the process that runs the stage."""
    kill = "import os, signal, psutil\nif t == 0.8 and seed == 1: psutil.Process().parents()[1].kill()\n"
    for name in ("high-seed1", "high-seed2"):
        shutil.rmtree(swept / "runs/demo_thresholds" / name)
    write_notebook(swept / "notebooks", "02_second", PARAMETERS + "t: float = 0.5  # threshold\n", kill + SECOND)
    runs = go(swept, jobs=1)
    assert {name: one.state for name, one in runs.items()} == {
        "low-seed1": "done", "low-seed2": "done", "high-seed1": "failed", "high-seed2": "done"
    }  # fmt: skip
    told = json.loads((swept / "runs/demo_thresholds/sweep.json").read_text())["high-seed1"]["message"]
    assert told == "02_second: its process was killed, most often for lack of memory or time"


def test_a_failed_shared_stage_fails_all_that_need_it(place):
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))
    write_notebook(place / "notebooks", "01_first", PARAMETERS, "raise ValueError('no data')")
    runs = go(place)
    assert {one.state for one in runs.values()} == {"failed"}
    messages = sorted(one.message for one in runs.values() if one.seed == 1)
    assert "no data" in messages[0] and messages[1] == "shares a stage with low-seed1, which failed there"


def test_an_interrupted_sweep_continues(place):
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))

    def interrupt(runs):
        if any(one.state == "done" for one in runs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(place, jobs=1, show=interrupt)
    states = [entry["state"] for entry in json.loads((place / "runs/demo_thresholds/sweep.json").read_text()).values()]
    assert "done" in states and "running" not in states and states.count("waiting") > 0
    runs = go(place)
    assert {one.state for one in runs.values()} == {"done"} and times_run(runs["high-seed1"]) == 1


def test_ctrl_c_ends_the_workers_and_their_kernels(place):
    write_notebook(
        place / "notebooks", "01_first", PARAMETERS + "lr: float = 0.1  # learning rate\n",
        "import time, pathlib\npathlib.Path(stage.folder / 'here').touch()\nif seed == 1: time.sleep(120)\n" + FIRST,
    )  # fmt: skip
    script = (
        "import sys, pathlib\nfrom weaktr.sweeps import file, plan, pools, schedule\n"
        "if __name__ == '__main__':\n"
        "    place = pathlib.Path(sys.argv[1])\n"
        "    notebooks = place / 'notebooks'\n"
        "    sweep = file.read_sweep(place / 'thresholds.toml', root=place / 'runs', notebooks=notebooks)\n"
        "    runs = plan.plan([sweep], notebooks=notebooks)\n"
        "    schedule.run_sweeps(runs, pools.LocalPool(1), 1, notebooks=notebooks)\n"
    )
    (place / "go.py").write_text(script)
    started = subprocess.Popen([sys.executable, place / "go.py", place], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    here = place / "runs/demo_thresholds/low-seed1/01_first/here"
    try:
        for _ in range(1500):
            if here.exists():
                break
            time.sleep(0.1)
        assert here.exists()
        import psutil

        family = psutil.Process(started.pid).children(recursive=True)
        assert len(family) >= 2
        started.send_signal(signal.SIGINT)
        assert started.wait(60) != 0
        assert not psutil.wait_procs(family, timeout=20)[1], "a worker or kernel survived"
    finally:
        started.kill()
        started.stderr.close()
    assert "waiting" in (place / "runs/demo_thresholds/sweep.json").read_text()


class Queue:
    """A cluster's queue: it may refuse a job or lose one; what it takes it hands to a process."""

    def __init__(self, refuses=lambda queue, runs: False, loses=lambda queue: False):
        self.pool, self.refuses, self.loses = pools.LocalPool(4), refuses, loses
        self.jobs, self.sizes, self.refused, self.lost = [], [], 0, 0

    def submit(self, runs, notebooks):
        if self.refuses(self, runs):
            self.refused += 1
            raise OSError("sbatch: job limit reached")
        if self.loses(self):
            self.lost += len(runs)
            jobs = [Future() for _ in runs]
            for job in jobs:
                job.set_exception(pools.JobLost("Slurm's job 7 ended (NODE_FAIL)"))
            return jobs
        jobs = self.pool.submit(runs, notebooks)
        self.jobs += jobs
        self.sizes.append(len(runs))
        return jobs

    def where(self, job):
        return "on paper"

    def stop(self):
        self.pool.stop()


def test_a_job_that_a_full_queue_refuses_is_tried_again(place):
    queue = Queue(refuses=lambda queue, runs: any(not job.done() for job in queue.jobs))
    runs = go(place, executor=queue)
    assert queue.refused and [one.state for one in runs.values()] == ["done"] * 4
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[3]"))
    refused = go(place, executor=Queue(refuses=lambda queue, runs: True))
    assert {one.state for one in refused.values()} == {"failed"}
    assert all("not started: sbatch: job limit reached" in one.message for one in refused.values())


def test_what_can_start_at_once_is_submitted_at_once(place):
    queue = Queue()
    seen = set()
    runs = go(place, jobs=4, executor=queue, show=lambda runs: seen.update(one.message for one in runs))
    assert [one.state for one in runs.values()] == ["done"] * 4
    assert queue.sizes[0] == 2 and sum(queue.sizes) == 6, "the first stages of both seeds; six stages in all"
    assert "01_first · on paper" in seen, "where a job is can be seen"


def test_a_queue_that_takes_fewer_gets_halves(place):
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1, 2, 3]"))
    queue = Queue(refuses=lambda queue, runs: len(runs) > 1)
    runs = go(place, jobs=4, executor=queue)
    assert [one.state for one in runs.values()] == ["done"] * 6
    assert queue.refused and set(queue.sizes) == {1}


def test_runs_of_two_sweeps_are_submitted_apart(place):
    """Each sweep may ask for other jobs on a cluster."""
    measures = list(read(place).measures)
    sweeps = [read(place, {"seeds": [seed], "measure": measures}, name) for name, seed in (("one", 1), ("two", 2))]
    queue = Queue()
    runs = plan.plan(sweeps, notebooks=place / "notebooks")
    schedule.run_sweeps(runs, queue, 4, notebooks=place / "notebooks")
    assert [one.state for one in runs] == ["done"] * 2 and queue.sizes == [1] * 4


def test_a_job_that_the_cluster_lost_fails_its_own_run_only(place):
    """It was not the stage's fault: the runs that share it try it themselves."""
    queue = Queue(loses=lambda queue: not queue.lost)
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))
    runs = go(place, executor=queue)
    assert queue.lost == 1
    assert {name: one.state for name, one in runs.items()} == {"low-seed1": "failed", "high-seed1": "done"}
    assert runs["low-seed1"].message == "01_first: Slurm's job 7 ended (NODE_FAIL)"


def test_threads_are_divided(place, monkeypatch):
    write_notebook(
        place / "notebooks", "01_first", PARAMETERS + "lr: float = 0.1  # learning rate\n",
        "import os\n(stage.folder / 'threads').write_text(os.environ['OMP_NUM_THREADS'])\n" + FIRST,
    )  # fmt: skip
    monkeypatch.setattr(pools, "cores", lambda: 6)
    assert pools.local_jobs() == 3 and pools.local_jobs(2) == 2
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))
    runs = go(place, jobs=2)
    assert (runs["low-seed1"].place.path / "01_first" / "threads").read_text() == "3"


# ── Results ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_results_can_be_traced_and_summary_agrees_with_the_runs(swept):
    sweep = read(swept)
    table, found, manifests = results.write_results(sweep, swept / "notebooks")
    assert len(table) == 4 and set(table["list_size"]) == {12} and len(manifests) == 8
    kept = manifests.set_index(["run", "stage"])
    for row in table.itertuples():
        manifest = json.loads((swept / "runs" / row.run / row.stage / "manifest.json").read_text())
        assert manifest["key"] == row.key and manifest["git"]["commit"] == row.commit and manifest["seed"] == row.seed
        one = kept.loc[(row.run, row.stage)]
        assert (one["key"], one["git.commit"], one["seed"], one["start"]) == (
            row.key, row.commit, row.seed, manifest["start"],
        )  # fmt: skip
        assert kept.loc[(row.run, "01_first"), "parameters.seed"] == row.seed
    low, high = (table[table["variant"] == name]["value"].to_numpy() for name in ("low", "high"))
    rows = found.set_index("variant")
    assert rows.loc["low", "mean"] == pytest.approx(low.mean()) and rows.loc["low", "std"] == pytest.approx(
        low.std(ddof=1)
    )
    assert rows.loc["high", "difference"] == pytest.approx((high - low).mean())
    assert rows.loc["high", "difference_low"] > 0 and np.isnan(rows.loc["low", "difference"])
    assert rows.loc["low", "low"] < low.mean() < rows.loc["low", "high"]
    assert rows.loc["high", "verdict"].startswith("score: high is better than low: +")
    text = results.text(found)
    assert "mean ± SD" in text and f"{low.mean():.1f} ± " in text
    assert tables.caption(sweep, found).startswith("Thresholds: mIoU (%), mean ± standard deviation (2 random seeds)")
    assert (sweep.folder / "summary.csv").is_file() and (sweep.folder / "results.csv").is_file()


def test_results_are_read_back_where_the_runs_are_gone(swept):
    sweep = read(swept)
    made = results.load(sweep, swept, swept / "notebooks")
    assert made[3] == "4 finished runs"
    shutil.rmtree(sweep.folder)
    assert results.load(sweep, swept, swept / "notebooks")[3] == "no finished run"
    kept = swept / "sweeps" / sweep.name
    kept.mkdir(parents=True)
    for name, frame in zip((f"sweep_{sweep.name}", f"{sweep.name}_summary", f"{sweep.name}_runs"), made):
        frame.to_csv(kept / f"{name}.csv", index=False)
    table, found, manifests, source = results.load(sweep, swept, swept / "notebooks")
    assert source == "the committed reference" and len(table) == 4 and found["mean"].equals(made[1]["mean"])
    assert set(table["key"]) <= set(manifests["key"])
    assert found["is_baseline"].tolist() == [True, False]
    manifests.assign(data_fingerprint="another").to_csv(kept / f"{sweep.name}_runs.csv", index=False)
    assert "made with an earlier version of the data" in results.load(sweep, swept, swept / "notebooks")[3]


def test_one_variant_compares_its_measures(swept):
    measure = {"stage": "02_second", "metric": "mIoU"}
    source = {"seeds": [1, 2], "measure": [measure | {"label": "a"}, measure | {"label": "b"}]}
    sweep = read(swept, source, "measures")
    go(swept, sweep)
    found = results.summary(sweep, results.results(sweep, swept / "notebooks")).set_index("measure")
    assert found.loc["b", "baseline"] == "a" and found.loc["b", "difference"] == 0
    assert "no difference" in found.loc["b", "verdict"]


def test_a_table_says_of_which_metric_each_measure_is(swept):
    """mIoU, mAP, and a metric whose name holds its unit; those without per-image counts have a mean and no interval."""
    measures = [
        {"label": "mask", "stage": "02_second", "metric": "mIoU"},
        {"label": "rate", "stage": "01_first", "metric": "rate"},
    ]
    sweep = read(swept, {"seeds": [1, 2], "measure": measures}, "metrics")
    go(swept, sweep)
    _, found, _ = results.write_results(sweep, swept / "notebooks")
    assert "metrics: mIoU (%) of “mask”; rate of “rate”, mean ± standard" in tables.caption(sweep, found)
    table = tables.summary_table(found).set_index("measure")
    assert table.loc["rate", ["mean ± SD", "95 % interval", "difference"]].tolist() == ["0.1 ± 0.0", "–", "–"]
    assert table.loc["mask", "95 % interval"] != "–"


@pytest.mark.parametrize(
    "metrics, words",
    [
        (["mIoU of mask", "mIoU of CAM label"], "mIoU (%)"),
        (["mAP (image labels)"], "mAP (%)"),
        (["clipped pixels (%), where it clips"], "clipped pixels (%), where it clips"),
        (["mIoU of mask", "mAP (image labels)", "mIoU of mask"], "mIoU (%) of “0”, “2”; mAP (%) of “1”"),
    ],
)
def test_metrics_in_words(metrics, words):
    measures = [{"label": str(i), "metric": metric} for i, metric in enumerate(metrics)]
    assert tables.metrics_in_words(measures) == words


def test_a_sweep_has_a_page(swept):
    """Its folder tells what it asks, also where the file is gone or called by another name."""
    folder = swept / "runs/demo_thresholds"
    (swept / "thresholds.toml").unlink()
    (folder / "low-seed1/report.html").touch()
    page = reports.report(folder, swept / "notebooks").read_text()
    _, found, _ = results.write_results(
        read(swept, json.loads((folder / "entries.json").read_text()), "demo_thresholds"), swept / "notebooks"
    )
    assert "<h1>Thresholds</h1>" in page and f"<li>{found['verdict'].dropna().item()}</li>" in page
    assert '<a href="low-seed1/report.html">low-seed1</a>' in page and page.count("<td>done</td>") == 4
    assert "Preset demo, 2 variants, 2 random seeds." in page and "t = 0.8" in page and "others&#39;, shared" in page

    (folder / "high-seed2/02_second/metrics.json").unlink()
    states = json.loads((folder / "sweep.json").read_text())
    states["high-seed2"] |= {"state": "failed", "message": "02_second: no room\nand more"}
    (folder / "sweep.json").write_text(json.dumps(states))
    page = reports.report(folder, swept / "notebooks").read_text()
    assert "high-seed2 is failed: 02_second: no room." in page and page.count("<td>done</td>") == 3
    for metrics in folder.glob("*/02_second/metrics.json"):
        metrics.unlink()
    page = reports.report(folder, swept / "notebooks").read_text()
    assert page.count("No run is finished yet.") == 2 and "<img" not in page and "out of date" in page


def test_measures_on_different_lists_are_not_compared(place):
    """Even where the lists are of one size: other images cannot be paired."""
    two = SECOND.replace("stage.finish([", 'stage.finish([{"list": "train", "list_size": 12, "metric": "mIoU", '
                         '"value": miou, "counts": "main"}, ')  # fmt: skip
    write_notebook(place / "notebooks", "02_second", PARAMETERS + "t: float = 0.5  # threshold\n", two)
    measures = [{"label": name, "stage": "02_second", "metric": "mIoU", "list": name} for name in ("val", "train")]
    sweep = read(place, {"seeds": [1], "measure": measures}, "lists")
    go(place, sweep)
    found = results.summary(sweep, results.results(sweep, place / "notebooks"))
    assert found["difference"].isna().all() and found["low"].notna().all()


def test_an_ambiguous_measure_is_refused(swept):
    sweep = read(swept, {"seeds": [1], "measure": [{"label": "x", "stage": "02_second", "metric": "mIuO"}]}, "typo")
    go(swept, sweep)
    with pytest.raises(RunError, match="0 records that fit"):
        results.results(sweep, swept / "notebooks")


# ── The command line ──────────────────────────────────────────────────────────────────────────────────────────────
def test_estimate_and_plan_in_words(place, swept):
    runs = plan.plan([read(place)], notebooks=place / "notebooks")
    text = console.plan_text(runs, plan.to_compute(runs), plan.estimate_seconds(runs, ()), 1)
    assert text == (
        "4 runs, 0 done already; 6 stages to compute, 2 more are shared; "
        "no estimate, since not all of these stages have been finished here before"
    )
    (swept / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1, 2, 3]"))
    runs = plan.plan([read(swept)], notebooks=swept / "notebooks")
    seconds = plan.estimate_seconds(runs, ())
    assert 0 <= seconds < 60
    assert "6 runs, 4 done already; 3 stages" in console.plan_text(runs, plan.to_compute(runs), seconds, 2)


def test_progress_prints_one_line_per_run(place, capsys):
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))
    runs = plan.plan([read(place)], notebooks=place / "notebooks")
    with console.progress(runs) as show:
        schedule.run_sweeps(runs, pools.LocalPool(2), 2, notebooks=place / "notebooks", show=show)
    lines = [line for line in capsys.readouterr().out.splitlines() if " · done" in line]
    assert len(lines) == 2 and "2 done" in lines[-1] and any("1 stage shared" in line for line in lines)


def test_an_error_with_brackets_is_shown_as_it_is(place):
    """rich would take [/data] for the end of a style, and fail."""
    runs = plan.plan([read(place)], notebooks=place / "notebooks")
    runs[0].state, runs[0].message = "failed", "01_first: no file in [/data]; give [a, b] or a,b"
    terminal = Console(width=200, file=io.StringIO())
    terminal.print(console.table(runs))
    assert runs[0].message in terminal.file.getvalue()


def test_command_line_refuses_before_it_starts(tmp_path, capsys):
    path = tmp_path / "typo.toml"
    path.write_text(FILE.replace("t = 0.8", "threshhold = 0.8").replace("02_second", "05_evaluation"))
    assert main(["sweep", str(path)]) == 2
    assert "did you mean threshold" in capsys.readouterr().err

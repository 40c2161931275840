"""Sweeps on a real Slurm, brought up on this machine: what was done to it, and what has to come of it.

`make test-slurm` runs these; without Debian's slurm-wlm and munge they are skipped.
"""

import signal
import subprocess
import sys
from pathlib import Path

import local_slurm
import pytest
from test_runs import PARAMETERS, write_notebook
from test_sweeps import FILE, FIRST, SECOND, _nothing_slow_to_load, prepare, times_run  # noqa: F401  (a fixture)

from weaktr.__main__ import main
from weaktr.errors import UserError
from weaktr.sweeps import file, plan, schedule, slurm

ROOT = Path(__file__).resolve().parents[1]
JOB = {"gpus": "0", "cpus": "1", "mem": "1500M", "time": "10"}
LR = "lr: float = 0.1  # learning rate\n"
# A stage that waits where its run is named in the file `wait`, and says that it is there.
WAITS = """\
import pathlib, time
(stage.folder / "here").touch()
while (stage.folder.parents[3] / "wait").exists(): time.sleep(0.2)
"""
HOLDS = """\
import numpy as np, pathlib, time
if seed == 1 and (stage.folder.parents[3] / "hold").exists():
    held = np.ones(2**28)  # 2 GiB
    time.sleep(60)
"""

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(local_slurm.missing()), reason=local_slurm.missing()),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The folder of a Slurm with the nodes n1 and n2; its commands are found as long as the tests last."""
    folder = tmp_path_factory.mktemp("slurm")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in local_slurm.start(folder).items():
                patch.setenv(name, value)
            patch.setattr(slurm, "POLL_SECONDS", 0.5)
            yield folder
    finally:
        local_slurm.stop(folder)


@pytest.fixture
def place(tmp_path, cluster):
    """Notebooks of two stages, and a sweep's file: two variants that share their first stage, two seeds."""
    place = prepare(tmp_path)
    yield place
    assert not slurm.command("squeue", "--me", "--noheader"), "nothing is left in the queue"


def read(place):
    return file.read_sweep(place / "thresholds.toml", root=place / "runs", notebooks=place / "notebooks")


def go(place, show=lambda runs: None, jobs=4, **options):
    """Plan and run on Slurm; returns the runs by name."""
    sweep = read(place)
    pool = slurm.SlurmPool(place / "runs", [sweep], JOB | options)
    runs = plan.plan([sweep], notebooks=place / "notebooks")
    schedule.run_sweeps(runs, pool, jobs, notebooks=place / "notebooks", show=show)
    return {one.name: one for one in runs}


def states(runs):
    return {name: one.state for name, one in runs.items()}


def once(ready, act):
    """For `show`: calls `act` with all runs the first time that they are as `ready` wants."""
    called = []

    def show(runs):
        if not called and ready(runs):
            called.append(True)
            act(runs)

    return show


def both_run(runs):
    return sum(" running " in one.message for one in runs) == 2


def job_of(run):
    """The id of a run's job, from what the sweep says of it: "01_first · job 7_1 running n1"."""
    return run.message.split()[3]


def waiting(place):
    """The first stage of each seed waits until the file `wait` is gone."""
    (place / "wait").touch()
    write_notebook(place / "notebooks", "01_first", PARAMETERS + LR, WAITS + FIRST)


# ── What goes well ────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_sweep_with_shared_stages_goes_in_arrays(place):
    runs = go(place)
    assert states(runs) == dict.fromkeys(runs, "done"), [one.message for one in runs.values()]
    assert sum(one.shared for one in runs.values()) == 2 and times_run(runs["low-seed1"]) == 1
    known = slurm.command("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i %T %j").splitlines()
    assert {"COMPLETED"} == {line.split()[1] for line in known if "demo_thresholds" in line}
    assert sum("_" in line.split()[0] for line in known) >= 4, "six stages, of which at most two went alone"
    again = go(place)
    assert all(one.state == "done" and one.seconds == 0 for one in again.values())


def test_a_job_has_what_it_asked_for(place):
    says = "import os\n(stage.folder / 'has').write_text(os.environ['CUDA_VISIBLE_DEVICES'] + os.environ['SET_UP'])\n"
    processes = "processes: int = 2  # of the stage\n"
    write_notebook(place / "notebooks", "01_first", PARAMETERS + LR + processes, says + FIRST)
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))
    runs = go(place, gpus="drawn:1", constraint="old", setup=["export SET_UP=' by a line'"])
    assert states(runs) == dict.fromkeys(runs, "done"), [one.message for one in runs.values()]
    assert (runs["low-seed1"].place.path / "01_first/has").read_text() == "0,1 by a line", "two processes, two GPUs"


# ── What Slurm refuses ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "option, sentence",
    [
        ("partition=nope", "invalid partition specified: nope"),
        ("account=theirs", "Invalid account or account/partition combination specified"),
        ("gpus=a100:1", "Requested node configuration is not available"),
        ("gpus=drawn:3", "Requested node configuration is not available"),
        ("constraint=new", "Invalid feature specification"),
        ("mem=much", "Invalid --mem specification"),
        ("mem=100G", "Requested node configuration is not available"),
        ("time=soon", "Invalid --time specification"),
        ("nodelist=n3", "Invalid node name specified"),
    ],
)
def test_slurm_s_own_sentence_is_told(cluster, capsys, option, sentence):
    small = [f"{name}={value}" for name, value in JOB.items()]
    words = ["sweep", "sweeps/demo/clipping.toml", "--executor", "slurm", "--slurm", *small, option]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert sentence in told and option in told and "--slurm NAME=VALUE" in told


# ── What ends jobs ────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_job_killed_for_time(place):
    waiting(place)
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))
    runs = go(place, time="1")
    assert states(runs) == {"low-seed1": "failed", "high-seed1": "failed"}
    assert "reached its time limit; the same command continues there, --slurm time=…" in runs["low-seed1"].message
    assert runs["high-seed1"].message == "shares a stage with low-seed1, which failed there"
    (place / "wait").unlink()
    assert set(states(go(place)).values()) == {"done"}


def test_a_job_killed_for_memory(place):
    (place / "hold").touch()
    write_notebook(place / "notebooks", "01_first", PARAMETERS + LR, HOLDS + FIRST)
    runs = go(place)
    assert states(runs) == {"low-seed1": "failed", "low-seed2": "done", "high-seed1": "failed", "high-seed2": "done"}
    assert "was killed for lack of memory; the same command continues there" in runs["low-seed1"].message
    (place / "hold").unlink()
    assert set(states(go(place)).values()) == {"done"}


def test_a_job_cancelled_by_hand(place):
    waiting(place)

    def cancel(runs):
        one = next(one for one in runs if one.state == "running" and one.seed == 1)
        slurm.command("scancel", job_of(one))
        (place / "wait").unlink()

    runs = go(place, once(both_run, cancel))
    assert sorted(states(runs).values()) == ["done", "done", "failed", "failed"]
    assert {one.seed for one in runs.values() if one.state == "failed"} == {1}
    assert "was cancelled; the same command continues there" in runs["low-seed1"].message
    assert set(states(go(place)).values()) == {"done"}


def test_all_jobs_cancelled(place):
    waiting(place)
    runs = go(place, once(both_run, lambda runs: slurm.command("scancel", "--me")))
    assert set(states(runs).values()) == {"failed"}
    assert sorted(one.message.partition(";")[0][-13:] for one in runs.values())[-2:] == ["was cancelled"] * 2
    (place / "wait").unlink()
    assert set(states(go(place)).values()) == {"done"}


def test_a_controller_restarted_in_the_middle(place, cluster):
    waiting(place)
    silent = []

    def restart(runs):
        local_slurm.end(cluster, "slurmctld")
        (place / "wait").unlink()

    def show(runs):
        stop(runs)
        if not silent and any("Slurm does not answer" in one.message for one in runs):
            silent.append(True)
            local_slurm.start_controller(cluster)

    stop = once(both_run, restart)
    runs = go(place, show)
    assert silent and states(runs) == dict.fromkeys(runs, "done"), [one.message for one in runs.values()]
    assert times_run(runs["low-seed1"]) == times_run(runs["low-seed2"]) == 1


def test_ctrl_c_and_the_same_command_again(place, cluster):
    waiting(place)
    script = (
        "import pathlib, sys\nfrom weaktr.sweeps import file, plan, schedule, slurm\n"
        "slurm.POLL_SECONDS = 0.5\n"
        "place = pathlib.Path(sys.argv[1])\n"
        "notebooks = place / 'notebooks'\n"
        "sweep = file.read_sweep(place / 'thresholds.toml', root=place / 'runs', notebooks=notebooks)\n"
        f"pool = slurm.SlurmPool(place / 'runs', [sweep], {JOB})\n"
        "runs = plan.plan([sweep], notebooks=notebooks)\n"
        "schedule.run_sweeps(runs, pool, 4, notebooks=notebooks)\n"
    )
    words = [sys.executable, "-c", script, place]
    started = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    runs = place / "runs/demo_thresholds"
    try:
        local_slurm.wait_until(lambda: started.poll() or len(list(runs.glob("*/01_first/here"))) == 2, cluster, 240)
        assert started.poll() is None, started.stderr.read()
        with pytest.raises(UserError, match="jobs of another call of this sweep are in the queue"):
            go(place)
        started.send_signal(signal.SIGINT)
        assert started.wait(60) != 0
        assert "KeyboardInterrupt" in started.stderr.read()
    finally:
        started.kill()
        started.stderr.close()
    assert not slurm.command("squeue", "--me", "--noheader"), "its jobs have ended when it has"
    assert "interrupted" in (runs / "sweep.json").read_text()
    (place / "wait").unlink()
    again = go(place)
    assert set(states(again).values()) == {"done"} and times_run(again["low-seed1"]) == 1


def test_a_node_without_the_clone(place, cluster):
    """n2 alone does not have the folder of the sweeps."""
    local_slurm.end(cluster, "slurmd-n2")
    (place / "runs").mkdir()
    try:
        local_slurm.start_node(cluster, "n2", hidden=place / "runs")
        local_slurm.wait_until(lambda: local_slurm.states(cluster) == ["idle", "idle"], cluster)
        (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[1]"))
        runs = go(place, nodelist="n2")
        assert set(states(runs).values()) == {"failed"}
        told = runs["low-seed1"].message
        assert "ended on n2 (FAILED) and left no log in" in told and "--slurm exclude=NODE leaves one out" in told
        assert set(states(go(place, exclude="n2")).values()) == {"done"}
    finally:
        local_slurm.end(cluster, "slurmd-n2")
        local_slurm.start_node(cluster, "n2")
        local_slurm.wait_until(lambda: local_slurm.states(cluster) == ["idle", "idle"], cluster)

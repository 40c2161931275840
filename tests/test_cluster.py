"""Slurm jobs without Slurm: options and refusals, arrays, and how jobs end, with commands that stand in for Slurm's."""

import os
import pickle
import sys
import time
from types import SimpleNamespace

import pytest
from test_runs import PARAMETERS, write_notebook
from test_sweeps import FILE, FIRST, _nothing_slow_to_load, go, prepare, read  # noqa: F401  (a fixture)

from weaktr.__main__ import main
from weaktr.errors import ParameterError, RunError, UserError
from weaktr.sweeps import file, plan, pools, slurm, slurm_options

# Jobs are processes here; each has a file with its state, as squeue prints it, and one with its process' id.
STAND_IN = """\
#!{python}
import os, pathlib, re, signal, subprocess, sys, time
folder = pathlib.Path({folder!r})
states, ids = folder / "states", folder / "ids"
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open(folder / "calls", "a") as calls:
    print(name, *words, file=calls)
if (folder / f"{{name}}_refuses").exists():
    sys.exit((folder / f"{{name}}_refuses").read_text())
if name == "sbatch" and "--test-only" not in words:
    text = pathlib.Path(words[0]).read_text()
    number = len(list(folder.glob("batch*"))) + 1
    (folder / f"batch{{number}}").write_text(text)
    option = lambda name: re.search(rf"#SBATCH --{{name}}='?([^'\\n]*)", text)
    tasks = range(int(option("array")[1].split("-")[1].split("%")[0]) + 1) if option("array") else [None]
    for task in tasks:
        job = str(number) if task is None else f"{{number}}_{{task}}"
        line = f"\\tn1\\tNone\\t{{option('job-name')[1]}}\\t{{option('chdir')[1]}}"
        (states / job).write_text("RUNNING" + line)
        environment = os.environ | {{"SLURM_JOB_ID": job, "SLURM_CPUS_PER_TASK": option("cpus-per-task")[1]}}
        if task is not None:
            environment |= {{"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}}
        script = f"bash {{words[0]}}; sed -i s/^RUNNING/COMPLETED/ {{states}}/{{job}}"
        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = subprocess.Popen(["bash", "-c", script], env=environment, start_new_session=True, **quiet)
        (ids / job).write_text(str(started.pid))
    print("Submitted batch job", number)
if name == "squeue":
    print("".join(f"{{path.name}}\\t{{path.read_text().strip()}}\\n" for path in sorted(states.iterdir())), end="")
if name == "scancel":
    for job in words:
        os.killpg(int((ids / job).read_text()), signal.SIGKILL)
        (states / job).write_text((states / job).read_text().replace("RUNNING", "CANCELLED"))
"""


@pytest.fixture
def place(tmp_path):
    """A folder with notebooks and a sweep's file."""
    return prepare(tmp_path)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder of what was asked of Slurm's commands, which are found before any real ones."""
    folder = tmp_path / "slurm_here"
    for part in ("bin", "states", "ids"):
        (folder / part).mkdir(parents=True)
    (folder / "calls").touch()
    for name in ("sbatch", "squeue", "scancel", "srun"):
        (folder / "bin" / name).write_text(STAND_IN.format(python=sys.executable, folder=str(folder)))
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.1)
    return folder


def batches(stand_in):
    return [path.read_text() for path in sorted(stand_in.glob("batch*"))]


# ── Options ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "given, message",
    [
        ({"acount": "lab"}, r"unknown option 'acount' of a Slurm job, did you mean account\?; there are account, part"),
        ({"account": ""}, r"account is ''; give a text or a whole number, such as the account that you may use"),
        ({"mem": 1.5}, r"mem is 1.5; give a text or a whole number, such as 32G"),
        ({"qos": True}, r"qos is True; give a text"),
        ({"constraint": "a\nb"}, r"constraint is 'a\\nb'; give a text"),
        ({"cpus": "many"}, r"cpus=many: give how many cores a job has, at least one"),
        ({"cpus": 0}, r"cpus=0: give how many cores"),
        ({"gpus": "a100"}, r"gpus=a100: give how many GPUs a job has, such as 1, a100:1, or 0 for none"),
        ({"gpus": -1}, r"gpus=-1: give how many GPUs"),
        ({"setup": 3}, r'setup is 3; write it as setup = \["module load cuda", "…"\]'),
        ({"setup": ["a", 3]}, r"setup is \['a', 3\]; write it as"),
    ],
)
def test_options_that_no_job_can_have_are_refused(place, given, message, capsys):
    with pytest.raises(ParameterError, match=message):
        slurm_options.check_options(given)
    measure = {"label": "score", "stage": "02_second", "metric": "mIoU"}
    with pytest.raises(ParameterError, match=r"sweep bad: \[slurm\]: " + message):
        read(place, {"slurm": given, "measure": [measure]}, "bad")


def test_options_of_a_file(place):
    table = (
        '[slurm]\naccount = "lab"\ngpus = "a100:2"\nmem = "32G"\ncpus = 4\nsetup = ["module load cuda"]\n[[measure]]'
    )
    (place / "thresholds.toml").write_text(FILE.replace("[[measure]]", table))
    options = read(place).slurm
    assert options == {
        "account": "lab", "gpus": "a100:2", "mem": "32G", "cpus": "4", "setup": ["module load cuda"]
    }  # fmt: skip
    assert slurm_options.flags(options) == {
        "account": "lab", "gpus-per-node": "a100:2", "mem": "32G", "cpus-per-task": "4"
    }  # fmt: skip
    (place / "thresholds.toml").write_text(FILE.replace("[[measure]]", "[[slurm]]\n[[measure]]"))
    with pytest.raises(ParameterError, match=r"slurm is \[.*write it as \[slurm\]"):
        read(place)


@pytest.mark.parametrize(
    "gpus, processes, asked",
    [("1", 0, "1"), ("1", 4, "4"), ("a100:1", 4, "a100:4"), ("a100:8", 0, "a100:8"), ("0", 4, None), ("0", 0, None)],
)
def test_a_stage_of_several_processes_asks_for_as_many_gpus(gpus, processes, asked):
    options = slurm_options.for_processes({"gpus": gpus}, processes)
    assert slurm_options.flags(options).get("gpus-per-node") == asked


@pytest.mark.parametrize(
    "words, message",
    [
        (["--slurm", "account"], "--slurm 'account': write it as name=value"),
        (["--slurm", "acount=lab"], "unknown option 'acount' of a Slurm job, did you mean account"),
        (["--slurm", "account=lab"], "--slurm account=lab: add --executor slurm"),
    ],
)
def test_the_command_line_refuses(words, message, capsys):
    assert main(["sweep", "sweeps/demo/clipping.toml", "--dry-run", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_job_that_slurm_refuses_is_refused_before_the_plan(stand_in, capsys, monkeypatch):
    monkeypatch.setattr(plan, "plan", None)
    (stand_in / "sbatch_refuses").write_text("sbatch: error: invalid partition specified: nope")
    words = ["--executor", "slurm", "--slurm", "partition=nope", "gpus=0", "setup=module load cuda"]
    assert main(["sweep", "sweeps/demo/clipping.toml", *words]) == 2
    told = capsys.readouterr().err
    assert "Slurm takes no job with cpus=8 gpus=0 time=1440 partition=nope:\n  sbatch: error: invalid partition" in told
    assert "give others in the sweep's [slurm] or by --slurm NAME=VALUE" in told
    (call,) = (stand_in / "calls").read_text().splitlines()
    assert call == "sbatch --test-only --cpus-per-task=8 --time=1440 --partition=nope --wrap=true"


def test_without_slurm_the_remedy_is_said(place, monkeypatch):
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(UserError, match="Start the sweep where sbatch is, or with --executor local"):
        slurm.SlurmPool(place, [])


# ── Submission ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_sweep_goes_in_arrays_with_the_options_of_file_and_command_line(place, stand_in):
    table = f'[slurm]\naccount = "lab"\ncpus = 4\nsetup = ["echo set up >> {stand_in}/setup"]\n[[measure]]'
    (place / "thresholds.toml").write_text(FILE.replace("[[measure]]", table))
    write_notebook(
        place / "notebooks", "01_first", PARAMETERS + "lr: float = 0.1  # learning rate\nprocesses: int = 2  # of it\n",
        "import os\n(stage.folder / 'threads').write_text(os.environ['OMP_NUM_THREADS'])\n" + FIRST,
    )  # fmt: skip
    sweep = read(place)
    pool = slurm.SlurmPool(place / "runs", [sweep], {"account": "ours", "gpus": "a100:1"})
    runs = go(place, sweep, jobs=4, executor=pool)
    assert [one.state for one in runs.values()] == ["done"] * 4, [one.message for one in runs.values()]
    first, *second = batches(stand_in)
    for line in ("--account=ours", "--cpus-per-task=4", "--array=0-1%2", "--time=1440", "--job-name=demo_thresholds"):
        assert f"#SBATCH {line}\n" in first
    assert "#SBATCH --gpus-per-node=a100:2\n" in first and "#SBATCH --gpus-per-node=a100:1\n" in second[0]
    assert "srun" not in first and "wckey" not in first
    assert len(second) < 4, "the second stages go together as far as they can start together"
    assert (stand_in / "setup").read_text().count("set up") == 6, "before each of six stages"
    assert (runs["low-seed1"].place.path / "01_first/threads").read_text() == "4"
    assert "sacct" not in (stand_in / "calls").read_text()


def test_a_stage_that_fails_says_so_as_it_does_here(place, stand_in):
    (place / "fail").touch()
    (place / "thresholds.toml").write_text(FILE.replace("[1, 2]", "[2]"))
    sweep = read(place)
    runs = go(place, sweep, executor=slurm.SlurmPool(place / "runs", [sweep], {"gpus": "0"}))
    assert {name: one.state for name, one in runs.items()} == {"low-seed2": "done", "high-seed2": "failed"}
    assert runs["high-seed2"].message.startswith("02_second: ValueError: made to fail\n  in ")


def test_an_interrupted_sweep_cancels_its_jobs_and_a_second_call_waits_for_them(place, stand_in):
    write_notebook(place / "notebooks", "01_first", PARAMETERS, "import time\ntime.sleep(120)")
    sweep = read(place)
    pool = slurm.SlurmPool(place / "runs", [sweep], {"gpus": "0"})

    def interrupt(runs):
        if any(one.state == "running" for one in runs):
            with pytest.raises(UserError, match=r"another call of this sweep are in the queue: 1_0 1_1; wait"):
                slurm.SlurmPool(place / "runs", [sweep], {"gpus": "0"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(place, sweep, executor=pool, show=interrupt)
    assert "scancel 1_0 1_1" in (stand_in / "calls").read_text()
    slurm.SlurmPool(place / "runs", [sweep], {"gpus": "0"})
    other = file.read_sweep(
        {"measure": list(sweep.measures)}, "other", root=place / "runs", notebooks=place / "notebooks"
    )
    slurm.SlurmPool(place / "runs", [other], {"gpus": "0"})


def test_what_cannot_be_cancelled_is_said(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(slurm, "SECONDS_TO_END", 1)
    pool = slurm.SlurmPool(tmp_path, [])
    (stand_in / "squeue_refuses").write_text("slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(RunError, match=r"may still be at work \(slurm_load_jobs error: Unable.*scancel ends them"):
        pool.stop()


# ── How a job ends ────────────────────────────────────────────────────────────────────────────────────────────────
class Answers:
    """A queue that says of its only job what it is told to."""

    silence = ""

    def __init__(self, seen):
        self.answer = seen

    def seen(self, job_id):
        return self.answer


def job(tmp_path, state, result=None, log=None):
    """A job in a state, with the result and the log that it left."""
    files = SimpleNamespace(folder=tmp_path, result_pickle=tmp_path / "result.pkl", stderr=tmp_path / "log.err")
    if result is not None:
        files.result_pickle.write_bytes(pickle.dumps(result))
    if log is not None:
        files.stderr.write_text(log)
    seen = slurm.Seen(state, "n2", "Resources")
    return slurm.SlurmJob(SimpleNamespace(job_id="7_1", paths=files), Answers(seen))


@pytest.mark.parametrize(
    "state, result, kind, message",
    [
        ("TIMEOUT", None, RunError, r"job 7_1 reached its time limit; the same .*continues there, --slurm time=…"),
        ("TIMEOUT", ("success", "01 interrupted"), RunError, r"job 7_1 reached its time limit"),
        ("OUT_OF_MEMORY", None, RunError, r"job 7_1 was killed for lack of memory; .*--slurm mem=…"),
        ("OUT_OF_MEMORY", ("success", "its process was killed"), RunError, r"was killed for lack of memory"),
        ("CANCELLED", None, RunError, r"job 7_1 was cancelled; the same command continues there"),
        ("COMPLETED", ("success", "ValueError: made to"), RunError, r"^ValueError: made to$"),
        ("COMPLETED", ("error", "Traceback\nImportError: no"), RunError, r"^its job failed: ImportError: no\nTrace"),
        ("NODE_FAIL", None, pools.JobLost, r"job 7_1 ended on n2 \(NODE_FAIL\) and left no log .*exclude=NODE"),
        ("FAILED", None, pools.JobLost, r"job 7_1 ended on n2 \(FAILED\) and left no log"),
        ("no longer in the queue", None, pools.JobLost, r"job 7_1 ended \(SUBMITTED\)"),
    ],
)
def test_each_end_has_its_sentence(tmp_path, monkeypatch, state, result, kind, message):
    monkeypatch.setattr(slurm, "SECONDS_TO_SHOW", -1)
    one = job(tmp_path, state, result)
    assert one.done()
    with pytest.raises(RunError, match=message) as told:
        one.result()
    assert type(told.value) is kind


def test_a_finished_stage_is_finished_however_its_job_ended(tmp_path):
    for state in ("COMPLETED", "TIMEOUT", "CANCELLED", slurm.GONE):
        one = job(tmp_path, state, ("success", ""))
        assert one.done() and one.result() is None


def test_the_last_line_of_a_log_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "SECONDS_TO_SHOW", -1)
    one = job(tmp_path, "FAILED", log="module: loading\npython: No such file or directory\n")
    assert one.done()
    with pytest.raises(pools.JobLost, match=r"without a result: python: No such file or directory; its log: .*log.err"):
        one.result()


def test_memory_is_named_where_only_the_log_knows(tmp_path):
    one = job(tmp_path, "FAILED", ("success", "killed"), "slurmstepd-n2: error: Exceeded job memory limit\n")
    assert one.done()
    with pytest.raises(RunError, match="job 7_1 was killed for lack of memory"):
        one.result()


def test_a_job_is_waited_for_until_its_result_is_seen(tmp_path, monkeypatch):
    one = job(tmp_path, "COMPLETED")
    assert not one.done(), "a node's file may come late"
    monkeypatch.setattr(slurm, "SECONDS_TO_SHOW", 0.1)
    time.sleep(0.15)
    assert one.done()
    one._queue.answer = slurm.Seen("PENDING", "", "BeginTime")
    assert not one.done() and one.where() == "job 7_1 waits (BeginTime)", "Slurm started it once more"
    one._queue.answer = None
    assert not one.done(), "while Slurm does not answer nothing is known"


def test_a_controller_that_does_not_answer_is_asked_again(tmp_path, stand_in):
    pool = slurm.SlurmPool(tmp_path, [])
    (stand_in / "squeue_refuses").write_text("slurm_load_jobs error: Unable to contact slurm controller")
    assert pool._queue.seen("7") is None and "Unable to contact" in pool._queue.silence
    (stand_in / "squeue_refuses").unlink()
    time.sleep(0.15)
    assert pool._queue.seen("7") == slurm.Seen(slurm.GONE) and not pool._queue.silence

"""Stages as Slurm jobs, in arrays; how they fare is asked of squeue, which needs no accounting.

Submitit writes the batch files and carries calls to the nodes. It is not asked how jobs fare: it asks sacct alone, and
without accounting would wait for a job that was killed for good.
"""

import contextlib
import io
import os
import pickle
import re
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError
from ..files import ROOT, resolve, short
from .file import Sweep
from .pools import JobLost, execute_stage
from .run import SweepRun
from .slurm_options import DEFAULTS, SETUP, Options, flags, for_processes, in_words

POLL_SECONDS = 5.0  # between two questions to the controller
SECONDS_TO_END = 60.0  # for cancelled jobs; Slurm kills what has not ended after 30 (KillWait)
SECONDS_TO_SHOW = 15.0  # until a file that a node has written is seen here (NFS)
ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"),
    *("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"),
}
SEPARATOR = "\t"  # of squeue's columns, in no name and no path
# In a job's log; without cgroups Slurm calls such a job FAILED.
OUT_OF_MEMORY = re.compile("slurmstepd.*(exceeded job memory limit|oom.kill)", re.IGNORECASE)
GONE = "no longer in the queue"
AGAIN = "the same command continues there"
REASONS = {  # state → why a stage did not come to its end, and what to do
    "TIMEOUT": f"reached its time limit; {AGAIN}, --slurm time=… gives it more",
    "DEADLINE": f"reached its deadline; {AGAIN}",
    "OUT_OF_MEMORY": f"was killed for lack of memory; {AGAIN}, --slurm mem=… gives it more",
    "CANCELLED": f"was cancelled; {AGAIN}",
}


# ── On a node ─────────────────────────────────────────────────────────────────────────────────────────────────────
def execute_job(*arguments: Any) -> str:
    """`execute_stage` as a Slurm job, with its share of the node → what went wrong, "" for nothing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the job's end, by hand or by its time limit
    # Submitit has Slurm send this one before the limit, to all processes: it would kill the kernel. Kernels inherit it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = os.environ.get("SLURM_CPUS_PER_TASK", "1")
    try:
        execute_stage(*arguments)
    except Exception as error:  # whatever it was, it is told where the sweep runs
        return str(error) or type(error).__name__
    return ""


# ── Slurm's commands ──────────────────────────────────────────────────────────────────────────────────────────────
def command(*words: str) -> str:
    """Run one of Slurm's commands → what it printed. Raises RunError with Slurm's own sentence."""
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RunError(done.stderr.strip() or f"{words[0]} ended with {done.returncode}")
    return done.stdout


@dataclass(frozen=True)
class Seen:
    """What squeue says of a job: its state, its nodes, and why it waits."""

    state: str
    nodes: str = ""
    reason: str = ""


class Queue:
    """The jobs of some sweeps of this clone, asked for at most every POLL_SECONDS."""

    def __init__(self, names: Collection[str]) -> None:
        """names: Of the sweeps and their jobs."""
        self._names = names
        self._seen: dict[str, Seen] = {}
        self._asked = float("-inf")
        self.silence = ""  # why Slurm did not answer the last time

    def ask_anew(self) -> None:
        """Do not take the last answer for the next question."""
        self._asked = float("-inf")

    def seen(self, job_id: str) -> Seen | None:
        """A job. None while Slurm does not answer; GONE where it does not know it any more."""
        self._ask()
        return None if self.silence else self._seen.get(job_id, Seen(GONE))

    def _ask(self) -> None:
        if time.monotonic() - self._asked < POLL_SECONDS:
            return
        try:
            self._seen = self._list()
            self.silence = ""
        except RunError as error:  # the controller is restarted, for example
            self.silence = str(error)
        self._asked = time.monotonic()

    def _list(self) -> dict[str, Seen]:
        form = "--format=" + SEPARATOR.join(("%i", "%T", "%N", "%r", "%j", "%Z"))
        found = {}
        for line in command("squeue", "--me", "--array", "--noheader", "--states=all", form).splitlines():
            job_id, state, nodes, reason, name, folder = line.split(SEPARATOR)
            if folder == str(ROOT) and name in self._names:
                found[job_id] = Seen(state, nodes, reason)
        return found

    def at_work(self) -> list[str]:
        """The jobs that have not ended. Raises RunError where Slurm does not answer."""
        return [job_id for job_id, seen in self._list().items() if seen.state not in ENDED]


# ── Jobs and their pool ───────────────────────────────────────────────────────────────────────────────────────────
class SlurmJob:
    """A stage as a Slurm job."""

    def __init__(self, job: Any, queue: Queue) -> None:
        """job: as submitit has it, for its id and its files."""
        self.job_id: str = job.job_id
        self._paths = job.paths
        self._queue = queue
        self._last = Seen("SUBMITTED")
        self._ended: float | None = None

    def done(self) -> bool:
        """Whether Slurm has ended it and its result, where there is one, can be read here."""
        seen = self._queue.seen(self.job_id)
        if seen is None:
            return False
        if seen.state not in (*ENDED, GONE):
            self._last = seen
            self._ended = None  # Slurm may start a job once more
            return False
        if seen.state != GONE:
            self._last = seen
        now = time.monotonic()
        self._ended = self._ended or now
        return self._has_result() or seen.state in REASONS or now - self._ended > SECONDS_TO_SHOW

    def _has_result(self) -> bool:
        folder = self._paths.folder
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode)  # of no effect but that NFS looks at the folder anew
        return bool(self._paths.result_pickle.exists())

    def result(self) -> None:
        """Nothing, where the stage is finished.

        Raises:
            RunError: Where it failed, was cancelled, or asked for too little time or memory.
            JobLost: Where the job ended for another reason.
        """
        problem = self._problem() if self._has_result() else None
        if problem == "":
            return
        job = f"Slurm's job {self.job_id}"
        state = "OUT_OF_MEMORY" if OUT_OF_MEMORY.search(self._log()) else self._last.state
        if state in REASONS:
            raise RunError(f"{job} {REASONS[state]}")
        if problem:
            raise RunError(problem)
        raise JobLost(f"{job} {self._how_it_ended()}")

    def _problem(self) -> str:
        """What the job said of its stage, "" for nothing."""
        outcome, text = pickle.loads(self._paths.result_pickle.read_bytes())
        if outcome == "success":
            return str(text)
        return f"its job failed: {text.strip().splitlines()[-1]}\n{text}"

    def _log(self) -> str:
        """What Slurm and the set-up lines wrote on the node; the stage's own words are in its run's log.txt."""
        try:
            return str(self._paths.stderr.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return ""

    def _how_it_ended(self) -> str:
        """Of a job without a result."""
        where = f" on {self._last.nodes}" if self._last.nodes else ""
        if not self._paths.stderr.exists():
            return (
                f"ended{where} ({self._last.state}) and left no log in {short(self._paths.folder)}; the clone has to "
                "lie at the same place on all nodes, --slurm exclude=NODE leaves one out"
            )
        lines = self._log().strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        return f"ended{where} ({self._last.state}) without a result{last}; its log: {short(self._paths.stderr)}"

    def where(self) -> str:
        """Where it is, in words."""
        if self._queue.silence:
            return f"job {self.job_id}, Slurm does not answer"
        if self._last.state == "PENDING":
            return f"job {self.job_id} waits ({self._last.reason})"
        return f"job {self.job_id} {self._last.state.lower()} {self._last.nodes}".strip()


class SlurmPool:
    """Submits stages as Slurm jobs: those that one call gives as one array."""

    def __init__(self, folder: str | Path, sweeps: Sequence[Sweep], given: Mapping[str, Any] | None = None) -> None:
        """Asks Slurm whether it would take a job of each sweep.

        Args:
            folder: Of the sweeps; what submitit writes goes to `slurm` in it.
            sweeps: Those that will be run.
            given: Options for all sweeps, checked; they stand above those of the files.

        Raises:
            UserError: Where there is no Slurm, where it refuses, and where jobs of an earlier call are at work.
        """
        import submitit

        self._folder = resolve(folder) / "slurm"
        self._queue = Queue({sweep.name for sweep in sweeps})
        self._options: dict[str, Options] = {}
        try:
            self._executor = submitit.SlurmExecutor(self._folder)
        except RuntimeError as error:
            raise UserError(f"{error} Start the sweep where sbatch is, or with --executor local") from error
        for sweep in sweeps:
            self._options[sweep.name] = DEFAULTS | sweep.slurm | dict(given or {})
            _refuse_what_slurm_refuses(self._options[sweep.name])
        self._refuse_a_second_call()

    def _refuse_a_second_call(self) -> None:
        """A call that was killed leaves its jobs in the queue, where they hold the folders of their runs."""
        if left := self._queue.at_work():
            raise UserError(
                f"jobs of another call of this sweep are in the queue: {' '.join(left)}; wait until they have ended, "
                f"or end them: scancel {' '.join(left)}"
            )

    def submit(self, runs: Sequence[SweepRun], notebooks: str) -> list[SlurmJob]:
        """Submit the next stages of runs of one sweep that need as many GPUs → their jobs.

        Raises:
            RunError: With Slurm's own sentence, where it takes none of them.
        """
        from submitit.core.utils import FailedJobError

        first = runs[0]
        options = for_processes(self._options[first.sweep.name], first.processes)
        self._executor.parameters = {
            "job_name": first.sweep.name,
            "nodes": 1,
            "use_srun": False,  # a step of its own for a single process, which the controller would have to grant
            "wckey": None,
            "setup": options.get(SETUP),
            "additional_parameters": flags(options) | {"chdir": str(ROOT)},  # where `python -m` finds weaktr
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                jobs = self._executor.map_array(execute_job, *zip(*[run.call(notebooks) for run in runs]))
        except FailedJobError as error:
            raise RunError(str(error)) from error
        self._queue.ask_anew()
        return [SlurmJob(job, self._queue) for job in jobs]

    def where(self, job: SlurmJob) -> str:
        """Where a job is, in words."""
        return job.where()

    def stop(self) -> None:
        """Cancel all jobs; they have ended when it returns, so that the same command can go on.

        Raises:
            RunError: Where Slurm does not answer, with what is left to do.
        """
        deadline = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < deadline:
            try:
                left = self._queue.at_work()
                if not left:
                    return
                command("scancel", *left)
            except RunError as error:  # also of a job that has ended in between
                silence = str(error)
            time.sleep(1)
        raise RunError(f"jobs may still be at work ({silence}); squeue --me lists them, scancel ends them")


def _refuse_what_slurm_refuses(options: Options) -> None:
    """Raise UserError with Slurm's own sentence where it would not take a job with these options."""
    asked = [f"--{name}={value}" for name, value in flags(options).items()]
    try:
        command("sbatch", "--test-only", *asked, "--wrap=true")
    except RunError as error:
        sentence = str(error).replace("\n", "\n  ")
        raise UserError(
            f"Slurm takes no job with {in_words(options)}:\n  {sentence}\n"
            "  give others in the sweep's [slurm] or by --slurm NAME=VALUE, such as gpus=0 where there are none;\n"
            "  sinfo lists partitions, sacctmgr show associations lists accounts"
        ) from error

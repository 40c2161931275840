"""Killed, full, forbidden, cut off: does a run go on, and end with the files of an undisturbed one?

    .venv/bin/python benchmarks/reliability.py [--kills 5] [--full 10] [--forbid 3] [--cuts 5] [--set NAME=VALUE …]

One run is left alone. Another is killed again and again, with SIGKILL at random moments: the command, a kernel, or one
of their workers. Of a third a file that its stages read is cut off at a random moment, the folders of a fourth may not
be written to, and a fifth stands on a small disk of memory that fills up at random points. Each is started again after
each disturbance. It counts as failed if a file is there that cannot be read to its end, if the message names neither
the file nor the place, if processes are left over, or if the files at the end are not, by sha256, those of the first.

A disk that fills needs the right to mount one: as root, or in `unshare --map-root-user --mount`. Root may write
everywhere and is denied that by `setpriv`. Without either that part is skipped, with a word. Nothing outside --folder
is written. The table is in docs/reliability.md.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("*.safetensors", "*.npz", "*.png", "metrics.json", "threshold.json", "results.csv")
READ_LATER = ("*.safetensors", "*/cams/*.npz", "*/labels/*.png", "*/threshold.json", "*/metrics.json")
STARTED = "· started ·"  # what a command prints when a notebook begins
SECONDS_TO_END = 120  # for kernels and workers, after the command was killed; one that loads torch ends behind that


# ── A run ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Run:
    """A run in a folder, started again and again by one command.

    Attributes:
        command: of the run, without its folder.
        folder: of the run.
        digests: {file: sha256} of what it has to end with; empty for the undisturbed run.
        faults: what went wrong, in words.
        ends: how often it ended and was compared.
    """

    def __init__(self, command, folder, digests=()):
        self.command = command
        self.folder = Path(folder)
        self.digests = dict(digests)
        self.faults = []
        self.ends = 0

    def start(self):
        """The process of the run, at work."""
        return subprocess.Popen(
            [*self.command, "--run-folder", str(self.folder)],
            cwd=ROOT,
            stdout=self._output(),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _output(self):
        """A file for what a command prints: a pipe would be held open by processes that outlive it."""
        self._printed = self.folder.with_name(f"{self.folder.name}.txt")
        self._printed.parent.mkdir(parents=True, exist_ok=True)
        return open(self._printed, "w")

    def wait(self, process):
        """Wait for the command's end → what it printed."""
        process.wait()
        return self.printed()

    def printed(self):
        """What the command has printed so far."""
        return self._printed.read_text(errors="replace")

    def finish(self):
        """Run to the end → what it printed; a fault where it fails."""
        process = self.start()
        text = self.wait(process)
        if process.returncode:
            self.fault(f"the undisturbed command failed: {text[-2000:]}")
        return text

    def fault(self, text):
        self.faults.append(text)
        print(f"FAULT: {text}", flush=True)

    def check_whole(self, besides=()):
        """A fault for each file of the run that cannot be read to its end."""
        for path in sorted(self.folder.rglob("[!.]*")):
            if path.is_file() and path not in besides and not path.relative_to(self.folder).parts[0].startswith("."):
                try:
                    read_whole(path)
                except Exception as error:
                    self.fault(f"{path.relative_to(self.folder)} is not whole: {type(error).__name__}: {error}")

    def compare(self):
        """A fault for each result that is not that of the undisturbed run."""
        own = digest(self.folder)
        for name in sorted(own.keys() | self.digests.keys()):
            if own.get(name) != self.digests.get(name):
                self.fault(f"{name} is another than in the undisturbed run")
        self.ends += 1

    def begin_anew(self, process):
        """Compare a run that came to its end before it was disturbed (again), and clear its folder."""
        text = self.wait(process)
        if process.returncode:
            self.fault(f"the undisturbed command failed: {text[-2000:]}")
        self.compare()
        shutil.rmtree(self.folder, ignore_errors=True)


def said(text):
    """The first line of a command's error, shortened."""
    lines = [line for line in text.splitlines() if line.startswith("weaktr:")] or ["–"]
    return lines[0][:160]


def read_whole(path):
    """Raise where a file is not what its ending says, up to its end."""
    if path.suffix in (".json", ".ipynb"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            [arrays[name].shape for name in arrays.files]
    elif path.suffix == ".png":
        Image.open(io.BytesIO(path.read_bytes())).load()
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            list(file.keys())
    elif path.suffix == ".csv":
        pd.read_csv(path)


def digest(folder):
    """{file: sha256} of all that a run computed: not of notebooks, manifests and pictures, which hold times."""
    paths = {path for pattern in RESULTS for path in Path(folder).rglob(pattern)}
    names = {path.relative_to(folder) for path in paths}
    return {
        str(name): hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()
        for name in names
        if "figures" not in name.parts and not name.name.startswith(".")
    }


def processes_of(process):
    """The processes of a run by their part: command, kernel (leader of its process group), worker (any other)."""
    try:
        ours = psutil.Process(process.pid)
        found = {"command": [ours], "kernel": [], "worker": []}
        for child in ours.children(recursive=True):
            try:
                found["kernel" if os.getsid(child.pid) == child.pid else "worker"].append(child)
            except ProcessLookupError:
                continue
        return found
    except psutil.NoSuchProcess:
        return {}


# ── Disturbances ──────────────────────────────────────────────────────────────────────────────────────────────────
def kill_at_random(run, kills, seconds, draw):
    """Kill parts of a run at random moments of its life, until it was killed so often; a table of what came of it."""
    rows = []
    while len(rows) < kills:
        process = run.start()
        moment = draw.uniform(1, seconds)
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < moment:
            time.sleep(0.05)
        found = {part: some for part, some in processes_of(process).items() if some}
        if process.poll() is not None or not found:  # the run was faster than the moment: it begins anew
            run.begin_anew(process)
            continue
        part = draw.choice(sorted(found))
        victims = [one for some in found.values() for one in some]
        stage = max((path.name for path in run.folder.glob("0*")), default="before the first stage")
        draw.choice(found[part]).send_signal(signal.SIGKILL)
        text = run.wait(process)
        left = psutil.wait_procs(victims, timeout=SECONDS_TO_END)[1]
        left = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        if left:
            run.fault(f"after SIGKILL to a {part}, {len(left)} processes are left")
        if part != "command" and process.returncode and "Traceback" in text:
            run.fault(f"after SIGKILL to a {part} a traceback is all that is said: {text[-1500:]}")
        rows.append({"part": part, "after (s)": round(moment, 1), "stage": stage, "said": said(text)})
        print(rows[-1], flush=True)
        run.check_whole()
    run.finish()
    return rows


def fill_disk(run, disk, points, size, draw):
    """Let the disk of a run fill up at random points between nothing and `size` bytes, each larger than the last."""
    rows = []
    for full in sorted(draw.uniform(0.02, 0.95) * size for _ in range(points)):
        disk.resize(20 * size)
        process = run.start()
        while process.poll() is None and STARTED not in run.printed():  # before, a run looks whether there is room
            time.sleep(0.05)
        disk.resize(max(full, 1.02 * disk.used() + 2**16))
        text = run.wait(process)
        if not process.returncode:
            continue
        told = "No space left on device" in text or "disk" in text
        if not told or "Traceback" in text:
            run.fault(f"a full disk is told so: {text[-1500:]}")
        rows.append({"full at (MB)": round(full / 1e6, 1), "said": said(text)})
        print(rows[-1], flush=True)
        disk.resize(20 * size)
        run.check_whole()
    disk.resize(20 * size)
    run.finish()
    return rows


def forbid_writing(run, times, seconds, draw):
    """Take the right to write into the folders of a run away at random moments, and give it back when it ended."""
    rows = []
    while len(rows) < times:
        process = run.start()
        began, moment = time.monotonic(), draw.uniform(1, seconds)
        while process.poll() is None and (time.monotonic() - began < moment or not list(run.folder.glob("0*"))):
            time.sleep(0.05)
        running = process.poll() is None
        folders = [path for path in (run.folder, *run.folder.rglob("*")) if path.is_dir()]
        for folder in folders:
            folder.chmod(0o500)
        text = run.wait(process)
        for folder in folders:
            folder.chmod(0o700)
        if not running or not process.returncode:  # it had nothing more to write: it begins anew
            run.begin_anew(process)
            continue
        if "Permission denied" not in text or "Traceback" in text:
            run.fault(f"a folder that cannot be written is told so: {text[-1500:]}")
        rows.append({"after (s)": round(moment, 1), "said": said(text)})
        print(rows[-1], flush=True)
        run.check_whole()
    run.finish()
    return rows


def cut_files(run, cuts, seconds, draw):
    """Cut off files that later stages read, at random moments; each is put back before the run is started again."""
    rows = []
    while len(rows) < cuts:
        process = run.start()
        began, moment = time.monotonic(), draw.uniform(1, seconds)
        path = None
        while process.poll() is None and (path is None or time.monotonic() - began < moment):
            time.sleep(0.05)
            files = sorted(path for pattern in READ_LATER for path in run.folder.rglob(pattern))
            files = [path for path in files if not path.name.startswith(".") and path.parent != run.folder / "figures"]
            path = draw.choice(files) if files else None
        if path is None or process.poll() is not None:
            run.begin_anew(process)
            continue
        content = path.read_bytes()
        with open(path, "r+b") as file:
            file.truncate(int(draw.random() * len(content)))
        text = run.wait(process)
        if process.returncode and path.name not in text:
            run.fault(f"{path.name} was cut off, and is not named: {text[-1500:]}")
        if process.returncode and "Traceback" in text:
            run.fault(f"a traceback about {path.name}: {text[-1500:]}")
        name = str(path.relative_to(run.folder))
        came = "refused by name" if process.returncode else "read before, or made anew"
        rows.append({"file": name, "after (s)": round(moment, 1), "came": came, "said": said(text)})
        print(rows[-1], flush=True)
        run.check_whole(besides=[path])
        path.write_bytes(content)
    run.finish()
    return rows


class Disk:
    """A file system in memory, which may be resized."""

    def __init__(self, folder, size):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={int(size)}", "tmpfs")

    def _mount(self, *options):
        subprocess.run(["mount", *options, str(self.folder)], check=True, capture_output=True, text=True)

    def resize(self, size):
        self._mount("-o", f"remount,size={int(size)}")

    def used(self):
        return shutil.disk_usage(self.folder).used

    def remove(self):
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)


def small_disk(folder, size):
    """A Disk, or why there can be none."""
    try:
        return Disk(folder, size), ""
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        return None, f"skipped: a disk cannot be mounted here ({reason.strip()}); try as root, or `unshare -rm` before"


def as_others():
    """What a command is preceded by so that it may not write everywhere; None for root without setpriv."""
    if os.geteuid():
        return []
    return ["setpriv", "--bounding-set=-dac_override"] if shutil.which("setpriv") else None


# ── All of it ─────────────────────────────────────────────────────────────────────────────────────────────────────
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--full", type=int, default=10, help="points at which the disk fills")
    parser.add_argument("--forbid", type=int, default=3, help="moments at which writing is forbidden")
    parser.add_argument("--cuts", type=int, default=5, help="files that are cut off")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--folder", default="", help="for the runs; default: a temporary one, removed at the end")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    command = [sys.executable, "-m", "weaktr", "run", "--preset", options.preset]
    command += ["--set", *options.set] if options.set else []
    place = Path(options.folder or tempfile.mkdtemp(prefix="weaktr_reliability_"))
    faults = 0
    try:
        first = Run(command, place / "undisturbed")
        began = time.monotonic()
        first.finish()
        seconds = time.monotonic() - began
        digests, size = digest(first.folder), sum(path.stat().st_size for path in first.folder.rglob("*"))
        print(f"undisturbed: {seconds:.0f} s, {size / 1e6:.0f} MB, {len(digests)} files to compare", flush=True)
        faults += len(first.faults)
        ways = {"kills": kill_at_random, "cuts": cut_files, "forbid": forbid_writing}
        for name, disturb in ways.items():
            times = vars(options)[name]
            bound = as_others() if name == "forbid" else []
            if not times or bound is None:
                print(f"{name}: {'skipped: root may write everywhere' if times else 'not asked for'}", flush=True)
                continue
            run = Run([*bound, *command], place / name, digests)
            faults += tell(name, run, disturb(run, times, seconds, draw))
        disk, reason = small_disk(place / "disk", 2**26) if options.full else (None, "not asked for")
        if disk is None:
            print(f"full: {reason}", flush=True)
        else:
            try:
                run = Run(command, disk.folder / "run", digests)
                faults += tell("full", run, fill_disk(run, disk, options.full, size, draw))
            finally:
                disk.remove()
    finally:
        if not options.folder:
            shutil.rmtree(place, ignore_errors=True)
    sys.exit(f"{faults} faults" if faults else 0)


def tell(name, run, rows):
    """Print what came of a way of disturbing a run → how many faults."""
    run.check_whole()
    run.compare()
    table = pd.DataFrame(rows)
    print(f"\n{name}: {len(rows)} times, {run.ends} runs to the end, {len(run.faults)} faults")
    print(f"{table.to_string(index=False)}\n", flush=True)
    return len(run.faults)


if __name__ == "__main__":
    main()

"""Stage folders: where a notebook of a run finds its inputs and leaves its results.

A run has one folder per stage, `<run_folder>/<NN_stage>/`, and stages meet only there: `notebook.ipynb` (executed),
`params.json`, `manifest.json`, `history.csv`, artefacts, `figures/`, and `metrics.json`, written last: its presence
means finished. A stage's key is the hash of its own parameters, the data's fingerprint and the keys of all stages
before it; what lies in its folder under another key is never used.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import ParameterError, UserError
from .files import atomic, read_json, remove_leftovers, shipped_weights, write_json
from .parameters import NOTEBOOKS, checked, declared_parameters, stage_notebooks
from .progress import Progress

ROOT = NOTEBOOKS.parent
WITHOUT_EFFECT = {"device", "workers", "run_folder", "photograph"}  # do not enter a stage's key: results stay
WITHOUT_KEY = {"data_root", *WITHOUT_EFFECT}  # the data have a fingerprint, wherever they lie
PACKAGES = ("weaktr", "torch", "torchvision", "timm", "numpy", "pandas", "papermill")
RUNNER = "WEAKTR_RUNNER"  # set by `weaktr.runs.run` in its kernels: the folder of the notebooks
MOST_ROWS = 40  # of a stage's results that are printed


def resolve(path):
    """`path` as an absolute Path; a relative one starts at the repository's root, wherever the kernel runs."""
    return ROOT / Path(path).expanduser()


def stage_key(parameters, fingerprint, inputs):
    """The key of a stage: sha256 over its parameters, the data's fingerprint and the stage folders before it.

    Pretrained weights from a file, given or shipped, enter by their content.
    """
    effective = {name: value for name, value in parameters.items() if name not in WITHOUT_KEY}
    for prefix in ("", "seg_"):
        backbone, given = parameters.get(f"{prefix}backbone"), parameters.get(f"{prefix}weights")
        weights = resolve(given) if given else shipped_weights(backbone)
        if weights.is_file():
            effective[f"{prefix}weights"] = _content(weights, weights.stat().st_mtime_ns)
    made = [identity(folder) for folder in inputs]
    return hashlib.sha256(json.dumps([effective, fingerprint, made], sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=16)
def _content(path, changed):
    """The hash of a file as it was when it was last changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_digest(notebook):
    """The hash of a notebook and of the package: not in the key, as most changes of code leave results as they are."""
    files = sorted(path for path in (notebook, *Path(__file__).parent.rglob("*.py")) if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def identity(folder):
    """Key and birth of the finished stage in `folder`, new whenever it is made again; None where unfinished."""
    manifest = read_json(folder / "manifest.json")
    return [manifest.get("key"), manifest.get("made")] if (folder / "metrics.json").exists() else None


def finished_key(folder):
    """The key under which the stage in `folder` was finished; None where it was not."""
    return read_json(folder / "manifest.json").get("key") if (folder / "metrics.json").exists() else None


def stale(folder):
    """Whether the finished stage in `folder` was made from other weights or earlier stages than lie there now.

    The data are taken to be what they were. A stage that reads sweeps has its inputs elsewhere and is never stale.
    """
    parameters, manifest = read_json(folder / "params.json"), read_json(folder / "manifest.json")
    fingerprint = manifest.get("data_fingerprint", "") if "dataset" in parameters else ""
    before = [other for other in sorted(folder.parent.glob("[0-9][0-9]_*")) if other.name < folder.name]
    return "sweeps" not in parameters and manifest.get("key") != stage_key(parameters, fingerprint, before)


def data_source(values):
    """Of the data set that the parameters name: its `ids`, each list read once, and its fingerprint; else None."""
    from .data import open_dataset

    dataset = open_dataset(values["dataset"], values.get("data_root", "")) if "dataset" in values else None
    return dataset and (functools.cache(dataset.ids), dataset.fingerprint())


def data_fingerprint(values, source):
    """What a stage's data are: the fingerprint of their set and that of the lists which its parameters name."""
    from .data import LISTS, read_named

    if source is None or "dataset" not in values:
        return ""
    ids = [read_named(source[0], values, name) for name in LISTS if name in values]
    return f"{source[1]}-{hashlib.sha256(repr(ids).encode()).hexdigest()[:16]}"


def remove(folder):
    """Take a folder away in one step, whatever happens next, then delete it, with what killed processes left of it."""
    folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.gone"))
    for gone in folder.parent.glob(f".{folder.name}.*.gone"):
        shutil.rmtree(gone, ignore_errors=True)


def hold(folder, file):
    """Lock a run's or a stage's `folder` by `file` → the lock, held until its `with` ends; a process may hold it twice.

    Raises UserError for a folder in which another process is at work, and for one that cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(file, is_singleton=True).acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder}: another run is at work there; wait for it, or choose another run_folder") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); make room, or choose another run_folder") from error


def prepare(folder, key, facts, clear=False):
    """Makes `folder` hold only what was made under `key`, for an unfinished stage to resume from; nothing if `clear`.

    Files that a killed process left half written are deleted. Starts its manifest with `facts`, its key and its birth.
    → the folder's lock, as from `hold`. Raises UserError for a folder with files that no run made, and as `hold` does.
    """
    lock = hold(folder, folder.with_name(f".{folder.name}.lock"))
    try:
        before = read_json(folder / "manifest.json")
        if folder.exists() and any(folder.iterdir()):
            if not (folder / "manifest.json").exists():
                raise UserError(f"{folder}: files but no manifest.json, so no run made it; choose another run_folder")
            if clear or before.get("key") != key:
                remove(folder)
                before = {}
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        made = {"stage": folder.name, "key": key, "made": uuid.uuid4().hex}
        write_json(folder / "manifest.json", made | facts | before)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); make room, or choose another run_folder") from error
    return lock


def worth_keeping(folder, key):
    """What is lost if a stage is made under `key`: "a finished" or "an unfinished" one of another, or nothing ("")."""
    if read_json(folder / "manifest.json").get("key") == key:
        return ""
    if finished_key(folder) is not None:
        return "a finished"
    of_any = {"manifest.json", "params.json", "notebook.ipynb"}
    made = (path for path in folder.rglob("*") if path.parent != folder / "figures" and path.name not in of_any)
    return "an unfinished" if any(path.is_file() for path in made) else ""


def changes(folder, parameters):
    """What differs between a stage's folder and `parameters`, in words, for the person whose results are at stake."""
    before = read_json(folder / "params.json")
    names = [n for n, value in parameters.items() if n not in WITHOUT_KEY and before.get(n, value) != value]
    text = ", ".join(f"{name} {before[name]!r} → {parameters[name]!r}" for name in names)
    return text or "an earlier stage, the data or the weights changed"


def interactive():
    """Whether a person runs the notebook; False under the runner, where widgets would be in the way."""
    return RUNNER not in os.environ


def open_stage(name, namespace):
    """The Stage of notebook `name`; call it right after the parameters cell with `globals()`.

    Takes the declared parameters out of `namespace`, writes params.json and starts manifest.json; those of a finished
    stage stay as they are until it finishes anew. By hand, what was made with other parameters, finished or half
    trained, is never cleared: that raises UserError and says what differs.
    Raises ParameterError for a missing parameter or one of the wrong type.
    """
    notebooks = Path(os.environ.get(RUNNER, NOTEBOOKS))
    declared = declared_parameters(notebooks / f"{name}.ipynb")
    if missing := [parameter for parameter in declared if parameter not in namespace]:
        raise ParameterError(f"{name}: {', '.join(missing)} not set; run the parameters cell first")
    values = {
        parameter: checked(parameter, namespace[parameter], kind, default if kind is list else ())
        for parameter, (kind, default, _) in declared.items()
    }
    folder, lock = resolve(values["run_folder"]) / name, None
    if interactive():
        before = [path.stem for path in stage_notebooks(notebooks) if path.stem < name]
        fingerprint = data_fingerprint(values, data_source(values))
        key = stage_key(values, fingerprint, [folder.parent / other for other in before])
        if lost := worth_keeping(folder, key):
            raise UserError(
                f"{folder} holds {lost} stage ({changes(folder, values)}); choose another run_folder and copy the "
                "folders of the stages before it there, or delete this one if it is not needed"
            )
        if finished_key(folder) is None:
            lock = prepare(folder, key, {"data_fingerprint": fingerprint, "preset": ""})
    return Stage(name, folder, values, lock)


class Stage:
    """One stage's folder while its notebook runs.

    name: as the notebook, "01_cam_training". folder, figures: Path. parameters: {name: value}. lock: as from `hold`,
    until the stage is finished.
    """

    def __init__(self, name, folder, parameters, lock=None):
        self.name, self.folder, self.parameters, self._lock = name, folder, parameters, lock
        self.figures = folder / "figures"
        self.figures.mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()
        self._manifest = read_json(folder / "manifest.json")
        if finished_key(folder) is None:
            notebook = Path(os.environ.get(RUNNER, NOTEBOOKS)) / f"{name}.ipynb"
            own = {"seed": parameters.get("seed"), "start": _now(), "code": code_digest(notebook)}
            if "start" in self._manifest:  # an earlier pass did not come to its end
                earlier = {name: self._manifest[name] for name in ("start", "git", "code")}
                own["passes"] = [*self._manifest.get("passes", []), earlier]
            self._manifest |= environment() | own
            self._write()

    def __getstate__(self):
        """For a process of its own, which shows progress and holds no lock."""
        return vars(self) | {"_lock": None}

    def _write(self):
        write_json(self.folder / "params.json", self.parameters)
        write_json(self.folder / "manifest.json", self._manifest)

    @property
    def origin(self):
        """What a checkpoint made here says of its making: preset, data fingerprint and seed."""
        return {name: self._manifest[name] for name in ("preset", "data_fingerprint", "seed")}

    def input(self, name):
        """The folder of the finished stage `name` of this run. Raises UserError where it is not finished."""
        folder = self.folder.parent / name
        if finished_key(folder) is None:
            raise UserError(f"{folder}: {self.name} needs the finished stage {name}; run notebook {name} first")
        return folder

    def show(self, figure, name, table=None, *, shown=True):
        """Saves a matplotlib figure as figures/<name>.png (150 dpi) and .pdf, displays it if `shown`, and closes it.

        table: the DataFrame that it draws, saved as figures/<name>.csv; its index too where that has a name.
        """
        import matplotlib.pyplot as plt
        from IPython.display import Image, display

        for suffix, facts in (("png", None), ("pdf", {"CreationDate": None})):
            with atomic(self.figures / f"{name}.{suffix}") as path:
                figure.savefig(path, dpi=150, metadata=facts)
            figure.set_layout_engine("none")  # keeps the layout that the first found: it takes as long as drawing
        plt.close(figure)
        if table is not None:
            with atomic(self.figures / f"{name}.csv") as path:
                table.to_csv(path, index=table.index.name is not None)
        if shown:
            display(Image(data=(self.figures / f"{name}.png").read_bytes()))

    def progress(self, total, unit="images", label="", of=""):
        """A Progress whose lines start with the stage's name, what it is `of`, and `label`."""
        return Progress(" · ".join(filter(None, (self.name, of, label))), total, unit)

    def finish(self, records):
        """Writes metrics.json, which marks the stage finished, completes the manifest and prints the results.

        The manifest of a stage that was finished before stays: it says what made its files, and nothing made them anew.
        records: dicts with list, list_size, metric and value, and where they apply threshold, threshold_from, scales,
        crf and oracle (True: pixel masks had a part in it). Raises ValueError where one of the four is missing.
        """
        rest = {"threshold": None, "threshold_from": None, "scales": None, "crf": None, "oracle": False}
        records = [{"stage": self.name} | rest | record for record in records]
        for record in records:
            if missing := {"list", "list_size", "metric", "value"} - record.keys():
                raise ValueError(f"metrics record {record} lacks {', '.join(sorted(missing))}")
        if finished_key(self.folder) is None:
            spent = self._manifest.get("seconds", 0) + time.monotonic() - self._start  # with passes before, same key
            ended = {"end": _now(), "seconds": round(spent, 1)}
            self._manifest |= _usage(self.parameters.get("device", "auto")) | ended
        self._write()
        write_json(self.folder / "metrics.json", records)
        for state in self.folder.rglob("resume.pt"):  # only an unfinished training needs it
            state.unlink()
        if self._lock:
            self._lock.lock.release(force=True)
        rows = [row[1:] for row in results_rows(records)]  # the stage is known here
        few = aligned(rows) if records else "no masks, so nothing was measured"
        print(few if len(records) <= MOST_ROWS else f"{len(records)} records in metrics.json", flush=True)


def results_rows(records):
    """Metrics records as rows of texts, the head first; those in which pixel masks had a part are marked `oracle`."""
    rows = [("stage", "list (size)", "threshold (from)", "scales", "CRF", "metric", "value", "")]
    for record in records:
        threshold = "–" if record["threshold"] is None else f"{record['threshold']:.3g} ({record['threshold_from']})"
        published = record.get("published")
        scales = record["scales"] if isinstance(record["scales"], list | tuple) else [record["scales"]]
        rows.append(
            (
                record["stage"],
                f"{record['list']} ({record['list_size']})",
                threshold,
                ", ".join("–" if scale is None else str(scale) for scale in scales),
                {None: "–", True: "yes", False: "no"}.get(record["crf"], str(record["crf"])),
                record["metric"],
                f"{record['value']:.2f}" if isinstance(record["value"], float) else str(record["value"]),
                " · ".join(["oracle"] * bool(record["oracle"]) + ([f"published {published}"] if published else [])),
            )
        )
    return rows


def aligned(rows):
    """Rows of texts as lines with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments):
    """What git says of the repository; None where there is no git, or no repository."""
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def environment():
    """Code, versions and machine, for the manifest."""
    import psutil

    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!papermill_runs", ":!figures")  # results
    models = []
    with contextlib.suppress(OSError):
        models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)},
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "hardware": {
            "cpu": models[0] if models else platform.processor(),
            "cores": cores(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
    }


def _usage(device):
    """Peak memory of this process and its largest child, threads, what precision "auto" stood for, the GPU's use."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit
    usage = {"peak_memory_mb": round(peak / 1e6)}
    if torch := "weaktr.models" in sys.modules and sys.modules["torch"]:  # else no network took part
        from .train_cam import auto_precision, pick_device

        usage |= {"threads": torch.get_num_threads(), "auto_precision": auto_precision(pick_device(device))}
    if torch and torch.cuda.is_available():
        usage |= {"gpu": torch.cuda.get_device_name(), "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6)}
    return usage

"""Stage folders: where a notebook of a run finds its inputs and leaves its results.

A run has one folder per stage, `<run_folder>/<NN_stage>/`, and stages meet only there: `notebook.ipynb` (executed),
`params.json`, `manifest.json`, `history.csv`, artefacts, `figures/`, and `metrics.json`, written last: its presence
means finished. A stage's key is the hash of its own parameters, the data's fingerprint and the keys of all stages
before it; what lies in its folder under another key is never used.
"""

import os
import shutil
import time
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import ParameterError, UserError
from ..files import atomic, read_json, remove_leftovers, resolve, write_json
from ..progress import Progress
from .keys import WITHOUT_KEY, code_digest, data_fingerprint, data_source, finished_key, stage_key
from .manifest import _now, _usage, environment
from .parameters import NOTEBOOKS, checked, declared_parameters, stage_notebooks
from .text import aligned, results_rows

RUNNER = "WEAKTR_RUNNER"  # set by `weaktr.runs.run` in its kernels: the folder of the notebooks
MOST_ROWS = 40  # of a stage's results that are printed


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

"""Stage folders: where a notebook of a run finds its inputs and leaves its results.

A run has one folder per stage, `<run_folder>/<NN_stage>/`, and stages meet only there: `notebook.ipynb` (executed),
`params.json`, `manifest.json`, `history.csv`, artefacts, `figures/`, and `metrics.json`, written last: its presence
means finished. A stage's key is the hash of its own parameters, the data's fingerprint and the keys of all stages
before it; what lies in its folder under another key is never used.

Files of a stage are replaced, never rewritten in place: runs of a sweep that share a stage share its files by hard
links, and what is written into one of them would change them all.
"""

import math
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import AcquireReturnProxy, Timeout

from ..errors import ParameterError, UserError
from ..files import atomic, lock, read_json, remove_leftovers, resolve, write_json, write_table
from ..processes import shorten_tmpdir
from ..progress import Progress
from .given import GIVEN, refuse_contradictions, stages_of_run
from .keys import WITHOUT_KEY, code_digest, data_fingerprint, data_source, finished_key, stage_key
from .manifest import environment, now, usage
from .parameters import NOTEBOOKS, Parameter, checked, declared_parameters, stage_notebooks
from .text import aligned, figure_in_words, results_rows

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

RUNNER = "WEAKTR_RUNNER"  # set in the kernels of `weaktr run`: the folder of the notebooks
MOST_ROWS = 40  # of a stage's results that are printed
REQUIRED = ("list", "list_size", "metric", "value")  # of a metrics record
WHERE_THEY_APPLY = {"threshold": None, "threshold_from": None, "scales": None, "crf": None, "oracle": False}


# ── Folders ───────────────────────────────────────────────────────────────────────────────────────────────────────
def remove(folder: Path) -> None:
    """Rename a folder out of the way, which is atomic, then delete it and what earlier attempts left of it."""
    folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.gone"))
    for gone in folder.parent.glob(f".{folder.name}.*.gone"):
        shutil.rmtree(gone, ignore_errors=True)


def hold(folder: Path, file: Path) -> AcquireReturnProxy:
    """Lock the folder of a run or a stage by a file. The lock is re-entrant within a process.

    Returns:
        The lock, a context manager; it is held until its `with` ends.

    Raises:
        UserError: for a folder in which another process is at work, and for one that cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return lock(file, timeout=0)
    except Timeout as error:
        left = error.lock_file if error.lock_file.endswith(".soft.lock") else ""
        killed = f"; after one that was killed on another machine, delete {left}" if left else ""
        raise UserError(
            f"{folder}: another run is at work there; wait for it, or choose another run_folder{killed}"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} cannot be written ({error}); make room, or choose another run_folder")


def prepare(folder: Path, key: str, facts: Mapping[str, Any], clear: bool = False) -> AcquireReturnProxy:
    """Make a stage's folder hold only what was made under its key, which an unfinished stage resumes from.

    Files that a killed process left half written are deleted. The manifest begins with the key and the stage's birth.

    Args:
        folder: of the stage.
        key: as from `stage_key`.
        facts: more for the manifest, such as data_fingerprint and preset.
        clear: keep nothing.

    Returns:
        The folder's lock, as from `hold`.

    Raises:
        UserError: for a folder with files that no run made, and as `hold` does.
    """
    held = hold(folder, folder.with_name(f".{folder.name}.lock"))
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
        write_json(folder / "manifest.json", made | dict(facts) | before)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return held


def worth_keeping(folder: Path, key: str) -> str:
    """What is lost if a stage is made under `key`: "a finished" or "an unfinished" one of another, or nothing ("")."""
    if read_json(folder / "manifest.json").get("key") == key:
        return ""
    if finished_key(folder) is not None:
        return "a finished"
    of_every_stage = {"manifest.json", "params.json", "notebook.ipynb"}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in of_every_stage and path.parent != folder / "figures":
            return "an unfinished"
    return ""


def changes(folder: Path, parameters: Mapping[str, Any]) -> str:
    """What differs between a stage's folder and `parameters`, in words, for the person whose results are at stake."""
    before = dict.fromkeys(GIVEN, "") | read_json(folder / "params.json")  # old files lack them
    changed = []
    for name, value in parameters.items():
        counts = name in GIVEN or name not in WITHOUT_KEY
        if name in before and counts and before[name] != value:
            changed.append(f"{name} {before[name]!r} → {value!r}")
    return ", ".join(changed) or "an earlier stage, the data or the weights changed"


# ── A notebook's stage ────────────────────────────────────────────────────────────────────────────────────────────
def interactive() -> bool:
    """Whether a person runs the notebook; False under the runner, where widgets would be in the way."""
    return RUNNER not in os.environ


def _notebooks() -> Path:
    """The folder of the notebooks: the runner's, else that of the repository."""
    return Path(os.environ.get(RUNNER, NOTEBOOKS))


def open_stage(name: str, namespace: Mapping[str, Any]) -> "Stage":
    """The Stage of notebook `name`; call it right after the parameters cell with `globals()`.

    Takes the declared parameters out of `namespace`, writes params.json and starts manifest.json; those of a finished
    stage stay as they are until it is finished again. When a person runs the notebook, results of other parameters,
    finished or half trained, are never cleared.

    Raises:
        ParameterError: for a missing parameter or one of the wrong type.
        UserError: for a folder with results of other parameters, with what differs.
    """
    declared = declared_parameters(_notebooks() / f"{name}.ipynb")
    values = _declared_values(name, declared, namespace)
    folder = resolve(values["run_folder"]) / name
    shorten_tmpdir()
    held = _prepare_by_hand(folder, values) if interactive() else None
    return Stage(name, folder, values, held)


def _declared_values(stage: str, declared: Mapping[str, Parameter], namespace: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in declared if name not in namespace]
    if missing:
        raise ParameterError(f"{stage}: {', '.join(missing)} not set; run the parameters cell first")
    return {name: checked(name, namespace[name], parameter) for name, parameter in declared.items()}


def _prepare_by_hand(folder: Path, values: Mapping[str, Any]) -> AcquireReturnProxy | None:
    """What the runner does before it starts a notebook. None for a finished stage, which is only inspected."""
    refuse_contradictions(values)
    stages = stages_of_run([path.stem for path in stage_notebooks(_notebooks())], values)
    before = [folder.parent / stage for stage in stages if stage < folder.name]
    fingerprint = data_fingerprint(values, data_source(values))
    key = stage_key(values, fingerprint, before)
    lost = worth_keeping(folder, key)
    if lost:
        raise UserError(
            f"{folder} holds {lost} stage ({changes(folder, values)}); choose another run_folder and copy the "
            "folders of the stages before it there, or delete this one if it is not needed"
        )
    if finished_key(folder) is not None:
        return None
    if values.get("label_folder") and "train_list" in values:
        from .given_labels import check_given_labels  # takes half a second to import, for one parameter of one stage

        check_given_labels(values)
    return prepare(folder, key, {"data_fingerprint": fingerprint, "preset": ""})


class Stage:
    """One stage's folder while its notebook runs.

    Attributes:
        name: as the notebook, "01_cam_training".
        folder: of the stage.
        figures: the folder of its figures.
        parameters: {name: value}.
    """

    def __init__(
        self, name: str, folder: Path, parameters: dict[str, Any], lock: AcquireReturnProxy | None = None
    ) -> None:
        """Starts the manifest of a stage that is not finished. lock: as from `hold`, released by `finish`."""
        self.name = name
        self.folder = folder
        self.figures = folder / "figures"
        self.parameters = parameters
        self._lock = lock
        self._device: torch.device | None = None  # once the notebook asked for one
        self._start = time.monotonic()
        self._records: list[dict[str, Any]] = []
        self._manifest = read_json(folder / "manifest.json")
        self.figures.mkdir(parents=True, exist_ok=True)
        if finished_key(folder) is None:
            self._begin_manifest()

    def _begin_manifest(self) -> None:
        code = code_digest(_notebooks() / f"{self.name}.ipynb")
        own: dict[str, Any] = {"seed": self.parameters.get("seed"), "start": now(), "code": code}
        if "start" in self._manifest:  # an earlier pass did not come to its end
            earlier = {name: self._manifest[name] for name in ("start", "git", "code")}
            own["passes"] = [*self._manifest.get("passes", []), earlier]
        self._manifest |= environment() | own
        self._write()

    def _write(self) -> None:
        write_json(self.folder / "params.json", self.parameters)
        write_json(self.folder / "manifest.json", self._manifest)

    def __getstate__(self) -> dict[str, Any]:
        """For a process of its own, which shows progress and holds no lock."""
        return vars(self) | {"_lock": None}

    @property
    def origin(self) -> dict[str, Any]:
        """What a checkpoint made here says of its making: preset, data fingerprint and seed."""
        return {name: self._manifest[name] for name in ("preset", "data_fingerprint", "seed")}

    def input(self, name: str) -> Path:
        """The folder of the finished stage `name` of this run. Raises UserError where it is not finished."""
        folder = self.folder.parent / name
        if finished_key(folder) is None:
            raise UserError(f"{folder}: {self.name} needs the finished stage {name}; run notebook {name} first")
        return folder

    def device(self, name: str) -> "torch.device":
        """The device on which this stage's networks run; the manifest will tell of it.

        Args:
            name: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:1".

        Raises:
            ParameterError: for a device that this machine does not have.
        """
        from ..device import pick_device  # not above: a stage without networks must not wait for torch

        self._device = pick_device(name)
        return self._device

    def processes(self, asked: int) -> int:
        """How many processes share this stage's networks and lists, once its `device` is known.

        Args:
            asked: 0 for one per visible GPU, and for one on a CPU.

        Raises:
            ParameterError: for more than this machine has GPUs, or cores.
        """
        from ..ranks import wanted

        assert self._device is not None, "call device first"
        return wanted(asked, self._device)

    def progress(self, total: int, unit: str = "images", label: str = "", of: str = "") -> Progress:
        """A Progress whose lines start with the stage's name, what it is `of`, and `label`."""
        return Progress(" · ".join(filter(None, (self.name, of, label))), total, unit)

    def show(self, figure: "Figure", name: str, table: "pd.DataFrame | None" = None, *, shown: bool = True) -> None:
        """Save a figure as figures/<name>.png (150 dpi) and .pdf, display it if `shown`, and close it.

        The notebook keeps the figure's name and what is written in it beside the picture, for `weaktr report`.

        Args:
            figure: of matplotlib.
            name: of its files, without ending.
            table: what the figure draws, saved as figures/<name>.csv; with its index where that has a name.
            shown: whether the notebook shows it.
        """
        import matplotlib.pyplot as plt
        from IPython.display import Image, display

        if table is not None:  # the numbers first: they are there whatever becomes of the picture
            write_table(table, self.figures / f"{name}.csv", index=table.index.name is not None)
        for suffix, facts in (("png", None), ("pdf", {"CreationDate": None})):
            with atomic(self.figures / f"{name}.{suffix}") as path:
                figure.savefig(path, dpi=150, metadata=facts)
            figure.set_layout_engine("none")  # keeps the layout that the first found: it takes as long as drawing
        plt.close(figure)
        if shown:
            picture = (self.figures / f"{name}.png").read_bytes()
            display(Image(data=picture, metadata={"figure": name} | figure_in_words(figure)))

    def write_table(self, table: "pd.DataFrame", name: str, index: bool = False) -> None:
        """Save a table as <name>.csv in the stage's folder, in place of an earlier one.

        Args:
            table: of pandas.
            name: of the file, without ending.
            index: whether to save the index too.
        """
        write_table(table, self.folder / f"{name}.csv", index)

    def record(  # noqa: PLR0913  (all that tells a number from others, each by its name)
        self,
        metric: str,
        value: float,
        *,
        on: str,
        size: int,
        crf: bool | None = None,
        oracle: bool = False,
        threshold: float | None = None,
        threshold_from: str | None = None,
        scales: Sequence[float] | None = None,
        mirrored: bool | None = None,
        counts: str = "",
    ) -> dict[str, Any]:
        """One number for `finish`, with all that it depends on.

        It is written to records.json at once, where it is found if what is drawn of it fails.

        Args:
            metric: what was measured, "mIoU of mask".
            value: of the metric, a share in percent.
            on: the list of images that it was measured on.
            size: how many images the list has.
            crf: whether the masks were refined by a CRF; None where that does not apply.
            oracle: whether pixel masks had a part in it, other than measuring.
            threshold: the background score, where there is one.
            threshold_from: how that was chosen.
            scales: of the images that maps or predictions were summed over.
            mirrored: whether each scale was also mirrored.
            counts: the name in the stage's counts.npz of the pixels behind the value.

        Raises:
            ValueError: for a record without metric, list or images, and for a threshold without its origin.
        """
        if not isinstance(metric, str) or not metric or not isinstance(on, str) or not on:
            raise ValueError(f"a record needs a metric and a list; given are {metric!r} and {on!r}")
        if size < 1:
            raise ValueError(f"{metric}: list {on} has {size} images; a value is measured on at least one")
        if (threshold is None) != (threshold_from is None):
            raise ValueError(f"{metric}: threshold {threshold!r} is from {threshold_from!r}; give both or none")
        record = {
            "stage": self.name,
            "list": on,
            "list_size": int(size),
            "metric": metric,
            "value": float(value),
            "threshold": None if threshold is None else float(threshold),
            "threshold_from": threshold_from,
            "scales": None if scales is None else list(scales),
            "crf": None if crf is None else bool(crf),
            "oracle": bool(oracle),
        }
        if mirrored is not None:
            record["mirrored"] = bool(mirrored)
        if counts:
            record["counts"] = counts
        self._records.append(record)
        write_json(self.folder / "records.json", self._records)
        return record

    def finish(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write metrics.json, which marks the stage finished, complete the manifest and print the results.

        What could not be measured, as its value says that is no finite number, is printed and left out. The manifest of
        a stage that was finished before stays: it says what made its files, and none was recomputed.

        Args:
            records: as from `record`, or dicts with list, list_size, metric and value, and where they apply threshold,
                threshold_from, scales, crf and oracle.

        Raises:
            ValueError: where a record lacks one of the first four.
        """
        records = [{"stage": self.name} | WHERE_THEY_APPLY | dict(record) for record in records]
        for record in records:
            missing = sorted(set(REQUIRED) - record.keys())
            if missing:
                raise ValueError(f"metrics record {record} lacks {', '.join(missing)}")
        measured = [record for record in records if math.isfinite(record["value"])]
        if finished_key(self.folder) is None:
            self._end_manifest()
        self._write()
        write_json(self.folder / "metrics.json", measured)
        (self.folder / "records.json").unlink(missing_ok=True)
        for state in self.folder.rglob("resume.pt"):  # only an unfinished training needs it
            state.unlink()
        if self._lock:
            self._lock.lock.release(force=True)
        _print_results(measured, [record for record in records if record not in measured])

    def _end_manifest(self) -> None:
        seconds = self._manifest.get("seconds", 0)  # of earlier passes under the same key
        seconds += time.monotonic() - self._start
        self._manifest |= usage(self._device) | {"end": now(), "seconds": round(seconds, 1)}


def _print_results(records: Sequence[Mapping[str, Any]], unknown: Sequence[Mapping[str, Any]]) -> None:
    """The records as a table, without the stage, which is known; a long one is only counted. Then what is not known."""
    if unknown:
        named = dict.fromkeys(f"{record['metric']} on {record['list']} ({record['list_size']})" for record in unknown)
        print(f"could not be measured, as the list lacks what it needs: {', '.join(named)}")
    if not records:
        text = (
            "nothing else was measured" if unknown else "nothing was measured: no masks, or nothing that they can tell"
        )
    elif len(records) > MOST_ROWS:
        text = f"{len(records)} records in metrics.json"
    else:
        text = aligned([row[1:] for row in results_rows(records)])
    print(text, flush=True)

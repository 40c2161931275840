"""The key of a stage: the hash of everything that its result depends on."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..data import LISTS, open_dataset, read_named
from ..files import read_json, shipped_weights, stage_folders, weights_file
from .given import GIVEN, contents, file_hash, stages_of_run

WITHOUT_EFFECT = {
    "device",
    "workers",
    "processes",
    "run_folder",
    "photograph",
}  # another value of these makes no result stale
# The data enter by their fingerprint and what is given by its content, wherever they lie.
WITHOUT_KEY = {"data_root", *GIVEN, *WITHOUT_EFFECT}
# Parameters that came later, with the value at which a stage does what it did before: then they are in no key either,
# and finished runs stay finished.
AS_BEFORE: dict[str, Any] = {"cam_balanced": False, "seg_start": "pretrained"}


class DataSource(NamedTuple):
    """The data set that a run's parameters name."""

    ids: Callable[[str], list[str]]  # of a list's name; each list is read once
    fingerprint: str


def starting_weights(values: Mapping[str, Any], step: int) -> tuple[str, str]:
    """What the training of a step starts from.

    Step 2 has the backbone and the weights of step 1 unless it names its own. A backbone of its own never starts from
    the weights of step 1, which are another network's.

    Args:
        values: {name: value} of a run's or a stage's parameters.
        step: 1 or 2.

    Returns:
        The name of the backbone and the file of its weights, "" for the shipped or downloaded ones.
    """
    backbone, weights = values.get("backbone", ""), values.get("weights", "")
    if step == 1:
        return backbone, weights
    own_backbone, own_weights = values.get("seg_backbone", ""), values.get("seg_weights", "")
    if own_backbone:
        return own_backbone, own_weights
    return backbone, own_weights or weights


def stage_key(parameters: Mapping[str, Any], fingerprint: str, inputs: Iterable[Path]) -> str:
    """The key of a stage, a sha256.

    Args:
        parameters: {name: value} of the stage.
        fingerprint: as from `data_fingerprint`.
        inputs: the folders of all stages of its run before it.
    """
    effective = {name: value for name, value in parameters.items() if name not in WITHOUT_KEY}
    for name, value in AS_BEFORE.items():
        if effective.get(name) == value:
            del effective[name]
    effective |= _weights_by_content(parameters) | contents(parameters)
    made = [identity(folder) for folder in inputs]
    return hashlib.sha256(json.dumps([effective, fingerprint, made], sort_keys=True).encode()).hexdigest()


def _weights_by_content(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The hash of each file of pretrained weights, given or shipped, under the parameter that names it."""
    starts = {"weights": starting_weights(parameters, step=1)}
    if parameters.get("seg_backbone") or parameters.get("seg_weights"):  # else step 2 starts from what step 1 does
        starts["seg_weights"] = starting_weights(parameters, step=2)
    found = {}
    for name, (backbone, given) in starts.items():
        file, part = weights_file(given) if given else (shipped_weights(backbone), "")
        if file.is_file():
            found[name] = file_hash(file) + part
    return found


def code_digest(notebook: Path) -> str:
    """The hash of a notebook and of the package: not in the key, as most changes of code leave results as they are."""
    package = Path(__file__).parents[1]
    files = sorted(path for path in (notebook, *package.rglob("*.py")) if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def finished_key(folder: Path) -> str | None:
    """The key under which the stage in `folder` was finished; None where it was not."""
    return read_json(folder / "manifest.json").get("key") if (folder / "metrics.json").exists() else None


def identity(folder: Path) -> list[str | None] | None:
    """Key and birth of the finished stage in `folder`, new whenever it is made again; None where it is unfinished."""
    if not (folder / "metrics.json").exists():
        return None
    manifest = read_json(folder / "manifest.json")
    return [manifest.get("key"), manifest.get("made")]


def stale(folder: Path) -> bool:
    """Whether the finished stage in `folder` was made from other weights or earlier stages than lie there now.

    The data are assumed not to have changed. A stage that reads sweeps has its inputs elsewhere and is never stale.
    """
    parameters = read_json(folder / "params.json")
    if "sweeps" in parameters:
        return False
    manifest = read_json(folder / "manifest.json")
    fingerprint = manifest.get("data_fingerprint", "") if "dataset" in parameters else ""
    made = stages_of_run([other.name for other in stage_folders(folder.parent)], parameters)
    before = [folder.parent / other for other in made if other < folder.name]
    return manifest.get("key") != stage_key(parameters, fingerprint, before)


def data_source(values: Mapping[str, Any]) -> DataSource | None:
    """The data set that the parameters name; None where they name none."""
    if "dataset" not in values:
        return None
    dataset = open_dataset(values["dataset"], values.get("data_root", ""))
    return DataSource(functools.cache(dataset.ids), dataset.fingerprint())


def data_fingerprint(values: Mapping[str, Any], source: DataSource | None) -> str:
    """What a stage's data are: the fingerprint of the data set and that of the lists which its parameters name.

    Args:
        values: {name: value} of the stage's parameters.
        source: as from `data_source`, read once for all stages of a run.

    Returns:
        The two fingerprints, joined; "" for a stage that reads no data set.

    Raises:
        DataError: for a list that cannot be read, with the parameter that names it.
    """
    if source is None or "dataset" not in values:
        return ""
    ids = [read_named(source.ids, values, name) for name in LISTS if name in values]
    return f"{source.fingerprint}-{hashlib.sha256(repr(ids).encode()).hexdigest()[:16]}"

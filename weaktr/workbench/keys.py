"""The key of a stage: the hash of everything that its result depends on."""

import functools
import hashlib
import json
from pathlib import Path

from ..files import read_json, resolve, shipped_weights

WITHOUT_EFFECT = {"device", "workers", "run_folder", "photograph"}  # do not enter a stage's key: results stay
WITHOUT_KEY = {"data_root", *WITHOUT_EFFECT}  # the data have a fingerprint, wherever they lie


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
    files = sorted(path for path in (notebook, *Path(__file__).parents[1].rglob("*.py")) if path.is_file())
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
    from ..data import open_dataset

    dataset = open_dataset(values["dataset"], values.get("data_root", "")) if "dataset" in values else None
    return dataset and (functools.cache(dataset.ids), dataset.fingerprint())


def data_fingerprint(values, source):
    """What a stage's data are: the fingerprint of their set and that of the lists which its parameters name."""
    from ..data import LISTS, read_named

    if source is None or "dataset" not in values:
        return ""
    ids = [read_named(source[0], values, name) for name in LISTS if name in values]
    return f"{source[1]}-{hashlib.sha256(repr(ids).encode()).hexdigest()[:16]}"

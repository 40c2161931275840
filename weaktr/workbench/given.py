"""What a run is given instead of making it: networks that were trained before, and labels of another method.

    trained_cam        a checkpoint of step 1: notebook 01 trains nothing
    trained_segmenter  a checkpoint of step 2: notebook 04 trains nothing, and the run begins there
    label_folder       labels of another method: step 2 learns from them, and the run begins with notebook 04

Each is part of a stage's key by its content, wherever it lies; where it is empty, the key is what it was before there
was such a parameter.
"""

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from ..files import resolve

Values = Mapping[str, Any]  # parameters by name

GIVEN = ("trained_cam", "trained_segmenter", "label_folder")
STEP_1 = "01_cam_training"
STEP_2 = "04_online_retraining"


# ── What is left to make ──────────────────────────────────────────────────────────────────────────────────────────
def stages_of_run(stages: Iterable[str], values: Values) -> list[str]:
    """Those of `stages` that a run with these parameters has: without 01 to 03 where step 2 does not need them."""
    first = STEP_2 if values.get("label_folder") or values.get("trained_segmenter") else ""
    return [stage for stage in stages if stage >= first]


def makes_cams(values: Values) -> bool:
    """Whether a run has step 1: makes CAMs and, of them, labels."""
    return STEP_1 in stages_of_run([STEP_1], values)


def trains(values: Values, step: int) -> bool:
    """Whether a run trains the network of a step, 1 or 2."""
    if step == 1:
        return makes_cams(values) and not values.get("trained_cam")
    return not values.get("trained_segmenter")


def steps_to_train(values: Values, stages: Collection[str]) -> list[int]:
    """The steps, 1 or 2, whose networks are trained by some stages of a run."""
    return [step for step, stage in ((1, STEP_1), (2, STEP_2)) if stage in stages and trains(values, step)]


def refuse_contradictions(values: Values) -> None:
    """Raise ParameterError where one of what is given would not be used."""
    given = [name for name in GIVEN if values.get(name)]
    if len(given) > 1:
        raise ParameterError(
            f"parameters {' and '.join(given)}: a run uses one of them, since one makes the other needless; give each "
            "in a run of its own"
        )
    if values.get("label_folder") and values.get("oracle_noise", -1) >= 0:
        raise ParameterError(
            f"parameter label_folder: with oracle_noise {values['oracle_noise']} step 2 learns from masks and not from "
            "labels; leave one of them out"
        )
    if values.get("seg_start") == "cam":
        needless = ("label_folder", "trained_segmenter", "seg_backbone", "seg_weights")
        for name in needless:
            if values.get(name):
                raise ParameterError(
                    f"parameter {name}: with seg_start=cam step 2 starts from the network that step 1 of the same run "
                    "has trained; leave one of them out"
                )


# ── By content ────────────────────────────────────────────────────────────────────────────────────────────────────
def contents(values: Values) -> dict[str, str]:
    """The hash of each file or folder that is given, by its parameter; the path where nothing is there."""
    found = {}
    for name in GIVEN:
        if values.get(name):
            path = resolve(values[name])
            if path.is_dir():
                found[name] = _folder_hash(path)
            else:
                found[name] = file_hash(path) if path.is_file() else values[name]
    return found


def file_hash(path: Path) -> str:
    """The hash of a file."""
    return _hash((path, path.stat().st_mtime_ns))


def _folder_hash(folder: Path) -> str:
    """The hash of all PNGs below a folder, by their paths from there."""
    files = sorted(path for path in folder.rglob("*.png") if path.is_file())
    return _hash(*((path, path.stat().st_mtime_ns) for path in files), folder=folder)


@functools.lru_cache(maxsize=16)
def _hash(*files: tuple[Path, int], folder: Path | None = None) -> str:
    """The hash of files as they were when they were last changed, with their paths from a folder."""
    digest = hashlib.sha256()
    for path, _ in files:
        if folder:
            digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()

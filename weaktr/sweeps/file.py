"""Sweep files: what to start from, what to vary, what to read off, in one small TOML file.

title = "Gradient clipping"
question = "Does clipping help?"           # a paragraph for notebook 06
preset = "demo"                            # what all runs start from
stages = ["01", "02", "03", "04", "05"]    # left out: all
seeds = [504, 505, 506]
baseline = "on"                            # what the others are compared with; left out: the first. Beside a grid, a
                                           # variant's name compares it with the others at the same values of the grid
[set]                                      # overrides of all runs
train_ceiling = false
[variants.on]                              # named overrides …
[variants.off]
clip_scope = "none"
[grid]                                     # … and/or lists of values, of which every combination is run
clip_cell = [24, 48]
[[measure]]                                # what to read off metrics.json; the first one is the sweep's figure
label = "mask on val"
stage = "05_evaluation"
metric = "mIoU of mask"
list = "val"
crf = false
"""

import itertools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..errors import ParameterError, near
from ..files import resolve
from ..workbench import presets
from ..workbench.keys import WITHOUT_EFFECT
from ..workbench.parameters import NOTEBOOKS, catalogue, check_parameters
from ..workbench.runner import select

SWEEPS = "papermill_runs/sweeps"
KEYS = ("title", "question", "preset", "stages", "seeds", "baseline", "set", "variants", "grid", "measure")
LABEL = r"(?!\.)[\w.=,+ -]+"  # what may be a folder's name
MEASURE_KEYS = ("label", "stage", "metric", "list", "list_size", "crf", "oracle", "threshold_from")


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file; `overrides` holds every variant's parameters by its name."""

    name: str
    title: str
    question: str
    preset: str
    stages: tuple
    seeds: tuple
    baseline: str
    overrides: dict
    baselines: dict  # variant → the one it is compared with
    measures: tuple
    folder: Path


def read_sweep(source, name="", *, root=SWEEPS, notebooks=NOTEBOOKS):
    """A Sweep from a TOML file, named <preset>_<file>, or from the same as a dict, in a notebook cell, and a `name`.

    Raises ParameterError naming file, key and remedy for anything that could not run; nothing is started or written.
    """
    if not isinstance(source, dict):
        path = Path(source)
        try:
            source = tomllib.loads(path.read_text(encoding="utf-8"))
            name = name or f"{source.get('preset', 'demo')}_{path.stem}"
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ParameterError(f"sweep {path}: cannot be read ({error})") from error
    where = f"sweep {name}"
    if not re.fullmatch(LABEL, name):
        raise ParameterError(f"{where}: its name becomes a folder's; give one of letters, digits and . = , + -")
    for key in source:
        if key not in KEYS:
            raise ParameterError(f"{where}: unknown entry {key!r}{near(key, KEYS)}; there are {', '.join(KEYS)}")
    _check_shape(where, source)
    declared = catalogue(notebooks)
    preset = source.get("preset", "demo")
    try:
        base = presets.get(preset).parameters | source.get("set", {})
        stages = tuple(select(source.get("stages"), declared))
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from error
    variants, grid = source.get("variants", {}), source.get("grid", {})
    for parameter, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"{where}: grid.{parameter} is {values!r}; give a list of at least one value")
    overrides, baselines, baseline = {}, {}, source.get("baseline")
    for label, own in (variants or {"": {}}).items():
        for combination in itertools.product(*grid.values()):
            chosen = dict(zip(grid, combination))
            overrides[_name(label, chosen)] = base | own | chosen
            baselines[_name(label, chosen)] = _name(baseline, chosen) if baseline in variants else baseline
    seen = {}
    for label, parameters in overrides.items():
        if not re.fullmatch(LABEL, label):
            raise ParameterError(f"{where}: variant {label!r} is a folder's name; use letters, digits and . = , + -")
        try:
            values = check_parameters(parameters, declared)
        except ParameterError as error:
            raise ParameterError(f"{where}, variant {label!r}: {error}") from error
        read = {parameter for stage in stages for parameter in declared[stage]} - WITHOUT_EFFECT
        same = seen.setdefault(repr(sorted((n, value) for n, value in values.items() if n in read)), label)
        if same != label:
            raise ParameterError(
                f"{where}: variants {same!r} and {label!r} are the same to {', '.join(stages)}; remove one of them"
            )
    seeds = source.get("seeds", [504])
    if not seeds or len({*map(repr, seeds)}) < len(seeds) or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise ParameterError(f"{where}: seeds is {seeds!r}; give different whole numbers, at least one")
    measures = tuple(source.get("measure", ()))
    labels = [measure.get("label") for measure in measures]
    for measure in measures:
        if missing := {"label", "stage", "metric"} - measure.keys():
            raise ParameterError(f"{where}: a measure lacks {', '.join(sorted(missing))}")
        if labels.count(measure["label"]) > 1:
            raise ParameterError(f"{where}: two measures are called {measure['label']!r}; give each its own label")
        for key in measure:
            if key not in MEASURE_KEYS:
                raise ParameterError(
                    f"{where}, measure {measure['label']!r}: unknown entry {key!r}{near(key, MEASURE_KEYS)}"
                )
        if measure["stage"] not in declared:
            raise ParameterError(f"{where}: measure {measure['label']!r} reads unknown stage {measure['stage']!r}")
    if not measures:
        raise ParameterError(f"{where}: no [[measure]], so nothing would be read off its runs; add one")
    if baseline is None:
        baseline = next(iter(overrides))
        baselines = dict.fromkeys(overrides, baseline)
    if baseline not in {**overrides, **variants}:
        raise ParameterError(f"{where}: baseline {baseline!r} is no variant{near(str(baseline), overrides)}")
    if unread := [measure["label"] for measure in measures if measure["stage"] not in stages]:
        raise ParameterError(f"{where}: measure {unread[0]!r} reads a stage that `stages` leaves out")
    title, question = source.get("title", name), source.get("question", "")
    folder = resolve(root) / name
    return Sweep(name, title, question, preset, stages, tuple(seeds), baseline, overrides, baselines, measures, folder)


def _check_shape(where, source):
    """Refuse tables that are none, and overrides of what a sweep sets itself."""
    lists = {"seeds": list, "stages": list, "measure": list, "set": dict, "variants": dict, "grid": dict}
    for key, kind in lists.items():
        if not isinstance(source.get(key, kind()), kind):
            form = {"measure": "[[measure]]"}.get(key, f"{key} = [ … ]" if kind is list else f"[{key}]")
            raise ParameterError(f"{where}: {key} is {source[key]!r}; write it as {form}")
    for key in ("variants", "grid"):
        if key in source and not source[key]:
            raise ParameterError(f"{where}: [{key}] is empty; give it an entry, or leave it out")
    given = {"set": source.get("set", {}), "grid": source.get("grid", {}), **source.get("variants", {})}
    for label, own in given.items():
        if not isinstance(own, dict):
            raise ParameterError(
                f"{where}: variant {label!r} is {own!r}; write [variants.{label}] and its overrides below"
            )
        for name in {"seed", "run_folder"} & own.keys():
            raise ParameterError(f"{where}, {label}: {name} is set by the sweep itself; give `seeds` instead")


def _name(variant, chosen):
    """What a variant with its values of the grid is called; it becomes part of a folder's name."""
    texts = {key: "_".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in chosen.items()}
    values = ",".join(f"{key}={text.replace(':', '-').replace('/', '-')}" for key, text in texts.items())
    return " ".join(filter(None, (variant, values))) or "run"

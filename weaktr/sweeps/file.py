"""Sweep files: what to start from, what to vary, what to read off, in one small TOML file.

title = "Gradient clipping"
question = "Does clipping help?"           # a paragraph for notebook 06
preset = "demo"                            # what all runs start from
stages = ["01", "02", "03", "04", "05"]    # left out: all
seeds = [504, 505, 506]
baseline = "on"                            # what the others are compared with; left out: the first. Beside a grid, a
                                           # variant's name compares it with the others at the same values of the grid
[set]                                      # overrides of all runs; {seed} in a text is the run's random seed
train_ceiling = false
[variants.on]                              # named overrides …
[variants.off]
clip_scope = "none"
[grid]                                     # … and/or lists of values, of which every combination is run
clip_cell = [24, 48]
[slurm]                                    # what its jobs ask for on a cluster; --slurm NAME=VALUE stands above it
account = "lab"
gpus = "a100:1"
[[measure]]                                # what to read off metrics.json; the first one is the sweep's figure
label = "mask on val"
stage = "05_evaluation"
metric = "mIoU of mask"
list = "val"
crf = false
"""

import contextlib
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ParameterError, UserError, near
from ..files import read_json, resolve, write_json
from ..workbench import presets
from ..workbench.keys import WITHOUT_EFFECT
from ..workbench.parameters import NOTEBOOKS, catalogue, check_parameters
from ..workbench.runner import select
from .slurm_options import Options, check_options

SWEEPS = "papermill_runs/sweeps"
KEPT = "entries.json"  # what the file of a sweep says, in the sweep's folder
PRESET = "demo"  # where the file names none
SEEDS = (504,)  # where the file names none
ENTRIES = {  # entry → the type of its value, how it is written
    "title": (str, 'title = "…"'),
    "question": (str, 'question = "…"'),
    "preset": (str, 'preset = "…"'),
    "stages": (list, "stages = [ … ]"),
    "seeds": (list, "seeds = [ … ]"),
    "baseline": (str, 'baseline = "…"'),
    "set": (dict, "[set]"),
    "variants": (dict, "[variants]"),
    "grid": (dict, "[grid]"),
    "slurm": (dict, "[slurm]"),
    "measure": (list, "[[measure]]"),
}
MEASURE_ENTRIES = ("label", "stage", "metric", "list", "list_size", "crf", "oracle", "threshold_from")
MEASURE_NEEDS = {"label", "stage", "metric"}
SET_BY_THE_SWEEP = {"seed", "run_folder"}
FOLDER_NAME = r"(?!\.)[\w.=,+ -]+"

Parameters = dict[str, Any]
Measure = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file.

    Attributes:
        name: That of its folder.
        overrides: {variant: what it sets, preset included}.
        baseline: The variant that the others are compared with, as the file names it.
        baselines: {variant: the one it is compared with}.
        measures: As in the file; all but `label` and `stage` is what a metrics record has to fulfil.
        folder: Holds a folder per run.
        slurm: What its jobs ask for on a cluster, checked.
        entries: What the file says.
    """

    name: str
    title: str
    question: str
    preset: str
    stages: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    overrides: dict[str, Parameters]
    baselines: dict[str, str]
    measures: tuple[Measure, ...]
    folder: Path
    slurm: Options
    entries: dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A variant at a point of the grid.

    Attributes:
        label: As in [variants]; "" in a file without them.
        point: {parameter: value} of the grid; {} in a file without one.
        overrides: All that it sets.
    """

    label: str
    point: Parameters
    overrides: Parameters

    @property
    def name(self) -> str:
        """Its name, part of a folder's."""
        return variant_name(self.label, self.point)


def read_sweep(
    source: str | Path | dict[str, Any],
    name: str = "",
    *,
    given: Parameters | None = None,
    root: str | Path = SWEEPS,
    notebooks: str | Path = NOTEBOOKS,
) -> Sweep:
    """Read and check a sweep; nothing is started or written.

    Args:
        source: A TOML file, or its content as a dict, as in a notebook's cell.
        name: Of the sweep's folder; left out: <preset>_<file>.
        given: Overrides of all runs, which stand above those of the file: where the data lie, for instance.
        root: The folder of all sweeps' folders.
        notebooks: The folder of the notebooks that declare the parameters.

    Raises:
        ParameterError: For anything that could not run, naming file, entry and remedy.
    """
    if isinstance(source, dict):
        entries = source
    else:
        entries = load(source)
        name = name or f"{entries.get('preset', PRESET)}_{Path(source).stem}"
    declared = catalogue(notebooks)
    with naming(f"sweep {name}"):
        check_shape(entries)
        if given:
            entries = entries | {"set": entries.get("set", {}) | given}
        check_overrides(entries)
        if not re.fullmatch(FOLDER_NAME, name):
            raise ParameterError("its name becomes a folder's; give one of letters, digits and . = , + -")
        preset = entries.get("preset", PRESET)
        base = presets.get(preset).parameters | entries.get("set", {})
        stages = tuple(select(entries.get("stages"), declared))
        variants = expand(entries.get("variants", {}), entries.get("grid", {}), base)
        overrides = {variant.name: variant.overrides for variant in variants}
        check_variants(overrides, stages, declared)
        seeds = tuple(entries.get("seeds", SEEDS))
        check_seeds(seeds)
        measures = tuple(entries.get("measure", ()))
        check_measures(measures, stages, declared)
        with naming("[slurm]"):
            slurm = check_options(entries.get("slurm", {}))
        baseline = entries.get("baseline", next(iter(overrides)))
        return Sweep(
            name=name,
            title=entries.get("title", name),
            question=entries.get("question", ""),
            preset=preset,
            stages=stages,
            seeds=seeds,
            baseline=baseline,
            overrides=overrides,
            baselines=find_baselines(baseline, variants),
            measures=measures,
            folder=resolve(root) / name,
            slurm=slurm,
            entries=entries,
        )


def load(path: str | Path) -> dict[str, Any]:
    """The entries of a TOML file. Raises ParameterError where it cannot be read."""
    if not Path(path).is_file():
        raise ParameterError(f"sweep {path} does not exist or is not a file; give one such as sweeps/demo/fusion.toml")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ParameterError(f"sweep {path}: cannot be read ({error})") from error


def keep(sweep: Sweep) -> None:
    """Write what a sweep's file says into its folder, so that this tells by itself what it answers."""
    write_json(sweep.folder / KEPT, sweep.entries)


def sweep_of(folder: str | Path, *, files: str | Path = "sweeps", notebooks: str | Path = NOTEBOOKS) -> Sweep:
    """The sweep whose runs or results are in a folder: as it was kept there, else the file that gives its name.

    Args:
        folder: Of the sweep, such as papermill_runs/sweeps/demo_fusion or figures/sweeps/demo_fusion.
        files: The folder of sweep files, with folders in it.
        notebooks: As for `read_sweep`.

    Raises:
        UserError: Where there is neither.
    """
    folder = Path(folder).resolve()
    if kept := read_json(folder / KEPT):
        return read_sweep(kept, folder.name, root=folder.parent, notebooks=notebooks)
    for path in sorted(resolve(files).rglob("*.toml")):
        if folder.name.endswith(path.stem) and folder.name == f"{load(path).get('preset', PRESET)}_{path.stem}":
            return read_sweep(path, root=folder.parent, notebooks=notebooks)
    raise UserError(
        f"{folder}: no file below {files} says what this sweep asks; `weaktr sweep FILE` writes it down, and computes "
        "nothing again"
    )


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts in front of a ParameterError what it is about."""
    try:
        yield
    except ParameterError as error:
        raise ParameterError(f"{what}: {error}") from error


# ── The shape of the file ─────────────────────────────────────────────────────────────────────────────────────────
def check_shape(entries: dict[str, Any]) -> None:
    """Refuse unknown entries, those of another type, and empty tables."""
    for entry in entries:
        if entry not in ENTRIES:
            raise ParameterError(f"unknown entry {entry!r}{near(entry, ENTRIES)}; there are {', '.join(ENTRIES)}")
    for entry, (kind, form) in ENTRIES.items():
        if entry in entries and not isinstance(entries[entry], kind):
            raise ParameterError(f"{entry} is {entries[entry]!r}; write it as {form}")
    for entry in ("variants", "grid"):
        if entry in entries and not entries[entry]:
            raise ParameterError(f"[{entry}] is empty; give it an entry, or leave it out")
    for measure in entries.get("measure", ()):
        if not isinstance(measure, dict):
            raise ParameterError(f"a measure is {measure!r}; write [[measure]] and its entries below")


def check_overrides(entries: dict[str, Any]) -> None:
    """Refuse variants that are not tables, grids without values, and overrides of what a sweep sets itself."""
    variants = entries.get("variants", {})
    grid = entries.get("grid", {})
    for label, own in variants.items():
        if not isinstance(own, dict):
            raise ParameterError(f"variant {label!r} is {own!r}; write [variants.{label}] and its overrides below")
    for table, own in {"set": entries.get("set", {}), "grid": grid, **variants}.items():
        for parameter in SET_BY_THE_SWEEP & own.keys():
            raise ParameterError(f"{table}: {parameter} is set by the sweep itself; give `seeds` instead")
    for parameter, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"grid.{parameter} is {values!r}; give a list of at least one value")


def check_seeds(seeds: Sequence[Any]) -> None:
    """Refuse anything but different whole numbers."""
    whole = all(type(seed) is int and seed >= 0 for seed in seeds)  # not isinstance: True is an int as well
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ParameterError(f"seeds is {list(seeds)!r}; give different whole numbers, at least one")


# ── Variants ──────────────────────────────────────────────────────────────────────────────────────────────────────
def expand(variants: dict[str, Parameters], grid: dict[str, list], base: Parameters) -> list[Variant]:
    """Every variant at every point of the grid; `base` is what all of them set."""
    expanded = []
    for label, own in (variants or {"": {}}).items():
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            expanded.append(Variant(label, point, base | own | point))
    return expanded


def variant_name(label: str, point: Parameters) -> str:
    """What a variant at a point of the grid is called, part of a folder's name: "off clip_cell=24,seg_lr=0.1"."""
    settings = ",".join(f"{parameter}={_in_a_name(value)}" for parameter, value in point.items())
    return " ".join(part for part in (label, settings) if part) or "run"


def _in_a_name(value: Any) -> str:
    """A value as part of a folder's name."""
    text = "_".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace(":", "-").replace("/", "-")


def check_variants(overrides: dict[str, Parameters], stages: Sequence[str], declared: dict[str, Any]) -> None:
    """Refuse variants without a usable name or with unusable parameters, and two that would run the same."""
    effective = {parameter for stage in stages for parameter in declared[stage]} - WITHOUT_EFFECT
    checked: dict[str, Parameters] = {}
    for name, parameters in overrides.items():
        if not re.fullmatch(FOLDER_NAME, name):
            raise ParameterError(f"variant {name!r} is a folder's name; use letters, digits and . = , + -")
        with naming(f"variant {name!r}"):
            values = check_parameters(parameters, declared)
        own = {parameter: value for parameter, value in values.items() if parameter in effective}
        for other, others in checked.items():
            if own == others:
                where = ", ".join(stages)
                raise ParameterError(f"variants {other!r} and {name!r} are the same to {where}; remove one of them")
        checked[name] = own


def find_baselines(baseline: str, variants: Sequence[Variant]) -> dict[str, str]:
    """{variant: the one it is compared with}: `baseline`, or, where that is a label, it at the same point of the grid.

    Raises ParameterError where it is neither a label nor a variant's name.
    """
    labels = [variant.label for variant in variants if variant.label]
    names = [variant.name for variant in variants]
    if baseline in labels:
        return {variant.name: variant_name(baseline, variant.point) for variant in variants}
    if baseline in names:
        return dict.fromkeys(names, baseline)
    raise ParameterError(f"baseline {baseline!r} is not a variant{near(str(baseline), names)}")


# ── Measures ──────────────────────────────────────────────────────────────────────────────────────────────────────
def check_measures(measures: Sequence[Measure], stages: Sequence[str], declared: dict[str, Any]) -> None:
    """Refuse measures that lack something, share a label, or read what the sweep does not make."""
    if not measures:
        raise ParameterError("no [[measure]], so nothing would be read off its runs; add one")
    labels = [measure.get("label") for measure in measures]
    for measure in measures:
        if missing := MEASURE_NEEDS - measure.keys():
            raise ParameterError(f"a measure lacks {', '.join(sorted(missing))}")
        label = measure["label"]
        if labels.count(label) > 1:
            raise ParameterError(f"two measures are called {label!r}; give each its own label")
        for entry in measure:
            if entry not in MEASURE_ENTRIES:
                raise ParameterError(f"measure {label!r}: unknown entry {entry!r}{near(entry, MEASURE_ENTRIES)}")
        if measure["stage"] not in declared:
            raise ParameterError(
                f"measure {label!r} reads unknown stage {measure['stage']!r}{near(str(measure['stage']), declared)}"
            )
        if measure["stage"] not in stages:
            raise ParameterError(f"measure {label!r} reads a stage that `stages` leaves out; add it")

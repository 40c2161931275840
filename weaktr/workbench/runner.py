"""The runner: executes the notebooks of a run with papermill, one stage after another.

Parameters and data are checked before the first kernel starts. A finished stage is skipped while its key stands
(see `keys`), an unfinished one continues from what it left, and any other starts afresh.
"""

import contextlib
import csv
import logging
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ParameterError, RunError, UserError, near, remedy
from ..files import ROOT, atomic, read_json, resolve, short
from ..progress import clock
from .given import refuse_contradictions, stages_of_run, steps_to_train
from .kernels import kernel_manager, warm_up
from .keys import code_digest, data_fingerprint, data_source, finished_key, stage_key
from .parameters import NOTEBOOKS, Parameter, catalogue, check_parameters
from .published import as_published, published
from .stage import changes, hold, prepare, worth_keeping
from .text import aligned, results_rows

Values = Mapping[str, Any]  # parameters by name
Declared = Mapping[str, Mapping[str, Parameter]]  # the parameters of every stage, in order, as from `catalogue`


class RunFolder:
    """The stages of one run in its folder: what they are made from and which are up to date."""

    def __init__(self, values: Values, run_folder: str | Path, declared: Declared, source: Any):
        """Takes all parameters of a run, checked.

        Args:
            values: The value of every parameter.
            run_folder: Relative to the repository's root, or absolute.
            declared: As from `catalogue`.
            source: As from `data_source`.
        """
        self.path = resolve(run_folder)
        self.stages = stages_of_run(declared, values)
        self.parameters = {stage: {name: values[name] for name in declared[stage]} for stage in self.stages}
        self.fingerprints = {stage: data_fingerprint(own, source) for stage, own in self.parameters.items()}

    def sums_up(self, stage: str) -> bool:
        """Whether the stage sums up sweeps: what it reads lies outside the run and has no key."""
        return "sweeps" in self.parameters[stage]

    def inputs(self, stage: str) -> list[str]:
        """The stages that must be up to date for this one: all before it, as its key covers them all."""
        if self.sums_up(stage):
            return []
        return [other for other in self.stages if other < stage and not self.sums_up(other)]

    def key(self, stage: str) -> str:
        """The key that a stage has with the earlier stages' folders as they are now."""
        before = [self.path / other for other in self.stages if other < stage]
        return stage_key(self.parameters[stage], self.fingerprints[stage], before)

    def up_to_date(self, stage: str) -> bool:
        """Whether the stage is finished, under its key and for its photograph; those before it are not inspected."""
        if finished_key(self.path / stage) != self.key(stage):
            return False
        made_for = read_json(self.path / stage / "params.json").get("photograph")
        return made_for == self.parameters[stage].get("photograph")

    def has_to_run(self, stage: str, force: bool) -> bool:
        """Whether a selected stage is to be executed, not skipped; one that sums up sweeps always is."""
        return force or self.sums_up(stage) or not self.up_to_date(stage)


def run(
    parameters: Values,
    run_folder: str | Path,
    *,
    stages: Sequence[str] | None = None,
    force: bool = False,
    preset: str = "",
    notebooks: str | Path = NOTEBOOKS,
    check: bool = True,
) -> None:
    """Bring the stages of the run in `run_folder` up to date and print the table of their results.

    Args:
        parameters: {name: value or text}; the rest are the notebooks' defaults.
        run_folder: Relative to the repository's root, or absolute.
        stages: Names or numbers ("01"); None for all of the pipeline.
        force: Also those that are up to date.
        preset: Its name, for the record.
        notebooks: The folder of NN_name.ipynb.
        check: Read the data beforehand.

    Raises:
        UserError: Before anything starts, for parameters, stages or data that cannot be used.
        RunError: For a stage that fails, dies, is interrupted, or ends without its results.
    """
    declared = catalogue(notebooks)
    values = check_parameters({**parameters, "run_folder": str(run_folder)}, declared)
    refuse_contradictions(values)
    this = RunFolder(values, run_folder, declared, data_source(values))
    selected = [stage for stage in select(stages, declared) if stages is not None or stage in this.stages]
    _refuse_needless(this, selected)
    pending = [stage for stage in selected if this.has_to_run(stage, force)]
    refuse_missing_inputs(this, selected, pending)
    if pending:
        warm_up()
    if check and "dataset" in values:
        _check(values, pending, declared)

    executed = False
    with hold(this.path, this.path / ".run.lock") if pending else contextlib.nullcontext():
        for stage in selected:
            notebook = Path(notebooks) / f"{stage}.ipynb"
            if this.has_to_run(stage, force):  # asked again: an earlier stage may have been made since
                _make(this, stage, notebook, preset, clear=force or this.sums_up(stage))
                executed = True
            else:
                _report_skipped(this.path / stage, notebook)
    records = _current_records(this)
    if as_published(preset, values):
        for record in records:
            record["published"] = published(preset, record)
    rows = results_rows(records)
    if executed:
        with atomic(this.path / "results.csv") as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    place = short(this.path)
    print(f"\nResults in {place}\n{aligned(rows)}", flush=True)
    print(f"\nnext · {_next(this, place)}", flush=True)


def _next(this: RunFolder, place: str) -> str:
    """What a person may do with a run: see it on one page, and use its segmenter or go on to have one."""
    page = f"`weaktr report {place}` tells it on one page"
    if (this.path / "04_online_retraining" / "metrics.json").is_file():
        return f"{page}; `weaktr predict {place} PICTURES --output FOLDER` makes masks of other pictures"
    return f"{page}; the same command with more --stages goes on from here"


def select(stages: Sequence[str] | None, declared: Declared) -> list[str]:
    """The full names of `stages` (names or numbers), in the order of the run; None is the whole pipeline.

    A notebook that reads sweeps sums up many runs and is part of none: it runs when it is named.
    """
    if stages is None:
        return [name for name in declared if "sweeps" not in declared[name]]
    chosen = set()
    for stage in stages:
        found = [name for name in declared if stage in (name, name[:2])]
        if not found:
            raise ParameterError(f"unknown stage {stage!r}{near(stage, declared)}; there are {', '.join(declared)}")
        chosen.update(found)
    return [name for name in declared if name in chosen]


def _refuse_needless(this: RunFolder, selected: Sequence[str]) -> None:
    """Raise ParameterError for a stage that was named, and that the run does not have."""
    for stage in selected:
        if stage not in this.stages:
            raise ParameterError(
                f"stage {stage}: with label_folder or trained_segmenter a run begins with {this.stages[0]}; leave "
                f"{stage[:2]} out, or make it in a run of its own"
            )


def refuse_missing_inputs(this: RunFolder, selected: Sequence[str], pending: Sequence[str]) -> None:
    """Raise UserError for the first selected stage that would find an input missing or out of date.

    Args:
        this: The run.
        selected: The stages of this call, in order.
        pending: Those of them that will be executed, which puts the stages after them out of date.
    """
    for stage in selected:
        lacking: list[str] = []
        for needed in this.inputs(stage):
            if needed in selected:
                continue
            changing = {*pending, *lacking}
            if not this.up_to_date(needed) or changing.intersection(this.inputs(needed)):
                lacking.append(needed)
        if lacking:
            folder = this.path / lacking[0]
            state = "is not finished" if finished_key(folder) is None else "has other parameters, data or sources"
            numbers = " ".join(needed[:2] for needed in lacking)
            raise UserError(f"{folder}: needed by {stage}, but {state}; add {numbers} to --stages")


def _check(values: Values, pending: Sequence[str], declared: Declared) -> None:
    """Check a run's values; its data and weights only where stages that will be executed need them."""
    from .checks import check_run  # only here: it imports the readers of all data sets

    reads_data = any("dataset" in declared[stage] for stage in pending)
    check_run(values, data=reads_data, weights=steps_to_train(values, pending))


def _report_skipped(folder: Path, notebook: Path) -> None:
    """Say that a stage is skipped, and whether its code has changed since."""
    note = ""
    if read_json(folder / "manifest.json").get("code") != code_digest(notebook):
        note = " (made by other code than now; --force makes it again)"
    print(f"{folder.name} · up to date, skipped{note}", flush=True)


def _make(this: RunFolder, stage: str, notebook: Path, preset: str, clear: bool) -> None:
    """Execute a stage in its folder, from what an earlier pass left there under the same key, or from nothing."""
    folder = this.path / stage
    key = this.key(stage)
    if lost := worth_keeping(folder, key):
        begun = "made again" if lost == "a finished" else "unfinished, begun anew"
        print(f"{stage} · {begun}: {changes(folder, this.parameters[stage])}", flush=True)
    start = time.monotonic()
    facts = {"data_fingerprint": this.fingerprints[stage], "preset": preset}
    with prepare(folder, key, facts, clear=clear):
        print(f"{stage} · started · {short(folder)}", flush=True)
        _execute(notebook, folder, this.parameters[stage])
    print(f"{stage} · finished in {clock(time.monotonic() - start)}", flush=True)


def _current_records(this: RunFolder) -> list[dict[str, Any]]:
    """The metrics records of all stages that are up to date, as are those before them."""
    made = {stage for stage in this.stages if this.up_to_date(stage)}
    current = [stage for stage in this.stages if made.issuperset([stage, *this.inputs(stage)])]
    return [record for stage in current for record in read_json(this.path / stage / "metrics.json", list)]


def import_papermill() -> ModuleType:
    """The module papermill, imported as if rfc3987_syntax was not installed.

    jsonschema, which papermill imports, compiles that package's grammar for a format that no notebook uses: importing
    papermill takes 3.4 s of CPU time with it and 0.7 s without (jsonschema's #1428).
    """
    grammar = "rfc3987_syntax"
    if grammar not in sys.modules:
        sys.modules[grammar] = None  # type: ignore[assignment] # makes an import of it fail
        try:
            import papermill
        finally:
            del sys.modules[grammar]
    import papermill

    return papermill


class WholeNotebook:
    """How papermill writes the executed notebook, which it does after every cell: whole, also when the disk is full."""

    def write(self, text: str, path: str) -> None:
        """Write the notebook. path: relative to the repository's root, or absolute."""
        with atomic(resolve(path)) as aside:
            aside.write_text(text, encoding="utf-8")

    def pretty_path(self, path: str) -> str:
        """What papermill calls the notebook."""
        return path


def _execute(notebook: Path, folder: Path, parameters: Values) -> None:
    """Run one notebook in a kernel of its own, its printed lines shown as they come."""
    papermill = import_papermill()
    from nbclient.exceptions import DeadKernelError

    executed = folder / "notebook.ipynb"
    executed.unlink(missing_ok=True)  # that of an earlier pass
    papermill.iorw.papermill_io.register(short(executed), WholeNotebook())
    try:
        with contextlib.chdir(ROOT), tempfile.TemporaryDirectory(prefix="weaktr_") as sockets:
            papermill.execute_notebook(
                short(notebook),
                short(executed),
                parameters,
                kernel_name="python3",
                language="python",
                kernel_manager_class=kernel_manager(notebook.parent.resolve(), sockets),
                progress_bar=False,
                stdout_file=sys.stdout,
            )
    except papermill.PapermillExecutionError as error:
        raise RunError(_failure(notebook, executed, error)) from error
    except DeadKernelError as error:
        raise RunError(
            f"{short(notebook)}: its process was killed, most often for lack of memory; "
            "the same command continues there"
        ) from error
    except KeyboardInterrupt as error:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it would print how tasks left behind found no kernel
        raise RunError(f"{folder.name} interrupted; the same command continues there") from error
    except RunError:
        raise
    except Exception as error:  # a kernel that does not start, a socket, a disk: libraries raise many kinds
        what = f"{type(error).__name__}: {error}"
        help_against_it = remedy(what) or "see what stands above it, or --debug; the same command tries again"
        raise RunError(f"{short(notebook)} could not be executed ({what}); {help_against_it}") from error
    if not (folder / "metrics.json").exists():
        raise RunError(f"{short(notebook)} ended without stage.finish(records), so it has no results")


LOADER = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.\n.*^[\w.]*\1: (.*)", re.DOTALL | re.MULTILINE)


def _failure(notebook: Path, executed: Path, error: Any) -> str:
    """One message for a failing cell: where, what, what helps, and the notebook to open."""
    code = [line.strip() for line in error.source.splitlines()]
    code = [line for line in code if line and not line.startswith("#")]
    first_line = code[0] if code else ""
    own = {UserError.__name__, *(kind.__name__ for kind in UserError.__subclasses__())}
    raised = LOADER.match(error.evalue)  # an error of a loader's process comes as the text of its traceback
    text = raised[2].strip() if raised else error.evalue
    what = text if error.ename in own else f"{error.ename}: {text}"
    if error.ename not in own and (help_against_it := remedy(what)):
        what = f"{what}\n  {help_against_it}"
    return (
        f"{what}\n  in {short(notebook)}, cell [{error.exec_count}] {first_line!r}\n"
        f"  executed so far: {short(executed)}"
    )

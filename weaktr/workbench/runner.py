"""The runner: executes the notebooks of a run with papermill, one stage after another.

Parameters and data are checked before the first kernel starts. A finished stage is skipped while its key stands
(see `weaktr.stages`), an unfinished one continues from what it left, and any other starts afresh.
"""

import contextlib
import csv
import json
import logging
import re
import sys
import tempfile
import time
from pathlib import Path

from ..errors import ParameterError, RunError, UserError, near
from ..files import ROOT, atomic, read_json, resolve, short
from ..progress import clock
from .kernels import kernel_manager, warm_up
from .keys import code_digest, data_fingerprint, data_source, finished_key, stage_key
from .parameters import NOTEBOOKS, catalogue, check_parameters
from .published import as_published, published
from .stage import changes, hold, prepare, worth_keeping
from .text import aligned, results_rows


class RunFolder:
    """The stages of one run in its folder: what they are made from and which are up to date.

    values: all parameters, checked. run_folder: relative to the repository's root, or absolute. source: as from
    `data_source`.
    """

    def __init__(self, values, run_folder, declared, source):
        self.path, self.stages = resolve(run_folder), list(declared)
        self.parameters = {name: {parameter: values[parameter] for parameter in declared[name]} for name in declared}
        self.fingerprints = {name: data_fingerprint(own, source) for name, own in self.parameters.items()}

    def key(self, stage):
        """The key that a stage has with the earlier stages' folders as they are now."""
        before = [self.path / other for other in self.stages if other < stage]
        return stage_key(self.parameters[stage], self.fingerprints[stage], before)

    def up_to_date(self, stage):
        """Whether the stage is finished, under its key and for its photograph; those before it are not looked at."""
        before, now = read_json(self.path / stage / "params.json"), self.parameters[stage]
        return finished_key(self.path / stage) == self.key(stage) and before.get("photograph") == now.get("photograph")


def run(parameters, run_folder, *, stages=None, force=False, preset="", notebooks=NOTEBOOKS, check=True):
    """Brings the stages of the run in `run_folder` up to date and prints the table of their results.

    parameters: {name: value or text}, the rest are the notebooks' defaults. run_folder: relative to the repository's
    root, or absolute. stages: names or numbers ("01"), None for all of the pipeline. force: also those that are up to
    date. preset: its name, for the record. notebooks: the folder of NN_name.ipynb. check: read the data beforehand.

    Raises UserError before anything starts for parameters, stages or data that cannot be used, and RunError for a
    stage that fails, dies, is interrupted, or ends without its results.
    """
    declared = catalogue(notebooks)
    values = check_parameters({**parameters, "run_folder": str(run_folder)}, declared)
    selected = select(stages, declared)
    this = RunFolder(values, run_folder, declared, data_source(values))
    sources = {}  # of each stage: those that its notebook names as inputs, and those that theirs name
    for name in declared:
        direct = _inputs(Path(notebooks) / f"{name}.ipynb", sources)
        sources[name] = set(direct).union(*(sources[other] for other in direct))
    pending = [name for name in selected if force or not this.up_to_date(name)]
    if pending:
        warm_up()
    if check and "dataset" in values:
        from .checks import check_run

        needed = {parameter for name in pending for parameter in declared[name]}
        check_run(values, data="dataset" in needed, weights="backbone" in needed)

    for name in selected:
        lacking = []
        for needed in sorted(sources[name].difference(selected)):
            if not this.up_to_date(needed) or sources[needed].intersection([*pending, *lacking]):
                lacking.append(needed)
        if lacking:
            folder, add = this.path / lacking[0], " ".join(other[:2] for other in lacking)
            state = "is not finished" if finished_key(folder) is None else "has other parameters, data or sources"
            raise UserError(f"{folder}: needed by {name}, but {state}; add {add} to --stages")

    ran = False
    with hold(this.path, this.path / ".run.lock") if pending else contextlib.nullcontext():
        for name in selected:
            folder, key = this.path / name, this.key(name)
            sums_up = "sweeps" in declared[name]  # what it reads lies outside the run and has no key
            if not (force or sums_up) and this.up_to_date(name):
                old = read_json(folder / "manifest.json").get("code") != code_digest(Path(notebooks) / f"{name}.ipynb")
                note = " (made by other code than now; --force makes it again)" if old else ""
                print(f"{name} · up to date, skipped{note}", flush=True)
                continue
            if lost := worth_keeping(folder, key):
                begun = "made again" if lost == "a finished" else "unfinished, begun anew"
                print(f"{name} · {begun}: {changes(folder, this.parameters[name])}", flush=True)
            start = time.monotonic()
            facts = {"data_fingerprint": this.fingerprints[name], "preset": preset}
            with prepare(folder, key, facts, clear=force or sums_up):
                print(f"{name} · started · {short(folder)}", flush=True)
                _execute(Path(notebooks) / f"{name}.ipynb", folder, this.parameters[name])
                ran = True
            print(f"{name} · finished in {clock(time.monotonic() - start)}", flush=True)

    made = {name for name in declared if this.up_to_date(name)}
    current = [name for name in declared if {name, *sources[name]} <= made]
    records = [record for name in current for record in read_json(this.path / name / "metrics.json")]
    for record in records if as_published(preset, values) else ():
        record["published"] = published(preset, record)
    rows = results_rows(records)
    print(f"\nResults in {short(this.path)}\n{aligned(rows)}", flush=True)
    if ran:
        with atomic(this.path / "results.csv") as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def select(stages, declared):
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


def _inputs(notebook, names):
    """The stages that the code of a notebook names as its inputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return [name for name in re.findall(r"""\bstage\.input\(\s*["'](\w+)["']""", code) if name in names]


def _execute(notebook, folder, parameters):
    """Runs one notebook in a kernel of its own, its printed lines shown as they come."""
    sys.modules.setdefault("rfc3987_syntax", None)  # where jsonschema finds it, importing papermill takes 3 s longer
    import papermill
    from nbclient.exceptions import DeadKernelError

    executed = folder / "notebook.ipynb"
    executed.unlink(missing_ok=True)  # a sweep's runs may share the file
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
    if not (folder / "metrics.json").exists():
        raise RunError(f"{short(notebook)} ended without stage.finish(records), so it has no results")


def _failure(notebook, executed, error):
    """One message for a failing cell: where, what, and the notebook to open."""
    lines = [line for line in error.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    where = f"{short(notebook)}, cell [{error.exec_count}] {lines[0].strip() if lines else ''!r}"
    own = {kind.__name__ for kind in (UserError, *UserError.__subclasses__())}
    what = error.evalue if error.ename in own else f"{error.ename}: {error.evalue}"
    return f"{what}\n  in {where}\n  executed so far: {short(executed)}"

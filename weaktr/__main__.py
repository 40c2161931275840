"""The command line `weaktr`, or `python -m weaktr`: parsing and printing only.

Commands import what they need when they run, so that the short ones do not wait for torch.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import ParameterError, RunError, UserError, counted, remedy
from .files import here, resolve, short, writing
from .progress import write_plainly
from .workbench import presets
from .workbench.parameters import NOTEBOOKS, catalogue
from .workbench.text import aligned


def console() -> None:
    """The entry point: runs the command line and exits with its status."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # also behind nohup and &, and when a cluster ends the job
        signal.signal(ending, signal.default_int_handler)
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of this process by default.

    Returns:
        The exit status: 0, 1 for a run that failed, 2 for input that cannot be used.
    """
    write_plainly()
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except Exception as error:
        if options.debug:
            traceback.print_exception(error)
        text = str(error)
        if not isinstance(error, UserError | RunError):
            text = f"{type(error).__name__}: {error}"
            text = "\n  ".join(filter(None, (text, remedy(text), "--debug shows where")))
        print(f"weaktr: {text}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("weaktr: interrupted", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="weaktr", description="Weakly supervised segmentation with WeakTr.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_run(commands)
    _add_sweep(commands)
    _add_results(commands)
    _add_masks(commands)
    _add_import(commands)
    _add_data(commands)
    _add_listings(commands)
    return parser


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], None], what: str) -> argparse.ArgumentParser:
    """The parser of a new command: `command` is called with its options, `what` is its line of help."""
    added = commands.add_parser(name, help=what)
    added.set_defaults(command=command)
    added.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return added


# ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _add_run(commands: Any) -> None:
    run = _add(commands, "run", _run, "execute the notebooks of a run, skipping what is up to date")
    run.add_argument("--preset", default="demo", help="a name that `presets` lists (default: demo)")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="override a parameter")
    run.add_argument("--run-folder", metavar="FOLDER", help="default: papermill_runs/<preset>")
    run.add_argument("--stages", nargs="+", metavar="NN", help="only these, by number or name")
    run.add_argument("--force", action="store_true", help="run also what is up to date")


def _run(options: argparse.Namespace) -> None:
    from .workbench import runner

    preset = presets.get(options.preset)
    given = _assignments(options.set)
    if options.run_folder and "run_folder" in given:
        raise ParameterError(f"--run-folder {options.run_folder}, run_folder={given['run_folder']}: give one of them")
    if preset.differences:
        print(f"{preset.name} and the paper: {preset.differences}", flush=True)
    folder = given.pop("run_folder", f"papermill_runs/{preset.name}")
    if options.run_folder:
        folder = short(here(options.run_folder))
    runner.run(preset.parameters | given, folder, stages=options.stages, force=options.force, preset=preset.name)


def _assignments(texts: Sequence[str], option: str = "--set") -> dict[str, str]:
    """NAME=VALUE texts as {name: value}."""
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ParameterError(f"{option} {text!r}: write it as name=value")
        given[name] = value
    return given


# ── sweep ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _add_sweep(commands: Any) -> None:
    sweep = _add(commands, "sweep", _sweep, "run sweeps: many runs out of small TOML files, in parallel")
    sweep.add_argument("files", nargs="+", metavar="FILE", help="as in sweeps/")
    sweep.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="override a parameter of all runs"
    )
    sweep.add_argument("--dry-run", action="store_true", help="print the plan and an estimate, start nothing")
    sweep.add_argument("--jobs", type=int, default=0, metavar="N", help="stages at a time (one per GPU, or two cores)")
    sweep.add_argument("--executor", choices=("local", "slurm"), default="local", help="processes here, or Slurm jobs")
    sweep.add_argument("--slurm", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="of a Slurm job")


def _sweep(options: argparse.Namespace) -> None:
    from .sweeps import console as view
    from .sweeps import pools, schedule, slurm
    from .sweeps.file import SWEEPS, read_sweep
    from .sweeps.plan import estimate_seconds, plan, to_compute
    from .sweeps.slurm_options import check_options

    if options.jobs < 0:
        raise ParameterError(f"--jobs {options.jobs}: give a number of stages at a time, or 0 for as many as fit here")
    on_slurm = options.executor == "slurm"
    given = check_options(_assignments(options.slurm, "--slurm"))
    if given and not on_slurm:
        raise ParameterError(f"--slurm {' '.join(options.slurm)}: add --executor slurm")
    overrides = _assignments(options.set)
    sweeps = [read_sweep(path, given=overrides) for path in options.files]
    if len({sweep.name for sweep in sweeps}) < len(sweeps):
        raise ParameterError("two of the files have one preset and name, which make the sweep's folder; rename one")
    pool: Any = None
    if on_slurm and not options.dry_run:  # which asks Slurm first: what it refuses need not be planned
        pool = slurm.SlurmPool(SWEEPS, sweeps, given)
    runs = plan(sweeps)
    jobs = (options.jobs or 16) if on_slurm else pools.local_jobs(options.jobs)
    print(view.plan_text(runs, to_compute(runs), estimate_seconds(runs), jobs), flush=True)
    if options.dry_run:
        rows = [(one.sweep.name, one.name, ", ".join(one.stages) or "done") for one in runs]
        _print_table([("sweep", "run", "stages to do"), *rows])
        return
    if not on_slurm:
        pool = pools.LocalPool(jobs)
    with view.progress(runs) as show:
        schedule.run_sweeps(runs, pool, jobs, show=show)
    for sweep in sweeps:
        _print_sweep(sweep)
    shared = sum(one.shared for one in runs)
    print(f"\n{view.counts(runs)}; {shared} stage runs saved by sharing", flush=True)
    for sweep in sweeps:
        print(f"next · `weaktr report {short(sweep.folder)}` draws {sweep.name} on one page", flush=True)
    if failed := sum(one.state == "failed" for one in runs):
        raise RunError(f"{failed} of {len(runs)} runs failed; the same command tries them again")


def _print_sweep(sweep: Any) -> None:
    """A sweep's table, or why there is none: the other sweeps' tables are written all the same."""
    from .sweeps import results

    try:
        _, summary, _ = results.write_results(sweep)
        text = results.text(summary)
    except RunError as error:
        text = f"no table: {error}"
    print(f"\n{sweep.title} · {sweep.folder}\n{text}", flush=True)


# ── compare, report, figures ──────────────────────────────────────────────────────────────────────────────────────
def _add_results(commands: Any) -> None:
    compare = _add(commands, "compare", _compare, "parameters and metrics of finished runs side by side")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    report = _add(commands, "report", _report, "a run, runs side by side, or a sweep as an HTML page without network")
    report.add_argument("folders", nargs="+", metavar="FOLDER", help="a run's, or several; or a sweep's")
    figures = _add(commands, "figures", _figures, "copy all figures and tables of a run into one folder")
    figures.add_argument("run", metavar="RUN", help="a run's folder")
    figures.add_argument("target", nargs="?", default="figures", metavar="FOLDER", help="default: figures")


def _compare(options: argparse.Namespace) -> None:
    from .workbench.comparison import compare

    found = compare(options.runs)
    for title, table in (("parameters that differ", found.parameters), ("metrics", found.metrics.round(2))):
        text = table.to_string(na_rep="–") if len(table) else "none"
        print(f"{title}\n{text}\n")
    print("\n".join(found.left_out), end="")


def _report(options: argparse.Namespace) -> None:
    from .sweeps import reports as sweep_reports
    from .workbench import reports, side_by_side

    folders = options.folders
    of_sweeps = [folder for folder in folders if sweep_reports.is_sweep(folder)]
    if of_sweeps and len(folders) > 1:
        raise UserError(f"{of_sweeps[0]} is a sweep's folder; give it alone: only runs are set side by side")
    if of_sweeps:
        print(sweep_reports.report(folders[0]))
    elif len(folders) == 1:
        print(reports.report(folders[0]))
    else:
        print(side_by_side.report_side_by_side(folders))


def _figures(options: argparse.Namespace) -> None:
    from .workbench.collection import collect_figures

    count = len(collect_figures(options.run, here(options.target)))
    print(f"{options.target}: {counted(count, 'files')}, sources.csv lists where each comes from")


# ── predict, evaluate, submit ─────────────────────────────────────────────────────────────────────────────────────
def _add_masks(commands: Any) -> None:
    predict = _add(commands, "predict", _predict, "masks of pictures, by a trained network")
    predict.add_argument("network", metavar="RUN", help="a run's folder, or a checkpoint of step 2")
    what = "pictures, folders, or .txt files with a path a line"
    predict.add_argument("pictures", nargs="*", metavar="PICTURE", help=what)
    predict.add_argument("--output", required=True, metavar="FOLDER", help="gets a palette PNG for each picture")
    predict.add_argument("--overlays", action="store_true", help="also masks over their pictures, in overlays/")
    _add_list(predict, "a list of the data set in place of pictures")
    _add_network(predict)
    evaluate = _add(commands, "evaluate", _evaluate, "score a folder of masks, made by anything")
    evaluate.add_argument("masks", metavar="MASKS", help="a folder of palette or grey PNGs, called as their images")
    evaluate.add_argument("--output", metavar="FOLDER", help="of the tables and the picture (default: MASKS_scores)")
    _add_list(evaluate, "default: val", required=True, default="val")
    submit = _add(commands, "submit", _submit, "masks of VOC12's test list, packed for its evaluation server")
    submit.add_argument("network", metavar="RUN", help="a run's folder, or a checkpoint of step 2")
    submit.add_argument("--data-root", metavar="FOLDER", help="of VOC12 (default: that of the run)")
    submit.add_argument("--list", default="test", metavar="LIST", help="default: test")
    submit.add_argument("--output", default="submission", metavar="FOLDER", help="default: submission")
    _add_network(submit)


def _add_list(command: argparse.ArgumentParser, what: str, required: bool = False, default: str = "") -> None:
    command.add_argument("--dataset", required=required, metavar="NAME", help="folder, voc12, coco14, coco14_80, …")
    command.add_argument("--data-root", metavar="FOLDER", help="of the data set (default: data/NAME of the repository)")
    command.add_argument("--list", default=default, metavar="LIST", help=what)


def _add_network(command: argparse.ArgumentParser) -> None:
    command.add_argument("--crf", choices=("voc", "coco"), default="", help="a dense CRF after the network")
    command.add_argument("--device", default="auto", help="auto (default: a GPU where there is one), cpu or cuda")


def _dataset(options: argparse.Namespace) -> Any:
    from .data import open_dataset

    return open_dataset(options.dataset, here(options.data_root) if options.data_root else "")


def _predict(options: argparse.Namespace) -> None:
    from .workbench.pictures import find_pictures, pictures_of, predict_pictures
    from .workbench.predict import open_network

    of_a_list = [options.dataset, options.list, options.data_root]
    if any(of_a_list) if options.pictures else not all(of_a_list[:2]):
        raise ParameterError("give pictures, folders and .txt files, or --dataset and --list in place of them")
    output = Path(options.output).expanduser()
    if options.pictures:
        pictures = find_pictures(options.pictures, output)
    else:
        pictures = pictures_of(_dataset(options), options.list)
    network = open_network(options.network, options.device)
    found = predict_pictures(network, pictures, output, crf=options.crf, overlays=options.overlays)
    values = ", ".join(f"{value} {name}" for value, name in enumerate(network.names))
    print(f"{options.output}: {counted(found.made, 'masks')} made, {found.there} were there. Their values: {values}")
    if found.broken:
        raise RunError(f"{len(found.broken)} of {len(pictures)} pictures were left out, named above")


def _evaluate(options: argparse.Namespace) -> None:
    from .workbench.evaluate import evaluate, numbered_otherwise, write_scores

    dataset = _dataset(options)
    folder = Path(options.masks).expanduser()
    if folder.name in ("", ".."):  # so that another can be beside it
        folder = here(folder)
    score = evaluate(folder, dataset, options.list)
    print(f"{options.masks} on {options.list} ({counted(len(score.ids), 'images')}): mIoU {score.miou:.2f} %")
    per_class = score.per_class(dataset.classes)
    rows = [(str(name), "absent" if value != value else f"{value:.2f}") for name, value in per_class.items()]
    _print_table([("class", "IoU (%)"), *rows])
    if doubt := numbered_otherwise(score.confusion, list(per_class.index)):
        print(f"note: {doubt}")
    output = Path(options.output or folder.with_name(f"{folder.name}_scores")).expanduser()
    with writing(output):
        paths = write_scores(score, dataset.classes, output, options.list)
    print(f"{output}: {', '.join(path.name for path in paths)}")


def _submit(options: argparse.Namespace) -> None:
    from .workbench.predict import open_network
    from .workbench.submit import data_root_of, submit

    network = open_network(options.network, options.device)
    root = here(options.data_root) if options.data_root else data_root_of(options.network)
    archive = submit(network, root, options.list, Path(options.output).expanduser(), crf=options.crf)
    print(f"{archive}: every image of {options.list}, in its size, with the values 0…20; to be uploaded as it is")


# ── import ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _add_import(commands: Any) -> None:
    released = _add(commands, "import", _import, "turn a checkpoint of the authors' code into one of weaktr")
    released.add_argument("file", metavar="FILE", help="as released: .pth, step 1 or step 2")
    released.add_argument("--output", metavar="FILE", help="default: FILE with the ending .safetensors")
    released.add_argument("--heads", type=int, default=0, metavar="N", help="default: as the file says, or width / 64")
    released.add_argument("--decoder-heads", type=int, metavar="N", help="of the decoder, step 2 (default: width / 64)")
    released.add_argument("--image-size", type=int, nargs=2, metavar="N", help="height width, where it is not square")
    released.add_argument("--normalise", choices=("imagenet", "half", "clip"), default="", help="half for ViT-S")
    released.add_argument("--pool", choices=("max", "avg"), default="max", help="of the fusion, step 1")


def _import(options: argparse.Namespace) -> None:
    from .models import million_parameters
    from .models.checkpoints import import_released
    from .models.trained import KINDS

    model, path = import_released(
        options.file,
        options.output,
        num_heads=options.heads,
        normalise=options.normalise,
        pool=options.pool,
        decoder_heads=options.decoder_heads,
        image_size=options.image_size,
    )
    million = million_parameters(model)
    classes = model.config["num_classes"]
    print(f"{path}: {model.config['step']}, {million:.1f} M parameters, {counted(classes, 'classes')}")
    print(f"normalised by mean {model.mean} and standard deviation {model.std}; another: --normalise")
    parameter = KINDS[model.config["step"]][1]
    print(f"next · `weaktr run --set {parameter}={path} …` goes on from this network instead of training one")


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="inspect, fetch or convert a data set before it is used")
    kinds = data.add_subparsers(required=True, metavar="command")
    check = _add(kinds, "check", _data_check, "read every file, print a report")
    check.add_argument("root", metavar="ROOT")
    check.add_argument("--dataset", default="folder", help="folder (default), voc12, coco14 or coco14_80")
    check.add_argument("--lists", nargs="+", default=["train", "val"], metavar="LIST")
    fetch = _add(kinds, "fetch", _data_fetch, "download VOC12 and SBD, and join them to train_aug")
    fetch.add_argument("name", choices=("voc12",))
    fetch.add_argument("root", nargs="?", metavar="ROOT", help="default: data/voc12 of the repository")
    masks = _add(kinds, "coco-masks", _data_coco_masks, "masks and lists of COCO, from its or your annotations")
    masks.add_argument("root", metavar="ROOT")
    masks.add_argument("--split", nargs="+", default=["train", "val"], help="of annotations/instances_<split>*.json")


def _data_check(options: argparse.Namespace) -> None:
    from .data import open_dataset
    from .data.report import check

    text, faults = check(open_dataset(options.dataset, here(options.root)), options.lists)
    print(text)
    if faults:
        raise RunError(f"{counted(faults, 'things')} to look at in {options.root}")
    print("\nnext · `weaktr presets` lists what a run can start from; `weaktr run --preset NAME --set data_root=…`")


def _data_fetch(options: argparse.Namespace) -> None:
    from .data.fetch import fetch_voc12

    sizes = fetch_voc12(here(options.root) if options.root else resolve("data/voc12"))
    print(", ".join(f"{name} {size}" for name, size in sizes.items()))
    print("next · `weaktr run --preset voc12_eva02_s --set data_root=…`; `weaktr presets` lists the others")


def _data_coco_masks(options: argparse.Namespace) -> None:
    from .data.coco import complete, write_masks

    root = here(options.root)
    for split in options.split:
        made = counted(write_masks(root, split), "images with masks")
        print(f"{split}: {', '.join(filter(None, (made, complete(root, split))))}", flush=True)


# ── presets, parameters, environment ──────────────────────────────────────────────────────────────────────────────
def _add_listings(commands: Any) -> None:
    _add(commands, "presets", _presets, "list the presets")
    backbones = _add(commands, "backbones", _backbones, "list the models of timm, and in which steps each can serve")
    backbones.add_argument(
        "pattern", nargs="?", default="", metavar="PATTERN", help="part of a name, * and ? as in files"
    )
    _add(commands, "parameters", _parameters, "list all parameters")
    _add(commands, "environment", _environment, "versions and machine, for a bug report")


def _presets(options: argparse.Namespace) -> None:
    rows = [("preset", "what", "expected", "cost")]
    for name in presets.PRESETS:
        preset = presets.get(name)
        rows.append((preset.name, preset.summary, preset.expected, preset.cost))
    _print_table(rows)
    print("\nHow they differ from the paper:", *presets.differences(), sep="\n")
    print("\nweaktr run --preset NAME --set data_root=FOLDER; weaktr/workbench/presets.py has the command of each")


def _backbones(options: argparse.Namespace) -> None:
    from .models.backbones import backbone_facts, matching_names

    found = [backbone_facts(name) for name in matching_names(options.pattern)]
    rows = [("backbone", "M parameters", "patch", "image", "normalised", "licence", "steps", "note")]
    for one in found:
        steps = ", ".join(map(str, one.steps)) or "–"
        sizes = (f"{one.millions:.1f}", one.patch, one.image)
        rows.append((one.name, *sizes, one.normalisation, one.licence, steps, one.note))
    _print_table(rows)
    counts = [sum(step in one.steps for one in found) for step in (1, 2)]
    print(f"\n{counted(len(found), 'names')}, {counts[0]} for step 1, {counts[1]} for step 2")


def _parameters(options: argparse.Namespace) -> None:
    stages = catalogue(NOTEBOOKS)
    known = {name: parameter for declared in stages.values() for name, parameter in declared.items()}
    rows = [("parameter", "type", "default", "notebooks", "what")]
    for name, parameter in sorted(known.items()):
        numbers = ",".join(stage[:2] for stage, declared in stages.items() if name in declared)
        rows.append((name, parameter.type.__name__, repr(parameter.default), numbers, parameter.help))
    _print_table(rows)


def _environment(options: argparse.Namespace) -> None:
    from .workbench.manifest import environment

    rows = [("what", "value")]
    for kind, facts in environment().items():
        rows += [(f"{kind} {name}", str(value)) for name, value in facts.items()]
    _print_table(rows)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Rows of texts, the first being the heads: wrapped to a terminal's width, one line each elsewhere."""
    if not sys.stdout.isatty():
        try:
            print(aligned(rows), flush=True)
        except BrokenPipeError:  # head, for example, has read enough; what is still buffered goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    Console().print(table)


if __name__ == "__main__":
    console()

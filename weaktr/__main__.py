"""The command line: python -m weaktr run, sweep, compare, report, figures, import, data, presets, parameters."""

import argparse
import os
import signal
import sys
import traceback

from .errors import ParameterError, RunError, UserError
from .workbench import presets
from .workbench import runner as runs
from .workbench.parameters import NOTEBOOKS, catalogue
from .workbench.text import aligned


def main(arguments=None):
    """Runs the command line and returns its exit status: 0, 1 for a run that failed, 2 for input it cannot use."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except Exception as error:
        if options.debug:
            traceback.print_exception(error)
        known = isinstance(error, (UserError, RunError))
        text = error if known else f"{type(error).__name__}: {error}\n  --debug shows where"
        print(f"weaktr: {text}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("weaktr: interrupted", file=sys.stderr)
        return 1
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m weaktr", description="Weakly supervised segmentation with WeakTr.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name, command, what, to=commands):
        added = to.add_parser(name, help=what)
        added.set_defaults(command=command)
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added

    run = add("run", _run, "execute the notebooks of a run, skipping what is up to date")
    run.add_argument("--preset", default="demo", help="a name that `presets` lists (default: demo)")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="override a parameter")
    run.add_argument("--run-folder", metavar="FOLDER", help="default: papermill_runs/<preset>")
    run.add_argument("--stages", nargs="+", metavar="NN", help="only these, by number or name")
    run.add_argument("--force", action="store_true", help="run also what is up to date")
    sweep = add("sweep", _sweep, "run sweeps: many runs out of small TOML files, in parallel")
    sweep.add_argument("files", nargs="+", metavar="FILE", help="as in sweeps/")
    sweep.add_argument("--dry-run", action="store_true", help="print the plan and an estimate, start nothing")
    sweep.add_argument("--jobs", type=int, default=0, metavar="N", help="stages at a time (one per GPU, or two cores)")
    sweep.add_argument("--executor", choices=("local", "slurm"), default="local", help="processes here, or Slurm jobs")
    sweep.add_argument("--slurm-partition", default="", metavar="NAME")
    sweep.add_argument("--gpus", type=int, default=1, metavar="N", help="per Slurm job")
    sweep.add_argument("--cpus", type=int, default=8, metavar="N", help="per Slurm job")
    sweep.add_argument("--minutes", type=int, default=1440, metavar="N", help="limit of a Slurm job")
    compare = add("compare", _compare, "parameters and metrics of finished runs side by side")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    report = add("report", _report, "a run as one HTML page that needs no network")
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder")
    figures = add("figures", _figures, "copy all figures and tables of a run into one folder")
    figures.add_argument("run", metavar="RUN", help="a run's folder")
    figures.add_argument("target", nargs="?", default="figures", metavar="FOLDER", help="default: figures")
    released = add("import", _import, "turn a checkpoint of the authors' code into one of weaktr")
    released.add_argument("file", metavar="FILE", help="as released: .pth, step 1 or step 2")
    released.add_argument("--output", metavar="FILE", help="default: FILE with the ending .safetensors")
    released.add_argument("--heads", type=int, default=0, metavar="N", help="default: as the file says, or width / 64")
    released.add_argument("--decoder-heads", type=int, metavar="N", help="of the decoder, step 2 (default: width / 64)")
    released.add_argument("--image-size", type=int, nargs=2, metavar="N", help="height width, where it is no square")
    released.add_argument("--normalise", choices=("imagenet", "half", "clip"), default="", help="half for ViT-S")
    released.add_argument("--pool", choices=("max", "avg"), default="max", help="of the fusion, step 1")
    data = commands.add_parser("data", help="look at a data set before it is used").add_subparsers(required=True)
    check = add("check", _data_check, "read every file, print a report", data)
    check.add_argument("root", metavar="ROOT")
    check.add_argument("--dataset", default="folder", help="folder (default), voc12, coco14 or coco14_80")
    check.add_argument("--lists", nargs="+", default=["train", "val"], metavar="LIST")
    fetch = add("fetch", _data_fetch, "download VOC12 and SBD, and join them to train_aug", data)
    fetch.add_argument("name", choices=("voc12",))
    fetch.add_argument("root", nargs="?", default="data/voc12", metavar="ROOT", help="default: data/voc12")
    masks = add("coco-masks", _data_coco_masks, "91-id masks and lists of COCO14 from its annotations", data)
    masks.add_argument("root", metavar="ROOT")
    masks.add_argument("--split", nargs="+", choices=("train", "val"), default=["train", "val"])
    add("presets", _presets, "list the presets")
    add("parameters", _parameters, "list all parameters")
    return parser


def _run(options):
    preset = presets.get(options.preset)
    given = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ParameterError(f"--set {text!r}: write it as name=value")
        given[name] = value
    if options.run_folder and "run_folder" in given:
        raise ParameterError(f"--run-folder {options.run_folder}, run_folder={given['run_folder']}: give one of them")
    folder = options.run_folder or given.pop("run_folder", f"papermill_runs/{preset.name}")
    runs.run(preset.parameters | given, folder, stages=options.stages, force=options.force, preset=preset.name)


def _sweep(options):
    from .sweeps import console
    from .sweeps import file as sweep_files
    from .sweeps import plan as sweeps
    from .sweeps import results as sweep_results

    if options.jobs < 0:
        raise ParameterError(f"--jobs {options.jobs}: give a number of stages at a time, or 0 for as many as fit here")
    files = [sweep_files.read_sweep(path) for path in options.files]
    if len({sweep.name for sweep in files}) < len(files):
        raise ParameterError("two of the files have one preset and name, which make the sweep's folder; rename one")
    planned = sweeps.plan(files)
    slurm = options.executor == "slurm"
    jobs = options.jobs or 16 if slurm else sweeps.local_jobs(options.jobs)
    seconds = sweeps.estimate_seconds(planned)
    print(console.plan_text(planned, sweeps.to_compute(planned), seconds, jobs), flush=True)
    if options.dry_run:
        rows = [(one.sweep.name, one.name, ", ".join(one.stages) or "done") for one in planned]
        _table([("sweep", "run", "stages to do"), *rows])
        return
    if slurm:
        limits = {"partition": options.slurm_partition, "gpus": options.gpus, "cpus": options.cpus}
        pool = sweeps.slurm_pool(sweeps.SWEEPS, minutes=options.minutes, **limits)
    else:
        pool = sweeps.LocalPool(jobs)
    with console.progress(planned) as show:
        sweeps.run_sweeps(planned, pool, jobs, show=show)
    for sweep in files:
        try:
            _, found, _ = sweep_results.write_results(sweep)
            print(f"\n{sweep.title} · {sweep.folder}\n{sweep_results.text(found)}", flush=True)
        except RunError as error:  # the other sweeps' tables are written all the same
            print(f"\n{sweep.title} · {sweep.folder}\nno table: {error}", flush=True)
    saved = sum(one.shared for one in planned)
    print(f"\n{console.counts(planned)}; {saved} stage runs saved by sharing", flush=True)
    if broken := [one for one in planned if one.state == "failed"]:
        raise RunError(f"{len(broken)} of {len(planned)} runs failed; the same command tries them again")


def _compare(options):
    from .workbench.reports import compare

    parameters, metrics, notes = compare(options.runs)
    for title, table in (("parameters that differ", parameters), ("metrics", metrics.round(2))):
        print(f"{title}\n{table.to_string(na_rep='–') if len(table) else 'none'}\n")
    print("\n".join(notes), end="")


def _report(options):
    from .workbench.reports import report

    for run in options.runs:
        print(report(run))


def _figures(options):
    from .workbench.reports import collect_figures

    print(f"{options.target}: {len(collect_figures(options.run, options.target))} files, sources.csv says whence")


def _import(options):
    from .models.checkpoints import import_released

    variant = {"normalise": options.normalise, "pool": options.pool, "decoder_heads": options.decoder_heads}
    variant["image_size"] = options.image_size
    model, path = import_released(options.file, options.output, num_heads=options.heads, **variant)
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    classes = model.config["num_classes"]
    print(f"{path}: {model.config['step']}, {million:.1f} M parameters, {classes} classes")
    print(f"normalised by mean {model.mean} and standard deviation {model.std}; another: --normalise")


def _data_check(options):
    from .data import open_dataset
    from .data.report import check

    text, faults = check(open_dataset(options.dataset, options.root), options.lists)
    print(text)
    if faults:
        raise RunError(f"{faults} things to look at in {options.root}")


def _data_fetch(options):
    from .data.fetch import fetch_voc12

    print(", ".join(f"{name} {size}" for name, size in fetch_voc12(runs.resolve(options.root)).items()))


def _data_coco_masks(options):
    from .data.coco import SIZES, write_masks

    for split in options.split:
        made = write_masks(runs.resolve(options.root), split)
        print(f"{split}: {made} images with masks, all of COCO14 are {SIZES[split]}", flush=True)


def _presets(options):
    rows = [presets.get(name) for name in presets.PRESETS]
    _table([("preset", "what", "expected", "cost"), *((o.name, o.summary, o.expected, o.cost) for o in rows)])
    print("\npython -m weaktr run --preset NAME --set data_root=FOLDER; weaktr/presets.py has the command of each")


def _parameters(options):
    stages = catalogue(NOTEBOOKS)
    known = {name: parameter for declared in stages.values() for name, parameter in declared.items()}
    rows = [("parameter", "type", "default", "notebooks", "what")]
    for name, (kind, default, text) in sorted(known.items()):
        numbers = ",".join(stage[:2] for stage, declared in stages.items() if name in declared)
        rows.append((name, kind.__name__, repr(default), numbers, text))
    _table(rows)


def _table(rows):
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
    for ending in (signal.SIGINT, signal.SIGTERM):  # also behind nohup and &, and when a cluster ends the job
        signal.signal(ending, signal.default_int_handler)
    sys.exit(main())

"""What grows with the list, and how? All that a run does with lists and that needs no training, from 1,000 images on.

    .venv/bin/python benchmarks/list_growth.py FOLDER [coco14 1000 9000 82081]

In FOLDER data of these sizes are drawn, see large_lists.py (val has half as many images), and stay for the next call.
Each job runs in a process of its own: time, CPU time of it and of its workers, and the peak of memory above what it
held before, without that of the workers. Printed with the exponents p of y ~ images^p, which are 1 where something
grows as the list does; results/list_growth_<data>.csv holds all points. Linux only (peak memory).
"""

import re
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
from large_lists import LISTS, SCENES, SIZES, WRITERS

from weaktr.data import open_dataset
from weaktr.data.images import read_label, write_label_png
from weaktr.data.report import check
from weaktr.evaluation import intervals
from weaktr.evaluation.scores import object_table, save_counts, score_cams, score_list
from weaktr.files import write_json
from weaktr.method.cams import read_cams, save_cams
from weaktr.processes import cores

# What takes long to import stands in functions: worker processes import this file, too, and are measured.

SMALL_NETWORK = {"backbone": "weaktr_tiny_patch8_96", "image_size": 96, "crop_size": 96, "base_size": 104}
SMALL_NETWORK |= {"window_stride": 64, "clip_cell": 24, "seg_patch": 8}  # needs no download
PUBLISHED = {"voc12": "voc12_cam", "coco14": "coco14_cam"}
GRIDS = ((30, 40), (24, 32), (36, 48))  # tokens of 480×640 pixels at scales 1, 0.8 and 1.2
SHIFT = 8  # pixels by which masks that are scored lie beside the truth


class Started(Exception):
    """A run has come to its first notebook."""


# ── Jobs: each takes the name of the data, their folder and the folder of what a run has made of them ───────────────
def data_check(name, root, made):
    """`weaktr data check`."""
    print(check(open_dataset(name, root), LISTS[name])[0][-1000:])


def until_the_first_notebook(name, root, made):
    """`weaktr run` until it would start a kernel: fingerprint, lists, network, every file, needs."""

    from weaktr.workbench import presets, runner

    def execute(*_):
        raise Started

    train, val = LISTS[name]
    own = {"data_root": str(root), "train_list": train, "eval_list": train, "val_list": val, "workers": cores()}
    values = presets.get(PUBLISHED[name]).parameters | SMALL_NETWORK | own
    with patch.object(runner, "_execute", execute):
        try:
            runner.run(values, made / "run", stages=["01"], force=True)
        except Started:
            return
    raise AssertionError("the run did not come to its first notebook")


def fingerprint(name, root, made):
    """What a run asks first, and every notebook that is run by hand."""
    open_dataset(name, root).fingerprint()


def opening_a_stage(name, root, made):
    """The first lines of a notebook: data, list, and the labels of every image, for which COCO's objects are read."""
    return labels_table(name, root)


def labels_table(name, root):
    """The table of labels, as notebook 01 makes it."""
    data = open_dataset(name, root)
    ids = data.ids(LISTS[name][0])
    return pd.DataFrame([data.labels(i) for i in ids], index=ids, columns=data.classes).astype(int)


def statistics(name, root, made):
    """Notebook 01's tables and figures of labels, with `opening_a_stage`."""
    from weaktr import plots

    labels = labels_table(name, root)
    labels.idxmax()
    plots.per_class_bars(labels.sum().rename("images"), "Images that show each class", "images")
    plots.co_occurrence((labels.T @ labels).to_numpy(), list(labels.columns), "images")


def threshold_curve(name, root, made):
    """100 background scores, from CAM files."""
    data = open_dataset(name, root)
    ids = data.ids(LISTS[name][0])
    score_cams(data, ids, partial(read_cams, folder=made / "cams"), np.linspace(0, 1, 100), cores())


def scores(name, root, made):
    """Masks against the truth: counts of every image, its own mIoU, and its objects."""
    from weaktr.workbench.keys import stage_key

    data = open_dataset(name, root)
    train = LISTS[name][0]
    score = score_list(data, data.ids(train), partial(read_label, made / "labels"), cores())
    score.per_image()
    object_table(data, score)
    stage = made / "finished/05_evaluation"
    stage.mkdir(parents=True, exist_ok=True)
    save_counts(stage / "counts.npz", {"mask": score})
    record = {
        "stage": stage.name,
        "metric": "mIoU of mask",
        "value": score.miou,
        "list": train,
        "list_size": len(score.ids),
    }
    absent = {"threshold": None, "threshold_from": None, "scales": None, "crf": None, "oracle": False}
    write_json(stage / "metrics.json", [record | absent | {"counts": "mask"}])
    parameters = {"val_list": train}
    write_json(stage / "params.json", parameters)
    write_json(stage / "manifest.json", {"key": stage_key(parameters, "", []), "data_fingerprint": ""})


def interval(name, root, made):
    """The bootstrap interval of one number over the images of the list."""
    with np.load(made / "finished/05_evaluation/counts.npz") as counts:
        intervals.estimate(counts["mask"][None])


def report(name, root, made):
    """`weaktr report` of a run with one number of this list."""
    from weaktr.workbench import reports

    reports.report(made / "finished")


JOBS = [data_check, until_the_first_notebook, fingerprint, opening_a_stage, statistics, threshold_curve]
JOBS = {job.__name__: job for job in [*JOBS, scores, interval, report]}


# ── Measuring ───────────────────────────────────────────────────────────────────────────────────────────────────────
def cpu_seconds():
    """CPU time of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def measured(job, name, root, made):
    """A line of the table, from this process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start, used = psutil.Process().memory_info().rss, time.perf_counter(), cpu_seconds()
    JOBS[job](name, root, made)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - used
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    return {"seconds": seconds, "CPU seconds": cpu, "peak (MB)": (peak - before) / 2**20}


def in_a_process(job, name, root, made):
    """`measured` in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measured, job, name, root, made).result()


def prepared(folder, name, train, val):
    """→ folder of data of this size, and of a run's CAMs and masks for them, all of them links; made where missing."""
    root, made = folder / f"{name}_{train}", folder / f"{name}_{train}_made"
    if not root.exists():
        WRITERS[name](root, train, val)
    if made.exists():
        return root, made
    data = open_dataset(name, root)
    ids = data.ids(LISTS[name][0])
    rng = np.random.default_rng(0)
    for kind in ("scenes", "cams", "labels"):
        (made / kind).mkdir(parents=True)
    for number, image_id in enumerate(ids[:SCENES]):
        mask = data.mask(image_id)
        present = np.flatnonzero(data.labels(image_id)).tolist()
        grids = {c: [rng.random(grid, np.float32) for grid in GRIDS] for c in present}
        save_cams(made / f"scenes/{number}.npz", grids, mask.shape)
        write_label_png(made / f"scenes/{number}.png", np.roll(mask, SHIFT, 1))
    for number, image_id in enumerate(ids):
        (made / f"cams/{image_id}.npz").hardlink_to(made / f"scenes/{number % SCENES}.npz")
        (made / f"labels/{image_id}.png").hardlink_to(made / f"scenes/{number % SCENES}.png")
    return root, made


def exponents(table):
    """The p of y ~ images^p between each job's smallest and largest list → DataFrame by job."""
    rows = []
    for job, points in table.groupby("job", sort=False):
        ends = points.sort_values("images").iloc[[0, -1]]
        ratio = np.log(ends["images"].iloc[1] / ends["images"].iloc[0])
        fits = {y: np.log(ends[y].iloc[1] / ends[y].iloc[0]) / ratio for y in ("CPU seconds", "peak (MB)")}
        rows.append({"job": job} | fits)
    return pd.DataFrame(rows)


def main(folder, name="coco14", *sizes, jobs=tuple(JOBS)):
    """Measure the jobs at each size; print and write."""
    from side_by_side import write

    from weaktr import plots  # noqa: F401 (as below: once, not in every process)
    from weaktr.workbench import checks, reports  # noqa: F401

    rows = []
    for size in map(int, sizes or (1000, 9000, SIZES[name][0])):
        train, val = SIZES[name]
        root, made = prepared(Path(folder), name, size, val if size == train else size // 2)
        for job in jobs:
            rows.append({"job": job, "images": size} | in_a_process(job, name, root, made))
            words = [f"{key} {value:.5g}" for key, value in rows[-1].items() if key != "job"]
            print(f"list growth · {job} · {' · '.join(words)}", flush=True)
    table = pd.DataFrame(rows)
    if table["images"].nunique() > 1:
        print(f"exponents\n{exponents(table).round(2).to_string(index=False)}", flush=True)
    write(table, f"list_growth_{name}")


if __name__ == "__main__":
    main(*sys.argv[1:])

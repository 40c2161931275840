"""How does the cost of step 1 grow with image size, batch, classes and number of images? Linux only (peak memory).

    .venv/bin/python benchmarks/growth.py [figure's folder]

Time and memory of a forward pass as CAM generation has it and of a training step, each point in a process of its own.
By size both ways are measured, maps kept and made anew, since the network changes from one to the other as images grow.
A step is run once to warm up and twice measured: the mean time, and the peak of memory above what the process
held before. Printed and drawn with fitted exponents as figures/cost_growth.{png,pdf}, the numbers beside it as CSV.
"""

import ctypes
import gc
import re
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from weaktr.method.cam_generation import generate_grids, mirrored_views
from weaktr.method.cam_training import cam_losses
from weaktr.method.cams import save_cams
from weaktr.models.cam import create_cam_model
from weaktr.plots.style import BLUE, GREEN, ORANGE, SKY, VERMILLION, WIDTH, style
from weaktr.workbench.manifest import environment

BACKBONE, PATCH = "deit_small_patch16_224", 16
ONE = {"size": 224, "batch": 1, "classes": 20}
SWEEPS = {
    "size": [ONE | {"size": size, "keep_maps": keep} for keep in (True, False) for size in (224, 320, 448, 768)],
    "batch": [ONE | {"batch": batch} for batch in (1, 2, 4, 8)],
    "classes": [ONE | {"classes": classes} for classes in (20, 45, 90)],
}
IMAGES = (1, 2, 4)  # photographs of 500×375 at one scale, mirrored
WAYS = {None: "", True: ", maps kept", False: ", low memory"}
KINDS = {
    "forward": (BLUE, "o", "-"), "training step": (VERMILLION, "s", "--"), "generation": (ORANGE, "^", "-."),
    "forward, maps kept": (BLUE, "o", "-"), "forward, low memory": (SKY, "v", ":"),
    "training step, maps kept": (VERMILLION, "s", "--"), "training step, low memory": (GREEN, "D", "-."),
}  # fmt: skip


def forward(size, batch, classes, keep_maps=None):
    """→ function that computes the CAMs of a batch without gradients."""
    model = create_cam_model(BACKBONE, classes, pretrained=False, image_size=size, keep_maps=keep_maps).eval()
    x = torch.randn(batch, 3, size, size)
    return torch.inference_mode()(lambda: model(x))


def training_step(size, batch, classes, keep_maps=None):
    """→ function that takes one step of AdamW."""
    model = create_cam_model(BACKBONE, classes, pretrained=False, image_size=size, keep_maps=keep_maps)
    x, y = torch.randn(batch, 3, size, size), torch.ones(batch, classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def way():
        optimizer.zero_grad()
        sum(cam_losses(model(x), y).values()).backward()
        optimizer.step()

    return way


def generation(images):
    """→ function that makes and writes the CAMs of that many photographs with two classes each."""
    model = create_cam_model(BACKBONE, 20, pretrained=False).eval()
    image = np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8)

    def way():
        with tempfile.TemporaryDirectory() as folder:
            for number in range(images):
                views = mirrored_views(model, [image], (1.0,))
                grids = generate_grids(model, views, [np.arange(20) < 2], [("fused", True)])[0][0]
                save_cams(Path(folder) / f"{number}.npz", grids, image.shape[:2])

    return way


def cost(make, settings, times=2):
    """Seconds, the mean, and peak bytes of the function that `make` builds, once it has run before."""
    way, seconds = make(**settings), []
    way()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = psutil.Process().memory_info().rss
    for _ in range(times):
        start = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - start)
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    return float(np.mean(seconds)), peak - before


def in_a_process(make, settings):
    """`cost` in a fork of this process, which computes nothing itself."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(cost, (make, settings))


def exponents(table):
    """The p of y ~ x^p, fitted to each line of the figure → DataFrame quantity, kind, seconds, megabytes."""
    rows = []
    for (quantity, kind), points in table.groupby(["quantity", "kind"], sort=False):
        fits = {y: np.polyfit(np.log(points["x"]), np.log(points[y]), 1)[0] for y in ("seconds", "megabytes")}
        rows.append({"quantity": quantity, "kind": kind} | fits)
    return pd.DataFrame(rows)


@style()
def draw(table):
    """Time above, memory below, a column per quantity: DataFrame quantity, kind, x, seconds, megabytes → Figure."""
    names = {"size": "patches of the image", "batch": "batch", "classes": "classes", "images": "images"}
    figure = Figure(figsize=(WIDTH, 4.6))
    axes = figure.subplots(2, len(names), sharex="col", sharey="row")
    fitted, handles = exponents(table).set_index(["quantity", "kind"]), {}
    for column, (quantity, label) in zip(axes.T, names.items()):
        for ax, measure in zip(column, ("seconds", "megabytes")):
            ends = {}
            for kind, points in table[table["quantity"] == quantity].groupby("kind", sort=False):
                colour, marker, line = KINDS[kind]
                shown = f"{kind}, maps kept" if kind in ("forward", "training step") else kind  # as they are at 224 px
                handles[shown] = ax.plot(points["x"], points[measure], line, color=colour, marker=marker)[0]
                power = round(fitted.loc[(quantity, kind), measure], 2) + 0.0  # no -0.00
                ends[points[measure].iloc[-1]] = f"{power:.2f}".replace("-", "−"), colour, points["x"].iloc[-1]
            ticks = table[table["quantity"] == quantity]["x"].unique()
            ax.set(
                xscale="log", yscale="log", xlim=(ticks.min() / 1.15, ticks.max() ** 1.16 / ticks.min() ** 0.16 * 1.4)
            )
            ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks], rotation=45 if quantity == "size" else 0)
            ax.minorticks_off()
            place = np.inf
            for y, (text, colour, x) in sorted(ends.items(), reverse=True):
                place = min(y, place / 1.55)  # no number on another
                ax.annotate(text, (x, place), (5, 0), textcoords="offset points", color=colour, va="center", fontsize=7)
        column[0].set_title("by size, 224 … 768 px" if quantity == "size" else f"by {quantity}")
        column[1].set_xlabel(label)
    for ax, text in zip(axes[:, 0], ("seconds", "megabytes above rest")):
        ax.set_ylabel(text)
    handles["number: the exponent that fits the line"] = Line2D([], [], linestyle="")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, handlelength=2.5)
    return figure


def main(folder="figures"):
    """Measure every point, print it, draw and write all."""
    points = [
        (quantity, kind, (settings["size"] // PATCH) ** 2 if quantity == "size" else settings[quantity], make, settings)
        for quantity, sweep in SWEEPS.items()
        for settings in sweep
        for kind, make in (
            (f"forward{WAYS[settings.get('keep_maps')]}", forward),
            (f"training step{WAYS[settings.get('keep_maps')]}", training_step),
        )
    ]
    points += [("images", "generation", images, generation, {"images": images}) for images in IMAGES]
    rows = []
    for quantity, kind, x, make, settings in points:
        seconds, peak = in_a_process(make, settings)
        rows.append(
            {"quantity": quantity, "kind": kind, "x": x, "seconds": seconds, "megabytes": peak / 2**20} | settings
        )
        text = ", ".join(f"{name} {value}" for name, value in settings.items())
        print(f"growth · {kind} · {text} · {seconds:.2f} s · {rows[-1]['megabytes']:.0f} MB", flush=True)
    table, figure = pd.DataFrame(rows), Path(folder) / "cost_growth"
    facts = environment()
    measured = {"machine": facts["hardware"]["cpu"], "commit": facts["git"]["commit"], "precision": "fp32"}
    table.drop(columns="x").assign(backbone=BACKBONE, **measured).to_csv(f"{figure}.csv", index=False)
    fitted = exponents(table)
    fitted.round(3).to_csv(f"{figure}_exponents.csv", index=False)
    print(f"exponents, size by the number of tokens\n{fitted.round(2).to_string(index=False)}", flush=True)
    drawn = draw(table)
    drawn.savefig(f"{figure}.pdf", metadata={"CreationDate": None})
    drawn.savefig(f"{figure}.png", dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])

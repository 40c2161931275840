"""How long does a touch take in the explorer of attention? The kernel's half: from what is touched to what is sent.

    .venv/bin/python benchmarks/attention_view.py

A patch, a head of one layer, a switch and another image: for the demo's network at 112 × 90 pixels and DeiT-S at 224 ×
224 with VOC12's 20 classes, random weights. Time of the clock and, as the machine may be busy, of the CPU; with
OMP_NUM_THREADS=1 no thread waits for another, which would count as CPU time too. What a browser adds: `make
test-browser`.
"""

import time

import numpy as np
import pandas as pd
import torch
from side_by_side import write

from weaktr.method.cam_generation import look
from weaktr.models.cam import create_cam_model
from weaktr.workbench.attention_widget import AttentionWidget

NETWORKS = {  # name: backbone, classes, image (H,W)
    "demo": ("weaktr_tiny_patch8_96", 8, (90, 112)),
    "DeiT-S": ("deit_small_patch16_224", 20, (224, 224)),
}


def touch(widget, name, value):
    """Seconds of the clock and of the CPU until a trait's change is answered."""
    start = time.perf_counter(), time.process_time()
    setattr(widget, name, value)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main(rounds=7):
    """A row for each network and kind of touch: medians in milliseconds."""
    rows = []
    for network, (backbone, classes, size) in NETWORKS.items():
        model = create_cam_model(backbone, classes, pretrained=False, image_size=size[0]).eval()
        images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
        choices = {f"{number}": (str(number), 0) for number in range(2)}
        names = [str(c) for c in range(classes)]
        widget = AttentionWidget(lambda image, m=model: look(m, image), lambda i, x=images: x[int(i)], choices, names)
        heads = len(widget.on)
        changes = {
            "patch": ("place", lambda n: [n % 8, n % 5]),
            "layer and head": ("shown", lambda n: [n % 6, n % 3]),
            "switch of a head": ("on", lambda n, of=heads: [i != n for i in range(of)]),
            "image": ("choice", lambda n: (n + 1) % 2),
        }
        for kind, (name, value) in changes.items():
            taken = 1000 * np.median([touch(widget, name, value(n)) for n in range(rounds)], axis=0)
            rows.append([network, kind, torch.get_num_threads(), *taken, len(widget.view["maps"]) / 1000])
    columns = ["network", "touch", "threads", "clock (ms)", "CPU (ms)", "maps sent (kB)"]
    write(pd.DataFrame(rows, columns=columns), "attention_view")


if __name__ == "__main__":
    main()

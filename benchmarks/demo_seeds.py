"""The claims of the demo over several seeds: fine against coarse CAM, the chain of stages, clipping on against off.

    .venv/bin/python benchmarks/demo_seeds.py [seed …]

Runs the demo once per seed, then its stages 04 and 05 again without clipping on the same pseudo labels (the stages
before are linked, not computed again). Prints mean ± standard deviation over the seeds and writes
papermill_runs/seeds/claims.csv. Some 15 minutes a seed on two cores; a second call runs only what is missing.
"""

import os
import shutil
import sys

import pandas as pd

from weaktr import runs
from weaktr.stages import resolve

SHARED_STAGES = ("01_cam_training", "02_cam_generation", "03_pseudo_labels")
COLUMNS = ["metric", "list", "list_size", "crf", "oracle", "value"]


def numbers(folder):
    """Every mIoU of a run as a DataFrame."""
    records = [record for path in sorted(folder.glob("*/metrics.json")) for record in runs.read_json(path)]
    table = pd.DataFrame(records)[COLUMNS]
    return table[table["metric"].str.contains("mIoU")]


def main(seeds):
    """Run what is missing and print the table."""
    found = []
    for seed in seeds:
        clipped = resolve(f"papermill_runs/seeds/{seed}")
        plain = resolve(f"papermill_runs/seeds/{seed}_unclipped")
        given = {"seed": seed, "train_ceiling": False}
        runs.run(given, clipped, preset="demo")
        for stage in SHARED_STAGES:
            if not (plain / stage).exists():
                shutil.copytree(clipped / stage, plain / stage, copy_function=os.link)
        runs.run(given | {"clip_scope": "none"}, plain, preset="demo")
        for name, folder in (("on", clipped), ("off", plain)):
            found.append(numbers(folder).assign(seed=seed, clipping=name))
    table = pd.concat(found)
    table.to_csv(resolve("papermill_runs/seeds/claims.csv"), index=False)
    keys = ["clipping", "metric", "list", "list_size", "crf", "oracle"]
    print(table.groupby(keys, sort=False, dropna=False)["value"].agg(["mean", "std", "count"]).round(2).to_string())


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [504, 505, 506])

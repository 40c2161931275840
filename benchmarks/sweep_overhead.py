"""What a sweep costs beside its stages: planning, processes, kernels and bookkeeping of runs that do nothing.

Goal: at most 10 seconds a run of five stages. Usage: python benchmarks/sweep_overhead.py [RUNS]
"""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
from side_by_side import write

from weaktr.files import read_json
from weaktr.sweeps import file, plan, pools, schedule

STAGES = ("01_first", "02_second", "03_third", "04_fourth", "05_fifth")
CELLS = (
    'run_folder: str = ""  # folder of the run\nseed: int = 504  # of nothing',
    "from weaktr.workbench import open_stage\n\nstage = open_stage({!r}, globals())",
    'stage.finish([{{"list": "val", "list_size": 9, "metric": "none", "value": 1.0}}])',
)


def main(runs=4):
    """Runs of five empty stages, one after the other, timed against what the stages say of themselves."""
    with tempfile.TemporaryDirectory() as place:
        notebooks = Path(place) / "notebooks"
        notebooks.mkdir()
        for name in STAGES:
            cells = [nbformat.v4.new_code_cell(cell.format(name) if i else cell) for i, cell in enumerate(CELLS)]
            cells[0].metadata["tags"] = ["parameters"]
            nbformat.write(nbformat.v4.new_notebook(cells=cells), notebooks / f"{name}.ipynb")
        measure = {"label": "none", "stage": STAGES[-1], "metric": "none"}
        source = {"seeds": list(range(runs)), "measure": [measure]}
        start, busy = time.monotonic(), psutil.cpu_percent()
        sweep = file.read_sweep(source, "empty", root=Path(place) / "sweeps", notebooks=notebooks)
        planned = plan.plan([sweep], notebooks=notebooks)
        schedule.run_sweeps(planned, pools.LocalPool(1), 1, notebooks=notebooks)
        seconds, busy = time.monotonic() - start, psutil.cpu_percent()
        own = sum(read_json(path)["seconds"] for path in sweep.folder.rglob("manifest.json"))
    assert all(one.state == "done" for one in planned)
    print(f"{runs} runs of {len(STAGES)} stages, one at a time: {seconds:.1f} s, {own:.1f} s of them inside the stages")
    print(f"overhead {(seconds - own) / runs:.1f} s a run (goal 10), all cores {busy:.0f} % busy meanwhile")
    write(pd.DataFrame([{"runs": runs, "seconds": seconds, "inside stages": own}]), "sweep_overhead")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

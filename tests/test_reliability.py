"""The script that kills runs, fills their disk and cuts off their files, on notebooks that take no time themselves."""

import random
import sys

import numpy as np
import pytest
import reliability
from test_runs import PARAMETERS, write_notebook

WRITE = """import numpy as np, time
from weaktr.files import atomic
for number in range(12):
    path = stage.folder / "cams" / f"{number}.npz"
    if not path.is_file():
        time.sleep(0.1)
        with atomic(path) as aside:
            np.savez(aside, number=np.full(20_000, number, np.int32))
stage.finish([])"""
READ = """import time, zipfile, numpy as np
from weaktr.errors import DataError
from weaktr.files import write_json
total = 0
for path in sorted((stage.input("01_write") / "cams").glob("*.npz")):
    time.sleep(0.1)
    try:
        total += int(np.load(path)["number"].sum())
    except Exception as error:
        raise DataError(f"{path} cannot be read ({error})")
write_json(stage.folder / "threshold.json", total)
stage.finish([])"""
SCRIPT = """import sys
from pathlib import Path
from weaktr import __main__
from weaktr.workbench import kernels, runner
kernels.LOADED = kernels.LOADED[:1]
run = runner.run
runner.run = lambda parameters, folder, **named: run({}, folder, notebooks=Path(__file__).parent)
if __name__ == "__main__":
    sys.exit(__main__.main(["run", *sys.argv[1:]]))"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs two notebooks; one writes files, the other reads them."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_notebook(folder, "01_write", PARAMETERS, WRITE)
    write_notebook(folder, "02_read", PARAMETERS, READ)
    (folder / "run.py").write_text(SCRIPT)
    return [sys.executable, str(folder / "run.py")]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """{file: sha256} of what the notebooks make when nobody disturbs them."""
    run = reliability.Run(command, tmp_path_factory.mktemp("runs") / "undisturbed")
    run.finish()
    assert not run.faults
    found = reliability.digest(run.folder)
    assert len(found) == 12 + 4
    return found


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_that_is_not(command, undisturbed, tmp_path):
    run = reliability.Run(command, tmp_path / "killed", undisturbed)
    rows = reliability.kill_at_random(run, 2, 6, random.Random(3))
    run.compare()
    assert len(rows) == 2 and not run.faults


@pytest.mark.slow
def test_a_run_whose_file_is_cut_off_names_it_and_goes_on(command, undisturbed, tmp_path):
    run = reliability.Run(command, tmp_path / "cut", undisturbed)
    rows = reliability.cut_files(run, 1, 1, random.Random(0))
    run.compare()
    assert len(rows) == 1 and not run.faults and ".npz cannot be read" in rows[0]["said"]


@pytest.mark.slow
def test_a_run_whose_disk_fills_says_so_and_goes_on(command, undisturbed, tmp_path):
    disk, reason = reliability.small_disk(tmp_path / "disk", 2**20)
    if disk is None:
        pytest.skip(reason)
    try:
        run = reliability.Run(command, disk.folder / "run", undisturbed)
        rows = reliability.fill_disk(run, disk, 1, 800_000, random.Random(1))
        run.compare()
        assert len(rows) == 1 and not run.faults and "No space left on device" in rows[0]["said"]
    finally:
        disk.remove()


@pytest.mark.slow
def test_a_run_that_may_not_write_says_so_and_goes_on(command, undisturbed, tmp_path):
    bound = reliability.as_others()
    if bound is None:
        pytest.skip("root may write everywhere")
    run = reliability.Run([*bound, *command], tmp_path / "forbidden", undisturbed)
    rows = reliability.forbid_writing(run, 1, 2, random.Random(0))
    run.compare()
    assert len(rows) == 1 and not run.faults and "Permission denied" in rows[0]["said"]


def test_what_is_not_whole_is_a_fault(tmp_path, capsys):
    run = reliability.Run([], tmp_path)
    np.savez(tmp_path / "whole.npz", a=np.arange(9))
    (tmp_path / "metrics.json").write_text("[]")
    run.digests = reliability.digest(tmp_path)
    run.check_whole()
    run.compare()
    assert not run.faults
    half = (tmp_path / "whole.npz").read_bytes()[:90]
    for name in ("half.npz", ".half.npz", "half.png", "half.safetensors"):
        (tmp_path / name).write_bytes(half)
    (tmp_path / "metrics.json").write_text('[{"value": 1')
    run.check_whole(besides=[tmp_path / "half.png"])
    assert [fault.split()[0] for fault in run.faults] == ["half.npz", "half.safetensors", "metrics.json"]
    run.compare()
    assert "metrics.json is another than in the undisturbed run" in run.faults

"""What the benchmarks measure with, and one of them as a whole at a small size; no test here is about time itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def side_by_side(monkeypatch, tmp_path):
    import side_by_side

    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path)
    return side_by_side


def test_ways_are_timed_in_turns(side_by_side, tmp_path, capsys):
    calls = []
    ways = {"first": lambda: calls.append(1), "slow": lambda: calls.append(time.sleep(0.01))}
    found = side_by_side.measure(ways, rounds=3, name="turns")
    assert calls == [1, None] * 2 + [None, 1] + [1, None], "one round to warm up, three in turns that begin elsewhere"
    assert found["ratio to first"][0] == 1 and found["median (s)"][1] >= 0.01
    assert pd.read_csv(tmp_path / "turns.csv")["rounds"].tolist() == [3, 3] and "slow" in capsys.readouterr().out


def test_a_profile_names_the_operators(side_by_side, tmp_path):
    side_by_side.profile(lambda: torch.randn(8, 8) @ torch.randn(8, 8), "product")
    assert "aten::mm" in (tmp_path / "product_profile.txt").read_text()


def hold(megabytes):
    return lambda: np.ones(megabytes * 125_000).sum()


def test_memory_is_that_of_the_way_alone(side_by_side, tmp_path):
    side_by_side.measure_memory(hold, {"little": (60,), "much": (240,)}, name="memory")
    assert pd.read_csv(tmp_path / "memory.csv")["peak (MB)"].tolist() == pytest.approx([60, 240], abs=15)


@pytest.mark.slow
def test_a_benchmark_runs_from_its_command(tmp_path):
    """With a copy of benchmarks/, so that the results of real sizes stay."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    done = subprocess.run(
        [sys.executable, tmp_path / "threshold_curve.py", "2"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "results/threshold_curve.csv")
    assert "100 thresholds, one pass" in found["way"].tolist() and found["machine"].notna().all()


def test_the_benchmark_of_the_retraining_step(side_by_side, tmp_path):
    import seg_step

    seg_step.main(32, 1)
    found = pd.read_csv(tmp_path / "seg_step_32_1_fp32.csv")
    assert {"plain cross entropy", "gradient clipping"} == set(found["way"])
    assert 0 < pd.read_csv(tmp_path / "seg_step_32_1_waiting.csv").iloc[0, 1] < 1
    assert (tmp_path / "seg_step_32_1_fp32_profile.txt").exists()


def test_the_window_benchmark_compares_probabilities(side_by_side, tmp_path, monkeypatch, capsys):
    import sliding_windows

    monkeypatch.setattr(sliding_windows, "CASES", {"demo_96": sliding_windows.CASES["demo_96"]})
    sliding_windows.main()
    assert "probabilities differ by" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "sliding_windows_demo_96.csv")["way"].tolist() == ["one at a time", "as shipped"]
    monkeypatch.setattr(sliding_windows, "at_once", lambda count, window, function: function() + 1e-4)
    with pytest.raises(SystemExit, match="differ by"):
        sliding_windows.main()


def test_exponents_of_growth():
    import growth

    x = pd.Series([1.0, 2, 4, 8])
    points = pd.DataFrame({"quantity": "size", "kind": "forward", "x": x, "seconds": 3 * x**2, "megabytes": 5 * x})
    fitted = growth.exponents(pd.concat([points, points.assign(kind="step", seconds=7.0)]))
    assert fitted["kind"].tolist() == ["forward", "step"]
    assert fitted["seconds"].round(6).tolist() == [2, 0] and fitted["megabytes"].round(6).tolist() == [1, 1]


def test_the_rate_of_loading(tmp_path):
    import gpu

    assert gpu.loading(tmp_path, 1, images=16, batch=8) > 0


def test_rates_from_files(tmp_path):
    """On a CPU and small: the GPU's benchmark trains and generates with it."""
    import gpu

    small = {"embed_dim": 64, "depth": 4, "num_heads": 4}
    found = gpu.from_files(tmp_path, torch.device("cpu"), 1, backbone=small, files=4, images=16, batch=8)
    assert [line["images/s"] > 0 for line in found] == [True, True] and len(list(tmp_path.glob("cams/*.npz"))) == 4


def test_the_benchmark_of_attention_takes_both_ways(side_by_side, tmp_path, monkeypatch, fused_calls):
    import attention

    monkeypatch.setattr(attention, "auto_precision", lambda device: "bf16")
    monkeypatch.setattr(attention, "pick_device", lambda: torch.device("cpu"))
    attention.main(1, [32])
    found = pd.read_csv(tmp_path / "attention_5_1_bf16.csv")
    assert found["way"].tolist() == ["fused", "plain products"]
    expected = attention.BLOCKS["depth"] * 8 * (1 + found["rounds"][0])
    assert len(fused_calls) == expected, "only the first way goes through torch's fused attention"


@pytest.mark.parametrize("name", ["voc12", "coco14"])
def test_drawn_data_of_any_size_are_sound(tmp_path, name):
    """That they are links is all that is found: copies of 16 scenes."""
    import large_lists

    from weaktr.data import open_dataset
    from weaktr.data.report import check

    large_lists.main(name, str(tmp_path / "data"), "40", "20")
    data = open_dataset(name, tmp_path / "data")
    train, val = large_lists.LISTS[name]
    text, faults = check(data, [train, val])
    assert faults == 16 and "16 copies of one image:" in text and f"lists {train} (40), {val} (20)" in text
    for image_id in data.ids(val):
        assert (np.flatnonzero(data.labels(image_id)) + 1).tolist() == np.unique(data.mask(image_id))[1:].tolist()


def test_the_benchmark_of_lists(side_by_side, tmp_path, capsys):
    """Every job, at two sizes of which the larger one is worth several processes."""
    import list_growth

    list_growth.main(tmp_path, "coco14", "200", "400")
    found = pd.read_csv(tmp_path / "list_growth_coco14.csv")
    assert set(found["job"]) == set(list_growth.JOBS) and (found["CPU seconds"] > 0).all()
    assert found.groupby("job")["images"].unique().map(list).tolist() == [[200, 400]] * len(list_growth.JOBS)
    assert "exponents" in capsys.readouterr().out


def test_exponents_of_lists():
    import list_growth

    points = pd.DataFrame({"job": "scores", "images": [100, 10_000], "CPU seconds": [1, 100], "peak (MB)": [50, 500]})
    assert list_growth.exponents(points).round(6).to_numpy().tolist() == [["scores", 1, 0.5]]


def test_the_benchmark_of_several_processes(side_by_side, tmp_path, monkeypatch):
    import scaling

    monkeypatch.setattr(scaling, "pick_device", lambda: torch.device("cpu"))
    small = {"backbone": {"embed_dim": 64, "depth": 4, "num_heads": 4, "patch_size": 8}, "sides": (32, 32)}
    scaling.main("1", "2", settings=small | {"batches": (4, 2), "images": 4}, steps=2)
    found = pd.read_csv(tmp_path / "scaling_gloo.csv")
    assert found["what"].tolist() == ["step 1", "step 2", "CAM generation"] * 2
    assert found["ranks"].tolist() == [1, 1, 1, 2, 2, 2] and (found["images/s"] > 0).all()
    assert found["reduction (%)"].between(0, 100).all() and found["backend"].eq("gloo").all()


def test_what_is_computed_on_paper():
    """Published windows by hand: 1, 2, 4, 6, 6 and 12 of the six scales, mirrored; more GPUs never take longer."""
    import reach

    assert reach.windows() == 62
    found = reach.table(1, 4)
    assert found["GPUs"].tolist() == [1, 4] * 6 and set(found["limit"]) <= {"GPU", "cores", "GPU or cores"}
    hours = found["hours"].str.split(" to ").str[-1].astype(float).to_numpy().reshape(-1, 2)
    assert (hours[:, 0] > 3 * hours[:, 1]).all() and (hours[:, 0] < 5 * hours[:, 1]).all()

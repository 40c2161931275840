"""What the benchmarks measure with, and one of them as a whole at a small size; no test here is about time itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture
def side_by_side(monkeypatch, tmp_path):
    import side_by_side

    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path)
    return side_by_side


def test_ways_are_timed_in_turns(side_by_side, tmp_path, capsys):
    calls = []
    ways = {"first": lambda: calls.append(1), "slow": lambda: calls.append(time.sleep(0.01))}
    found = side_by_side.measure(ways, rounds=3, name="turns")
    assert calls == [1, None] * 4, "one round to warm up, three that count"
    assert found["ratio to first"][0] == 1 and found["median (s)"][1] >= 0.01
    assert pd.read_csv(tmp_path / "turns.csv")["rounds"].tolist() == [3, 3] and "slow" in capsys.readouterr().out


def test_a_profile_names_the_operators(side_by_side, tmp_path):
    side_by_side.profile(lambda: torch.randn(8, 8) @ torch.randn(8, 8), "product")
    assert "aten::mm" in (tmp_path / "product_profile.txt").read_text()


@pytest.mark.slow
def test_a_benchmark_runs_from_its_command(tmp_path):
    """With a copy of benchmarks/, so that the results of real sizes stay."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    done = subprocess.run(
        [sys.executable, tmp_path / "seg_step.py", "32", "1"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"gradient clipping", "loading, one process"} <= set(
        pd.read_csv(tmp_path / "results/seg_step_32_1_fp32.csv")["way"]
    )
    assert (tmp_path / "results/seg_step_32_1_fp32_profile.txt").exists()

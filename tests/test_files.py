"""Paths, and files that are complete or absent; what killed processes leave is tested with the stages."""

import numpy as np
import pandas as pd
import pytest

from weaktr import files
from weaktr.errors import UserError


def test_json_comes_back_as_plain_values(tmp_path):
    path = tmp_path / "sub/metrics.json"
    files.write_json(path, {"value": np.float32(0.5), "count": np.int64(3), "where": tmp_path, "name": "×"})
    assert files.read_json(path) == {"value": 0.5, "count": 3, "where": str(tmp_path), "name": "×"}


def test_a_missing_file_reads_as_an_empty_dict(tmp_path):
    (tmp_path / "file").touch()
    assert files.read_json(tmp_path / "none.json") == files.read_json(tmp_path / "file/none.json") == {}


@pytest.mark.parametrize("content", [b"", b'{"key": "ab', b"\xff\xfe"])
def test_a_damaged_file_is_refused_with_the_remedy(tmp_path, content):
    path = tmp_path / "02_cam_generation/manifest.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json is damaged .* delete the folder .*02_cam_generation and run"):
        files.read_json(path)


def test_stage_folders_are_those_of_stages_in_order(tmp_path):
    for name in ("04_b", "01_a", ".02_c.1.gone", "figures", "1_d"):
        (tmp_path / name).mkdir()
    (tmp_path / "03_file").touch()
    assert [path.name for path in files.stage_folders(tmp_path)] == ["01_a", "04_b"]
    assert files.stage_folders(tmp_path / "none") == []


def test_a_run_is_looked_for_here_and_then_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert files.run_folder("mine").resolve() == tmp_path / "mine"
    assert files.run_folder(tmp_path / "mine") == tmp_path / "mine"
    assert files.run_folder("papermill_runs/none") == files.ROOT / "papermill_runs/none"


def test_a_table_is_replaced_whole_and_not_rewritten(tmp_path):
    """A hard link keeps the old content: stages of a sweep share their files."""
    table = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="id"))
    path, link = tmp_path / "history.csv", tmp_path / "link.csv"
    files.write_table(table, path)
    link.hardlink_to(path)
    files.write_table(table, path, index=True)
    assert link.read_text() == "a\n1\n2\n"
    assert path.read_text() == "id,a\nx,1\ny,2\n"
    assert sorted(tmp_path.iterdir()) == [path, link]

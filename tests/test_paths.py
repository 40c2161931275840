"""Paths of commands start where the person stands, those of notebooks' parameters at the repository's root."""

import pytest

from weaktr import files
from weaktr.__main__ import main
from weaktr.workbench import collection, runner


@pytest.fixture
def standing(tmp_path, monkeypatch):
    """A folder to stand in, apart from the data sets of other fixtures."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_here(standing):
    assert files.here("a/b") == standing / "a/b" and files.here(".") == standing
    assert files.here("../a") == standing.parent / "a" and files.here(standing) == standing
    assert "~" not in str(files.here("~/a"))


def test_data_check(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder / "a b")
    assert main(["data", "check", ".."]) in (0, 1)
    assert "folder: 2 classes; lists train (2), val (1)" in capsys.readouterr().out


def test_coco_masks(standing, capsys):
    assert main(["data", "coco-masks", "mine"]) == 2
    assert str(standing / "mine/annotations/instances_train2014.json") in capsys.readouterr().err


@pytest.mark.parametrize(("given", "root"), [([], files.ROOT / "data/voc12"), (["mine"], None)])
def test_fetch(standing, monkeypatch, given, root):
    asked = []
    monkeypatch.setattr("weaktr.data.fetch.fetch_voc12", lambda place: asked.append(place) or {})
    assert main(["data", "fetch", "voc12", *given]) == 0
    assert asked == [root or standing / "mine"]


def test_run_folder(standing, monkeypatch):
    """The option is the command's, the parameter a notebook's; below the repository the folder is named from there."""
    folders = []
    monkeypatch.setattr(runner, "run", lambda parameters, folder, **_: folders.append(folder))
    for options in (["--run-folder", "mine"], ["--set", "run_folder=mine"], []):
        assert main(["run", "--preset", "smoke", *options]) == 0
    monkeypatch.chdir(files.ROOT)
    main(["run", "--preset", "smoke", "--run-folder", "papermill_runs/mine"])
    assert folders == [str(standing / "mine"), "mine", "papermill_runs/smoke", "papermill_runs/mine"]


def test_figures(standing, monkeypatch):
    targets = []
    monkeypatch.setattr(collection, "collect_figures", lambda run, target: targets.append(target) or [])
    main(["figures", "run", "mine"]), main(["figures", "run"])
    assert targets == [standing / "mine", standing / "figures"]


def test_evaluate_and_predict(folder, standing, capsys):
    """The data set lies a folder above; nothing is found from the repository's root."""
    of_list = ["--dataset", "folder", "--data-root", "..", "--list", "val"]
    assert main(["evaluate", "masks", *of_list]) == 2
    assert "masks does not exist" in capsys.readouterr().err
    assert main(["predict", "none.safetensors", "../three.png", "--output", "masks"]) == 2
    assert "none.safetensors does not exist" in capsys.readouterr().err
    assert main(["predict", "none.safetensors", "three.png", "--output", "masks"]) == 2
    assert "three.png does not exist; give pictures" in capsys.readouterr().err

"""The notebooks, executed by the runner on the embedded data set."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from weaktr import predict
from weaktr.data import open_dataset
from weaktr.data.images import VOID
from weaktr.models.checkpoints import load_model
from weaktr.workbench import presets, runner
from weaktr.workbench.parameters import catalogue

pytestmark = pytest.mark.timeout(600)  # five notebooks in a row; the other tests take seconds
ROOT = Path(__file__).parents[1]
STAGES = ["01_cam_training", "02_cam_generation", "03_pseudo_labels", "04_online_retraining", "05_evaluation"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a run of the `smoke` preset."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    runner.run(presets.get("smoke").parameters, folder, preset="smoke")
    return folder


def metrics(folder):
    return [record for stage in STAGES for record in json.loads((folder / stage / "metrics.json").read_text())]


def test_every_stage_leaves_what_the_contract_says(smoke):
    for stage in STAGES:
        for name in ("notebook.ipynb", "params.json", "manifest.json", "metrics.json"):
            assert (smoke / stage / name).is_file(), f"{stage}/{name}"
        drawn = {
            kind: {path.stem for path in (smoke / stage / "figures").glob(f"*.{kind}")}
            for kind in ("png", "pdf", "csv")
        }
        assert drawn["png"] and drawn["png"] == drawn["pdf"] == drawn["csv"], (
            "each figure as picture, print and numbers"
        )
    assert len(pd.read_csv(smoke / "01_cam_training/history.csv")) == 1
    assert len(list((smoke / "02_cam_generation/cams").glob("*.npz"))) == 32
    assert len(list((smoke / "03_pseudo_labels/labels").glob("*.png"))) == 32
    assert len(list((smoke / "04_online_retraining/clipping").glob("*.npz"))) > 0
    assert len(list((smoke / "05_evaluation/predictions/multi_crf").glob("*.png"))) == 16


def test_executed_notebooks_hold_pictures_and_no_errors(smoke):
    for stage in STAGES:
        notebook = nbformat.read(smoke / stage / "notebook.ipynb", as_version=4)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2, stage


def test_manifests_say_what_made_them(smoke):
    for stage in STAGES:
        manifest = json.loads((smoke / stage / "manifest.json").read_text())
        assert manifest["preset"] == "smoke"
        assert {"git", "versions", "hardware", "seed", "data_fingerprint", "start", "end", "seconds"} <= manifest.keys()


def test_checkpoints_say_what_made_them(smoke):
    for stage in ("01_cam_training", "04_online_retraining"):
        details = load_model(smoke / stage / "model.safetensors").details
        manifest = json.loads((smoke / stage / "manifest.json").read_text())
        assert details["preset"] == "smoke" and details["classes"] and not details["oracle"]
        assert details["data_fingerprint"] == manifest["data_fingerprint"] != ""


def test_every_number_says_what_it_is(smoke):
    records = metrics(smoke)
    for record in records:
        assert {"stage", "list", "list_size", "threshold", "threshold_from", "scales", "crf", "metric", "value"} <= set(
            record
        )
        assert np.isfinite(record["value"])
        assert record["list_size"] in (16, 32)
    chosen = [record for record in records if record["threshold_from"] == "best on masks"]
    assert chosen
    assert all(record["oracle"] for record in chosen)
    assert all(record["oracle"] for record in records if "ceiling" in record["metric"])


def test_a_second_run_does_nothing(smoke, capfd):
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()}
    runner.run(presets.get("smoke").parameters, smoke, preset="smoke")
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()} == before
    assert capfd.readouterr().out.count("up to date, skipped") == len(STAGES)


def test_masks_are_what_mmsegmentation_reads(smoke):
    """As its BaseSegDataset finds them, img_suffix=".jpg" and seg_map_suffix=".png", and its loader reads values."""
    data = open_dataset("synthetic")
    places = {"03_pseudo_labels/labels": "smoke:32", "05_evaluation/predictions/multi_crf": "smoke_val:16"}
    for place, list_name in places.items():
        pictures = [data.image_path(image_id) for image_id in data.ids(list_name)]
        names = {picture.name.removesuffix(".jpg") + ".png" for picture in pictures}
        assert {path.name for path in (smoke / place).iterdir()} >= names
        seen = set()
        for picture in pictures:
            with Image.open(smoke / place / f"{picture.stem}.png") as mask, Image.open(picture) as image:
                assert (mask.format, mask.mode, mask.size) == ("PNG", "P", image.size)
                assert mask.getpalette()[: 3 * 3] == [0, 0, 0, 128, 0, 0, 0, 128, 0], "VOC's colours"
                seen |= set(np.unique(np.asarray(mask)).tolist())  # of a palette image the indices
        assert {0} < seen <= {*range(len(data.classes) + 1), VOID}


def test_predict_on_a_photograph_of_ones_own(smoke, tmp_path):
    photograph = tmp_path / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 4), np.uint8)).save(photograph)
    mask, names = predict(smoke, photograph)
    assert mask.shape == (90, 140)
    assert names == ["background", *open_dataset("synthetic").classes]
    assert mask.max() < len(names)


def test_another_photograph_is_segmented_without_predicting_all_again(smoke, tmp_path, capfd):
    photograph = tmp_path / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)).save(photograph)
    predicted = {path: path.stat().st_mtime_ns for path in (smoke / "05_evaluation").rglob("multi*/*.png")}
    before, shared = metrics(smoke), tmp_path / "notebook.ipynb"
    shared.hardlink_to(smoke / "05_evaluation/notebook.ipynb")  # as the runs of a sweep share files
    content = shared.read_bytes()
    runner.run(presets.get("smoke").parameters | {"photograph": str(photograph)}, smoke, stages=["05"], preset="smoke")
    assert predicted and {path: path.stat().st_mtime_ns for path in predicted} == predicted
    assert "my photo.png" in (smoke / "05_evaluation/figures/photograph.csv").read_text()
    assert metrics(smoke) == before and shared.read_bytes() == content
    runner.run(presets.get("smoke").parameters | {"photograph": str(photograph)}, smoke, stages=["05"], preset="smoke")
    assert "05_evaluation · up to date, skipped" in capfd.readouterr().out


def test_retraining_is_done_by_hand_too(smoke, tmp_path):
    """Notebook 04 as a person runs it, with the ceiling in a process of its own beside a stage that holds its lock."""
    for stage in STAGES[:3]:
        shutil.copytree(smoke / stage, tmp_path / "run" / stage)
    given = presets.get("smoke").parameters | {"run_folder": str(tmp_path / "run")}
    given = {name: value for name, value in given.items() if name in catalogue()[STAGES[3]]}
    cells = json.loads((ROOT / "notebooks/04_online_retraining.ipynb").read_text())["cells"]
    parameters, *rest = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = tmp_path / "by_hand.py"  # without a kernel, whose messages can get lost
    shown = "from IPython.display import display"  # a kernel has it by itself
    body = "\n".join([shown, parameters, *(f"{name} = {value!r}" for name, value in given.items()), *rest])
    script.write_text(f"if __name__ == '__main__':\n{textwrap.indent(body, '    ')}\n")
    subprocess.run([sys.executable, script], cwd=ROOT, check=True, timeout=300)
    made = tmp_path / "run/04_online_retraining"
    assert (made / "metrics.json").is_file() and (made / "ceiling/model.safetensors").is_file()
    ours, theirs = (load_model(folder / STAGES[3] / "model.safetensors") for folder in (tmp_path / "run", smoke))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), "by hand or by the runner, one seed is one result"


@pytest.mark.parametrize(
    ("tool", "stage"),
    [("papermill", STAGES[1]), ("nbconvert", STAGES[2]), ("nbconvert", STAGES[3])],
)
def test_bare_tools_draw_pictures_and_no_widgets(smoke, tmp_path, tool, stage):
    """Neither says that nobody watches, and neither answers a widget: where one was made, an answer was lost once."""
    shutil.copytree(smoke, tmp_path / "run")
    notebook = nbformat.read(ROOT / f"notebooks/{stage}.ipynb", as_version=4)
    given = presets.get("smoke").parameters | {"run_folder": str(tmp_path / "run")}
    own = {name: value for name, value in given.items() if name in catalogue()[stage]}
    notebook.cells[1].source += "".join(f"\n{name} = {value!r}" for name, value in own.items())
    path, made = tmp_path / "given.ipynb", tmp_path / "executed.ipynb"
    nbformat.write(notebook, path)
    commands = {
        "nbconvert": ["jupyter-nbconvert", "--execute", "--to", "notebook", "--output", made, path],
        "papermill": ["papermill", "--no-progress-bar", path, made],
    }
    program, *arguments = commands[tool]
    subprocess.run([Path(sys.executable).with_name(program), *arguments], cwd=ROOT, check=True, timeout=500)
    executed = nbformat.read(made, as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds and not any("widget" in kind for kind in kinds), kinds
    assert "widgets" not in executed.metadata and not [o for o in outputs if o.output_type == "error"]


def test_ablations_are_drawn_from_the_committed_results(smoke):
    runner.run({"sweeps": ["sweeps/demo/composition.toml", "sweeps/demo/crf.toml"]}, smoke, stages=["06"])
    folder = smoke / "06_ablations"
    figures = {f"sweep_demo_{name}{width}" for name in ("composition", "crf") for width in ("", "_one_column")}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {"published_methods", *figures}
    for name in ("demo_composition_table", "demo_crf_table", "published"):
        assert (folder / f"{name}.tex").read_text().startswith(r"\begin{table}")
        assert "| --" in (folder / f"{name}.md").read_text()
    results = pd.read_csv(folder / "figures/sweep_demo_crf.csv")
    assert set(results["seed"]) == {504, 505, 506} and results["key"].str.fullmatch("[0-9a-f]{64}").all()
    records = json.loads((folder / "metrics.json").read_text())
    assert len(records) == 8 and all(record["value"] > 30 for record in records)
    text = (folder / "notebook.ipynb").read_text()
    assert "refined coarse CAM is better than coarse CAM" in text


def test_the_pipeline_does_not_run_the_ablations(smoke):
    assert "06_ablations" not in runner.select(None, catalogue()) and len(runner.select(None, catalogue())) == 5

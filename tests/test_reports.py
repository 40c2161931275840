"""Reports, comparisons and paper tables."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from test_plots import check
from test_runs import PARAMETERS, write_notebook

from weaktr import plots
from weaktr.__main__ import main
from weaktr.files import ASSETS, ROOT
from weaktr.plots.captions import CAPTIONS
from weaktr.plots.style import GREY
from weaktr.sweeps import tables
from weaktr.workbench import collection, comparison, keys, presets, published, runner
from weaktr.workbench.published import PUBLISHED_MASK as MASK


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    notebooks = root / "notebooks"
    notebooks.mkdir()
    finish = (
        "import matplotlib.pyplot as plt, pandas\nfigure, axes = plt.subplots(figsize=(1, 1))\n"
        "axes.set_title('Bears', loc='left')\naxes.set_xlabel('age')\n"
        "table = pandas.Series([1.5], pandas.Index(['bear'], name='class'), name='ap')\n"
        "stage.show(figure, 'empty', table)\n"
        'stage.finish([{"list": "val", "list_size": 9, "metric": "mIoU <of> mask", "value": 50 + lr, "crf": True}])'
    )
    write_notebook(notebooks, "01_first", PARAMETERS + "lr: float = 0.1  # learning rate\n", finish)
    for name, lr in (("a", 0.1), ("b", 0.2)):
        runner.run({"lr": lr}, root / name, notebooks=notebooks)
    return root


@pytest.fixture
def two_runs(finished_once, tmp_path):
    """Two finished runs of one stage that differ in a parameter, and its notebook beside them."""
    shutil.copytree(finished_once, tmp_path, dirs_exist_ok=True)
    return [tmp_path / name for name in ("a", "b")]


def test_report_is_one_page_without_network(two_runs, capsys):
    assert main(["report", str(two_runs[0])]) == 0
    page = (two_runs[0] / "report.html").read_text()
    assert str(two_runs[0] / "report.html") in capsys.readouterr().out
    assert "mIoU &lt;of&gt; mask" in page and "50.10" in page and "data:image/png;base64," in page
    assert not re.search(r"""(src|href)=["']https?:""", page) and "<script" not in page
    (shown,) = (
        output
        for cell in json.loads((two_runs[0] / "01_first/notebook.ipynb").read_text())["cells"]
        for output in cell.get("outputs", ())
        if output["output_type"] == "display_data"
    )
    assert shown["metadata"]["image/png"] == {"figure": "empty", "title": "Bears", "alt": "Bears; axes: age"}
    assert 'alt="Bears; axes: age"' in page and 'download="01_first_empty.csv"' in page
    assert page.index('id="results"') < page.index('id="01_first"')


def test_compare_shows_what_differs(two_runs, capsys):
    assert main(["compare", *map(str, two_runs)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^lr +0\.1 +0\.2$", out, re.M) and "workers" not in out
    assert re.search(r"01 mIoU <of> mask, val \(9\), CRF +50\.1 +50\.2", out)


def test_compare_tells_two_numbers_of_one_name_apart(tmp_path):
    """Where masks chose the epoch, the seed at the given score and at the best one are both an oracle's."""
    common = '{"list": "train", "list_size": 9, "metric": "mIoU", "oracle": True, "threshold": 0.4, '
    records = f'{common}"value": 60.0, "threshold_from": "given"}}, {common}"value": 66.0, "threshold_from": "masks"}}'
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path / "notebooks", "01_first", PARAMETERS, f"stage.finish([{records}])")
    runner.run({}, tmp_path / "a", notebooks=tmp_path / "notebooks")
    _, metrics, _ = comparison.compare([tmp_path / "a"])
    assert metrics.iloc[:, 0].tolist() == [60.0, 66.0] and metrics.index[1].endswith("oracle, masks")


def test_stale_stages_are_left_out_by_name(two_runs, capsys):
    """A second stage whose input was made again since: its numbers belong to nothing that still exists."""
    notebooks = two_runs[0].parent / "notebooks"
    write_notebook(
        notebooks,
        "02_second",
        PARAMETERS,
        'stage.finish([{"list": "val", "list_size": 9, "metric": "late", "value": 1.5}])',
    )
    runner.run({"lr": 0.1}, two_runs[0], notebooks=notebooks)
    assert main(["compare", *map(str, two_runs)]) == 0 and "02 late" in capsys.readouterr().out
    runner.run({"lr": 0.3}, two_runs[0], notebooks=notebooks, stages=["01"])
    assert main(["compare", *map(str, two_runs)]) == 0
    out = capsys.readouterr().out
    assert "02 late" not in out and f"{two_runs[0]}: 02_second left out, made before an earlier stage" in out
    assert main(["report", str(two_runs[0])]) == 0
    page = (two_runs[0] / "report.html").read_text()
    assert "02_second left out" in page and 'id="02_second"' not in page and ">late<" not in page
    assert main(["figures", str(two_runs[0]), str(two_runs[0].parent / "out")]) == 2
    assert "make them again first" in capsys.readouterr().err


def test_figures_are_collected_with_their_sources(two_runs, capsys):
    out = two_runs[0].parent / "out"
    assert main(["figures", str(two_runs[0]), str(out)]) == 0
    sources = pd.read_csv(out / "sources.csv").set_index("file")
    files = [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()]
    assert sorted(files) == sorted([*sources.index, "sources.csv"])
    assert set(sources.index) == {f"01_first/empty.{kind}" for kind in ("pdf", "png", "csv")}
    manifest = json.loads((two_runs[0] / "01_first/manifest.json").read_text())
    row = sources.loc["01_first/empty.csv"]
    assert (row["stage"], row["key"], row["seed"]) == ("01_first", manifest["key"], 504)
    assert row["commit"] == manifest["git"]["commit"]
    assert (out / "01_first/empty.csv").read_text() == "class,ap\nbear,1.5\n"

    (two_runs[0] / "01_first/figures/empty.pdf").unlink()  # as in a clone, which has it among the collected ones only
    (out / "01_first/empty.png").unlink()
    (two_runs[0] / "01_first/figures/empty.png").unlink()
    assert main(["figures", str(two_runs[0]), str(out)]) == 0
    assert pd.read_csv(out / "sources.csv")["file"].tolist() == ["01_first/empty.csv", "01_first/empty.pdf"]


def test_figures_of_a_sweep_are_collected_in_its_folder(two_runs):
    """One name may begin another: demo_clipping, demo_clipping_scope."""
    stage = two_runs[0] / "01_first"
    names = [f"{sweep}_{what}.csv" for sweep in ("demo_a", "demo_a_b") for what in ("summary", "runs", "table")]
    for name in names:
        (stage / name).write_text("x\n")
    for name in ("sweep_demo_a.png", "sweep_demo_a_b.png", "sweep_demo_a_b_one_column.png"):
        (stage / "figures" / name).write_text("x\n")
    sources = collection.collect_figures(two_runs[0], two_runs[0].parent / "swept")
    found = {path for path in sources["file"] if path.startswith("sweeps/")}
    own = {"demo_a": {"sweep_demo_a.png"}, "demo_a_b": {"sweep_demo_a_b.png", "sweep_demo_a_b_one_column.png"}}
    tables = {sweep: {f"{sweep}_{what}.csv" for what in ("summary", "runs", "table")} for sweep in own}
    assert found == {f"sweeps/{sweep}/{name}" for sweep in own for name in own[sweep] | tables[sweep]}


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2 and main(["compare", str(tmp_path)]) == 2
    assert "no finished stage here" in capsys.readouterr().err


def test_latex_and_markdown():
    table = pd.DataFrame({"name": ["a & b", "c_d"], "mIoU (%)": [1.25, np.nan], "note": ["1 ± 2", "x | y"]})
    latex = tables.to_latex(table, "50 % of {it}")
    assert r"\begin{tabular}{lrl}" in latex and r"a \& b & 1.2 & 1 $\pm$ 2 \\" in latex
    assert r"c\_d & -- & x | y \\" in latex and r"\caption{50 \% of \{it\}}" in latex
    markdown = tables.to_markdown(table)
    assert tables.to_latex(pd.DataFrame({"a_b": ["50 %~^\\", "−0.5"]})).splitlines()[2:6] == [
        r"a\_b \\",
        r"\midrule",
        r"50 \%\textasciitilde{}\textasciicircum{}\textbackslash{} \\",
        r"$-$0.5 \\",
    ]
    assert "| --- | --: | --- |" in markdown and r"x \| y" in markdown and markdown.count("\n") == 4


def test_published_table_is_the_specification(shared):
    """Every number of METHOD.md's table, in its order."""
    text = (shared / "METHOD.md").read_text()
    rows = re.findall(r"^\| 2 \| (VOC12|COCO14) \| .*? \| (.*?) \| (.*?) \|$", text, re.M)
    assert len(rows) == 2
    found = tables.published_results().set_index(["step", "data"])
    for data, val, train in rows:
        own = found.loc[("2, mask", data)]
        assert own["val, published"].tolist() == [float(x) for x in val.split(" · ")]
        assert own["train, published"].tolist() == [float(x) for x in train.split(" · ")]
    cams = re.search(r"DeiT-S \| – \| ([\d.]+) / ([\d.]+)", text).groups()
    assert [found.loc[("1, CAM label", d), "train, published"].item() for d in ("VOC12", "COCO14")] == [
        *map(float, cams)
    ]


def test_measured_numbers_stand_beside_the_published(tmp_path):
    for stage, records in (
        ("03_pseudo_labels", [("mIoU of CAM label", "train", True, 68.0), ("mIoU of CAM label", "train", False, 1.0)]),
        ("05_evaluation", [(MASK, "val", True, 73.0), (MASK, "train", True, 75.0)]),
    ):
        (tmp_path / stage).mkdir()
        before = [tmp_path / "03_pseudo_labels"] if stage.startswith("05") else []
        manifest = {"preset": "voc12_deit_s", "key": keys.stage_key({}, "", before)}
        (tmp_path / stage / "manifest.json").write_text(json.dumps(manifest))
        names = ("metric", "list", "crf", "value")
        (tmp_path / stage / "metrics.json").write_text(json.dumps([dict(zip(names, r)) for r in records]))
    table = tables.published_results([tmp_path])
    row = table[(table["backbone"] == "DeiT-S") & (table["data"] == "VOC12")].iloc[1]
    assert row["val, measured"] == 73.0 and row["train, measured"] == 75.0
    assert table["val, measured"].notna().sum() == 1
    assert table[table["data"] == "VOC12"].iloc[0]["train, measured"] == 68.0, "CAM labels, whichever backbone follows"
    parameters = {"crf_settings": "coco"}
    manifest["key"] = keys.stage_key(parameters, "", before)
    (tmp_path / "05_evaluation/manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "05_evaluation/params.json").write_text(json.dumps(parameters))
    assert tables.published_results([tmp_path])["val, measured"].notna().sum() == 0, "not the preset's parameters"


def test_a_shorter_training_is_not_the_published_one(tmp_path):
    """Stage 05 itself has no parameter of the training: those of the stages before it count as well."""
    folder = tmp_path / "05_evaluation"
    (tmp_path / "04_online_retraining").mkdir()
    folder.mkdir()
    key = keys.stage_key({}, "", [tmp_path / "04_online_retraining"])
    record = {"metric": MASK, "list": "val", "crf": True, "value": 12.3}
    for name, content in (("manifest", {"preset": "voc12_deit_s", "key": key}), ("params", {}), ("metrics", [record])):
        (folder / f"{name}.json").write_text(json.dumps(content))
    for epochs, counts in ((100, 1), (1, 0)):
        (tmp_path / "04_online_retraining/params.json").write_text(json.dumps({"seg_epochs": epochs}))
        assert tables.published_results([tmp_path])["val, measured"].notna().sum() == counts
    assert not published.as_published("voc12_deit_s", {"seg_epochs": 1}) and not published.as_published("demo", {})
    assert published.as_published("voc12_deit_s", {"seg_epochs": 100, "seed": 7, "workers": 3, "data_root": "x"})


def test_seeds_of_one_preset_are_averaged_once_each(tmp_path):
    record = {"metric": MASK, "list": "val", "crf": True}
    for run, seed, value in (("a", 504, 70.0), ("b", 505, 74.0), ("took over from b", 505, 74.0)):
        folder = tmp_path / run / "05_evaluation"
        folder.mkdir(parents=True)
        manifest = {"preset": "voc12_deit_s", "key": keys.stage_key({"seed": seed}, "", [])}
        metrics = [record | {"value": value}]
        for name, content in (("manifest", manifest), ("params", {"seed": seed}), ("metrics", metrics)):
            (folder / f"{name}.json").write_text(json.dumps(content))
    assert tables.published_results(tmp_path.iterdir())["val, measured"].dropna().tolist() == [72.0]


def test_published_value_of_a_record():
    record = {"metric": MASK, "list": "val", "crf": True}
    assert published.published("voc12_vit_s", record) == 78.4
    assert published.published("voc12_vit_s", record | {"list": "train"}) == 80.3
    assert published.published("voc12_vit_s", {"metric": "mIoU of CAM label", "list": "train", "crf": True}) == 69.4
    assert published.published("voc12_vit_s", record | {"crf": False}) is None, "another number than the published one"
    assert published.published("voc12_vit_s", record | {"oracle": True}) is None
    assert published.published("demo", record) is None
    assert published.published("voc12_cam", record) is None, "step 1 alone publishes no mask"


@pytest.mark.parametrize("preset", presets.PUBLISHED)
def test_docstrings_say_the_published_numbers(preset):
    text = presets.get(preset).expected
    assert all(f"{value} %" in text for value in presets.PUBLISHED[preset] if value)


def test_published_scatter_shows_every_method_once():
    table = pd.read_csv(ASSETS / "published_miou.csv")
    both = table.dropna(subset=["voc12_val", "coco14_val"])
    figure = plots.published(table)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(map(int, numbers)) == list(range(1, len(both) + 1))
    assert sum("WeakTr" in text.get_text() for text in figure.axes[1].texts) == 4
    secondary = sum("†" in text.get_text() for text in figure.axes[1].texts)
    assert secondary == (both["read_from"] == "secondary").sum()


def test_committed_published_numbers_are_the_shared_ones(shared):
    """All of them; the committed table has newer methods beside them, and one number that the shared one lacks."""
    names = ["method", "voc12_val", "voc12_test", "coco14_val"]
    ours, theirs = (
        {tuple(row) for row in pd.read_csv(folder / "published_miou.csv")[names].fillna(0).itertuples(index=False)}
        for folder in (ASSETS, shared)
    )
    assert theirs - ours <= {("PCRE", 75.5, 0, 47.2)}
    assert {row[0] for row in ours - theirs} <= {"PCRE", "DiCLIP", "CD-CLIP", "CSRM"}


def test_sweep_figure_hollows_what_could_be_chance():
    found = pd.DataFrame(
        {"variant": ["a", "b", "c"], "measure": "mask", "runs": 3, "oracle": False, "std": 1.0,
         "is_baseline": [True, False, False], "by_measure": False,
         "mean": [60.0, 61.0, 70.0],
         "low": [58.0, 59.0, 68.0], "high": [62.0, 63.0, 72.0], "baseline": [None, "a", "a"],
         "difference": [np.nan, 1.0, 10.0], "difference_low": [np.nan, -1.0, 8.0],
         "difference_high": [np.nan, 3.0, 12.0]}
    )  # fmt: skip
    table = pd.DataFrame({"variant": ["a", "b", "c"], "measure": "mask", "value": [60.0, 61.0, 70.0], "list": "val",
                          "list_size": 9, "metric": "mIoU of mask"})  # fmt: skip
    ax, differences = plots.sweep(found, table, "Title").axes
    dots = [[line for line in one.lines if line.get_marker() == "o"] for one in (ax, differences)]
    hollow = [[dot.get_markerfacecolor() == "white" for dot in line] for line in dots]
    assert hollow == [[False, True, False], [True, False]]
    assert [dot.get_xdata()[0] for dot in dots[1]] == [1, 10]
    assert "val (9 images) · 3 random seeds" in ax.get_xlabel()
    assert [text.get_text() for text in ax.texts] == ["60.0 ± 1.0", "61.0 ± 1.0", "70.0 ± 1.0"]
    assert [text.get_text() for text in differences.texts] == ["", "+1.0", "+10.0"]
    assert ax.get_xlabel().startswith("mask, mIoU (%)") and differences.get_xlabel() == "points of mIoU"
    of_labels = plots.sweep(found, table.assign(metric="mAP (image labels)"), "Title").axes
    assert [one.get_xlabel().partition("\n")[0] for one in of_labels] == ["mask, mAP (%)", "points of mAP"]
    of_weights = plots.sweep(found, table.assign(metric="spread of the head weights"), "Title").axes
    assert of_weights[0].get_xlabel().startswith("mask, spread of the head weights\n")
    assert of_weights[1].get_xlabel() == "in the unit of each row"
    (narrow,) = plots.sweep(found, table, "Title", plots.COLUMN).axes
    assert [text.get_text() for text in narrow.texts] == ["60.0 ± 1.0", "61.0 ± 1.0  +1.0", "70.0 ± 1.0  +10.0"]
    (alone,) = plots.sweep(found.assign(difference=np.nan), table, "Title").axes
    grey = [line.get_color() == GREY for line in alone.lines if line.get_marker() == "o"]
    assert grey == [False, True, True], "only a baseline needs nothing to be compared with"
    found["runs"], found["oracle"], table["list"] = [3, 2, 3], True, "train_aug:1000"
    found["variant"] = table["variant"] = ["on oracle_noise=0.0", "refined attention", "c"]
    for width in (plots.WIDTH, plots.COLUMN):
        figure = plots.sweep(found, table, "What a pixel's loss is held against", width)
        assert "2–3 random seeds · oracle" in " · ".join(check(figure)).replace("\n", " · ")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]


def test_every_figure_of_the_notebooks_has_a_caption():
    shown = set()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shown |= set(re.findall(r'stage\.show\(.*?, \\"(\w+)\\"', notebook.read_text()))
    assert len(shown) >= 25 and shown == CAPTIONS.keys()

"""The repository's own rules: one list of versions, pages that hold, clean and readable notebooks."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from weaktr.workbench import keys, presets
from weaktr.workbench.parameters import catalogue, check_parameters, declared_parameters

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "weaktr").rglob("*.py"))
TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".ipynb", ".json", ".csv", ".mplstyle", ""}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [
    "README.md",
    "LOG.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
# Of how work is organised, not of the project; GitHub issues, terminal sessions and data readers may be named.
OF_THE_WORK = re.compile(
    r"""\b(?:
      (?:this|that|the|last|next|former|earlier|another|any|every|each|\w+th|first|second|third)\ sessions?
    | (?:the|this|that|an|in)\ issues? (?!\ \#) | (?<!GitHub\ ) issues?\ \d+
    | (?:a|the|this|that|another|each|every|fresh|\w+th)\ helpers? (?!\ (?:function|method|class))
    | reviewers? | lent | (?<!user-)(?:sub-?)?agents? | (?:fresh|strict|two|four)\ readers?
    | (?:no|a|any|the)\ gpus?\ (?:was|were) | gpus?\ (?:was|were)\ at\ hand
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def committed():
    """The files git knows or would add; all of them where this is no clone."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git clone")
    return [ROOT / name for name in sorted(set(done.stdout.split("\0"))) if name and (ROOT / name).is_file()]


def cells(notebook, kind):
    found = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]
    return [(cell, "".join(cell["source"])) for cell in found]


# --- set-up


def test_versions_are_pinned_once():
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", requirement), requirement


def test_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert pip == {"pip": ["-e .[dev]"]}  # so that conda installs what pyproject.toml pins, and nothing else
    assert conda == ["python=" + PROJECT["requires-python"].removeprefix(">="), "pip"]


def test_installed_versions_are_the_pinned_ones():
    from importlib.metadata import version

    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        name, pinned = requirement.split("==")
        assert version(name).split("+")[0] in (pinned, pinned.removesuffix(".0")), name


def test_make_targets():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"help", "setup", "demo", "test", "lab", "lint", "clean"} <= listed


def test_continuous_integration_calls_what_the_readme_says():
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
    readme = (ROOT / "README.md").read_text()
    assert "make test" in readme
    assert "make demo" in readme


def test_continuous_integration_covers_the_pythons_that_are_promised():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python"][0] == PROJECT["requires-python"].removeprefix(">=")
    assert job["steps"][-1] == {"run": ".ci/run"}


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert citation["version"] == changes[0] == PROJECT["version"]
    assert citation["preferred-citation"]["doi"] in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", [*PAGES, "LICENSE", "CITATION.cff", "environment.yml", ".pre-commit-config.yaml"])
def test_papers_are_there(name):
    assert (ROOT / name).read_text().strip()


@pytest.mark.parametrize("page, most", [("README.md", 150), ("LOG.md", 300)])
def test_pages_to_be_read_whole_stay_short(page, most):
    assert len((ROOT / page).read_text().splitlines()) <= most


def tables(path):
    """The rows of a Markdown file's tables, as lists of texts."""
    lines = (ROOT / path).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("|")]


def test_the_pages_show_the_numbers_of_the_committed_runs():
    """Those of the demo, and those of the run on photographs, of which only numbers may be shown."""
    measured = set()
    of_the_demo = (ROOT / "papermill_runs/reference").glob("0[1-5]_*/metrics.json")
    for path in (*of_the_demo, ROOT / "figures/photographs/seed504.json"):
        for r in json.loads(path.read_text()):
            crf, oracle = {True: "yes", False: "no", None: "–"}[r["crf"]], " *oracle*" if r["oracle"] else ""
            measured.add((r["metric"], f"{r['list']} ({r['list_size']})", crf, f"{r['value']:.1f}{oracle}"))
    shown = [tuple(row) for row in tables("README.md") if len(row) == 4 and re.match(r"[\d.]+", row[3])]
    assert len(shown) >= 6
    rows = [row for row in tables("docs/results.md") if len(row) == 6 and re.match(r"[\d.]+", row[5])]
    assert len(rows) >= 8
    assert not {*shown, *((row[0], row[1], row[4], row[5]) for row in rows)} - measured


def change_in_words(difference, low, high):
    """A paired difference with its interval as the pages have it, bold where the interval leaves out zero."""
    if np.isnan(difference):
        return "–"
    change = f"{difference:+.1f} ({low:+.1f} … {high:+.1f})".replace("-", "−")
    return f"**{change}**" if low > 0 or high < 0 else change


def test_the_page_of_results_shows_the_committed_compositions_of_photographs():
    table = pd.read_csv(ROOT / "figures/photographs/compositions.csv")
    expected = []
    for row in table.itertuples(index=False):
        change = change_in_words(row.difference, row.low, row.high)
        expected.append([row.composition, *(f"{value:.1f}" for value in row[1:4]), change])
    assert len(expected) >= 9
    shown = [row for row in tables("docs/results.md") if len(row) == 5 and row[0] in set(table["composition"])]
    assert shown == expected


def test_the_page_of_results_shows_what_goes_beyond_the_paper_on_photographs():
    table = pd.read_csv(ROOT / "figures/photographs/beyond.csv")
    seeds = [column for column in table if column.isdigit()]
    expected = []
    for (what, on, crf), pair in table.groupby(["measure", "list", "crf"], sort=False):
        published, ours = (pair[pair["variant"] == name].iloc[0] for name in ("published", "both"))
        change = change_in_words(ours.difference, ours.low, ours.high)
        values = [", ".join(f"{row[seed]:.1f}" for seed in seeds) for row in (published, ours)]
        expected.append([what, on, crf, *values, change])
    assert len(expected) >= 6
    shown = [row for row in tables("docs/results.md") if len(row) == 6 and "(" in row[5] and ", " in row[3]]
    assert shown == expected


def test_the_pages_show_the_numbers_of_the_committed_sweeps():
    measured = set()
    for path in (ROOT / "figures" / "sweeps").glob("*/*_summary.csv"):
        for row in pd.read_csv(path).itertuples():
            change = change_in_words(row.difference, row.difference_low, row.difference_high)
            measured.add((row.measure, f"{row.mean:.1f} ± {row.std:.1f}", change))
    rows = [row[-3:] for row in tables("docs/results.md") if len(row) in (3, 4) and " ± " in row[-2]]
    assert len(rows) >= 30
    assert not {tuple(row) for row in rows} - measured


def anchors(path):
    """What a link may name on a page: its headings, as a forge makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_whole_and_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for before, line, after in zip(["", *text.splitlines()], text.splitlines(), [*text.splitlines()[1:], ""]):
        if line.startswith("|") and not before.startswith("|"):
            assert re.fullmatch(r"[|: -]+", after), f"{page}: a table without a head: {line}"
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", text):
        place = (ROOT / page).parent / target if target else ROOT / page
        assert place.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(place), f"{page}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_files_and_functions_that_a_page_names_exist(page):
    text = re.sub(r"\s+", " ", (ROOT / page).read_text())
    for name in re.findall(r"`((?:weaktr|tests|sweeps|benchmarks|tools|notebooks)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).is_file(), f"{page}: {name}"
    named = [(names, file) for names, file in re.findall(r"((?:`[\w.]+`,? )+)\(`(weaktr/[\w/]+\.py)`\)", text)]
    named += re.findall(r"\(((?:`[\w.]+`, )+)`(weaktr/[\w/]+\.py)`\)", text)
    for names, file in named:
        for name in re.findall(r"\w+", names):
            pattern = rf"(?:def|class) {name}\b|^ *{name}\b.*="
            assert re.search(pattern, (ROOT / file).read_text(), re.M), f"{page}: {name} is not in {file}"


def blocks(page, language=""):
    """The fenced blocks of a page that are written in a language."""
    parts = re.split(
        r"^```(\w*)\n", (ROOT / page).read_text(), flags=re.M
    )  # text, language, block, "", text, language, …
    return [block for named, block in zip(parts[1::4], parts[2::4]) if named == language]


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_pages_are_understood(page):
    from weaktr.__main__ import _parser

    lines = [line.strip() for block in blocks(page) for line in block.replace("\\\n", "").splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if re.match(r"(\.venv/bin/)?weaktr ", line)]
    known = {name for declared in catalogue().values() for name in declared}
    for command in commands:
        options = _parser().parse_args(command[1:])
        assert getattr(options, "preset", "demo") in presets.PRESETS, command
        assert {text.partition("=")[0] for text in getattr(options, "set", [])} <= known, command
    assert commands or page != "README.md"


@pytest.mark.parametrize("page", PAGES)
def test_code_on_the_pages_imports_what_exists(page):
    for node in (node for block in blocks(page, "python") for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), f"{page}: {ast.unparse(node)}"
        elif isinstance(node, ast.Import):
            assert all(importlib.import_module(name.name) for name in node.names)
    assert blocks("README.md", "python")


def test_the_page_on_published_numbers_has_those_of_the_presets_and_the_table_of_methods():
    rows = tables("docs/published.md")
    own = {row[0].strip("`"): row[3:] for row in rows if len(row) == 5}
    published = {name: ["–" if v is None else str(v) for v in both] for name, both in presets.PUBLISHED.items()}
    assert {name: numbers for name, numbers in own.items() if name in published} == published
    methods = pd.read_csv(ROOT / "weaktr/assets/published_miou.csv", dtype=str, keep_default_na=False)
    numbers = ["voc12_val", "voc12_test", "coco14_val"]
    told = methods[["method", "year", "backbone", "supervision", *numbers]].replace("", "–")
    told["method"] += methods["read_from"].map({"primary": "", "secondary": " †"})
    assert [row for row in rows if len(row) == 7][-len(told) :] == told.to_numpy().tolist()


def test_no_file_speaks_of_how_work_was_organised():
    for path in committed():
        if path.suffix in TEXT and path != Path(__file__):
            found = OF_THE_WORK.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_nothing_of_this_machine_is_written_down():
    folders = re.compile(r"(?<![\w.}/~-])/(?:home|Users|root|work|mnt|media)/\w")
    hosts = re.compile(r"\b(?:pypi|pythonhosted|anaconda|prefix|npmjs)\.(?:org|com|dev)\b|index[-]url")
    for path in committed():
        if path.suffix in TEXT:
            text = path.read_text(encoding="utf-8")
            found = folders.search(text) or hosts.search(text) or (str(ROOT) in text and ROOT)
            assert not found, f"{path.relative_to(ROOT)}: {found}"


# --- the package


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_have_docstrings(module):
    tree = ast.parse(module.read_text())
    documented = ast.FunctionDef | ast.ClassDef
    bare = [n.name for n in tree.body if isinstance(n, documented) and n.name[0] != "_" and not ast.get_docstring(n)]
    assert not bare
    assert not tree.body or ast.get_docstring(tree)


# --- the notebooks


@each_notebook
def test_notebook_is_clean(notebook):
    content = json.loads(notebook.read_text())
    assert "papermill" not in content["metadata"]
    for cell, _ in cells(notebook, "code"):
        assert not cell["outputs"]
        assert cell["execution_count"] is None
        assert "papermill" not in cell["metadata"]
        assert "injected-parameters" not in cell["metadata"].get("tags", [])


@each_notebook
def test_notebook_reads_well(notebook):
    assert json.loads(notebook.read_text())["cells"][0]["cell_type"] == "markdown"
    code = [source for cell, source in cells(notebook, "code") if "parameters" not in cell["metadata"].get("tags", [])]
    prose = [source for _, source in cells(notebook, "markdown")]
    lines = [line for source in code for line in source.splitlines() if line.strip()]
    assert len(lines) <= 130
    assert sum(map(len, prose)) >= sum(map(len, code))
    assert "stage.finish(" in code[-1]
    for node in (node for source in code for node in ast.walk(ast.parse(source))):
        assert not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef), f"line {node.lineno}"
        assert "exit" not in (getattr(node, "id", ""), getattr(node, "attr", ""))  # would read as success


@each_notebook
def test_notebook_opens_its_own_stage(notebook):
    assert {"run_folder", "seed", "device"} <= declared_parameters(notebook).keys()
    code = "\n".join(source for _, source in cells(notebook, "code"))
    assert re.findall(r"open_stage\(\s*[\"'](\w+)[\"'], globals\(\)\)", code) == [notebook.stem]


def test_published_presets_leave_nothing_of_the_method_to_the_demo():
    """What docs/method.md says is spelled out in the preset: a default of the demo must not reach a published run."""
    method = {
        "image_size": 224, "fusion": "adaptive", "pool": "max", "reduction": 8, "cam_checkpoint": "last",
        "crf_settings": "voc", "drop_path": 0.1, "cam_epochs": 60, "cam_batch_size": 64,
        "cam_lr": 6e-4, "cam_warmup": 5, "cam_weight_decay": 0.03, "cam_augmentation": "rand-m9-mstd0.5-inc1",
        "cam_kind": "fused", "cam_refined": True, "cam_scales": [1.0, 1.2], "threshold": 0.43, "crop_size": 480,
        "base_size": 520, "window_stride": 320, "seg_scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
        "seg_augment": [0.5, 2.0], "seg_patch": 16, "seg_epochs": 100, "seg_batch_size": 4, "seg_lr": 1e-4,
        "seg_min_lr": 1e-5, "clip_scope": "batch", "clip_start_value": 1.2, "clip_cell": 120,
        "early_weight": 0.8,
    }  # fmt: skip
    given = presets.get("voc12_deit_s").parameters
    assert {name: given.get(name) for name in method} == method
    coco = {
        "cam_lr": 2e-4,
        "cam_scales": [1.0, 0.8, 1.2],
        "threshold": 0.42,
        "crf_settings": "coco",
        "clip_scope": "own",
    }
    given = presets.get("coco14_deit_s").parameters
    assert {name: given.get(name) for name in method | coco} == method | coco


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_are_valid(name):
    preset = presets.get(name)
    check_parameters(preset.parameters, catalogue())
    assert preset.name == name
    assert preset.summary and preset.cost and preset.expected
    assert "make demo" in preset.command or preset.command.startswith("weaktr ")


def test_published_presets_say_how_they_differ_from_the_paper():
    """A published number beside a run's own would else be taken for a like-for-like comparison."""
    for name, preset in presets.PRESETS.items():
        assert bool(preset.differences) == (name in presets.PUBLISHED)
    for name, published in (("voc12_cam", "0.43"), ("coco14_cam", "0.42")):
        preset = presets.get(name)
        assert published in preset.differences and str(preset.parameters["threshold"]) == published
        assert preset.parameters["cam_checkpoint"] == "last"
    for dataset, labels in (("voc12", "69.0 %"), ("coco14", "41.9 %")):
        for backbone in presets.BACKBONES:
            assert labels in presets.get(f"{dataset}_{backbone}").differences
    lines = presets.differences()
    assert len(lines) == 4
    assert lines[1].startswith(
        "voc12_deit_s, voc12_dinov2_s, voc12_vit_s, voc12_eva02_s: Step 1 differs as in voc12_cam."
    )


def test_what_is_committed_stays_small():
    """A clone is quick, and the reference run is read in a browser."""
    size = sum(path.stat().st_size for path in committed() if "papermill_runs" in path.parts)
    assert 1e6 < size < 15e6


def test_the_reference_run_is_what_the_demo_makes():
    """What the README shows was made with the parameters that `make demo` has now, in a clean checkout."""
    for name, declared in catalogue().items():
        folder = ROOT / "papermill_runs/reference" / name
        now = check_parameters(presets.get("demo").parameters, {name: declared}) | {"run_folder": "the other's name"}
        if name != "06_ablations":
            then = json.loads((folder / "params.json").read_text()) | {"run_folder": "the other's name"}
            later = {parameter: value for parameter, value in keys.AS_BEFORE.items() if parameter in now}
            assert later | then == now
            assert not json.loads((folder / "manifest.json").read_text())["git"]["dirty"]
            assert not keys.stale(folder), "its key is no longer what a run with its parameters would have"

"""The pages of runs and sweeps: what they tell, and that a browser, a validator and a screen reader can use them."""

import json
import re
import shutil
import subprocess
from base64 import b64decode, b64encode
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure

from weaktr import plots
from weaktr.__main__ import main
from weaktr.data.images import write_label_png
from weaktr.errors import UserError
from weaktr.evaluation import intervals
from weaktr.workbench import keys
from weaktr.workbench.executed import read_table
from weaktr.workbench.page import drawn
from weaktr.workbench.parameters import catalogue
from weaktr.workbench.reports import report
from weaktr.workbench.side_by_side import report_side_by_side
from weaktr.workbench.text import figure_in_words

ROOT = Path(__file__).resolve().parents[1]
STAGES = list(catalogue())[:5]
SECONDS = dict(zip(STAGES, (60.0, 30.0, 9.6, 3600.0, 0.5)))
PRINTED = "line one\nline two\nline three\n"
FRAME = """<table border="1" class="dataframe">
<thead><tr><th></th><th>loss</th></tr><tr><th>epoch</th><th></th></tr></thead>
<tbody><tr><th>1</th><td>0.5 &lt; 1</td></tr></tbody></table>"""


class Elements(HTMLParser):
    """The elements of a page, or of a part of it, and the text that stands inside a kind of them."""

    def __init__(self, page):
        super().__init__()
        self.found, self.inside, self.text = [], [], {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside:  # a part of a page may end more than it begins
            self.inside.pop()

    def handle_data(self, data):
        for tag in {"page", *self.inside}:
            self.text[tag] = self.text.get(tag, "") + data

    def all(self, wanted):
        return [attributes for tag, attributes in self.found if tag == wanted]


# ── Runs that nobody ran ──────────────────────────────────────────────────────────────────────────────────────────
def counts_of(seed, images=40):
    """Pixel counts of a list (n,3,K), and their mIoU."""
    rng = np.random.default_rng(seed)
    hits = rng.integers(30, 60, (images, 4))
    counts = np.stack([hits, np.full_like(hits, 70), np.full_like(hits, 75)], 1).astype(np.int32)
    return counts, intervals.miou(counts[None])[0]


def records_of(stage, seed, masks, ceiling):
    """What a stage measured, and the counts behind it."""
    if stage == "01_cam_training":
        return [{"metric": "mAP (image labels)", "list": "val", "list_size": 40, "value": 91.5}], {}
    names = {"03_pseudo_labels": {"seed": ("mIoU of CAM (seed)", "train", False),
                                  "label": ("mIoU of CAM label", "train", True)},
             "05_evaluation": {"predictions/multi": ("mIoU of mask", "val", False),
                               "predictions/multi_crf": ("mIoU of mask", "val", True),
                               "pseudo_masks/multi": ("mIoU of mask", "train", False),
                               "ceiling/multi": ("mIoU of ceiling (true masks)", "val", False)}}  # fmt: skip
    records, arrays = [], {}
    for number, (name, (metric, on, crf)) in enumerate(names.get(stage, {}).items()):
        if masks and (ceiling or name != "ceiling/multi"):
            arrays[name], value = counts_of(10 * seed + number)
            records.append({"metric": metric, "list": on, "list_size": 40, "crf": crf, "value": value, "counts": name})
    if "ceiling/multi" in arrays:
        share = 100 * records[0]["value"] / records[3]["value"]
        records.append({"metric": "share of the ceiling (%)", "list": "val", "list_size": 40, "value": share})
    return records, arrays


def figure(text):
    made = Figure(figsize=(2, 1))
    made.subplots().set_title(text)
    return drawn(made)


def write_stage(folder, parameters, *, seed=1, masks=True, ceiling=True, shown="x"):
    """A finished stage as a notebook would leave it, of a time before figures were named in it."""
    (folder / "figures").mkdir(parents=True)
    pictures = {"chain": figure("chain"), "curve": figure(shown)}
    for name, png in pictures.items():
        (folder / f"figures/{name}.png").write_bytes(png)
    (folder / "figures/curve.csv").write_text("x,y\n1,2\n")
    before = [other for other in sorted(folder.parent.iterdir()) if other.name < folder.name]
    manifest = {"key": keys.stage_key(parameters, "feed-beef", before), "made": folder.name, "preset": "smoke"}
    manifest |= {"data_fingerprint": "feed-beef", "seed": seed, "seconds": SECONDS[folder.name], "peak_memory_mb": 900}
    manifest |= {"git": {"commit": "c0ffee" * 5, "dirty": True}, "versions": {"weaktr": "0.2.0"}}
    manifest |= {"hardware": {"cpu": "abacus", "cores": 2, "memory_gb": 8}, "end": "2026-01-02T03:04:05+00:00"}
    records, arrays = records_of(folder.name, seed, masks, ceiling)
    whole = {
        "stage": folder.name,
        "threshold": None,
        "threshold_from": None,
        "scales": None,
        "crf": None,
        "oracle": False,
    }
    if arrays:
        np.savez_compressed(folder / "counts.npz", **arrays)
    for name, value in (("manifest", manifest), ("params", parameters), ("metrics", [whole | one for one in records])):
        (folder / f"{name}.json").write_text(json.dumps(value))
    v4 = nbformat.v4
    outputs = [v4.new_output("stream", name="stdout", text=PRINTED)]
    outputs += [show(png) for png in pictures.values()]
    outputs.append(v4.new_output("execute_result", {"text/html": FRAME, "text/plain": "frame"}))
    cells = [v4.new_markdown_cell(f"# {folder.name} & more\n\nWhy <b>not</b>."), v4.new_code_cell("import secret"),
             v4.new_code_cell("secret.show()", outputs=outputs), v4.new_markdown_cell("## Part\n\nText *so*."),
             v4.new_code_cell("1", outputs=[v4.new_output("stream", name="stdout", text="short\n")])]  # fmt: skip
    nbformat.write(v4.new_notebook(cells=cells), folder / "notebook.ipynb")


def show(png, **told):
    data = {"image/png": b64encode(png).decode(), "text/plain": "<Image>"}
    return nbformat.v4.new_output("display_data", data, metadata={"image/png": told} if told else {})


def write_run(folder, stages=STAGES, overrides=None, **options):
    """A run of the preset smoke with the defaults of the notebooks, but for what `overrides` gives."""
    from weaktr.workbench.presets import get

    declared = catalogue()
    for stage in stages:
        own = {name: parameter.default for name, parameter in declared[stage].items()}
        given = get("smoke").parameters | {"val_list": "val", "eval_list": "train"} | (overrides or {})
        write_stage(folder / stage, own | {name: value for name, value in given.items() if name in own}, **options)
    return folder


@pytest.fixture(scope="module")
def whole_once(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("pages") / "whole")


@pytest.fixture(scope="module")
def page_once(whole_once):
    return report(whole_once).read_text()


# ── One run ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_page_opens_with_the_chain_and_four_numbers(page_once, whole_once):
    opening = page_once[page_once.index("<main>") : page_once.index('<section aria-labelledby="preset">')]
    (first,) = Elements(opening).all("img")
    assert "from names to masks" in first["alt"]
    chain = (whole_once / "05_evaluation/figures/chain.png").read_bytes()
    assert first["src"] == f"data:image/png;base64,{b64encode(chain).decode()}"
    assert re.findall("<h3>(.*?)</h3>", opening) == ["CAM seed", "CAM label", "Mask on val", "Share of the ceiling"]
    seed, label, mask, with_crf, ceiling = (counts_of(10 + number)[0] for number in (0, 1, 0, 1, 3))
    for counts, on in ((seed, "train"), (label, "train"), (mask, "val")):
        found = intervals.estimate(counts[None])
        assert f'<p class="value">{found.value:.1f} <small>% mIoU' in opening
        assert f"95 % interval {found.low:.1f} to {found.high:.1f}, 40 images of {on}" in opening
    share = intervals.share(mask[None], ceiling[None])
    assert f'<p class="value">{share.value:.1f} <small>%</small>' in opening
    assert f"95 % interval {share.low:.1f} to {share.high:.1f}, 40 images of val" in opening
    assert f"{intervals.estimate(with_crf[None]).value:.1f} % with CRF" in opening
    assert f"ceiling {intervals.estimate(ceiling[None]).value:.1f} %" in opening
    assert "commit c0ffeec with changes that are not committed" in page_once


def test_it_says_what_differs_from_the_preset(page_once, tmp_path):
    """Where a run is and how it was computed makes no difference."""
    difference = page_once[page_once.index('id="preset"') : page_once.index('id="cost"')]
    assert "2 parameters differ from preset smoke" in difference, "val_list and eval_list"
    run = write_run(tmp_path / "run", overrides={"seed": 7, "fusion": "mean", "workers": 9})
    page = report(run).read_text()
    difference = page[page.index('id="preset"') : page.index('id="cost"')]
    assert "4 parameters differ" in difference and "workers" not in difference and str(tmp_path) not in difference
    assert re.search(
        r">fusion</th>\s*<td>&#39;mean&#39;</td>\s*<td>&#39;adaptive&#39;</td>\s*<td>adaptive, ", difference
    )


def test_it_says_what_it_cost(page_once):
    cost = page_once[page_once.index('<h2 id="cost"') : page_once.index('<h2 id="01_')]
    assert "2 cores of abacus, 8 GB" in cost
    rows = re.findall(r'row">(.*?)</th>\s*<td class="number">(.*?)</td>\s*<td class="number">(.*?)</td>', cost)
    assert rows[3] == ("04_online_retraining", "1:00:00", "900 MB") and rows[-1] == ("all", "1:01:40", "900 MB")


def test_code_is_folded_away_and_short_lines_are_not(page_once):
    elements = Elements(page_once)
    assert page_once.count("import secret") == len(STAGES) == page_once.count("<details>") - len(STAGES)
    outside = re.sub("<details>.*?</details>", "", page_once, flags=re.S)
    assert "secret" not in outside and "line two" not in outside and "short" in outside
    assert "line two" in elements.text["details"]
    assert not elements.all("script") and "open" not in str(elements.all("details"))
    assert "&lt;b&gt;not&lt;/b&gt;" in page_once and "<em>so</em>" in page_once


def test_figures_have_captions_alt_texts_and_their_numbers(page_once):
    elements = Elements(page_once)
    images = elements.all("img")
    assert len(images) == 1 + 2 * len(STAGES)
    assert all(image["alt"] and int(image["width"]) > 50 and int(image["height"]) > 30 for image in images)
    downloads = {link["download"]: link["href"] for link in elements.all("a") if "download" in link}
    kind, _, content = downloads["03_pseudo_labels_curve.csv"].partition(",")
    assert (kind, b64decode(content)) == ("data:text/csv;base64", b"x,y\n1,2\n")
    assert "03_pseudo_labels_chain.csv" not in downloads, "it has none"
    assert "Curve" in elements.text["figcaption"]
    assert re.search(r">1</th>\s*<td class=\"number\">0.5 &lt; 1</td>", page_once), "the table of a notebook"
    assert "dataframe" not in page_once


def test_contents_lead_to_every_stage_and_section(page_once):
    elements = Elements(page_once)
    places = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(places) == len(set(places)), "each place has its name once"
    links = [link["href"][1:] for link in elements.all("a") if link["href"].startswith("#")]
    assert set(links) == set(places) and {*STAGES, "01_cam_training-1", "results", "numbers"} <= set(links)
    assert "01_cam_training &amp; more" in page_once


def test_what_a_notebook_says_of_a_figure_comes_before_its_name(tmp_path):
    run = write_run(tmp_path / "run", STAGES[:1])
    path = run / STAGES[0] / "notebook.ipynb"
    notebook = nbformat.read(path, 4)
    told = show(figure("other bytes than the file"), figure="curve", title="Losses, rates", alt="Losses; axes: epoch")
    notebook.cells.append(nbformat.v4.new_code_cell("draw()", outputs=[told]))
    nbformat.write(notebook, path)
    page = report(run).read_text()
    assert 'alt="Losses; axes: epoch"' in page and "Curve. Losses, rates" in page
    assert page.count('download="01_cam_training_curve.csv"') == 2


def test_figure_in_words():
    import pandas as pd

    words = figure_in_words(plots.per_class_bars(pd.Series([3.0, 4.0], ["a", "b"]), "Images of\neach class", "images"))
    assert words == {"title": "Images of each class", "alt": "Images of each class; axes: images; legend: mean 3.5"}
    sheet = Figure()
    for number, ax in enumerate(sheet.subplots(1, 9)):
        ax.set_title(f"picture {number}")
    words = figure_in_words(sheet)
    assert words["title"] == "" and "picture 8" in words["alt"], "too many for a caption"


def test_a_run_without_masks_says_so(tmp_path):
    page = report(write_run(tmp_path / "run", masks=False)).read_text()
    assert page.count("Not measured: the data have no masks.") == 4 and "from names to masks" in page


def test_a_run_without_a_ceiling_says_so(tmp_path):
    page = report(write_run(tmp_path / "run", ceiling=False)).read_text()
    assert page.count("No ceiling: no segmenter was trained on true masks.") == 1 and page.count("% mIoU</small>") == 3


def test_an_unfinished_run_names_what_is_missing(tmp_path):
    run = write_run(tmp_path / "run", STAGES[:3])
    (run / STAGES[3]).mkdir()
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no <room> left", traceback=["\x1b[31mlong"])
    cells = [nbformat.v4.new_code_cell("train()", outputs=[error])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), run / STAGES[3] / "notebook.ipynb")
    page = report(run).read_text()
    assert "04_online_retraining is not finished; it stopped with ValueError: no &lt;room&gt; left." in page
    assert "Not begun: 05_evaluation." in page and page.count("Not yet: 05_evaluation is not finished.") == 2
    assert page.count("% mIoU</small>") == 2
    (run / STAGES[2] / "figures/seed_to_label.png").write_bytes(figure("seeds"))
    assert "the segmenter has not been trained yet" in report(run).read_text(), "another picture opens it"


def test_a_stage_without_its_notebook_shows_its_figures(tmp_path):
    run = write_run(tmp_path / "run", STAGES[:1])
    (run / STAGES[0] / "notebook.ipynb").unlink()
    page = report(run).read_text()
    assert len(Elements(page).all("img")) == 2 and 'download="01_cam_training_curve.csv"' in page


def test_tables_of_notebooks_are_read():
    assert read_table(FRAME) == (["epoch", "loss"], [["1", "0.5 < 1"]], "", frozenset({1}), b"", "")
    assert read_table("<p>no table</p>") is None


def test_the_page_of_the_reference_run_is_small_and_needs_no_network(tmp_path):
    without_sweeps = shutil.ignore_patterns("06_*")
    run = shutil.copytree(ROOT / "papermill_runs/reference", tmp_path / "reference", ignore=without_sweeps)
    page = report(run)
    assert page.stat().st_size <= 8e6
    assert not re.search(r"(src|href)=.(https?:)?//", page.read_text())
    assert all(image["alt"] for image in Elements(page.read_text()).all("img"))


# ── Runs side by side ─────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def both_once(whole_once, tmp_path_factory):
    other = write_run(whole_once.parent / "other", overrides={"fusion": "mean"}, seed=2, shown="another curve")
    return [whole_once, other]


@pytest.fixture(scope="module")
def runs_page_once(both_once):
    path = report_side_by_side(both_once)
    assert path.parent == both_once[0].parent and path.name.startswith("report_")
    return path.read_text()


def test_runs_side_by_side(both_once, runs_page_once):
    page = runs_page_once
    first, second = (counts_of(10 * seed)[0] for seed in (1, 2))
    found = intervals.difference(second[None], first[None])
    cell = f"{found.value:+.1f} ({found.low:+.1f} to {found.high:+.1f})".replace("-", "−")
    assert page.count(cell) == 2, "seed and mask are of the same counts here"
    assert re.search(r">fusion</th>\s*<td>&#39;adaptive&#39;</td>\s*<td>&#39;mean&#39;", page)
    metric = re.search(r">05 mIoU of mask, val \(40\)</th>((\s*<td.*?</td>){3})", page)[1]
    values = [intervals.miou(counts[None])[0] for counts in (first, second)]
    shown = [f"{values[0]:.2f}", f"{values[1]:.2f}", f"{values[1] - values[0]:+.2f}".replace("-", "−")]
    assert re.findall(r">([^<]+)</td>", metric) == shown


def test_figures_stand_below_one_another_and_equal_ones_once(both_once, runs_page_once):
    page = runs_page_once
    section = page[page.index('id="01_cam_training-chain"') : page.index('id="02_cam_generation-chain"')]
    chains, curves = section.split('id="01_cam_training-curve"')
    assert chains.count("<img") == 1 and f"{both_once[0]}, {both_once[1]}: the same" in chains
    images = Elements(curves).all("img")
    assert [image["alt"].split(" of ")[-1] for image in images] == list(map(str, both_once))
    assert images[0]["src"] != images[1]["src"] and curves.count("download=") == 2


def test_numbers_of_other_images_have_no_interval(both_once, tmp_path):
    """The same shape is not enough: the fingerprint of the data tells."""
    other = shutil.copytree(both_once[1], tmp_path / "elsewhere")
    for stage in STAGES:
        text = (other / stage / "manifest.json").read_text()
        (other / stage / "manifest.json").write_text(text.replace("feed-beef", "dead-beef"))
    for stage in STAGES:
        manifest = json.loads((other / stage / "manifest.json").read_text())
        before = [other / name for name in STAGES if name < stage]
        manifest["key"] = keys.stage_key(json.loads((other / stage / "params.json").read_text()), "dead-beef", before)
        (other / stage / "manifest.json").write_text(json.dumps(manifest))
    page = report_side_by_side([both_once[0], other]).read_text()
    first, second = (counts_of(10 * seed)[1] for seed in (1, 2))
    plain = f"{second - first:+.1f}".replace("-", "−")
    assert f'<td class="number">{plain}</td>' in page and f"{plain} (" not in page


def test_the_same_images_are_drawn_a_line_per_run(voc12_copy, tmp_path):
    runs = []
    overrides = {"dataset": "voc12", "data_root": str(voc12_copy)}
    for name, value in (("a", 1), ("b", 2)):
        run = write_run(tmp_path / name, STAGES[:3], overrides)
        for image in (voc12_copy / "VOCdevkit/VOC2012/JPEGImages").iterdir():
            from PIL import Image

            size = Image.open(image).size[::-1]
            write_label_png(run / f"03_pseudo_labels/labels/{image.stem}.png", np.full(size, value))
        runs.append(run)
    page = report_side_by_side(runs).read_text()
    images = page[page.index('<h2 id="images"') : page.index('<h2 id="01_cam_training"')]
    assert f"The first 4 images of train, a line per run: {runs[0]}, {runs[1]}" in images and images.count("<img") == 1
    shutil.rmtree(voc12_copy)
    page = report_side_by_side(runs).read_text()
    assert "The images or masks are not here any more" in page


def test_a_run_is_not_compared_with_itself(whole_once, capsys):
    assert main(["report", str(whole_once), f"{whole_once}/"]) == 2
    assert "given twice" in capsys.readouterr().err
    with pytest.raises(UserError, match="given twice"):
        report_side_by_side([whole_once, whole_once])


# ── Sweeps ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def sweep_page_once(tmp_path_factory):
    """The page of a committed sweep, whose runs are gone."""
    from weaktr.sweeps.reports import report as report_sweep

    folder = tmp_path_factory.mktemp("sweeps") / "demo_clipping"
    shutil.copytree(ROOT / "figures/sweeps/demo_clipping", folder)
    return report_sweep(folder).read_text()


def test_a_sweep_has_question_figure_table_verdict_and_runs(sweep_page_once):
    import pandas as pd

    found = pd.read_csv(ROOT / "figures/sweeps/demo_clipping/demo_clipping_summary.csv")
    page = unescape(sweep_page_once)
    assert "<h1>Gradient clipping</h1>" in page and 'class="question"' in page
    shown = found[found["measure"] == found["measure"].iloc[0]]["verdict"].dropna()
    assert len(shown) and all(f"<li>{verdict}</li>" in page for verdict in shown)
    assert len(Elements(page).all("img")) == 1 and 'media="(max-width: 40rem)"' in page
    downloads = {link["download"] for link in Elements(page).all("a") if "download" in link}
    assert downloads == {f"demo_clipping_{name}.csv" for name in ("results", "table", "runs")}
    assert re.search(r">on-seed504</th>\s*<td>done</td>\s*<td class=.number.>73.78</td>", page)


def test_a_folder_of_which_no_file_tells_is_refused(tmp_path, capsys):
    folder = tmp_path / "demo_unheard_of"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    assert main(["report", str(folder)]) == 2
    assert "says what this sweep asks; `weaktr sweep FILE` writes it down" in capsys.readouterr().err
    assert main(["report", str(folder), str(tmp_path)]) == 2
    assert "is a sweep's folder; give it alone" in capsys.readouterr().err


# ── As a browser, a validator and a screen reader see them ────────────────────────────────────────────────────────
PAGES = ("page_once", "runs_page_once", "sweep_page_once")  # each kind of page


@pytest.mark.parametrize("validator", ["vnu", "tidy -quiet -errors --drop-empty-elements no"])
def test_pages_are_valid(validator, request, tmp_path):
    command = validator.split()
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]}, a validator of HTML, is not installed")
    paths = [tmp_path / f"{name}.html" for name in PAGES]
    for name, path in zip(PAGES, paths):
        path.write_text(request.getfixturevalue(name))
    done = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def axe():
    """The script of axe-core: of npm in this repository, else of all."""
    folders = [ROOT / "node_modules"]
    if shutil.which("npm"):
        folders.append(Path(subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip()))
    for folder in folders:
        if (folder / "axe-core/axe.min.js").is_file():
            return (folder / "axe-core/axe.min.js").read_text()
    pytest.skip("axe-core, which checks accessibility, is not installed; npm install -g axe-core")


def in_browser(page, script, folder, *, width=1400, dark=False):
    """What a script finds in a page: its expression, or promise, as JSON. The page lies in a frame of any width."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("chromium is not installed")
    told = f"<script>Promise.resolve({script}).then(x => parent.postMessage(JSON.stringify(x), '*'))</script></body>"
    (folder / "page.html").write_text(page.replace("</body>", told))
    frame = f'<iframe src="page.html" style="width: {width}px; height: 900px"></iframe>'
    listen = "<script>onmessage = event => { document.body.textContent = event.data }</script>"
    (folder / "frame.html").write_text(f'<meta name="color-scheme" content="light dark">{listen}<body>{frame}</body>')
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([chromium, *options, (folder / "frame.html").as_uri()], capture_output=True, text=True)
    return json.loads(unescape(re.search(r"<body>(.*)</body>", done.stdout, re.S)[1]))


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "width", "dark"), [*((name, 380, False) for name in PAGES), ("page_once", 1400, True)]
)
def test_pages_are_accessible_and_fit_a_phone(name, width, dark, request, tmp_path):
    """Wide tables scroll by themselves, the page does not."""
    with_axe = request.getfixturevalue(name).replace("</body>", f"<script>{axe()}</script></body>")
    ask = """axe.run(document).then(found => [
        matchMedia("(prefers-color-scheme: dark)").matches,
        document.documentElement.scrollWidth - document.documentElement.clientWidth,
        found.violations.map(one => [one.id, one.nodes.map(node => node.html.slice(0, 200))])
    ])"""
    assert in_browser(with_axe, ask, tmp_path, width=width, dark=dark) == [dark, 0, []]

"""The notebooks in JupyterLab, in Chromium, as a person has them: explorers that follow their controls, plain refusals.

`make test-browser` runs them and prints how long each picture took. Every notebook is a copy outside the repository.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest

from weaktr.workbench import presets, runner
from weaktr.workbench.parameters import catalogue

ROOT = Path(__file__).parents[1]
TOKEN = "only-here"
HANG = 900  # seconds after which a notebook is taken to hang; an idle machine needs some twenty
ANSWER = 120  # seconds after which a control is taken to hang; on an idle machine it answers within two
STAGES = ["02_cam_generation", "03_pseudo_labels", "04_online_retraining"]
CHANGED = dict(zip(STAGES, ({"cam_scales": [1.0]}, {"crf_settings": "coco"}, {"seg_lr": 0.5})))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.browser, pytest.mark.lab, pytest.mark.timeout(3 * HANG)]

# Watches the output of a cell, frame by frame: how high it is, how many pictures it has, and when one was replaced.
WATCH = """explorer => {
    const area = explorer.closest('.jp-OutputArea')
    const shown = () => [...explorer.querySelectorAll('img, canvas')]
    const first = shown()[0]
    const before = first.src ?? first.toDataURL()
    const seen = window.seen = {heights: [], counts: [], start: performance.now(), milliseconds: null}
    const look = () => {
        if (window.seen !== seen) return
        seen.heights.push(area.offsetHeight)
        seen.counts.push(shown().length)
        const now = shown()[0]
        if (seen.milliseconds === null && (now.src ?? now.toDataURL()) !== before && (now.complete ?? true))
            seen.milliseconds = performance.now() - seen.start
        requestAnimationFrame(look)
    }
    look()
}"""
PICTURES = """explorer => Promise.all([...explorer.querySelectorAll('img, canvas')].map(async picture => {
    const source = picture.src ?? picture.toDataURL()
    const digest = await crypto.subtle.digest('SHA-256', await (await fetch(source)).arrayBuffer())
    return [...new Uint8Array(digest)].join()
}))"""


# ── A run, a server, a browser ────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a finished run of the smoke preset; it is read only, and copied for each notebook."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    runner.run(presets.get("smoke").parameters, folder, preset="smoke")
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address and the folder of `make lab`'s server, with a port, a token and settings of its own."""
    folder = tmp_path_factory.mktemp("lab")
    printed = subprocess.run(["make", "-n", "-o", ".venv/.installed", "lab"], cwd=ROOT, capture_output=True, text=True)
    program, *options = printed.stdout.splitlines()[-1].split()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options += ["--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    settings = {name: str(folder / ".jupyter" / name) for name in own}
    # JupyterLab draws the outputs that are in view only; here all of them are looked for.
    tracker = Path(settings["JUPYTER_CONFIG_DIR"], "lab/user-settings/@jupyterlab/notebook-extension/tracker")
    tracker.parent.mkdir(parents=True)
    tracker.with_suffix(".jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [ROOT / program, *options], cwd=folder, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/api?token={TOKEN}"), HANG, "server")
        yield address, folder
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def answers(address):
    try:
        return urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def wait_for(ready, seconds, what):
    """Ask twice a second, which leaves a slow machine its time, until `ready` gives something true."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.5)


class Notebook:
    """A copy of a notebook, with the smoke preset's parameters and others, open in JupyterLab."""

    def __init__(self, page, lab, stage, run, **other):
        address, folder = lab
        self.page, self.stage, self.told = page, stage, []
        self.path = folder / run.parent.name / f"{stage}.ipynb"
        self.path.parent.mkdir(exist_ok=True)
        self._write(presets.get("smoke").parameters | {"run_folder": str(run)} | other)
        page.set_default_timeout(1000 * ANSWER)
        page.on("pageerror", lambda error: self.told.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.told.append(message.text))
        page.goto(f"{address}/lab/tree/{self.path.relative_to(folder)}?token={TOKEN}&reset")
        wait_for(partial(self._has_kernel, f"{address}/api/sessions?token={TOKEN}"), HANG, "kernel")
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")

    def _has_kernel(self, sessions):
        """Whether its kernel has started; until then, the page calls it idle too, and asks which kernel to take."""
        with urlopen(sessions, timeout=ANSWER) as answer:
            found = [one for one in json.load(answer) if one["path"].startswith(self.path.parent.name)]
        return any(one["kernel"]["execution_state"] == "idle" for one in found)

    def _write(self, given):
        notebook = nbformat.read(ROOT / f"notebooks/{self.stage}.ipynb", as_version=4)
        (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        own = {name: value for name, value in given.items() if name in catalogue()[self.stage]}
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in own.items())
        nbformat.write(notebook, self.path)

    def run_all(self):
        """Run all cells, wait until none runs any more, and save → the errors in the file."""
        self.menu("Run", "Run All Cells")
        wait_for(lambda: self._waiting() > 0, ANSWER, "running cell")
        wait_for(lambda: self._waiting() == 0, HANG, "end of the notebook")
        before = self.path.stat().st_mtime_ns
        self.menu("File", "Save Notebook")
        wait_for(lambda: self.path.stat().st_mtime_ns != before, ANSWER, "saved notebook")
        cells = nbformat.read(self.path, as_version=4).cells
        outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
        return [output for output in outputs if output.output_type == "error"]

    def _waiting(self):
        """How many cells run or wait for their turn."""
        dialog = self.page.locator(".jp-Dialog").all_inner_texts()
        assert not dialog, dialog
        prompts = self.page.locator(".jp-Notebook .jp-InputPrompt").all_text_contents()
        return sum("*" in prompt for prompt in prompts)

    def menu(self, name, item):
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text(name, exact=True).click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()

    def after(self, explorer, act, what):
        """Do something to an explorer, wait for its picture → all that it shows then. Nothing may jump or be added."""
        before = explorer.evaluate(PICTURES)
        explorer.evaluate(WATCH)
        act()
        wait_for(lambda: self.page.evaluate("seen.milliseconds"), ANSWER, f"other picture after {what}")
        self.page.wait_for_timeout(300)  # what would jump or be added, would so after the picture has come
        seen = self.page.evaluate("() => { const found = window.seen; window.seen = null; return found }")
        print(f"{self.stage} · {what}: another picture after {seen['milliseconds']:.0f} ms")
        assert set(seen["counts"]) == {len(before)}, "the same number of pictures all the time"
        heights = list(dict.fromkeys(seen["heights"]))
        assert heights == sorted(heights) and len(heights) <= 2, f"{what}: the output jumps: {heights}"
        return explorer.evaluate(PICTURES)


@pytest.fixture(scope="module")
def open_lab(lab, chromium, tmp_path_factory):
    """A function that opens a notebook, on a copy of a run where one is given."""
    pages = []

    def open_(stage, run=None, **other):
        folder = tmp_path_factory.mktemp(stage) / "run"
        if run:
            shutil.copytree(run, folder)
        page = chromium.new_page(viewport={"width": 1500, "height": 1000})
        pages.append(page)
        return Notebook(page, lab, stage, folder, **other)

    yield open_
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def finished(smoke, open_lab):
    """A function that gives a notebook in which all cells have run, on a finished run."""
    opened = {}

    def get(stage):
        if stage not in opened:
            notebook = open_lab(stage, smoke)
            assert not notebook.run_all()
            opened[stage] = notebook
        return opened[stage]

    return get


# ── Explorers ─────────────────────────────────────────────────────────────────────────────────────────────────────
def moves(explorer):
    """(label, function that moves a control, function that moves it back) of every list and slider."""
    for number, control in enumerate(explorer.locator("select").all()):
        start = control.input_value()
        other = control.locator("option").nth(1).get_attribute("value")
        yield f"list {number + 1}", partial(control.select_option, other), partial(control.select_option, start)
    for number, control in enumerate(explorer.get_by_role("slider").all()):
        low, now, high = (float(control.get_attribute(f"aria-value{name}")) for name in ("min", "now", "max"))
        forth, back = ("ArrowRight", "ArrowLeft") if now < (low + high) / 2 else ("ArrowLeft", "ArrowRight")
        yield f"slider {number + 1}", partial(control.press, forth), partial(control.press, back)


@pytest.mark.parametrize("stage", STAGES)
def test_explorers_follow_every_control(finished, stage):
    notebook = finished(stage)
    explorers = notebook.page.locator(".jp-OutputArea-output > .widget-vbox")
    assert explorers.count() == {"02_cam_generation": 2}.get(stage, 1)
    for number, explorer in enumerate(explorers.all()):
        explorer.scroll_into_view_if_needed()
        start = explorer.evaluate(PICTURES)
        assert len(start) == 1, "one picture"
        controls = list(moves(explorer))
        assert len(controls) == 2
        ratio = "picture => picture.clientWidth / picture.clientHeight * picture.naturalHeight / picture.naturalWidth"
        for name, forth, back in controls:
            what = f"explorer {number + 1}, {name}"
            assert notebook.after(explorer, forth, what) != start, what
            assert notebook.after(explorer, back, f"{what} back") == start, what
            assert explorer.locator("img").evaluate(ratio) == pytest.approx(1, abs=0.01), "not stretched"
    assert not notebook.told


def test_attention_can_be_touched(finished):
    notebook = finished(STAGES[0])
    widget = notebook.page.locator(".weaktr-attention")
    widget.scroll_into_view_if_needed()
    pictures, bars, text = widget.locator("canvas"), widget.locator("button.bar"), widget.locator("output")
    assert (pictures.count(), bars.count()) == (5, 24)
    start = widget.evaluate(PICTURES)

    corner = notebook.after(widget, lambda: pictures.nth(0).click(position={"x": 3, "y": 3}), "click at a place")
    assert corner[0] != start[0] and text.inner_text().startswith("Row 1 of 10, column 1 of 12:")
    focused = notebook.page.evaluate("document.activeElement.tagName")
    assert focused == "CANVAS"
    right = notebook.after(widget, lambda: pictures.nth(0).press("ArrowRight"), "arrow key")
    assert right[0] != corner[0] and "Row 1 of 10, column 2 of 12:" in text.inner_text()
    assert notebook.page.evaluate("document.activeElement.tagName") == focused, "JupyterLab did not take the key"

    assert "24 of 24 heads" in text.inner_text()
    without = notebook.after(widget, bars.nth(0).click, "switch a head off")
    assert without[4] != right[4] and "23 of 24 heads" in text.inner_text()
    assert bars.nth(0).get_attribute("aria-pressed") == "false"
    assert notebook.after(widget, lambda: bars.nth(0).press("Space"), "switch it on by a key") == right
    layer = widget.get_by_role("button", name="layer 6", exact=True)
    assert notebook.after(widget, layer.click, "switch a layer off")[4] != right[4] and "20 of 24" in text.inner_text()
    assert notebook.after(widget, layer.click, "switch it on") == right

    cam, attention = widget.locator("select").all()
    one = notebook.after(widget, lambda: attention.select_option(label="layer 2 head 3"), "list of maps")
    assert one[0] != right[0] and one[1] != right[1] and one[2:] == right[2:]
    other = notebook.after(widget, lambda: cam.select_option(index=3), "list of CAMs")
    assert all(now != before for now, before in zip(other, one))
    assert not notebook.told


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────
def assert_refused(notebook, words):
    """One error of ours, whose text is all that is shown of it."""
    (error,) = notebook.run_all()
    assert error.ename in ("UserError", "ParameterError")
    assert words in error.evalue and error.traceback == [f"{error.ename}: {error.evalue}"]
    shown = notebook.page.locator(".jp-OutputArea-output").all_inner_texts()
    assert any(words in text for text in shown) and not any("Traceback" in text for text in shown)
    assert not notebook.told


@pytest.mark.parametrize("stage", STAGES)
def test_without_a_run_it_is_said_what_to_run_first(open_lab, stage):
    needed = "01_cam_training" if stage == STAGES[0] else STAGES[0]
    assert_refused(open_lab(stage), f"run notebook {needed} first")


@pytest.mark.parametrize("stage", STAGES)
def test_another_parameter_on_a_finished_run_is_refused(smoke, open_lab, stage):
    (name,) = CHANGED[stage]
    notebook = open_lab(stage, smoke, **CHANGED[stage])
    assert_refused(notebook, f"holds a finished stage ({name} ")

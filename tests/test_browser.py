"""The notebooks in JupyterLab, in Chromium, as a person has them: explorers that follow their controls, plain refusals.

    make test-browser

Every notebook is a copy whose parameters name a finished run of the smoke preset, `$WEAKTR_SMOKE` where that is set.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest

from weaktr.workbench import presets, runner
from weaktr.workbench.parameters import catalogue

ROOT = Path(__file__).parents[1]
TOKEN = "only-here"
HANG = 300  # seconds after which a cell is taken to hang; a busy machine may be slow
ANSWER = 60  # seconds after which a control is taken to hang; it answers in one or two
STAGES = ["02_cam_generation", "03_pseudo_labels", "04_online_retraining"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The folder of a finished run of the smoke preset; it is copied before a notebook is opened on it."""
    given = os.environ.get("WEAKTR_SMOKE")
    folder = Path(given) if given else tmp_path_factory.mktemp("runs") / "smoke"
    runner.run(presets.get("smoke").parameters, folder, preset="smoke")
    return folder


# ── Copies of notebooks ───────────────────────────────────────────────────────────────────────────────────────────
def copy(stage, folder, run, **other):
    """A copy of a notebook, with the smoke preset's parameters and others, on a run's folder → its path."""
    notebook = nbformat.read(ROOT / f"notebooks/{stage}.ipynb", as_version=4)
    given = presets.get("smoke").parameters | {"run_folder": str(run)} | other
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    own = {name: value for name, value in given.items() if name in catalogue()[stage]}
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in own.items())
    path = folder / f"{stage}.ipynb"
    nbformat.write(notebook, path)
    return path


def outputs(path):
    """All outputs of a notebook's file."""
    cells = nbformat.read(path, as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def errors(path):
    return [f"{output.ename}: {output.evalue}" for output in outputs(path) if output.output_type == "error"]


# ── Without a browser: papermill and nbconvert alone ──────────────────────────────────────────────────────────────
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("tool", ["papermill", "nbconvert"])
def test_bare_tools_draw_pictures_and_no_widgets(smoke, tmp_path, stage, tool):
    """Neither says who runs it, and neither answers a widget: messages to one were lost, and the notebook hung."""
    run = Path(shutil.copytree(smoke, tmp_path / "run"))
    path, made = copy(stage, tmp_path, run), tmp_path / "executed.ipynb"
    commands = {
        "papermill": ["papermill", path, made, "--no-progress-bar"],
        "nbconvert": ["jupyter", "nbconvert", "--execute", "--to", "notebook", path, "--output", made],
    }
    program, *arguments = commands[tool]
    subprocess.run([Path(sys.executable).with_name(program), *arguments], check=True, cwd=ROOT, timeout=HANG)
    assert not errors(made)
    kinds = {kind for output in outputs(made) for kind in output.get("data", {})}
    assert "image/png" in kinds and not any("widget" in kind for kind in kinds)
    assert "widgets" not in nbformat.read(made, as_version=4).metadata


# ── A server and a browser ────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address and folder of `make lab`'s server, on a port, with a token and in a folder of its own."""
    folder = tmp_path_factory.mktemp("lab")
    command = subprocess.run(["make", "-n", "-o", ".venv/.installed", "lab"], cwd=ROOT, capture_output=True, text=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program, *options = command.stdout.splitlines()[-1].split()
    options += ["--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(folder / ".jupyter" / name) for name in places}
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(
        [ROOT / program, *options], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: server.poll() is None and answers(f"{address}/api?token={TOKEN}"), 120, "a server")
        yield address, folder
    finally:
        server.terminate()
        server.wait(60)


def answers(address):
    try:
        return urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def wait_for(ready, seconds, what):
    """What `ready` gives, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Lab:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page, address, path):
        self.page, self.path, self.told = page, path, []
        page.set_default_timeout(1000 * HANG)
        page.on("pageerror", lambda error: self.told.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.told.append(message.text))
        page.goto(f"{address}/lab/tree/{path.parent.name}/{path.name}?token={TOKEN}&reset")
        self.indicator = page.locator(".jp-Notebook-ExecutionIndicator")
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")

    def run_all(self):
        """Run all cells, wait for the last one, and save."""
        self.menu("Run", "Run All Cells")
        self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=busy]")
        self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        before = self.path.stat().st_mtime_ns
        self.menu("File", "Save Notebook")
        wait_for(lambda: self.path.stat().st_mtime_ns != before, ANSWER, "saved notebook")

    def menu(self, name, item):
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{name}$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{item}$")).click()


@pytest.fixture
def open_lab(lab, chromium, tmp_path):
    """A function that opens a notebook of lab's folder."""
    address, folder = lab
    pages = []

    def open_(stage, run, **other):
        place = folder / tmp_path.name
        place.mkdir(exist_ok=True)
        page = chromium.new_page(viewport={"width": 1500, "height": 1000})
        pages.append(page)
        return Lab(page, address, copy(stage, place, run, **other))

    yield open_
    for page in pages:
        page.close()

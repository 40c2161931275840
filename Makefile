# Everything runs in its own environment, .venv, which `setup` makes. Another interpreter: make PYTHON=python3.12 setup
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --retries 10 --timeout 60
STRIP = .venv/bin/nbstripout --extra-keys "metadata.papermill cell.metadata.papermill metadata.language_info.version"
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slurm test-browser lab reference figures bench lint format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: .venv/.installed ## make the environment and install the package (once; some 6 GB)

# The stamp is written last: an installation that broke off is taken up again by the next make.
.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "weaktr needs Python 3.11 or later, this is " + sys.version)'
	@$(PYTHON) -c 'import os, shutil, sys, sysconfig; found = os.path.exists(sysconfig.get_path("include") + "/Python.h") and (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")); sys.exit(not found and "the CRF is compiled: install g++ and the headers of Python (Debian: g++ python3-dev)")'
	.venv/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) install -q -e '.[dev]'
	touch $@

demo: setup ## run the whole pipeline on the embedded data set
	.venv/bin/weaktr run --preset demo

test: setup ## run the test suite
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not slurm and not lab"

test-slurm: setup ## run sweeps on a real Slurm, brought up here; says what to install where it is missing
	@.venv/bin/python -c 'import sys; sys.path.insert(0, "tests"); import local_slurm; sys.exit(local_slurm.missing())'
	.venv/bin/python -m pytest -q tests/test_slurm.py

test-browser: setup ## open the notebooks in JupyterLab, in chromium, and touch all that can be moved there
	.venv/bin/python -m pytest -q -s tests/test_browser.py

lab: setup ## open the notebooks in JupyterLab
	.venv/bin/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

reference: setup ## make papermill_runs/reference and figures again (what the README shows)
	.venv/bin/weaktr run --preset demo --run-folder papermill_runs/reference --force
	$(MAKE) figures

# Sweeps that have no finished run here are drawn from the committed results in figures/.
figures: setup ## draw the figures and tables of the sweeps, and collect all figures of the reference run in figures/
	.venv/bin/weaktr run --preset demo --run-folder papermill_runs/reference --stages 06
	.venv/bin/weaktr figures papermill_runs/reference figures

bench: setup ## measure speed side by side with the plain limit and the released way; draws how cost grows
	for file in cam_step low_memory cam_generation sliding_windows seg_step attention attention_view threshold_curve crf sweep_overhead growth gpu; do .venv/bin/python benchmarks/$$file.py || exit 1; done

lint: setup ## check style and types, and that notebooks carry no outputs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(if $(NOTEBOOKS),$(STRIP) --verify $(NOTEBOOKS))

format: setup ## apply the style, and strip outputs from the notebooks
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	$(if $(NOTEBOOKS),$(STRIP) $(NOTEBOOKS))

clean: ## remove caches and temporary files; runs, data and the environment stay
	find . -path ./.venv -prune -o -path ./.git -prune -o -type d \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 -r rm -rf
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info

"""Stages that several runs share: computed once, hard-linked from then on."""

import contextlib
import os
import shutil
from pathlib import Path

from ..files import resolve
from ..workbench.keys import finished_key
from ..workbench.stage import remove
from .file import SWEEPS
from .run import SweepRun


def run_folders(root: str | Path = SWEEPS) -> list[Path]:
    """The folders of all runs of all sweeps below `root`."""
    return sorted({path.parents[1] for path in resolve(root).glob("*/*/[0-9][0-9]_*/manifest.json")})


def take_over(run: SweepRun) -> None:
    """Link the next stages of a run from those of any sweep's runs that have them under this run's keys."""
    folders = run_folders(run.sweep.folder.parent)
    while run.stages:
        stage = run.stage
        key = run.place.key(stage)
        source = next((folder / stage for folder in folders if finished_key(folder / stage) == key), None)
        if source is None:
            return
        with contextlib.suppress(OSError):  # another sweep may be recomputing it this moment
            link_or_copy(source, run.place.path / stage)
        if not run.place.up_to_date(stage):
            return
        run.shared += 1
        run.skip_finished()


def link_or_copy(source: Path, target: Path) -> None:
    """A copy of a finished stage's folder that shares its files, whole or not at all.

    Files of a stage are replaced, never rewritten: who wrote into a file that is there already would change every run
    that shares it. `files.atomic` replaces; the runner deletes the executed notebook before papermill writes it.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(source, aside, copy_function=os.link)
    except OSError:  # a file system without hard links
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside)
    if target.exists():
        remove(target)
    aside.rename(target)

"""The finished stages of a run that belong together, and what they say of themselves."""

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..files import read_json, stage_folders
from ..files import run_folder as find_run
from .keys import stale


class FinishedStages(NamedTuple):
    """The finished stages of a run that belong together."""

    folders: list[Path]  # in order
    left_out: str  # a sentence on those left out, which are stale; empty where none is

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.folders[0].parent

    @property
    def name(self) -> str:
        """The name of that folder, also of the one that is called "."."""
        return self.run.resolve().name

    @property
    def parameters(self) -> dict[str, Any]:
        """{name: value} of all parameters of these stages; where two differ, the later stage's."""
        values: dict[str, Any] = {}
        for folder in self.folders:
            values |= read_json(folder / "params.json")
        return values

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """{name of a stage: its manifest}, in order."""
        return {folder.name: read_json(folder / "manifest.json") for folder in self.folders}

    @property
    def records(self) -> list[dict[str, Any]]:
        """What this run measured, in order; what 06 sums up are other runs' numbers."""
        return [record for folder in self.folders if folder.name < "06" for record in records_of(folder)]


def records_of(stage: Path) -> list[dict[str, Any]]:
    """The metrics records in a stage's folder; none where it is not finished."""
    records: list[dict[str, Any]] = read_json(stage / "metrics.json", list)
    return records


def finished_stages(run_folder: str | Path) -> FinishedStages:
    """The finished stages of a run, without those made before an earlier stage or the weights changed.

    Args:
        run_folder: Relative to the working directory or to the repository's root, or absolute.

    Raises:
        UserError: Where none is left.
    """
    stages = stage_folders(find_run(run_folder))
    finished = [stage for stage in stages if (stage / "metrics.json").is_file()]
    if not finished:
        raise UserError(f"{run_folder}: no finished stage here; give a run's folder, such as papermill_runs/demo")
    outdated = [stage for stage in finished if stale(stage)]
    if not outdated:
        return FinishedStages(finished, "")
    names = ", ".join(stage.name for stage in outdated)
    left_out = f"{run_folder}: {names} left out, made before an earlier stage or the weights changed"
    if len(outdated) == len(finished):
        raise UserError(left_out)
    return FinishedStages([stage for stage in finished if stage not in outdated], left_out)

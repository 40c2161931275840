"""One run of a sweep: its stages still to do, and what became of it."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from ..errors import RunError
from ..files import short
from ..workbench.keys import WITHOUT_EFFECT
from ..workbench.runner import RunFolder
from .file import Sweep


@dataclass
class SweepRun:
    """One run of a sweep and how far it is.

    Attributes:
        values: Of all parameters, checked.
        place: Its folder and keys.
        stages: Still to do, in order: the first is the one that runs or is next.
        state: "waiting" (for a process, or for a stage that it shares), "running", "done" or "failed".
        message: The stage that runs, or why the run waits or failed.
        shared: How many stages were taken over from other runs.
        seconds: How long its stages took, in this process's lifetime.
        began: When the running stage began, in time.monotonic()'s seconds.
    """

    sweep: Sweep
    variant: str
    seed: int
    values: dict[str, Any]
    place: RunFolder
    stages: list[str]
    state: str = "waiting"
    message: str = ""
    shared: int = 0
    seconds: float = 0.0
    began: float = field(default=0.0, repr=False)

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return folder_name(self.variant, self.seed)

    @property
    def stage(self) -> str:
        """The stage that runs or is next."""
        return self.stages[0]

    def recipe(self, stage: str) -> str:
        """What a stage will be made from: the same for two runs that can share it."""
        chain = []
        for other in self.place.stages:
            if other <= stage:
                parameters = self.place.parameters[other].items()
                chain.append((other, {name: value for name, value in parameters if name not in WITHOUT_EFFECT}))
        return json.dumps(chain)

    @property
    def processes(self) -> int:
        """How many processes the next stage starts, one per GPU; 0 where that is left to what it finds."""
        return int(self.place.parameters[self.stage].get("processes", 0))

    def call(self, notebooks: str) -> tuple[Any, ...]:
        """The next stage as arguments of `execute_stage`."""
        given = {name: value for name, value in self.values.items() if name != "run_folder"}
        return given, short(self.place.path), self.stage, self.sweep.preset, notebooks

    def start(self) -> None:
        """The next stage runs from now on."""
        self.state = "running"
        self.message = self.stage
        self.began = time.monotonic()

    def move(self, where: str) -> bool:
        """Say where the stage is, if there is something to say → whether that is new."""
        message = f"{self.stage} · {where}" if where else self.stage
        new = message != self.message
        self.message = message
        return new

    def stop_clock(self) -> None:
        """The stage that ran has ended, well or not."""
        self.seconds += time.monotonic() - self.began

    def wait(self, reason: str = "") -> None:
        """The run waits for its turn."""
        self.state = "waiting"
        self.message = reason

    def fail(self, reason: str) -> None:
        """The run will not be continued by this sweep."""
        self.state = "failed"
        self.message = reason

    def finish_stage(self) -> None:
        """Go on behind the stage that ran. Raises RunError where it is not there under the key that it should have."""
        made = self.stage
        self.wait()
        self.skip_finished()
        if self.stages and self.stage == made:
            raise RunError("made, but not under its key: the data changed; start the sweep again")

    def skip_finished(self) -> None:
        """Go on behind the stages that are up to date; with none left the run is done."""
        while self.stages and self.place.up_to_date(self.stage):
            self.stages.pop(0)
        if not self.stages:
            self.state = "done"
            self.message = ""


def folder_name(variant: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{variant}-seed{seed}"

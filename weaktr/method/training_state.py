"""What both training loops need: the state of an unfinished training, kept after every epoch and read by a restart."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

from .. import ranks
from ..errors import ParameterError, RunError, UserError, counted
from ..files import atomic

History = list[dict[str, Any]]  # rows of a history, by column


class DivergedError(RunError):
    """A training whose loss is not a finite number any more; the epochs before are kept."""


def keep(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
    """Write everything that a restart needs to folder/resume.pt, whole or not at all; all ranks wait for the first."""
    if ranks.is_first():
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        with atomic(Path(folder) / "resume.pt") as aside:
            torch.save(state, aside)
    ranks.wait()


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> History:
    """Load what `keep` wrote into model and optimizer.

    After a finished training only model.safetensors and history.csv remain: running its notebook again by hand loads
    them and trains nothing.

    No code of the files runs.

    Returns:
        The history so far, [] for a fresh start.

    Raises:
        UserError: For a file that is damaged or another network's.
    """
    unfinished = Path(folder) / "resume.pt"
    finished = Path(folder) / "model.safetensors"
    if unfinished.is_file():
        with _errors_that_name(unfinished, "delete it: the training begins anew"):
            state = torch.load(unfinished, map_location=next(model.parameters()).device, weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            history = [dict(row) for row in state["history"]]
        print(f"going on after {len(history)} finished steps of {unfinished}", flush=True)
        return history
    if finished.is_file():
        with _errors_that_name(finished, "delete it and history.csv beside it: the training is done again"):
            model.load_state_dict(load_file(finished))
            return pd.read_csv(Path(folder) / "history.csv").to_dict("records")
    return []


@contextlib.contextmanager
def _errors_that_name(path: Path, remedy: str) -> Iterator[None]:
    """Whatever is raised about a file of a training becomes a UserError: readers raise many kinds about damage."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or another network's: {remedy}"
        ) from error


def check_batch(images: int, batch_size: int, processes: int = 1) -> None:
    """Raise ParameterError for a list that does not fill a single batch, and for one that processes cannot share."""
    if images < batch_size:
        raise ParameterError(f"the list has {counted(images, 'images')}, fewer than batch size {batch_size}; lower it")
    if batch_size % max(1, processes):
        raise ParameterError(
            f"batch size {batch_size}, shared by {processes} processes, gives them different numbers of images; take a "
            f"multiple of {processes}, or other processes"
        )


def check_loss(loss: float, when: str, lr: float) -> None:
    """Raise DivergedError where a loss is not a finite number. when: "in epoch 3", for the message."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss became {loss} {when}; lower the learning rate {lr}")

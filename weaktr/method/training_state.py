"""The state of an unfinished training: written after every epoch, read by a restart."""

from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

from ..files import atomic


def keep(folder, model, optimizer, history, **more):
    """Write everything a restart needs to folder/resume.pt, whole."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history, **more}
    with atomic(Path(folder) / "resume.pt") as aside:
        torch.save(state, aside)


def restore(folder, model, optimizer):
    """Load what `keep` wrote into model and optimizer → history so far, [] for a fresh start.

    Of a finished training the model and its history are left: a person steps through its notebook without training.
    """
    path, trained = Path(folder) / "resume.pt", Path(folder) / "model.safetensors"
    if not path.is_file() and trained.is_file():
        model.load_state_dict(load_file(trained))
        return pd.read_csv(Path(folder) / "history.csv").to_dict("records")
    if not path.is_file():
        return []
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"going on after {len(state['history'])} finished steps of {path}", flush=True)
    return state["history"]

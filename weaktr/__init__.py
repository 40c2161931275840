"""weaktr: weakly supervised semantic segmentation with plain vision transformers (WeakTr, arXiv 2304.01184)."""

from importlib import import_module
from typing import Any

__all__ = ["predict"]


def __getattr__(name: str) -> Any:
    if name == "predict":  # on first use: `weaktr presets` must not wait for torch
        return import_module(".workbench.predict", __name__).predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What a manifest says of code, versions, machine, and use of memory."""

import contextlib
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import ROOT
from ..processes import cores

if TYPE_CHECKING:
    import torch

PACKAGES = ("weaktr", "torch", "torchvision", "timm", "numpy", "pandas", "papermill")


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git(*arguments: str) -> str | None:
    """What git says of the repository; None without git or outside a repository."""
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def environment() -> dict[str, Any]:
    """Code, versions and machine."""
    import psutil

    results = (":!papermill_runs", ":!figures")  # written by runs: a change there is no change of the code
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *results)
    versions = {"python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    return {
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)},
        "versions": versions,
        "hardware": {
            "cpu": _processor(),
            "cores": cores(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
    }


def _processor() -> str:
    """The model of the CPU: Linux says it in /proc/cpuinfo only."""
    with contextlib.suppress(OSError):
        models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if models:
            return models[0]
    return platform.processor()


def usage(device: "torch.device | None" = None) -> dict[str, Any]:
    """What this process has used so far.

    Args:
        device: where its networks ran; None where there were none.

    Returns:
        Peak memory of this process or its largest child; with a device also the threads, what precision "auto" stands
        for, and of a GPU its name and peak memory.
    """
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit
    used: dict[str, Any] = {"peak_memory_mb": round(peak / 1e6)}
    if device is None:
        return used

    import torch  # here, since a stage without networks must not wait for it

    from ..device import auto_precision

    used |= {"threads": torch.get_num_threads(), "auto_precision": auto_precision(device)}
    if device.type == "cuda":
        used["gpu"] = torch.cuda.get_device_name(device)
        used["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6)
    return used

"""What a manifest says of code, versions, machine and use of memory."""

import contextlib
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from ..files import ROOT
from ..processes import cores

PACKAGES = ("weaktr", "torch", "torchvision", "timm", "numpy", "pandas", "papermill")


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments):
    """What git says of the repository; None where there is no git, or no repository."""
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None


def environment():
    """Code, versions and machine, for the manifest."""
    import psutil

    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!papermill_runs", ":!figures")  # results
    models = []
    with contextlib.suppress(OSError):
        models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)},
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "hardware": {
            "cpu": models[0] if models else platform.processor(),
            "cores": cores(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
    }


def _usage(device):
    """Peak memory of this process and its largest child, threads, what precision "auto" stood for, the GPU's use."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit
    usage = {"peak_memory_mb": round(peak / 1e6)}
    if torch := "weaktr.models" in sys.modules and sys.modules["torch"]:  # else no network took part
        from ..device import auto_precision, pick_device

        usage |= {"threads": torch.get_num_threads(), "auto_precision": auto_precision(pick_device(device))}
    if torch and torch.cuda.is_available():
        usage |= {"gpu": torch.cuda.get_device_name(), "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6)}
    return usage

"""What can go wrong, in words that a user can act on; the command line prints these errors without a traceback."""

import difflib
import re
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Input that cannot be used: the message names the file or parameter, the value and the remedy."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the message alone, as the command line prints it."""
        return [f"{type(self).__name__}: {self}"]


class DataError(UserError):
    """A data folder, list, image or mask that cannot be used."""


class ParameterError(UserError):
    """An unknown parameter, preset or stage, or a value of the wrong type or out of range."""


class RunError(Exception):
    """A stage that started but did not finish: a failing cell, a dead kernel, an interruption."""


def near(name: str, known: Iterable[str]) -> str:
    """What a message about an unknown name suggests.

    Args:
        name: the name that was given.
        known: the names that exist.

    Returns:
        ", did you mean …?" with up to three of the known names, or "" if none is similar.
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not close:
        return ""
    return f", did you mean {' or '.join(close)}?"


SINGULAR = {"ies": "y", "sses": "ss", "s": ""}  # endings; the first that fits counts


def counted(number: int, what: str) -> str:
    """A number and what is counted: "2 classes of a few pixels", "1 class of a few pixels".

    Args:
        number: how many.
        what: begins with a plural, the rest fits one and many.
    """
    if number == 1:
        noun, *rest = what.split(" ")
        plural, singular = next(pair for pair in SINGULAR.items() if noun.endswith(pair[0]))
        what = " ".join([noun.removesuffix(plural) + singular, *rest])
    return f"{number} {what}"


def named(faults: Sequence[str], most: int) -> str:
    """Faults as indented lines, each behind a line break; a remedy that several in a row share is told once.

    Args:
        faults: what is wrong, and behind the first semicolon what helps.
        most: how many are named; of the others the number is.
    """
    lines = []
    before = ""
    for fault in faults[:most]:
        head, _, help_against_it = fault.partition("; ")
        lines.append(head if help_against_it == before else fault)
        before = help_against_it
    if len(faults) > most:
        lines.append(f"… and {len(faults) - most} more")
    return "".join(f"\n  {line}" for line in lines)


# What libraries and the system say in words of their own, and what helps.
REMEDIES = {
    "Bus error|shared memory|torch_shm": "the processes that load images share memory with the training, and "
    "there is too little: give more (docker run --shm-size=2g, or a larger /dev/shm), or lower workers and the batch",
    "No space left on device|Disk quota exceeded": "the disk is full: make room, or choose another "
    "run_folder; the same command goes on where it stopped",
    "File too large": "a limit on the size of files is set (ulimit -f); raise it",
    "CUDA out of memory|CUDA error: out of memory": "lower the batch size or the image size, or free the GPU",
    "can't allocate memory|Cannot allocate memory|Unable to allocate|MemoryError|std::bad_alloc": "the memory does not "
    "suffice: lower the batch size, the image size or workers",
    "A child process terminated abruptly|A process in the process pool was terminated abruptly": "one of the processes "
    "that refine, score or write was killed, most often for lack of memory: lower workers; the same command goes on",
    r"DataLoader worker \(pid.*(exited unexpectedly|is killed by signal)": "one of the processes that load images "
    "ended or was killed, most often for lack of memory: lower workers; the same command goes on",
    "Too many open files": "raise the limit on open files (ulimit -n 4096), or lower workers",
    "File name too long": "a path is too long for this file system or for a socket: set TMPDIR or run_folder to a "
    "shorter one",
    "Read-only file system|Permission denied|Operation not permitted": "give a folder that can be written",
}


def remedy(text: str) -> str:
    """What helps against an error of a library or the system, by its text; "" where that is not known."""
    for pattern, help_against_it in REMEDIES.items():
        if re.search(pattern, text):
            return help_against_it
    return ""

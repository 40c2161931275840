"""What can go wrong, in words that a user can act on; the command line prints these errors without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input that cannot be used: the message names the file or parameter, the value and the remedy."""


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

"""What can go wrong in words a user can act on. The command line prints these without a traceback."""

import difflib


class UserError(Exception):
    """Input that cannot be used: the message names the file or parameter, the value and the remedy."""


class DataError(UserError):
    """A data folder, list, image or mask that cannot be used."""


class ParameterError(UserError):
    """An unknown parameter, preset or stage, or a value of the wrong type or out of range."""


class RunError(Exception):
    """A stage that started but did not finish: a failing cell, a dead kernel, an interruption."""


def near(name, known):
    """`, did you mean …?` for the names of `known` close to `name`, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f", did you mean {' or '.join(close)}?" if close else ""

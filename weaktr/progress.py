"""How far a stage is, for the person at the terminal."""

import codecs
import io
import sys
import time

FIRST_SECONDS = 8.0  # until the first line of progress
PROGRESS_SECONDS = 30.0  # between two lines of progress

PLAIN = {"·": "-", "–": "-", "…": "...", "→": "->", "×": "x", "±": "+-", "τ": "tau", "²": "2", "‘": "'", "’": "'"}


def write_plainly() -> None:
    """From now on a letter that the encoding of the terminal, or of the file written to, lacks is no error.

    It is written by plain letters: the output need not be UTF-8 (PYTHONIOENCODING, a locale, Windows).
    """
    codecs.register_error("plainly", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plainly")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What stands in the place of letters that cannot be written, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Progress:
    """Prints how much is done, the speed and the time left: soon, then every PROGRESS_SECONDS, and at the end.

    A periodic line shortly before the end is skipped. Lines are few and plain: an executed notebook keeps them all.
    """

    def __init__(self, prefix: str, total: int, unit: str) -> None:
        self.prefix = prefix
        self.total = total
        self.unit = unit
        self.done = 0
        self._start = time.monotonic()
        self._printed = self._start + FIRST_SECONDS - PROGRESS_SECONDS

    def update(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units of work as done; `note` ends the line, if one is printed."""
        self.done += n
        now = time.monotonic()
        finished = self.done >= self.total
        speed = self.done / max(now - self._start, 1e-6)
        left = (self.total - self.done) / max(speed, 1e-6)
        printed_lately = now - self._printed < PROGRESS_SECONDS
        shortly_before_the_end = left < PROGRESS_SECONDS / 5
        if not finished and (printed_lately or shortly_before_the_end):
            return
        self._printed = now
        rate = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
        duration = f"{clock(now - self._start)} in all" if finished else f"{clock(left)} left"
        parts = [self.prefix, f"{self.done}/{self.total} {self.unit}", f"{rate} {self.unit}/s", duration, note]
        print(" · ".join(part for part in parts if part), flush=True)

"""How far a stage is, for the person at the terminal."""

import time

PROGRESS_SECONDS = 30.0  # between two lines of progress


def clock(seconds):
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class Progress:
    """Prints a line every PROGRESS_SECONDS, none right before that of the end: done/total, speed, time left."""

    def __init__(self, prefix, total, unit):
        self.prefix, self.total, self.unit, self.done = prefix, total, unit, 0
        self._start = self._printed = time.monotonic()

    def update(self, n=1, note=""):
        """Counts `n` more units of work as done; `note` ends the line, if one is printed."""
        self.done += n
        now = time.monotonic()
        speed = self.done / max(now - self._start, 1e-6)
        left = (self.total - self.done) / max(speed, 1e-6)
        if self.done < self.total and (now - self._printed < PROGRESS_SECONDS or left < PROGRESS_SECONDS / 5):
            return
        self._printed = now
        seconds, word = (left, "left") if self.done < self.total else (now - self._start, "in all")
        rate = f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}"
        done = f"{self.done}/{self.total} {self.unit} · {rate} {self.unit}/s · {clock(seconds)} {word}"
        print(" · ".join(filter(None, (self.prefix, done, note))), flush=True)

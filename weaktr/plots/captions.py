"""Numbers and names in words, for captions and verdicts."""

import re

from ..evaluation.intervals import LEVEL


def runs_in_words(numbers):
    """How many runs each of several means rests on, for a caption: "3 random seeds", or "2–3 random seeds"."""
    few, many = min(numbers), max(numbers)
    return f"{few if few == many else f'{few}–{many}'} random seed{'s' if many > 1 else ''}"


def variant_in_words(variant):
    """The name of a variant, which is a folder's, for people: "cam_scales=0.8_1.0" → "cam scales 0.8, 1.0"."""
    words = re.sub(r"[ ,](?=\w+=)|(?<=\d)_(?=\d)", ", ", variant)
    return words.replace("=", " ").replace("_", " ")


def verdict(found, name, baseline):
    """What a difference says, in a sentence computed from its numbers."""
    name, baseline = variant_in_words(name), variant_in_words(baseline)
    seeds = f"{found.seeds} random seeds" if found.seeds > 1 else "1 random seed, so over images only"
    digits = 1 if min(abs(found.low), abs(found.high)) >= 0.05 else 2  # no edge that is not zero reads 0.0
    interval = f"{100 * LEVEL:.0f} % interval {found.low:+.{digits}f} to {found.high:+.{digits}f}"
    numbers = f"{found.value:+.1f} points ({interval}, {seeds})".replace("-", "−")
    if found.low <= 0 <= found.high:
        return f"{name} against {baseline}: {numbers}: no difference that could be told at this size."
    return f"{name} is {'better' if found.value > 0 else 'worse'} than {baseline}: {numbers}."

"""Numbers and names in words, for captions and verdicts."""

import re
from collections.abc import Iterable

from ..evaluation.intervals import LEVEL, Estimate

IN_PERCENT = ("mIoU", "mAP")  # the names of other metrics hold their unit


def runs_in_words(numbers: Iterable[int]) -> str:
    """How many runs each of several means rests on: "3 random seeds", or "2–3 random seeds"."""
    numbers = list(numbers)
    few = min(numbers)
    many = max(numbers)
    count = f"{few}" if few == many else f"{few}–{many}"
    return f"{count} random seeds" if many > 1 else f"{count} random seed"


def variant_in_words(variant: str) -> str:
    """The name of a variant's folder in words: "cam_scales=0.8_1.0" → "cam scales 0.8, 1.0"."""
    between_parameters = r"[ ,](?=\w+=)"
    between_numbers = r"(?<=\d)_(?=\d)"
    words = re.sub(f"{between_parameters}|{between_numbers}", ", ", variant)
    return words.replace("=", " ").replace("_", " ")


def metric_in_words(metric: str) -> str:
    """What a metrics record calls its metric, with its unit and without of what: "mIoU of mask" → "mIoU (%)"."""
    name = metric.partition(" ")[0]
    return f"{name} (%)" if name in IN_PERCENT else metric


def verdict(found: Estimate, name: str, baseline: str) -> str:
    """What the difference of a variant from its baseline says, in a sentence computed from its numbers.

    Args:
        found: the difference in points of mIoU, from `intervals.difference`.
        name: the variant, as its folder is called.
        baseline: what it is compared with, as its folder is called.
    """
    name = variant_in_words(name)
    baseline = variant_in_words(baseline)
    digits = 1 if min(abs(found.low), abs(found.high)) >= 0.05 else 2  # an edge that is not zero never reads 0.0
    interval = f"{100 * LEVEL:.0f} % interval {found.low:+.{digits}f} to {found.high:+.{digits}f}"
    seeds = f"{found.seeds} random seeds" if found.seeds > 1 else "1 random seed, so over images only"
    numbers = f"{found.value:+.1f} points ({interval}, {seeds})".replace("-", "−")
    if found.low <= 0 <= found.high:
        return f"{name} against {baseline}: {numbers}: no difference that could be told at this size."
    direction = "better" if found.value > 0 else "worse"
    return f"{name} is {direction} than {baseline}: {numbers}."

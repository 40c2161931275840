"""What the paper published for a preset, and whether a run may be held against it."""

from collections.abc import Mapping
from typing import Any

from .keys import WITHOUT_EFFECT
from .parameters import catalogue, check_parameters
from .presets import PUBLISHED, get

PUBLISHED_MASK = "mIoU of mask, early masks added"  # as notebook 05 names it
FREE = {"data_root", "seed", "weights", "seg_weights", *WITHOUT_EFFECT}  # where, how and from what seed a run was made


def published(preset: str, record: Mapping[str, Any]) -> float | None:
    """The published mIoU (%) that a metrics record of a run of `preset` is to be held against; None for none.

    All published numbers are with CRF, those of step 2 very likely with early masks. A number for which masks were used
    here (oracle) is held against none.
    """
    if preset not in PUBLISHED or not record["crf"] or record.get("oracle"):
        return None
    if record["metric"] == "mIoU of CAM label":
        dataset = preset.split("_")[0]
        return PUBLISHED[f"{dataset}_cam"][1]
    val, train = PUBLISHED[preset]
    if record["metric"] != PUBLISHED_MASK or val is None:  # a preset of step 1 alone publishes no mask
        return None
    return {"val": val, "train": train}.get(record["list"])


def as_published(preset: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a run's parameters, or some of them, are those of a published preset, all but the ones in FREE."""
    if preset not in PUBLISHED:
        return False
    expected = check_parameters(get(preset).parameters, catalogue())
    return all(expected.get(name) == value for name, value in parameters.items() if name not in FREE)

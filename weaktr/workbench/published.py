"""What the paper published for a preset, and whether a run may be held against it."""

from .keys import WITHOUT_EFFECT
from .parameters import catalogue, check_parameters
from .presets import PUBLISHED, get


def published(preset, record):
    """The published value that a metrics record of a run of `preset` is to be held against; None for none."""
    val, train = PUBLISHED.get(preset, (None, None))
    if not record["crf"] or record.get("oracle"):
        return None
    if record["metric"] == "mIoU of CAM label" and preset in PUBLISHED:
        return PUBLISHED[f"{preset.split('_')[0]}_cam"][1]
    if record["metric"] != "mIoU of mask" or val is None:
        return None
    return {"val": val, "train": train}.get(record["list"])


def as_published(preset, parameters):
    """Whether a run's parameters, or some of them, are a published preset's, wherever, however and from what seed."""
    if preset not in PUBLISHED:
        return False
    expected = check_parameters(get(preset).parameters, catalogue())
    free = {"data_root", "seed", "weights", "seg_weights", *WITHOUT_EFFECT}
    return all(expected.get(name) == value for name, value in parameters.items() if name not in free)

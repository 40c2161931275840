"""One contract, one reader file per source: `open_dataset` gives an object with `ids`, `image`, `labels`, `mask`."""

from pathlib import Path

from ..errors import DataError
from ..files import ROOT

DATASETS = ("synthetic", "voc12", "coco14", "coco14_80", "folder")
LISTS = ("train_list", "eval_list", "val_list")


def open_dataset(name, root=""):
    """The data set `name` (one of DATASETS) below `root`, relative to the repository; "" is `data/<name>`.

    The synthetic one is drawn on first use. Raises DataError for an unknown name or a folder that lacks the data.
    """
    if name not in DATASETS:
        raise DataError(f"data set {name!r} is unknown; one of {', '.join(DATASETS)}")
    root = ROOT / Path(root or f"data/{name}").expanduser()
    if name == "synthetic":
        from .synthetic import open_synthetic

        return open_synthetic(root)
    if name.startswith("coco14"):
        from .coco import COCO

        return COCO(root, contiguous=name == "coco14_80")
    if name == "folder":
        from .folder import Folder

        return Folder(root)
    from .voc import VOC

    return VOC(root)


def read_named(reader, parameters, name):
    """What `reader` gives for the value of a parameter, such as the ids of a list; a DataError names the parameter."""
    try:
        return reader(parameters[name])
    except DataError as error:
        raise DataError(f"parameter {name}: {error}") from error

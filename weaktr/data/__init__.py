"""Data sets: pixels, labels and lists from disk, and training samples made of them.

`open_dataset` gives a `dataset.Dataset`: the same contract for every source, one file per source. This room must not
know a network, a method, a measure, a notebook or a run: it says what the data are and never what is done with them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DataError
from ..files import ROOT, also_here

if TYPE_CHECKING:
    from .dataset import Dataset

DATASETS = ("synthetic", "voc12", "coco14", "coco14_80", "folder")
LISTS = ("train_list", "eval_list", "val_list")  # the parameters that name lists

Value = TypeVar("Value")


def open_dataset(name: str, root: str | Path = "") -> "Dataset":
    """Open a data set; the synthetic one is drawn on first use.

    Args:
        name: One of DATASETS.
        root: Its folder, relative to the repository; "" is `data/<name>`.

    Raises:
        DataError: The name is unknown, or the folder lacks the data.
    """
    if name not in DATASETS:
        raise DataError(f"data set {name!r} is unknown; one of {', '.join(DATASETS)}")
    folder = ROOT / Path(root or f"data/{name}").expanduser()
    if name != "synthetic":
        _check_layout(name, folder, also_here(root) if root else "")
    if name == "synthetic":
        from .synthetic import open_synthetic

        return open_synthetic(folder)
    if name == "voc12":
        from .voc import VOC

        return VOC(folder)
    if name == "folder":
        from .folder import Folder

        return Folder(folder)
    from .coco import COCO

    return COCO(folder, contiguous=name == "coco14_80")


def _check_layout(name: str, folder: Path, elsewhere: str) -> None:
    """Refuse a folder that does not exist, or that is laid out as another kind of data set than `name`.

    elsewhere: what a message adds where it does not exist.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {what}{elsewhere}; give the folder of the data (data_root of a run, --data-root of a command)"
        )
    kind = name.removesuffix("_80")
    found = layouts(folder)
    if found and kind not in found:
        raise DataError(
            f"{folder} is laid out as {found[0]}, not as {kind}: give dataset={found[0]}, or --dataset {found[0]} to "
            "a command"
        )


def layouts(folder: Path) -> list[str]:
    """The kinds of data set whose files lie in a folder, of "folder", "voc12" and "coco14"."""
    from .voc import devkit

    signs = {
        "folder": (folder / "labels.csv").is_file(),
        "voc12": devkit(folder) is not None,
        "coco14": (folder / "voc_format").is_dir() or any((folder / "annotations").glob("instances_*.json")),
    }
    return [name for name, there in signs.items() if there]


def read_named(reader: Callable[[Any], Value], parameters: Mapping[str, Any], name: str) -> Value:
    """What `reader` gives for the value of a parameter, such as the ids of a list.

    Raises:
        DataError: The reader's, with the parameter's name before it.
    """
    try:
        return reader(parameters[name])
    except DataError as error:
        raise DataError(f"parameter {name}: {error}") from error

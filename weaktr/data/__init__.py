"""One contract, one reader file per source: `open_dataset` gives an object with `ids`, `image`, `labels`, `mask`."""

import math
from functools import partial
from pathlib import Path

from ..errors import DataError

REPOSITORY = Path(__file__).parents[2]
DATASETS = ("synthetic", "voc12", "coco14", "coco14_80", "folder")
LISTS = ("train_list", "eval_list", "val_list")


def open_dataset(name, root=""):
    """The data set `name` (one of DATASETS) below `root`, relative to the repository; "" is `data/<name>`.

    The synthetic one is drawn on first use. Raises DataError for an unknown name or a folder that lacks the data.
    """
    if name not in DATASETS:
        raise DataError(f"data set {name!r} is unknown; one of {', '.join(DATASETS)}")
    root = REPOSITORY / Path(root or f"data/{name}").expanduser()
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


def check_parameters(parameters, files=True):
    """Read every file the run will read, before it starts. parameters: the run's; raises DataError at the first fault.

    The lists are those of `train_list`, `eval_list` and `val_list`; masks are needed only where they are evaluated.
    files=False reads the lists alone. → path and size (height, width) of the largest image and of that with the
    shortest side, None where none was read.
    """
    dataset, needs_mask = open_dataset(parameters["dataset"], parameters["data_root"]), {}
    batch = max(parameters.get("cam_batch_size", 1), parameters.get("seg_batch_size", 1))
    if parameters.get("cam_checkpoint") == "oracle_miou" and not dataset.has_masks:
        raise DataError("parameter cam_checkpoint: oracle_miou needs masks, and this data has none; take last or map")
    for name in LISTS:
        if name in parameters:
            ids = read_named(dataset.ids, parameters, name)
            if name == "train_list" and len(ids) < batch:
                raise DataError(
                    f"list {parameters[name]} has {len(ids)} images, fewer than a batch of {batch}; lower "
                    "cam_batch_size or seg_batch_size"
                )
            masks = parameters.get("oracle_noise", -1) >= 0 if name == "train_list" else dataset.has_masks
            needs_mask |= {i: parameters[name] if masks else needs_mask.get(i) for i in ids}
    if files:
        from ..scores import in_shares

        dataset.labels(next(iter(needs_mask)))  # COCO's annotations are read here, not in every process
        job = partial(_check_images, dataset=dataset, needs_mask=needs_mask)
        sizes = [one for share in in_shares(job, list(needs_mask), parameters.get("workers", 1)) for one in share]
        labelled = ("train_list", "eval_list", *["val_list"] * (parameters.get("cam_checkpoint") == "map"))
        for name in (parameters[name] for name in labelled if name in parameters):
            if not any(dataset.labels(image_id).any() for image_id in dataset.ids(name)):
                raise DataError(f"list {name}: no image of it shows a class; without labels there is nothing to go by")
        return max(sizes, key=lambda one: math.prod(one[1])), min(sizes, key=lambda one: min(one[1]))


def _check_images(ids, *, dataset, needs_mask):
    return [(dataset.image_path(i), dataset.check_image(i, needs_mask[i])[0].shape[:2]) for i in ids]

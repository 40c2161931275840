"""The masks of a list of VOC12 as its evaluation server takes them."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.images import VOID, image_size, read_label_png
from ..data.voc import VOC, VOC_CLASSES
from ..errors import DataError, RunError, UserError, counted
from ..files import atomic, read_json, resolve, writing
from ..files import run_folder as find_run
from .pictures import pictures_of, predict_pictures
from .predict import Network


def data_root_of(run: str | Path) -> Path:
    """The folder of VOC12 that a run was trained on; that of the repository for a checkpoint or another data set."""
    parameters = read_json(find_run(run) / "04_online_retraining" / "params.json")
    own = parameters.get("data_root") if parameters.get("dataset") == "voc12" else ""
    return resolve(own or "data/voc12")


def submit(network: Network, data_root: Path, list_name: str, output: Path, *, crf: str = "") -> Path:
    """Predict a list and pack its masks; those that are there already stay. Neither XML nor masks are read.

    Args:
        network: Of the 20 classes of VOC12, as from `open_network`.
        data_root: The folder of VOC12, with the images and the list.
        list_name: "test", usually.
        output: Gets results/VOC2012/Segmentation/comp6_<list>_cls/<id>.png and, with these, results.tar.gz.
        crf: The dense CRF after the network: "voc" or "coco"; "" for none.

    Returns:
        The archive.

    Raises:
        UserError: The network has other classes, an image is missing, or a mask is not what the server takes.
        RunError: An image cannot be read; the masks of the others stay.
    """
    _refuse_other_classes(network.names[1:])
    if ":" in list_name:
        raise UserError(f"list {list_name} is a part of a list, and the server takes whole ones; give its name alone")
    pictures = pictures_of(VOC(data_root), list_name)
    absent = [picture.path for picture in pictures if not picture.path.is_file()]
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(pictures)} images of {list_name} do not exist, such as {absent[0]}; the images "
            "of test are a download of their own: unpack it there"
        )
    inside = Path("results", "VOC2012", "Segmentation", f"comp6_{list_name}_cls")
    predicted = predict_pictures(network, pictures, output / inside, crf=crf)
    if predicted.broken:
        missing = counted(len(predicted.broken), "images")
        raise RunError(f"{missing} left out, so there is no archive; restore what is named above, and repeat")
    masks = {picture.name: output / inside / f"{picture.name}.png" for picture in pictures}
    for picture in pictures:
        check_mask(masks[picture.name], image_size(picture.path))
    archive = output / "results.tar.gz"
    with writing(output), atomic(archive) as aside, tarfile.open(aside, "w:gz") as packed:
        for image_id, mask in masks.items():
            packed.add(mask, inside / f"{image_id}.png")
    return archive


def check_mask(path: Path, size: tuple[int, int]) -> None:
    """Refuses a mask that the server would not take.

    Args:
        path: Of the mask.
        size: Height and width of its image.

    Raises:
        DataError: It is missing or unreadable, of another size, or a value is no class.
    """
    mask = read_label_png(path, len(VOC_CLASSES) + 1)
    if mask.shape != size:
        raise DataError(
            f"mask {path} is {mask.shape[1]}×{mask.shape[0]} pixels, its image {size[1]}×{size[0]}; delete it and "
            "repeat"
        )
    if np.any(mask == VOID):
        raise DataError(f"mask {path} holds {VOID}, and the server takes 0…{len(VOC_CLASSES)}; delete it and repeat")


def _refuse_other_classes(names: Sequence[str]) -> None:
    if list(names) != list(VOC_CLASSES):
        raise UserError(
            f"the network has {len(names)} classes, {', '.join(names[:3])}, …; the server takes the 20 of VOC12: "
            f"{', '.join(VOC_CLASSES)}"
        )

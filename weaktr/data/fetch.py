"""VOC12 with the extra annotations of SBD (Hariharan et al. 2011), fetched by torchvision and joined to `train_aug`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import atomic, remove_leftovers
from .images import write_label_png
from .released import SIZES


def fetch_voc12(root: Path | str) -> dict[str, int]:
    """Download VOC12 and SBD below `root` and join them; what is whole already is not fetched again.

    Returns:
        How many images each list has.

    Raises:
        DataError: The network or an archive fails; the message says what to do by hand.
    """
    from torchvision.datasets import SBDataset, VOCSegmentation

    root = Path(root)
    voc = root / "VOCdevkit" / "VOC2012"
    sbd = root / "sbd"
    try:
        if not (voc / "JPEGImages").is_dir():
            VOCSegmentation(root, year="2012", image_set="trainval", download=True)
        if not (sbd / "cls").is_dir():
            SBDataset(str(sbd), image_set="train", mode="segmentation", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"VOC12 or SBD could not be fetched ({error}); run the command again, or unpack the devkit to {voc} and "
            f"SBD's benchmark_RELEASE/dataset to {sbd} yourself"
        ) from error
    return join(voc, sbd, SIZES)


def join(voc: Path, sbd: Path, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Write SBD's masks as PNGs into SegmentationClassAug, and the list train_aug.

    train_aug is all that VOC's train and SBD's train and val annotate, without VOC's val. Masks that exist stay.

    Args:
        voc: The folder VOC2012.
        sbd: The folder `dataset` of SBD's archive.
        sizes: How long the lists have to be.

    Returns:
        How many images each list has.

    Raises:
        DataError: One of the folders is incomplete.
    """
    lists = voc / "ImageSets" / "Segmentation"
    train = _read_names(lists / "train.txt")
    val = _read_names(lists / "val.txt")
    annotated = {*_read_names(sbd / "train.txt"), *_read_names(sbd / "val.txt")}
    extra = sorted(annotated - {*train, *val})
    remove_leftovers(voc / "SegmentationClassAug")
    for image_id in extra:
        target = voc / "SegmentationClassAug" / f"{image_id}.png"
        if not target.is_file():
            write_label_png(target, _read_sbd_mask(sbd / "cls" / f"{image_id}.mat"))
    joined = sorted({*train, *extra})
    found = {"train": len(train), "val": len(val), "train_aug": len(joined)}
    if sizes and found != sizes:
        raise DataError(f"{voc} and {sbd} give {found}, expected {sizes}; unpack both archives again")
    _check_unpacked(voc, [*joined, *val])
    with atomic(lists / "train_aug.txt") as aside:
        aside.write_text("".join(f"{image_id}\n" for image_id in joined))
    return found


def _read_names(path: Path) -> list[str]:
    """The ids of a list of one of the archives."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; unpack the archive it belongs to again")
    return path.read_text().split()


def _read_sbd_mask(path: Path) -> NDArray[np.uint8]:
    """A mask (H,W) of SBD, which are Matlab files."""
    from scipy.io import loadmat

    try:
        mask: NDArray[np.generic] = loadmat(path)["GTcls"][0]["Segmentation"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error!r}); unpack SBD again") from error
    return mask.astype(np.uint8)


def _check_unpacked(voc: Path, ids: Sequence[str]) -> None:
    """Every image of the lists has its JPEG and its annotation."""
    for image_id in ids:
        for path in (voc / "JPEGImages" / f"{image_id}.jpg", voc / "Annotations" / f"{image_id}.xml"):
            if not path.is_file():
                raise DataError(
                    f"{path} is missing: the archive was not unpacked to its end; delete {voc}, start again"
                )

"""VOC12 with the extra annotations of SBD (Hariharan et al. 2011), fetched by torchvision and joined to `train_aug`."""

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import atomic, remove_leftovers
from .images import write_label_png

SIZES = {"train": 1464, "val": 1449, "train_aug": 10582}


def fetch_voc12(root):
    """Download VOC12 and SBD below `root` (checksummed; what is whole already is not fetched again) and join them.

    → {list: number of images}. Raises DataError when the network or an archive fails, with what to do by hand.
    """
    from torchvision.datasets import SBDataset, VOCSegmentation

    root = Path(root)
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "sbd"
    try:
        if not (voc / "JPEGImages").is_dir():
            VOCSegmentation(root, year="2012", image_set="trainval", download=True)
        if not (sbd / "cls").is_dir():
            SBDataset(sbd, image_set="train", mode="segmentation", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"VOC12 or SBD could not be fetched ({error}); run the command again, or unpack the devkit to {voc} and "
            f"SBD's benchmark_RELEASE/dataset to {sbd} yourself"
        ) from error
    return join(voc, sbd, SIZES)


def join(voc, sbd, sizes=None):
    """Write SBD's masks as PNGs into SegmentationClassAug and the list train_aug → {list: number of images}.

    train_aug is all that VOC's train and SBD's train and val annotate, without VOC's val. Masks that are there stay.
    sizes: how long the lists have to be. Raises DataError for an incomplete folder.
    """
    from scipy.io import loadmat

    lists = voc / "ImageSets" / "Segmentation"
    names = {}
    for key, path in (("train", lists / "train.txt"), ("val", lists / "val.txt"), ("sbd train", sbd / "train.txt"),
                      ("sbd val", sbd / "val.txt")):  # fmt: skip
        if not path.is_file():
            raise DataError(f"{path} does not exist; unpack the archive it belongs to again")
        names[key] = path.read_text().split()
    extra = sorted({*names["sbd train"], *names["sbd val"]} - {*names["train"], *names["val"]})
    remove_leftovers(voc / "SegmentationClassAug")
    for image_id in extra:
        target = voc / "SegmentationClassAug" / f"{image_id}.png"
        if not target.is_file():
            source = sbd / "cls" / f"{image_id}.mat"
            try:
                mask = loadmat(source)["GTcls"][0]["Segmentation"][0]
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                raise DataError(f"{source} cannot be read ({error!r}); unpack SBD again") from error
            write_label_png(target, mask.astype(np.uint8))
    joined = sorted({*names["train"], *extra})
    found = {"train": len(names["train"]), "val": len(names["val"]), "train_aug": len(joined)}
    if sizes and found != sizes:
        raise DataError(f"{voc} and {sbd} give {found}, expected {sizes}; unpack both archives again")
    for image_id in [*joined, *names["val"]]:
        for path in (voc / "JPEGImages" / f"{image_id}.jpg", voc / "Annotations" / f"{image_id}.xml"):
            if not path.is_file():
                raise DataError(
                    f"{path} is missing: the archive was not unpacked to its end; delete {voc}, start again"
                )
    with atomic(lists / "train_aug.txt") as aside:
        aside.write_text("".join(f"{image_id}\n" for image_id in joined))
    return found

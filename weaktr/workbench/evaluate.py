"""Masks from anywhere against the truth of a list: which file is whose, what is wrong with them, and their scores."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from ..data.dataset import Dataset
from ..data.images import VOID, read_label_png, read_note
from ..errors import DataError, counted, named
from ..evaluation.scores import ListScore, score_list
from ..files import atomic, write_table
from ..plots import confusion as draw_confusion
from ..processes import cores, in_shares

SHOWN = 10  # faults that are named


# ── Which mask is whose ───────────────────────────────────────────────────────────────────────────────────────────
def find_masks(folder: Path, dataset: Dataset, list_name: str) -> dict[str, Path]:
    """{id: its mask} of a list, in a folder of masks made by anything.

    All masks are called in one of three ways: by the images' ids, by the names of their files where no two are the
    same, or as the images lie below the data set's folder. The way that finds most is meant.

    Raises:
        DataError: There is no such folder, or an image has no mask in it.
    """
    ids = dataset.ids(list_name)
    there = _pngs(folder)
    ways = [{i: _composed(name(dataset, i)) for i in ids} for name in (_by_id, _by_file, _by_place)]
    unique = [names for names in ways if len(set(names.values())) == len(ids)]
    names = max(unique, key=lambda names: sum(name in there for name in names.values()))
    missing = [f"{name}.png" for name in names.values() if name not in there]
    others = sorted(there[name].name for name in there.keys() - set(names.values()))
    if missing:
        more = counted(len(others), "masks")
        also = f"; it holds {more} of no image on the list, such as {others[0]}" if others else ""
        raise DataError(
            f"{folder} lacks {len(missing)} of the {len(ids)} masks of list {list_name}, such as {missing[0]}{also}. "
            "Call each mask as its image, or score another list (--list)"
        )
    return {image_id: there[name] for image_id, name in names.items()}


def _by_id(dataset: Dataset, image_id: str) -> str:
    return image_id


def _by_file(dataset: Dataset, image_id: str) -> str:
    return dataset.image_path(image_id).stem


def _by_place(dataset: Dataset, image_id: str) -> str:
    path = dataset.image_path(image_id)
    inside = path.relative_to(dataset.folder) if path.is_relative_to(dataset.folder) else path
    return inside.with_suffix("").as_posix()


def _composed(name: str) -> str:
    """A name in the one of its Unicode forms that is compared."""
    return unicodedata.normalize("NFC", name)


def _pngs(folder: Path) -> dict[str, Path]:
    """{path below the folder, without ending: PNG} of all that are not hidden."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; give the folder of the masks")
    found: dict[str, Path] = {}
    others = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in sorted(files) if not name.startswith(".")):
            if path.suffix.lower() == ".png":
                found[_composed(path.relative_to(folder).with_suffix("").as_posix())] = path
            else:
                others.append(path.name)
    if not found:
        there = f"; it holds {len(others)} other files, such as {others[0]}" if others else " and is empty"
        raise DataError(f"{folder} holds no PNG{there}; masks are palette or grey PNGs whose values are classes")
    return found


# ── Scores ────────────────────────────────────────────────────────────────────────────────────────────────────────
def evaluate(folder: Path, dataset: Dataset, list_name: str) -> ListScore:
    """Score a folder of masks on a list, as notebook 05 scores its own.

    Args:
        folder: Of the masks: palette or grey PNGs, 0 background, c + 1 class c. See `find_masks` for their names.
        dataset: Has the true masks.
        list_name: Of the list.

    Raises:
        DataError: Masks are missing, unreadable, of another size or numbering, or made by a network of other classes.
    """
    ids = dataset.ids(list_name)
    masks = find_masks(folder, dataset, list_name)
    for path in masks.values():
        _refuse_other_classes(path, dataset.classes)
    shares = in_shares(partial(_faults, dataset=dataset, masks=masks), ids, cores())
    faults = [fault for share in shares for fault in share]
    if faults:
        raise DataError(
            f"{len(faults)} of the {len(ids)} masks of list {list_name} cannot be scored:{named(faults, SHOWN)}"
        )
    score = score_list(dataset, ids, partial(_scored, masks=masks, dataset=dataset), cores())
    if not score.confusion.any():
        raise DataError(f"all pixels of list {list_name} are void in {dataset.folder}, so nothing is scored")
    return score


def _scored(image_id: str, *, masks: Mapping[str, Path], dataset: Dataset) -> np.ndarray:
    """The mask of an image, its values checked."""
    return read_label_png(masks[image_id], len(dataset.classes) + 1)


def _faults(ids: Sequence[str], *, dataset: Dataset, masks: Mapping[str, Path]) -> list[str]:
    """What is wrong with the masks of some images, at most one thing each."""
    found = []
    for image_id in ids:
        try:
            _check(dataset, image_id, masks[image_id])
        except DataError as error:
            found.append(str(error))
    return found


def _check(dataset: Dataset, image_id: str, path: Path) -> None:
    """Refuses a mask that cannot be compared with its truth."""
    truth_path = dataset.mask_path(image_id)
    if not truth_path.is_file():
        raise DataError(f"image {image_id} has no mask {truth_path} to compare with; take it off the list")
    mask = read_label_png(path, len(dataset.classes) + 1)
    truth = dataset.mask(image_id)
    if mask.shape != truth.shape:
        raise DataError(
            f"mask {path} is {mask.shape[1]}×{mask.shape[0]} pixels, the truth {truth.shape[1]}×{truth.shape[0]}; "
            "write masks at the size of their image"
        )
    unsaid = int(((mask == VOID) & (truth != VOID)).sum())
    if unsaid:
        raise DataError(
            f"mask {path} is void ({VOID}) at {unsaid} pixels that the truth knows; a mask that is scored has a class "
            "or background everywhere"
        )


def _refuse_other_classes(path: Path, classes: Sequence[str]) -> None:
    """A mask whose note says that its values are other classes; one that cannot be read is for `_check`."""
    try:
        made_for = read_note(path).get("classes", [])[1:]
    except DataError:
        return
    if made_for and made_for != list(classes):
        raise DataError(
            f"mask {path} is of a network with the classes {', '.join(made_for)}; the data set has {', '.join(classes)}"
        )


def numbered_otherwise(confusion: np.ndarray, names: Sequence[str]) -> str:
    """A sentence where masks seem to number their classes in another way than the truth; "" where they do not.

    Args:
        confusion: Pixels (K,K), truth in rows.
        names: Of the K values, background first.
    """
    objects = confusion[1:, 1:]
    truth, called = linear_sum_assignment(objects, maximize=True)
    as_they_are, at_best = np.trace(objects), objects[truth, called].sum()
    if at_best < max(1, 2 * as_they_are) or 2 * at_best < confusion[1:].sum():
        return ""
    moved = max(zip(truth, called, strict=True), key=lambda pair: (pair[0] != pair[1]) * objects[pair])
    true, found = (names[1 + value] for value in moved)
    return (
        f"the masks seem to number their classes in another way: most of {true} is called {found}, and twice as many "
        "pixels would be right if each class were called by its best"
    )


# ── What is written ───────────────────────────────────────────────────────────────────────────────────────────────
def write_scores(score: ListScore, classes: Sequence[str], folder: Path, list_name: str) -> list[Path]:
    """Write <list>_per_class.csv, <list>_per_image.csv, and <list>_confusion as CSV and PNG.

    Args:
        score: As from `evaluate`.
        classes: Names of the C foreground classes.
        folder: Gets the files.
        list_name: Of the list.
    """
    names = ["background", *classes]
    counts = pd.DataFrame(score.confusion, pd.Index(names, name="true"), names)
    tables = {
        "per_class": score.per_class(classes).rename("iou").to_frame(),
        "per_image": score.per_image().rename("miou").to_frame(),
        "confusion": counts,
    }
    start = list_name.replace(":", "_")  # not every file system takes a colon
    paths = []
    for what, table in tables.items():
        paths.append(folder / f"{start}_{what}.csv")
        write_table(table, paths[-1], index=True)
    paths.append(folder / f"{start}_confusion.png")
    figure = draw_confusion(score.confusion, names, f"{list_name} ({len(score.ids)} images)")
    with atomic(paths[-1]) as aside:
        figure.savefig(aside, dpi=150)
    return paths

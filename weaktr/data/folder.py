"""A folder of one's own: photographs anywhere below a root, and labels.csv with a line for each.

    image,labels,split
    beach/dog 1.jpg,dog;person,train
    IMG_0001.png,cat,val

`split` may be left out: then every list holds all images. Labels stand in one cell, separated by `;`; an empty cell is
an image without any object. `classes.txt`, a class a line, fixes classes and order; else they are the labels in
alphabetical order. Masks are optional: masks/<image's path>.png, 0 background, c + 1 class c, 255 void.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, near
from .dataset import Dataset
from .lists import evenly

COLUMNS = ("image", "labels", "split")


@dataclass(frozen=True)
class Row:
    """An image as labels.csv describes it."""

    line: int  # of labels.csv, from 1
    path: PurePosixPath  # below the root
    labels: tuple[str, ...]
    split: str  # empty where there are no splits

    @property
    def image_id(self) -> str:
        """The path without its ending, folders joined by "__"."""
        return "__".join(self.path.with_suffix("").parts)


class Folder(Dataset):
    """The images that labels.csv names. An id is the image's path without its ending, folders joined by "__".

    Raises:
        DataError: labels.csv or classes.txt cannot be used.
    """

    name = "folder"

    def __init__(self, root: Path | str) -> None:
        root = Path(root)
        self._table = root / "labels.csv"
        self._rows = _read_table(self._table)
        super().__init__(root, root, _read_classes(root / "classes.txt", self._rows))
        self._check_labels()

    def _check_labels(self) -> None:
        """Every label is a class, and there is one at least."""
        for row in self._rows.values():
            for label in row.labels:
                if label not in self.classes:
                    remedy = near(label, self.classes) or f"; it has {', '.join(self.classes)}"
                    raise DataError(f"{self._table}, line {row.line}: class {label!r} is not in classes.txt{remedy}")
        if not self.classes:
            raise DataError(f"{self._table} names no class; write labels, separated by `;`")

    def ids(self, list_name: str) -> list[str]:
        """The ids whose split is `list_name`; all where labels.csv has no split, or for the list `all`."""
        name, colon, count = list_name.partition(":")
        splits = {row.split for row in self._rows.values()}
        everything = name == "all" or splits == {""}
        ids = [image_id for image_id, row in self._rows.items() if everything or row.split == name]
        if not ids:
            known = ", ".join(sorted(splits - {""}))
            raise DataError(f"{self._table} has no image of split {name!r}; there are {known} and all")
        return evenly(ids, count, list_name) if colon else ids

    def image_path(self, image_id: str) -> Path:
        """Where the photograph lies."""
        return self.root / self._rows[image_id].path

    def mask_path(self, image_id: str) -> Path:
        """Where the mask of an image would lie."""
        return self.root / "masks" / self._rows[image_id].path.with_suffix(".png")

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Pixel truth (H,W); all void for an image without a mask, since masks are optional here."""
        return self.mask_or_void(image_id)

    def _read_labels(self, image_id: str) -> NDArray[np.float32]:
        labels = self._rows[image_id].labels
        return np.array([name in labels for name in self.classes], np.float32)

    @cached_property
    def has_masks(self) -> bool:
        """Whether any image has a mask."""
        return any(self.mask_path(image_id).is_file() for image_id in self._rows)

    def fingerprint(self) -> str:
        """Hex digest of the classes, labels.csv, and the path and size of every image and mask it names."""
        digest = hashlib.sha256(repr(self.classes).encode() + self._table.read_bytes())
        for image_id in self._rows:
            for path in (self.image_path(image_id), self.mask_path(image_id)):
                if path.is_file():
                    digest.update(f"{path.relative_to(self.root)}:{path.stat().st_size}".encode())
        return digest.hexdigest()[:16]


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _read_classes(path: Path, rows: dict[str, Row]) -> list[str]:
    """The classes of classes.txt; where there is no such file, the labels in alphabetical order."""
    if not path.is_file():
        return sorted({label for row in rows.values() for label in row.labels})
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8, a class a line") from error
    classes = [line.strip() for line in text.splitlines()]
    classes = [name for name in classes if name]
    twice = [name for name in classes if classes.count(name) > 1]
    if twice:
        raise DataError(f"{path} holds {twice[0]!r} twice; remove one")
    return classes


def _read_table(path: Path) -> dict[str, Row]:
    """The rows of labels.csv by image id."""
    header, *lines = _read_cells(path) or [[]]
    header = [cell.strip().lower() for cell in header]
    _check_header(path, header)
    found: dict[str, Row] = {}
    for line, cells in enumerate(lines, start=2):
        if any(cell.strip() for cell in cells):
            row = _read_row(path, line, header, cells)
            if row.image_id in found:
                raise DataError(
                    f"{path}, line {line}: {str(row.path)!r} stands there twice, or differs by its ending only"
                )
            found[row.image_id] = row
    if not found:
        raise DataError(f"{path} names no image; write a line for each")
    blank = [row.line for row in found.values() if not row.split]
    if blank and len(blank) < len(found):
        raise DataError(f"{path}, line {blank[0]}: no split, where other lines have one; write it")
    return found


def _read_cells(path: Path) -> list[list[str]]:
    """The cells of a CSV file, line by line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; write the header image,labels and a line per image") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it as CSV in UTF-8") from error


def _check_header(path: Path, header: Sequence[str]) -> None:
    """The columns that are needed, and no others than are known."""
    if not {"image", "labels"} <= set(header):
        raise DataError(f"{path}: its first line is {','.join(header)!r}; write image,labels or image,labels,split")
    for name in header:
        if name not in COLUMNS:
            raise DataError(f"{path}: column {name!r} is unknown; there are {', '.join(COLUMNS)}")


def _read_row(path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    """One line of labels.csv."""
    if len(cells) != len(header):
        raise DataError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}; quote commas")
    row = dict(zip(header, (cell.strip() for cell in cells)))
    image = PurePosixPath(row["image"].replace("\\", "/"))
    if image.is_absolute() or ".." in image.parts or not row["image"]:
        raise DataError(f"{path}, line {line}: image {row['image']!r} is not a path below {path.parent}")
    labels = [label.strip() for label in row["labels"].split(";")]
    return Row(line, image, tuple(label for label in labels if label), row.get("split", ""))

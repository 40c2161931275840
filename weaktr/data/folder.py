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
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import DataError, near
from .lists import evenly
from .voc import VOC

COLUMNS = ("image", "labels", "split")


class Folder(VOC):
    """The images that labels.csv names, with the contract of the other readers. An id is the image's path below the
    root without its ending, folders joined by "__". Raises DataError for a labels.csv that cannot be used.
    """

    name = "folder"

    def __init__(self, root):
        self.root = self.folder = Path(root)
        self._rows = self._read_table(self.root / "labels.csv")
        named = sorted({label for row in self._rows.values() for label in row["labels"]})
        path = self.root / "classes.txt"
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else named
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no UTF-8 text ({error}); save it as UTF-8, a class a line") from error
        self.classes = tuple(line.strip() for line in lines if line.strip())
        if twice := [name for name in self.classes if self.classes.count(name) > 1]:
            raise DataError(f"{path} holds {twice[0]!r} twice; remove one")
        for row in self._rows.values():
            for label in row["labels"]:
                if label not in self.classes:
                    raise DataError(
                        f"{self.root / 'labels.csv'}, line {row['line']}: class {label!r} is not in classes.txt"
                        + (near(label, self.classes) or f"; it has {', '.join(self.classes)}")
                    )
        if not self.classes:
            raise DataError(f"{self.root / 'labels.csv'} names no class; write labels, separated by `;`")

    @staticmethod
    def _read_table(path):
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file))
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist; write the header image,labels and a line per image") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is no UTF-8 CSV file ({error}); save it as CSV in UTF-8") from error
        header = [cell.strip().lower() for cell in rows[0]] if rows else []
        if not {"image", "labels"} <= set(header):
            raise DataError(f"{path}: its first line is {','.join(header)!r}; write image,labels or image,labels,split")
        for name in header:
            if name not in COLUMNS:
                raise DataError(f"{path}: column {name!r} is unknown; there are {', '.join(COLUMNS)}")
        found = {}
        for line, cells in enumerate(rows[1:], start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}; quote commas")
            row = dict(zip(header, (cell.strip() for cell in cells)))
            place = PurePosixPath(row["image"].replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts or not row["image"]:
                raise DataError(f"{path}, line {line}: image {row['image']!r} is no path below {path.parent}")
            image_id = "__".join(place.with_suffix("").parts)
            if image_id in found:
                raise DataError(f"{path}, line {line}: {row['image']!r} is there twice, or differs by its ending")
            labels = [label.strip() for label in row["labels"].split(";") if label.strip()]
            found[image_id] = {"path": place, "labels": labels, "split": row.get("split", ""), "line": line}
        if not found:
            raise DataError(f"{path} names no image; write a line for each")
        blank = [row["line"] for row in found.values() if not row["split"]]
        if blank and len(blank) < len(found):
            raise DataError(f"{path}, line {blank[0]}: no split, where other lines have one; write it")
        return found

    def ids(self, list_name):
        """The ids whose split is `list_name`; all where labels.csv has no split, or for the list `all`."""
        name, colon, count = list_name.partition(":")
        splits = {row["split"] for row in self._rows.values()}
        ids = [i for i, row in self._rows.items() if name == "all" or splits == {""} or row["split"] == name]
        if not ids:
            known = ", ".join(sorted(splits - {""}))
            raise DataError(f"{self.root / 'labels.csv'} has no image of split {name!r}; there are {known} and all")
        return evenly(ids, count, list_name) if colon else ids

    def image_path(self, image_id):
        """Where the photograph lies."""
        return self.root / self._rows[image_id]["path"]

    def mask_path(self, image_id):
        """Where the mask of an image would lie."""
        return self.root / "masks" / self._rows[image_id]["path"].with_suffix(".png")

    def mask(self, image_id):
        """Pixel truth (H,W) uint8; all void for an image without a mask."""
        if self.mask_path(image_id).is_file():
            return super().mask(image_id)
        return np.full(self.image(image_id).shape[:2], 255, np.uint8)

    def _read_labels(self, image_id):
        return np.float32([name in self._rows[image_id]["labels"] for name in self.classes])

    @cached_property
    def has_masks(self):
        """Whether any image has a mask."""
        return any(self.mask_path(image_id).is_file() for image_id in self._rows)

    def fingerprint(self):
        """Hex digest of the classes, labels.csv, and the path and size of every image and mask it names."""
        digest = hashlib.sha256(repr(self.classes).encode() + (self.root / "labels.csv").read_bytes())
        for image_id in self._rows:
            for path in (self.image_path(image_id), self.mask_path(image_id)):
                if path.is_file():
                    digest.update(f"{path.relative_to(self.root)}:{path.stat().st_size}".encode())
        return digest.hexdigest()[:16]

"""A folder of one's own: photographs anywhere below a root, and labels.csv with a line for each.

    image,labels,split
    beach/dog 1.jpg,dog;person,train
    IMG_0001.png,cat,val

`split` may be left out: then every list holds all images. Labels stand in one cell, separated by `;`; an empty cell is
an image without any object. `classes.txt`, a class a line, fixes classes and order; else they are the labels in
alphabetical order. Masks are optional: masks/<image's path>.png, 0 background, c + 1 class c, 255 void.

Names of files and of classes are compared without regard to what differs between systems and tools: case, spaces,
Unicode's form. Where that leaves two meanings, the table is refused.
"""

import csv
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, counted, near
from .dataset import Dataset, Remark
from .lists import evenly
from .spelling import Files, files_below, listed, means_no_class, plain, same_file, several, twins, with_separator

COLUMNS = ("image", "labels", "split")
OTHER_FOLDERS = frozenset(  # that may hold masks, as `plain` gives their names
    (
        *("mask", "label", "labels", "annotation", "annotations", "gt", "ground truth", "ground truths"),
        *("seg", "segmentation", "segmentations", "segmentationclass", "mask png", "masks png"),
    )
)


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
        self._files = Files(root)
        self._table = self._files.path("labels.csv")
        self._rows = _read_table(self._table)
        listing = self._files.path("classes.txt")
        classes = _read_classes(listing, self._rows)
        self._check_classes(classes, listing)
        self._listed_apart = listing.is_file()
        self._class_of = self._check_labels(classes)
        super().__init__(root, root, classes)

    def _check_classes(self, classes: Sequence[str], listing: Path) -> None:
        """There is a class at least; none is background, or another one in another spelling."""
        if not classes:
            raise DataError(f"{self._table} names no class; write labels, separated by `;`")
        for label in filter(means_no_class, self._labels_of_rows()):
            raise DataError(
                f"{self._line_of(label)}: {label!r} is no class; the cell of an image without any object is empty: "
                "leave the word out"
            )
        for name in filter(means_no_class, classes):
            raise DataError(f"{listing} names {name!r}, which is no class, and 0 in masks by itself; take the line out")
        source = listing if listing.is_file() else self._table
        if two := twins(classes):
            raise DataError(f"{source} has both {two[0]!r} and {two[1]!r}, which are one class; write it in one way")

    def _check_labels(self, classes: Sequence[str]) -> dict[str, str]:
        """{label: its class}; DataError for a label that is none, or that is made of several."""
        class_of = {plain(name): name for name in classes}
        labels = self._labels_of_rows()
        for joined, parts in several([*classes, *labels]).items():
            if not self._listed_apart or plain(joined) not in class_of:
                raise DataError(
                    f"{self._line_of(joined)}: the label {joined!r} is made of {' and '.join(map(repr, parts))}; "
                    "separate labels by `;`, or name all classes in classes.txt if it is a class of its own"
                )
        for label in labels:
            if plain(label) not in class_of:
                remedy = near(label, classes) or f"; it has {listed(classes)}"
                raise DataError(f"{self._line_of(label)}: class {label!r} is not in classes.txt{remedy}")
        return {label: class_of[plain(label)] for label in labels}

    def _labels_of_rows(self) -> list[str]:
        """Each label of the table once."""
        return list(dict.fromkeys(label for row in self._rows.values() for label in row.labels))

    def _line_of(self, label: str) -> str:
        """Where a label stands first."""
        line = next((row.line for row in self._rows.values() if label in row.labels), 1)
        return f"{self._table}, line {line}"

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
        return self._files.path(self._rows[image_id].path)

    def mask_path(self, image_id: str) -> Path:
        """Where the mask of an image would lie."""
        return self._files.path("masks" / self._rows[image_id].path.with_suffix(".png"))

    def mask(self, image_id: str) -> NDArray[np.uint8]:
        """Pixel truth (H,W); all void for an image without a mask, since masks are optional here."""
        return self.mask_or_void(image_id)

    def _read_labels(self, image_id: str) -> NDArray[np.float32]:
        labels = {self._class_of[label] for label in self._rows[image_id].labels}
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

    def _pictures(self, beside: Path) -> list[Path]:
        """All photographs of the table."""
        return [self.image_path(image_id) for image_id in self._rows]

    # ── What a person should know ─────────────────────────────────────────────────────────────────────────────────
    def remarks(self) -> Iterator[Remark]:
        """Classes whose names look like several, and files in `masks` that fit no image."""
        if not self._listed_apart:  # whoever lists classes means them
            for name in with_separator(self.classes):
                text = f"{self._line_of(name)}: {name!r}; several labels in a cell are separated by `;`"
                yield Remark(text, fault="classes whose name looks like several")
            if "0" in self.classes:
                text = f"{self._line_of('0')}: '0' is read as a class; the cell of an image without any is empty"
                yield Remark(text, fault="classes with a name for the background")
        yield from self._stray_masks()
        if not self.has_masks:
            of_pictures = {row.path.parts[0] for row in self._rows.values()}
            others = [path for path in sorted(self.root.iterdir()) if plain(path.name) in OTHER_FOLDERS]
            for path in others:
                if path.name not in of_pictures and any(path.rglob("*.png")):
                    text = f"{path}: masks are looked for in {self.root / 'masks'}"
                    yield Remark(text, fault="folders that may hold masks")

    def _stray_masks(self) -> Iterator[Remark]:
        """The files below masks/ that are no image's mask, with the name that they should have."""
        masks = self._files.path("masks")
        wanted = {same_file(str(row.path.with_suffix(".png"))) for row in self._rows.values()}
        stray = sorted(PurePosixPath(name) for name in files_below(masks) if same_file(name) not in wanted)
        if not stray:
            return
        names = _Names(self._rows)
        meant = [(name, names.image_of(name)) for name in stray]
        wrong = [(name, row) for name, row in meant if row and not self.mask_path(row.image_id).is_file()]
        for name, row in wrong:
            own = masks / row.path.with_suffix(".png")
            how = "call it" if name.suffix.lower() == ".png" else "save it as PNG, without loss, and call it"
            text = f"{masks / name} fits no image; for {row.path} {how} {own}"
            yield Remark(text, fault="masks with another name than their image's", refused=not self.has_masks)
        if not wrong:
            many = counted(len(stray), "files")
            text = f"{many} below {masks} without an image of {self._table.name}, such as {stray[0]}"
            yield Remark(text, fault="" if self.has_masks else "masks of no image")


class _Names:
    """Finds the image that a misnamed mask was meant for."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = rows.values()
        self._by_key: dict[str, list[Row]] = {}
        for row in self._rows:
            for key in {row.image_id, str(row.path.with_suffix("")), row.path.stem, str(row.path), row.path.name}:
                self._by_key.setdefault(same_file(key), []).append(row)

    def image_of(self, mask: PurePosixPath) -> Row | None:
        """The one image whose name is a mask's (its path below `masks`), or the beginning or the end of it."""
        for whole in (str(mask.with_suffix("")), mask.stem):
            for name in _shortened(same_file(whole)):
                found = self._by_key.get(name, [])
                if len(found) == 1:
                    return found[0]
        return None


def _shortened(name: str) -> Iterator[str]:
    """A name, without its last words, the longest first, then without its first words; also inside a folder's path."""
    yield name
    folder, slash, own = name.rpartition("/")
    marks = [match.start() for match in re.finditer(r"[ ._-]+", own)]
    yield from (folder + slash + own[:place] for place in reversed(marks) if place)
    yield from (folder + slash + own[place:].lstrip(" ._-") for place in marks)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _read_classes(path: Path, rows: dict[str, Row]) -> list[str]:
    """The classes of classes.txt, without names of the background before them; else the labels, in their order."""
    if not path.is_file():
        return sorted({label for row in rows.values() for label in row.labels})
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8, a class a line") from error
    classes = [line.strip() for line in text.splitlines()]
    classes = list(itertools.dropwhile(means_no_class, filter(None, classes)))  # a tool's names of 255 and 0
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
                raise DataError(_same_id(path, row, found[row.image_id]))
            found[row.image_id] = row
    if not found:
        raise DataError(f"{path} names no image; write a line for each")
    blank = [row.line for row in found.values() if not row.split]
    if blank and len(blank) < len(found):
        raise DataError(f"{path}, line {blank[0]}: no split, where other lines have one; write it")
    if two := twins(dict.fromkeys(row.split for row in found.values())):
        raise DataError(f"{path} has the splits {two[0]!r} and {two[1]!r}, which are one; write it in one way")
    _refuse_twin_files(path, found.values())
    return found


def _same_id(path: Path, row: Row, other: Row) -> str:
    """The error for two rows whose images have one id."""
    if str(row.path.with_suffix("")) == str(other.path.with_suffix("")):
        return f"{path}, line {row.line}: {str(row.path)!r} stands there twice, or differs by its ending only"
    return (
        f"{path}, line {row.line}: {str(row.path)!r} and {str(other.path)!r} of line {other.line} both become "
        f"{row.image_id!r}; rename one"
    )


def _refuse_twin_files(path: Path, rows: Iterable[Row]) -> None:
    """Two rows whose paths differ by case or Unicode form name two files, both of which are there."""
    seen: dict[str, Row] = {}
    for row in rows:
        other = seen.setdefault(same_file(str(row.path)), row)
        if other is not row and not all((path.parent / each.path).is_file() for each in (row, other)):
            raise DataError(
                f"{path}, line {row.line}: {str(row.path)!r} is the file of line {other.line}, {str(other.path)!r}, in "
                "another spelling; remove one"
            )


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

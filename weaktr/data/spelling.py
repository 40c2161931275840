"""Names of classes and of files: when two of them are one, which mean no class at all, and what lies where."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

NO_CLASS = frozenset(  # how annotation tools call pixels and pictures without an object, as `plain` gives it
    (
        *("background", "back ground", "bg", "void", "ignore", "ignored", "ignore label", "don't care", "dontcare"),
        *("unlabeled", "unlabelled", "not labeled", "no label", "nolabel", "unannotated", "no object", "no class"),
        *("none", "nothing", "null", "nan", "n/a", "na", "empty"),
    )
)
SEPARATORS = "[,|/+&:\t；，、]"  # which people write between labels, where `;` is meant
UNLIKELY = "[,|\t；，、]"  # those of them that stand in hardly any name
SHOWN = 10  # names that a sentence lists


# ── Names of classes ──────────────────────────────────────────────────────────────────────────────────────────────
def plain(name: str) -> str:
    """A name without what never tells two of them apart: case, kinds and number of spaces, Unicode's form."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(" " if letter in "_-" else letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(text.split())


def means_no_class(name: str) -> bool:
    """Whether it is a tool's word for pixels or pictures without any object."""
    return plain(name) in NO_CLASS


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that are one, see `plain`."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(plain(name), name)
        if first != name:
            return first, name
    return None


def several(names: Iterable[str]) -> dict[str, list[str]]:
    """{name: the other names that it is made of}, for names such as `cat dog` or `cat,dog` beside `cat` and `dog`."""
    names = list(names)
    known = {plain(name): name for name in names}
    found = {}
    for name in names:
        for parts in (re.split(SEPARATORS, name), re.split(rf"{SEPARATORS}|\s", name)):
            parts = [plain(part.strip(" []()'\"")) for part in parts]
            parts = [part for part in parts if part and part != "and"]
            if len(parts) > 1 and all(part in known for part in parts):
                found[name] = [known[part] for part in parts]
    return found


def with_separator(names: Iterable[str]) -> list[str]:
    """The names that hold a sign which stands between labels rather than in one."""
    return [name for name in names if re.search(UNLIKELY, name)]


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: the first ten, and how many more there are."""
    more = f", … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# ── Names of files ────────────────────────────────────────────────────────────────────────────────────────────────
def same_file(name: str) -> str:
    """What two spellings of a file's name have in common: Windows and macOS change case and Unicode's form."""
    return unicodedata.normalize("NFC", name).casefold()


class Files:
    """The files below a folder, found also where another system has changed the form of their names.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[Path, dict[str, list[str]]] = {}  # of each folder that was looked into: spellings of a name

    def path(self, below: PurePosixPath | str) -> Path:
        """Where a file lies: under its own name, else under the only one that differs by case or Unicode form.

        Args:
            below: Its path from the root.

        Returns:
            The path as it was given where there is no such file.
        """
        given = self.root / below
        if given.exists():
            return given
        place = self.root
        for part in PurePosixPath(below).parts:
            spelt = [part] if (place / part).exists() else self._spellings(place, part)
            if len(spelt) != 1:
                return given
            place = place / spelt[0]
        return place

    def _spellings(self, folder: Path, name: str) -> list[str]:
        """The names in a folder that are `name` in another spelling."""
        if folder not in self._names:
            self._names[folder] = {}
            for entry in sorted(os.listdir(folder)) if folder.is_dir() else ():
                self._names[folder].setdefault(same_file(entry), []).append(entry)
        return self._names[folder].get(same_file(name), [])


def files_below(folder: Path) -> Iterator[str]:
    """The path from a folder, parted by /, of every file below it, also in folders that are links, but for hidden ones.

    These are texts, since there are hundreds of thousands: paths would take three times as long.
    """
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        below = PurePosixPath(os.path.relpath(place, folder))
        before = "" if below == PurePosixPath() else f"{below}/"
        yield from (before + name for name in names if not name.startswith("."))


def beside(path: Path) -> list[str]:
    """The files of the same name with another ending, in the folder of a file that does not exist."""
    if not path.parent.is_dir():
        return []
    stem = same_file(path.stem)
    return sorted(name for name in os.listdir(path.parent) if same_file(Path(name).stem) == stem)

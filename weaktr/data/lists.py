"""Lists of image ids: text files with one id per line."""

from collections.abc import Callable
from pathlib import Path

from ..errors import DataError

LONGEST = 240  # bytes of an id: a file name has 255 at most, with an ending and what `files.atomic` adds


def read_list(folder: Path, list_name: str, identity: Callable[[str], str] = str) -> list[str]:
    """The image ids of <folder>/<list_name>.txt, in order.

    Args:
        folder: Where the lists lie.
        list_name: A name, or `name:500` for 500 of its ids, evenly spread over the list.
        identity: Gives what two ids of the same image have in common; by default an image has one id.

    Raises:
        DataError: The list is missing, empty or not text, an id is not a file name, or an image stands there twice.
            The message names file, value and remedy.
    """
    name, colon, count = list_name.partition(":")
    path = folder / f"{name}.txt"
    ids = _read_lines(path)
    seen: dict[str, str] = {}  # what identifies an image: its id
    for number, image_id in enumerate(ids, start=1):
        if len(image_id.encode()) > LONGEST:
            raise DataError(
                f"list {path} holds {image_id[:40]!r}… (id {number}), {len(image_id.encode())} bytes long; an id is a "
                f"file name of at most {LONGEST} bytes: write one id per line"
            )
        if not image_id.replace("_", "").replace("-", "").isalnum():
            raise DataError(
                f"list {path} holds {image_id!r} (id {number}); an id is a file name without folder and ending, in "
                "letters, digits, - and _"
            )
        first = seen.setdefault(identity(image_id), image_id)
        if len(seen) < number:
            twice = f"{image_id!r} twice" if first == image_id else f"{first!r} and {image_id!r}, which are one image"
            raise DataError(f"list {path} holds {twice}; remove one")
    return evenly(ids, count, list_name) if colon else ids


def _read_lines(path: Path) -> list[str]:
    """The lines of a list that are not blank, at least one."""
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise DataError(f"list {path} does not exist; {path.parent} has {', '.join(known) or 'none'}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"list {path} is not UTF-8 text ({error}); write one id per line in UTF-8") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"list {path} is empty; write one image id per line")
    return lines


def evenly(ids: list[str], count: str, list_name: str) -> list[str]:
    """`count` of the ids, evenly spread.

    Args:
        ids: All ids of a list.
        count: A number as text.
        list_name: What the message calls the list.

    Raises:
        DataError: `count` is not a number, or not one from 1 to the length of the list.
    """
    if not count.isdecimal() or not 0 < int(count) <= len(ids):
        raise DataError(f"list {list_name}: {count!r} is not a number from 1 to {len(ids)}, the length of the list")
    wanted = int(count)
    return [ids[i * len(ids) // wanted] for i in range(wanted)]

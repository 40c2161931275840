"""Lists of image ids: one id per line in a text file."""

from ..errors import DataError


def read_list(folder, list_name):
    """The image ids of <folder>/<list_name>.txt, in order.

    `name:500` is 500 of the ids, evenly spread over the list. Raises DataError naming file, line and remedy.
    """
    name, colon, count = list_name.partition(":")
    path = folder / f"{name}.txt"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.txt"))
        raise DataError(f"list {path} does not exist; {folder} has {', '.join(known) or 'none'}")
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"list {path} is no UTF-8 text ({error}); write one id per line in UTF-8") from error
    ids = [line for line in ids if line]
    if not ids:
        raise DataError(f"list {path} is empty; write one image id per line")
    seen = set()
    for line, image_id in enumerate(ids, start=1):
        if not image_id.replace("_", "").replace("-", "").isalnum():
            raise DataError(
                f"list {path} holds {image_id!r} (id {line}); an id is a file name without folder and ending, in "
                "letters, digits, - and _"
            )
        if image_id in seen:
            raise DataError(f"list {path} holds {image_id!r} twice; remove one")
        seen.add(image_id)
    return evenly(ids, count, list_name) if colon else ids


def evenly(ids, count, list_name):
    """`count` (text) of the ids, evenly spread. Raises DataError for no number, or more than there are."""
    if not count.isdecimal() or not 0 < int(count) <= len(ids):
        raise DataError(f"list {list_name}: {count!r} is no number from 1 to {len(ids)}, the length of the list")
    return [ids[i * len(ids) // int(count)] for i in range(int(count))]

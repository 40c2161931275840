"""Files that appear whole or not at all: written beside their place, then renamed."""

import contextlib
import json
import os
import re
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def atomic(path):
    """Yields a temporary path beside `path`, renamed to it at the end: `path` is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def remove_leftovers(folder):
    """Delete what `atomic` was writing below `folder` in processes that were killed; nothing reads such files."""
    for path in Path(folder).rglob(".*"):
        if path.is_file() and re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name):
            path.unlink(missing_ok=True)


def write_json(path, value):
    """Writes `value` to `path` as indented JSON, atomically; NumPy scalars and paths are converted."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=lambda v: v.item() if hasattr(v, "item") else str(v))
    with atomic(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def read_json(path):
    """The value in the JSON file `path`; an empty dict where the file is missing or cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def shipped_weights(backbone):
    """The file of a backbone's weights in this package, which exists for the small ones only: they share one."""
    return ASSETS / f"{re.sub('tiny[24]_', 'tiny_', str(backbone))}.safetensors"


def short(path):
    """`path` as seen from the repository's root: executed notebooks and messages carry no path of the machine."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def resolve(path):
    """`path` as an absolute Path; a relative one starts at the repository's root, wherever the kernel runs."""
    return ROOT / Path(path).expanduser()

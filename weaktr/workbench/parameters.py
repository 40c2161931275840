"""The parameters cell of a notebook: read without running it, and values checked before anything starts."""

import ast
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import ParameterError, near
from ..files import ROOT

NOTEBOOKS = ROOT / "notebooks"
TYPES = {kind.__name__: kind for kind in (str, int, float, bool, list)}


class Parameter(NamedTuple):
    """One line of a notebook's parameters cell."""

    type: type
    default: object
    help: str


def declared_parameters(notebook):
    """{name: Parameter} of a notebook's parameters cell, whose lines read `name: type = literal  # help`.

    Raises ParameterError with notebook and line for anything else: papermill would silently ignore such a line.
    """
    notebook = Path(notebook)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{notebook.name}: {len(cells)} cells are tagged `parameters`, exactly one is needed")
    source = "".join(cells[0]["source"])
    declared = {}
    for node in ast.parse(source).body:
        line = source.splitlines()[node.lineno - 1]
        comment = line.encode()[node.end_col_offset :].decode().strip() if node.lineno == node.end_lineno else ""
        try:
            name, kind, default = node.target.id, TYPES[node.annotation.id], ast.literal_eval(node.value)
            if not comment.startswith("#") or "=" in comment or name in declared:
                raise ValueError(line)
            declared[name] = Parameter(kind, checked(name, default, kind), comment[1:].strip())
        except (AttributeError, KeyError, ValueError, ParameterError) as error:
            raise ParameterError(
                f"{notebook.name}: parameters cell, {line!r}: each line must read `name: type = literal  # help`, with "
                f"a new name, a type of {', '.join(TYPES)}, a literal of that type, and no `=` in the help"
            ) from error
    return declared


def stage_notebooks(notebooks):
    """The paths of all NN_name.ipynb in order; not "02_name-Copy1.ipynb", as JupyterLab calls a duplicate."""
    return [path for path in sorted(Path(notebooks).glob("*.ipynb")) if re.fullmatch(r"\d\d_\w+", path.stem)]


def catalogue(notebooks=NOTEBOOKS):
    """{stage name: its declared parameters} of all numbered notebooks, in order.

    Raises ParameterError where two notebooks declare one name with different types or defaults.
    """
    stages = {path.stem: declared_parameters(path) for path in stage_notebooks(notebooks)}
    if not stages:
        raise ParameterError(f"{notebooks}: no notebook named NN_name.ipynb here; run from a clone of the repository")
    first = {}
    for stage, declared in stages.items():
        for name, parameter in declared.items():
            other, known = first.setdefault(name, (stage, parameter))
            if known[:2] != parameter[:2]:
                raise ParameterError(f"parameter {name}: {other} and {stage} declare another type or default")
    return stages


def check_parameters(given, stages):
    """{name: value} of all parameters of `stages` (as from `catalogue`): `given`, else the default.

    Text is parsed into the declared type (`1e-4`, `true`, `[1, 2]` or `1, 2`). Raises ParameterError for an unknown
    name, with the nearest known ones, and for a value of another type.
    """
    known = {name: parameter for declared in stages.values() for name, parameter in declared.items()}
    for name in given:
        if name not in known:
            raise ParameterError(
                f"unknown parameter {name!r}{near(name, known)}; `python -m weaktr parameters` lists all"
            )
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        kind, default, _ = known[name]
        like = default if kind is list else ()
        values[name] = checked(name, _parsed(value, kind, like) if isinstance(value, str) else value, kind, like)
    return values


def _parsed(text, kind, like=()):
    """`text` as `kind` where it can be read so, else `text` itself, which `checked` then refuses."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if kind is list:
        inner = text.strip()
        if inner.startswith("[") != inner.endswith("]"):
            return text
        parts = [part.strip(" \"'") for part in inner.strip("[]").split(",")]
        return [_parsed(part, _item_type(like)) for part in parts if part]
    try:
        return kind(text)
    except ValueError:
        return text


def checked(name, value, kind, like=()):
    """`value` if it is a `kind` (an int is a float too); the elements of a list must be what those of `like` are."""
    if kind is float and type(value) is int:
        value = float(value)
    if kind is list and isinstance(value, list | tuple):
        value = [checked(name, item, _item_type(like)) if like else item for item in value]
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        form = {bool: "true or false", list: "[a, b] or a,b"}.get(kind, f"a value of type {kind.__name__}")
        known = "not finite" if type(value) is kind else f"no {kind.__name__}"
        raise ParameterError(f"parameter {name}: {value!r} is {known}; give {form}")
    return value


def _item_type(like):
    kinds = {type(item) for item in like}
    return float if float in kinds else kinds.pop() if kinds else str

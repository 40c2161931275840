"""The parameters cell of a notebook: read without running it, and values checked before anything starts."""

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ParameterError, near
from ..files import ROOT

NOTEBOOKS = ROOT / "notebooks"
TYPES: dict[str, type] = {kind.__name__: kind for kind in (str, int, float, bool, list)}
FORMS = {  # how a value of each type is given
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "[a, b] or a,b",
}


class Parameter(NamedTuple):
    """One line of a notebook's parameters cell."""

    type: type
    default: Any
    help: str


# ── Declared ──────────────────────────────────────────────────────────────────────────────────────────────────────
def declared_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """{name: Parameter} of a notebook's parameters cell, whose lines read `name: type = literal  # help`.

    Raises:
        ParameterError: with notebook and line for anything else, which papermill would silently ignore.
    """
    notebook = Path(notebook)
    source = _parameters_cell(notebook)
    lines = source.splitlines()
    declared: dict[str, Parameter] = {}
    for statement in ast.parse(source).body:
        line = lines[statement.lineno - 1]
        try:
            name, parameter = _declaration(statement, line)
            if name in declared:
                raise ValueError(f"{name} is declared twice")
        except (ValueError, ParameterError) as error:
            raise ParameterError(
                f"{notebook.name}: parameters cell, {line!r}: each line must read `name: type = literal  # help`, with "
                f"a new name, a type of {', '.join(TYPES)}, a literal of that type, and no `=` in the help"
            ) from error
        declared[name] = parameter
    return declared


def _parameters_cell(notebook: Path) -> str:
    """The source of the one cell that is tagged `parameters`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{notebook.name}: {len(tagged)} cells are tagged `parameters`, exactly one is needed")
    return "".join(tagged[0]["source"])


def _declaration(statement: ast.stmt, line: str) -> tuple[str, Parameter]:
    """Name and Parameter of one line of the cell. Raises ValueError or ParameterError where its form is another."""
    if not isinstance(statement, ast.AnnAssign) or statement.value is None:
        raise ValueError("not `name: type = value`")
    target, annotation = statement.target, statement.annotation
    if not isinstance(target, ast.Name) or not isinstance(annotation, ast.Name) or annotation.id not in TYPES:
        raise ValueError("not a plain name with a plain type")
    if statement.lineno != statement.end_lineno:
        raise ValueError("more than one line")
    comment = line.encode()[statement.end_col_offset :].decode().strip()  # `ast` counts bytes
    if not comment.startswith("#") or "=" in comment:
        raise ValueError("no help, or one that reads like code")
    parameter = Parameter(TYPES[annotation.id], ast.literal_eval(statement.value), comment[1:].strip())
    return target.id, parameter._replace(default=checked(target.id, parameter.default, parameter))


def stage_notebooks(notebooks: str | Path) -> list[Path]:
    """The paths of all NN_name.ipynb in order; not "02_name-Copy1.ipynb", as JupyterLab calls a duplicate."""
    return [path for path in sorted(Path(notebooks).glob("*.ipynb")) if re.fullmatch(r"\d\d_\w+", path.stem)]


def catalogue(notebooks: str | Path = NOTEBOOKS) -> dict[str, dict[str, Parameter]]:
    """{stage name: its declared parameters} of all numbered notebooks, in order.

    Raises:
        ParameterError: where two notebooks declare one name with different types or defaults.
    """
    stages = {path.stem: declared_parameters(path) for path in stage_notebooks(notebooks)}
    if not stages:
        raise ParameterError(f"{notebooks}: no notebook named NN_name.ipynb here; run from a clone of the repository")
    first: dict[str, tuple[str, Parameter]] = {}
    for stage, declared in stages.items():
        for name, parameter in declared.items():
            other, known = first.setdefault(name, (stage, parameter))
            if (known.type, known.default) != (parameter.type, parameter.default):
                raise ParameterError(f"parameter {name}: {other} and {stage} declare another type or default")
    return stages


# ── Given ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def check_parameters(given: Mapping[str, Any], stages: Mapping[str, Mapping[str, Parameter]]) -> dict[str, Any]:
    """The values of all parameters of some stages: those that are given, of the others the default.

    Args:
        given: {name: value}. Text is parsed into the declared type: `1e-4`, `true`, `[1, 2]` or `1, 2`.
        stages: as from `catalogue`.

    Raises:
        ParameterError: for an unknown name, with the nearest known ones, and for a value of another type.
    """
    known = {name: parameter for declared in stages.values() for name, parameter in declared.items()}
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        if name not in known:
            raise ParameterError(f"unknown parameter {name!r}{near(name, known)}; `weaktr parameters` lists all")
        if isinstance(value, str):
            value = _parsed(value, known[name])
        values[name] = checked(name, value, known[name])
    return values


def _parsed(text: str, parameter: Parameter) -> object:
    """`text` as the declared type where it can be read so, else as it is, for `checked` to refuse."""
    if parameter.type is not list:
        return _parsed_item(text, parameter.type)
    inner = text.strip()
    if inner.startswith("[") != inner.endswith("]"):
        return text
    kind = _item_type(parameter.default)
    parts = [part.strip(" \"'") for part in inner.strip("[]").split(",")]
    return [_parsed_item(part, kind) for part in parts if part]


def _parsed_item(text: str, kind: type) -> object:
    if kind is bool:
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def checked(name: str, value: object, parameter: Parameter) -> Any:
    """The value of a parameter, as its declared type. An int is taken for a float, and a tuple for a list.

    The items of a list must be of the type that those of the default are, text where that is empty.

    Raises:
        ParameterError: for a value of another type, and for a number that is not finite.
    """
    if parameter.type is not list:
        return _checked_item(name, value, parameter.type)
    if not isinstance(value, list | tuple):
        raise _other_type(name, value, list)
    kind = _item_type(parameter.default)
    return [_checked_item(name, item, kind) for item in value]


def _checked_item(name: str, value: object, kind: type) -> object:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise _other_type(name, value, kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"parameter {name}: {value} is not finite; give {FORMS[float]}")
    return value


def _other_type(name: str, value: object, kind: type) -> ParameterError:
    article = "an" if kind is int else "a"
    return ParameterError(f"parameter {name}: {value!r} is not {article} {kind.__name__}; give {FORMS[kind]}")


def _item_type(items: Iterable[object]) -> type:
    """The one type of a list's items: float if ints are among floats, str for an empty list.

    Raises ValueError for items of several types, or of one that no parameter may have.
    """
    kinds = {type(item) for item in items}
    if kinds == {int, float}:
        return float
    if len(kinds) > 1 or not kinds <= {str, int, float, bool}:
        raise ValueError(f"items of type {', '.join(sorted(kind.__name__ for kind in kinds))} in one list")
    return kinds.pop() if kinds else str

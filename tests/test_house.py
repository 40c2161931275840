"""The rooms of the package: each imports only what stands before it, inside functions too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "weaktr"
ROOMS = ["ground", "data", "evaluation", "models", "method", "plots", "workbench", "sweeps", "__main__"]
STABLE = {"losses", "inference", "metrics", "crf", "__init__"}  # names for code outside, nothing inside uses them


def room(parts):
    """The room of a module, given as its path below the package: ("method", "crf") → "method"."""
    return parts[0] if parts and parts[0] in ROOMS else "ground"


def imports(path):
    """(line, module imported as its path below the package) of every import of the package in a file."""
    here = path.relative_to(PACKAGE).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) + 1 - node.level]
            target = (*base, *(node.module.split(".") if node.module else ()))
            for name in node.names:
                below = PACKAGE.joinpath(*target, name.name)
                is_module = below.is_dir() or below.with_suffix(".py").is_file()
                yield node.lineno, (*target, name.name) if is_module else target
        elif isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            yield from ((node.lineno, tuple(m.split(".")[1:])) for m in modules if m.split(".")[0] == "weaktr")


MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).with_suffix("").parts[0] not in STABLE
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = room(path.relative_to(PACKAGE).with_suffix("").parts)
    for line, target in imports(path):
        assert target and target[0] not in STABLE, f"{path.name}:{line} imports a name kept for code outside"
        assert ROOMS.index(room(target)) <= ROOMS.index(own), f"{path.name}:{line}: {own} imports {'.'.join(target)}"


def test_no_circle():
    """Also within a room, and also inside functions."""
    names = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in MODULES}
    names = {parts[:-1] if parts[-1] == "__init__" else parts: path for parts, path in names.items()}
    graph = {parts: {target for _, target in imports(path) if target in names} for parts, path in names.items()}
    finished = set()

    def visit(module, trail):
        assert module not in trail, " → ".join(".".join(parts) for parts in [*trail, module])
        if module not in finished:
            for target in sorted(graph[module]):
                visit(target, [*trail, module])
            finished.add(module)

    for module in sorted(graph):
        visit(module, [])
    assert len(finished) == len(names) > 40

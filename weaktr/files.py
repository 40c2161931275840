"""Where files are, and how they are written: beside their place, then renamed, so that they are complete or absent."""

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import AcquireReturnProxy, FileLock, SoftFileLock

from .errors import UserError

if TYPE_CHECKING:
    import pandas as pd  # half a second, which short commands should not wait for

ASSETS = Path(__file__).parent / "assets"
ROOT = Path(__file__).resolve().parents[1]
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # of file systems without them: some NFS


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def resolve(path: str | Path) -> Path:
    """`path` as an absolute Path; a relative one starts at the repository's root, wherever the process runs."""
    return ROOT / Path(path).expanduser()


def here(path: str | Path) -> Path:
    """`path` as an absolute Path; a relative one, as a command is given it, starts where the person stands."""
    return Path(os.path.abspath(Path(path).expanduser()))


def also_here(given: str | Path) -> str:
    """What a message adds about a parameter's path that is not there, but would be from where the person stands."""
    path = Path(given).expanduser()
    if path.is_absolute() or resolve(path).exists() or not path.exists():
        return ""
    return f", but {here(path)} does: a parameter's path starts at the repository's root, so give it whole"


def short(path: Path) -> str:
    """`path` as seen from the repository's root, so that notebooks and messages do not show where that is."""
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return str(path)


def run_folder(path: str | Path) -> Path:
    """The folder of a run that a person names: as seen from the working directory, else from the repository's root."""
    path = Path(path)
    return path if path.exists() else resolve(path)


def stage_folders(run: Path) -> list[Path]:
    """The folders of a run's stages, finished or not, in the order of the stages."""
    return sorted(path for path in run.glob("[0-9][0-9]_*") if path.is_dir())


def shipped_weights(backbone: str | None) -> Path:
    """Where the package has the weights of a backbone; the file exists only for the small ones, which share one."""
    name = re.sub("tiny[24]_", "tiny_", str(backbone))
    return ASSETS / f"{name}.safetensors"


def weights_file(given: str | Path) -> tuple[Path, str]:
    """A file of weights and which of its parts is asked for: "ema.pth#state_dict_ema"; "" where none is named."""
    path = resolve(given)
    if path.exists() or "#" not in str(given):
        return path, ""
    file, _, part = str(given).rpartition("#")
    return resolve(file), part


# ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────────────
@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` at the end; after an error `path` is as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(atomic_name(path.name, os.getpid()))
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def atomic_name(name: str, process: int = 9_999_999) -> str:
    """What a file is called while `atomic` writes it; without a `process`, as long as that can become."""
    path = Path(name)
    return f".{path.stem}.{process}{path.suffix}"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the system raises while a command fills a folder becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error}); make room, or give another folder with --output. What is there "
            "already stays, and the same command makes the rest"
        ) from error


def remove_leftovers(folder: str | Path) -> None:
    """Delete what `atomic` was writing below `folder` in processes that were killed; nothing reads such files."""
    for path in Path(folder).rglob(".*"):
        if path.is_file() and re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name):
            path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically; NumPy scalars and paths are converted."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=_as_json)
    with atomic(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _as_json(value: Any) -> Any:
    """A NumPy scalar as Python's number, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def write_table(frame: "pd.DataFrame", path: str | Path, index: bool = False) -> None:
    """Write a table to `path` as CSV, atomically; `index`: with its row labels."""
    with atomic(path) as aside:
        frame.to_csv(aside, index=index)


def lock(file: Path, timeout: float = -1) -> AcquireReturnProxy:
    """Lock a file for this process, in which the lock is re-entrant; a process that is killed holds no lock.

    Where the file system has no locks, the presence of a file <name>.soft.lock is one. That of a process killed on
    another machine has to be deleted by hand.

    Args:
        file: Made where there is none, in a folder that exists.
        timeout: In seconds, after which filelock.Timeout is raised; negative: none.

    Returns:
        The lock, a context manager.
    """
    try:
        return FileLock(file, is_singleton=True, fallback_to_soft=False).acquire(timeout=timeout)
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
    return SoftFileLock(file.with_suffix(".soft.lock"), is_singleton=True).acquire(timeout=timeout)


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────
class Entries(dict[str, Any]):
    """A JSON object of a file: an entry that it lacks is a UserError that names the file."""

    def __init__(self, entries: dict[str, Any], path: Path) -> None:
        super().__init__(entries)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise _damaged(self.path, f"it lacks {name!r}")

    def __reduce__(self) -> Any:  # what leaves the process is a dict
        return dict, (dict(self),)


def read_json(path: Path, kind: type[dict] | type[list] = dict) -> Any:
    """The value in a JSON file of a stage's folder; an empty one where there is no such file.

    Args:
        path: of the file.
        kind: list for metrics.json, dict for the others.

    Raises:
        UserError: The file is not JSON, or holds something else; later, where an entry is asked for that it lacks. As
            all of them are written by `write_json`, no killed process left it so.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_hook=lambda entries: Entries(entries, path))
    except (FileNotFoundError, NotADirectoryError):
        return kind()
    except (ValueError, RecursionError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, kind) or (kind is list and not all(isinstance(one, dict) for one in value)):
        raise _damaged(path, f"it holds another thing than {'a list of records' if kind is list else 'an object'}")
    return value


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} is damaged ({why}); restore it, or delete the folder {path.parent} and run its stage again"
    )

"""What pages are made of: pictures and tables with their numbers to download, and templates that hold everything.

A page is one HTML file that needs no network and no JavaScript: pictures and tables lie in it as data URIs.
"""

import io
import struct
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import pandas as pd

from ..files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).with_name("templates")
DPI = 150
PIXELS = 1.5  # of a picture to one of a page, so that it stays sharp on fine screens


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        png: The file's content.
        alt: What it shows, for whoever does not see it.
        caption: Stands below it.
        csv: The numbers behind it, the file's content; empty where there are none.
        file: What the file of numbers is called when it is downloaded.
        narrow: The same for a narrow page, the file's content; empty where there is one picture for all.
    """

    png: bytes
    alt: str
    caption: str = ""
    csv: bytes = b""
    file: str = "figure.csv"
    narrow: bytes = b""

    @property
    def width(self) -> int:
        """Pixels on the page."""
        return round(self._size[0] / PIXELS)

    @property
    def height(self) -> int:
        """Pixels on the page."""
        return round(self._size[1] / PIXELS)

    @property
    def _size(self) -> tuple[int, int]:
        """As a PNG says it in its head."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height


class Table(NamedTuple):
    """A table of texts; the first cell of a row is its head."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: frozenset[int] = frozenset()  # the columns that hold numbers, which stand at the right
    csv: bytes = b""
    file: str = "table.csv"


def drawn(figure: "Figure") -> bytes:
    """A figure of matplotlib as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", *, file: str = "") -> Table:
    """A table of a page; with the name of a `file` also to download as CSV."""
    rows = [list(row) for row in rows]
    numbers = frozenset(i for i in range(1, len(heads)) if all(_is_number(row[i]) for row in rows))
    csv = pd.DataFrame(rows, columns=list(heads)).to_csv(index=False).encode() if file else b""
    return Table(heads, rows, caption, numbers, csv, file)


def _is_number(text: str) -> bool:
    """Whether a cell begins as a number does, or is empty or a dash."""
    start = text.lstrip("+−-")[:1]
    return not start.strip("–") or start.isdigit()


def data_uri(content: bytes, kind: str) -> str:
    """Some bytes as the address of themselves; kind: such as "image/png"."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def write_page(path: Path, template: Path, **values: Any) -> Path:
    """Fill a template and write the page.

    Args:
        path: Of the page.
        template: A Jinja file; it may extend and import those of TEMPLATES.
        **values: What it shows; all texts are escaped.

    Returns:
        `path`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    text = environment.get_template(template.name).render(values)
    with atomic(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path

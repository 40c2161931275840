"""An executed notebook as the parts of a page: prose, folded code, what was printed, tables and pictures."""

import json
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mistune
from markupsafe import Markup

from ..errors import UserError
from ..plots.captions import CAPTIONS
from .page import Picture, Table, table_of

LINES_SHOWN = 2  # of what a cell prints; more is folded away with its code
Output = Mapping[str, Any]


@dataclass
class Part:
    """A part of a page.

    Attributes:
        kind: "prose", "code", "printed", "table", "picture" or "error".
        content: HTML, text, a Table or a Picture.
    """

    kind: str
    content: Any


@dataclass
class Chapter:
    """An executed notebook.

    Attributes:
        name: Of the stage, which is also its place on the page.
        title: Its first heading.
        parts: In order.
        sections: (place on the page, title) of its other headings.
    """

    name: str
    title: str
    parts: list[Part] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)


def chapter(stage: Path) -> Chapter:
    """The executed notebook of a stage; without one, its figures alone.

    Args:
        stage: The stage's folder.
    """
    notebook = stage / "notebook.ipynb"
    figures = Figures(stage)
    if not notebook.is_file():
        parts = [Part("picture", figures.picture(name, png, {}, "")) for png, name in figures.names.items()]
        return Chapter(stage.name, stage.name, parts)
    reader = _Reader(Chapter(stage.name, stage.name), figures)
    try:
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            reader.read(cell)
    except Exception as error:  # whatever a cell lacks, or nbconvert says of it
        raise UserError(
            f"{notebook} is damaged ({type(error).__name__}: {error}); delete it, and run its stage again with --force "
            "where its pictures are needed"
        ) from error
    return reader.chapter


class Figures:
    """The figures in a stage's folder."""

    def __init__(self, stage: Path) -> None:
        self.folder = stage / "figures"
        self.stage = stage.name
        # A notebook holds the very bytes of the file: so a figure is known by them.
        self.names = {path.read_bytes(): path.stem for path in sorted(self.folder.glob("*.png"))}

    def picture(self, name: str, png: bytes, told: Mapping[str, Any], section: str) -> Picture:
        """A figure, or a picture that is none of them.

        Args:
            name: Of the figure's files; "" for a picture without any.
            png: The picture.
            told: What the notebook says of it: `title` and `alt`, which older runs lack.
            section: The heading under which it stands.
        """
        words = name.replace("_", " ")
        words = words[:1].upper() + words[1:]
        title = told.get("title") or ""
        if name in CAPTIONS:
            caption = CAPTIONS[name]
        elif words:
            caption = ". ".join(filter(None, [words, title]))
        else:
            caption = f"{section}, as it stood at the end" if section else ""
        csv = self.folder / f"{name}.csv"
        return Picture(
            png=png,
            alt=told.get("alt") or f"{words or 'A picture'}, a figure of the section “{section or self.stage}”",
            caption=caption,
            csv=csv.read_bytes() if name and csv.is_file() else b"",
            file=f"{self.stage}_{name}.csv",
        )


class _Reader:
    """Reads the cells of a notebook, in order, into a chapter."""

    def __init__(self, chapter: Chapter, figures: Figures) -> None:
        self.chapter = chapter
        self.figures = figures

    def read(self, cell: Mapping[str, Any]) -> None:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            self._prose(source)
        elif cell["cell_type"] == "code" and source.strip():
            self._code(source, cell.get("outputs", []))

    def _prose(self, source: str) -> None:
        first, _, rest = source.partition("\n")
        if first.startswith("# "):
            self.chapter.title = first[2:].strip()
            source = rest
        self._add("prose", Markup(to_html(source, self.chapter)))

    def _code(self, source: str, outputs: Iterable[Output]) -> None:
        printed = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
        is_short = len(printed.splitlines()) <= LINES_SHOWN
        self._fold(source if is_short else f"{source}\n\n{printed}")
        if printed and is_short:
            self._add("printed", printed)
        for output in outputs:
            if output["output_type"] == "error":
                self._add("error", f"{output['ename']}: {output['evalue']}")
            elif output["output_type"] != "stream":
                self._shown(output)

    def _fold(self, code: str) -> None:
        """Code, in one fold with that of the cell before where nothing stands between them."""
        last = self.chapter.parts[-1] if self.chapter.parts else None
        if last and last.kind == "code":
            last.content += f"\n\n{code.rstrip()}"
        else:
            self._add("code", code.rstrip())

    def _shown(self, output: Output) -> None:
        """What a cell displayed or returned, in the best form that a page has for it."""
        data = output["data"]
        if "image/png" in data:
            png = b64decode("".join(data["image/png"]))
            told = output["metadata"].get("image/png", {})
            name = told.get("figure") or self.figures.names.get(png, "")
            section = self.chapter.sections[-1][1] if self.chapter.sections else self.chapter.title
            self._add("picture", self.figures.picture(name, png, told, section))
        elif "text/markdown" in data:
            self._add("prose", Markup(to_html("".join(data["text/markdown"]), self.chapter)))
        elif table := read_table("".join(data.get("text/html", ""))):
            self._add("table", table)
        elif "text/plain" in data:
            self._add("printed", "".join(data["text/plain"]))

    def _add(self, kind: str, content: Any) -> None:
        self.chapter.parts.append(Part(kind, content))


# ── Markdown and tables ───────────────────────────────────────────────────────────────────────────────────────────
def to_html(markdown: str, chapter: Chapter) -> str:
    """Markdown as HTML; its headings are added to the sections of the chapter."""
    render = mistune.create_markdown(renderer=_BelowChapter(chapter), plugins=["table"])
    return str(render(markdown))


class _BelowChapter(mistune.HTMLRenderer):
    """HTML whose headings stand a level lower than in the notebook, and have their place on the page."""

    def __init__(self, chapter: Chapter) -> None:
        super().__init__()
        self.chapter = chapter

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        place = f"{self.chapter.name}-{len(self.chapter.sections) + 1}"
        self.chapter.sections.append((place, Markup(text).striptags()))
        return f'<h{level + 1} id="{place}">{text}</h{level + 1}>\n'


def read_table(html: str) -> Table | None:
    """The table in the HTML that pandas displays, its texts alone; None where there is none."""
    reader = _TableReader()
    reader.feed(html)
    heads, rows = reader.heads, reader.rows
    if not heads or not rows:
        return None
    if len(heads) == 2 and not any(heads[1][1:]):  # the second line has the name of the index alone
        heads = [[heads[1][0], *heads[0][1:]]]
    return table_of(heads[-1], rows) if all(len(row) == len(heads[-1]) for row in rows) else None


class _TableReader(HTMLParser):
    """Collects the rows of a table, those of the head apart."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[list[str]] = []
        self.rows: list[list[str]] = []
        self._in_head = False
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("thead", "tbody"):
            self._in_head = tag == "thead"
        elif tag == "tr":
            self._lines.append([])
        elif tag in ("th", "td"):
            self._in_cell = True
            self._lines[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._lines[-1][-1] += data

    @property
    def _lines(self) -> list[list[str]]:
        return self.heads if self._in_head else self.rows

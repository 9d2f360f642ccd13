"""Plain data → one HTML page that needs nothing else: style, scripts, pictures and numbers lie in it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

WEB = Path(__file__).parent / "web"
"""Style, scripts and the frame of the page; uPlot draws its curves (MIT, its licence lies beside it)."""
MINUS = str.maketrans("-", "−")


@dataclass(frozen=True)
class Headline:
    """A number in large type.

    Attributes:
        name: what it is.
        value: as it is printed.
        unit: of the value.
        about: its kind and its errors, a line each.
    """

    name: str
    value: str
    unit: str
    about: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table with a heading row, and the sentences under it."""

    title: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class RunPart:
    """What the page says of one run.

    Attributes:
        name: the run's.
        headlines: its first numbers.
        pictures: name → PNG in base64.
        configuration: text.
        provenance: name → value.
        commands: the commands that make it again.
        notes: what is missing, a sentence each.
    """

    name: str
    headlines: Sequence[Headline]
    pictures: Mapping[str, str]
    configuration: str
    provenance: Mapping[str, str]
    commands: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """An interactive part of a page.

    Attributes:
        names: of its files.
        data: what its scripts need.
        notes: why there is none, in a sentence.
    """

    names: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: its heading.
        runs: what it says of each run.
        tables: numbers of all runs.
        data: what the scripts draw, plain values: ``runs`` (names), ``unit`` and ``curves``, and a part's own.
        parts: names of the interactive parts in the folder ``web``, each with ``<name>.html`` and ``<name>.js``.
    """

    title: str
    runs: Sequence[RunPart]
    tables: Sequence[Table]
    data: Mapping[str, Any]
    parts: Sequence[str] = ()

    def html(self) -> str:
        """The whole page."""
        sections = [
            *(_headlines(run, len(self.runs) > 1) for run in self.runs),
            '<div id="curves" class="chart" role="img" aria-label="Bound over training steps"></div>'
            if self.data.get("curves")
            else "",
            *(_file(f"{part}.html") for part in self.parts),
            *map(_table, self.tables),
            *(_pictures(run) for run in self.runs),
            *(_origin(run) for run in self.runs),
        ]
        styles = ["uPlot.min.css", "page.css", *(f"{part}.css" for part in self.parts)]
        scripts = ["uPlot.iife.min.js", "page.js", *(f"{part}.js" for part in self.parts)]
        return Template(_file("page.html")).substitute(
            title=escape(self.title),
            style="\n".join(map(_file, styles)),
            body="\n".join(filter(None, sections)),
            # a "<" in a text of the data could end the block
            data=json.dumps(self.data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
            script="\n".join(map(_file, scripts)),
        )


def _file(name: str) -> str:
    path = WEB / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _headlines(run: RunPart, several: bool) -> str:
    """The run's first numbers as cards, and what is missing."""
    cards = [
        f'<div class="card"><h3>{escape(h.name)}</h3><div class="value">{escape(h.value.translate(MINUS))}</div>'
        f"<div>{escape(h.unit)}</div>"
        + "".join(f'<div class="faint">{escape(line)}</div>' for line in h.about)
        + "</div>"
        for h in run.headlines
    ]
    title = f"<h2>{escape(run.name)}</h2>" if several else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in run.notes)
    return f'<section aria-label="Numbers">{title}<div class="cards">{"".join(cards)}</div>{notes}</section>'


def _table(table: Table) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    head, *rows = table.rows
    cells = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    together = MINUS | str.maketrans({" ": "\u00a0"})  # a value and its error stay on one line
    lines = [[escape(cell.translate(together) if " ± " in cell else cell) for cell in row] for row in rows]
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="wide" tabindex="0" role="region" '
        f'aria-label="{escape(table.title)}"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{notes}</section>"
    )


def _pictures(run: RunPart) -> str:
    """The run's figures with their names."""
    named = {escape(name.replace("_", " ")): content for name, content in run.pictures.items()}
    figures = [
        f'<figure><img src="data:image/png;base64,{content}" alt="{name} of {escape(run.name)}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, content in named.items()
    ]
    title = f"<h2>Pictures of {escape(run.name)}</h2>"
    return f'<section>{title}<div class="pictures">{"".join(figures)}</div></section>' if figures else ""


def _origin(run: RunPart) -> str:
    """Where the run comes from: commands, provenance, configuration."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in run.provenance.items())
    configuration = (
        f"<details><summary>Configuration</summary><pre>{escape(run.configuration)}</pre></details>"
        if run.configuration
        else ""
    )
    return (
        f"<section><h2>Where {escape(run.name)} comes from</h2><p>To make it again:</p>"
        f"<pre>{escape(run.commands)}</pre><dl>{facts}</dl>{configuration}</section>"
    )

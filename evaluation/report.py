"""One self-contained HTML page: text, tables, charts as inline SVG, galleries with embedded pictures. No scripts, no outside files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from evaluation.charts import Series, line_chart
from utils.files import write_atomically

STYLE = Path(__file__).with_name("report.css")
LOSSES = ("loss", "itc", "itm", "cap", "qa")
LOSS_WORDS = {"loss": "total", "itc": "contrastive", "itm": "matching", "cap": "caption", "qa": "answer"}
SMOOTHED_FROM = 40
"""Curves of at least so many points are smoothed, over a twentieth of them."""


@dataclass(frozen=True)
class Cell:
    """A table cell with a look: ``best`` (emphasised) or ``left`` (running text)."""

    text: str
    look: str = ""


@dataclass(frozen=True)
class Picture:
    """An embedded picture: ``uri`` from :func:`jpeg_uri`; ``right`` marks the true one among retrieved clips."""

    uri: str
    words: str = ""
    title: str = ""
    right: bool = False


@dataclass(frozen=True)
class Line:
    """A labelled line of a card; ``right`` marks it as right (✓) or wrong (✗), None as neither."""

    label: str
    text: str
    right: bool | None = None


@dataclass
class Card:
    """A case in a gallery: pictures side by side, labelled lines, then blocks with a heading, each of pictures or of lines."""

    title: str
    aside: str = ""
    frames: Sequence[Picture] = ()
    lines: Sequence[Line] = ()
    blocks: Sequence[tuple[str, Sequence[Picture | Line]]] = ()


@dataclass
class Report:
    """A page made of sections, in the order in which they are added."""

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list)

    def section(self, title: str, note: str = "") -> Report:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(title)}</h2>" + (f'<p class="note">{escape(note)}</p>' if note else ""))
        return self

    def text(self, text: str) -> Report:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")
        return self

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | float | Cell | None]],
        *,
        caption: str = "",
        over: Sequence[tuple[str, int]] = (),
        muted: Iterable[int] = (),
    ) -> Report:
        """A table; numbers get one decimal, None a dash.

        Args:
            over: a row of headings above the columns, each with the number of columns that it spans.
            muted: numbers of rows that are for comparison only, shown paler.
        """
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        above = "".join(f'<th colspan="{span}">{escape(text)}</th>' for text, span in over)
        pale = set(muted)
        body = "".join(
            f"<tr{' class=muted' if number in pale else ''}>{''.join(map(_cell, row))}</tr>" for number, row in enumerate(rows)
        )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        over_row = f'<tr class="over">{above}</tr>' if above else ""
        self._parts.append(f'<div class="scroll"><table>{title}<thead>{over_row}<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')
        return self

    def charts(self, charts: Sequence[str], *, wide: bool = False) -> Report:
        """SVG charts side by side, as many per row as fit."""
        drawn = "".join(chart for chart in charts if chart)
        if drawn:
            self._parts.append(f'<div class="charts{" wide" if wide else ""}">{drawn}</div>')
        return self

    def gallery(self, cards: Iterable[Card]) -> Report:
        """Cases as cards."""
        self._parts.append(f'<div class="cards">{"".join(map(_card, cards))}</div>')
        return self

    def html(self) -> str:
        """The whole page."""
        subtitle = f"<p>{escape(self.subtitle)}</p>" if self.subtitle else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE.read_text()}</style></head><body><main>"
            f"<header><h1>{escape(self.title)}</h1>{subtitle}</header>{''.join(self._parts)}</main></body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page atomically."""
        return write_atomically(path, self.html())


def loss_chart(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The losses of a training's ``log/metrics.jsonl`` over its steps, the total and one line per objective; "" without any."""
    present = [name for name in LOSSES if any(isinstance(loss_of(row, name), (int, float)) for row in rows)]
    if len(present) == 2:
        present.remove("loss")  # One objective: its loss is the total, up to its weight.
    series = []
    for name in present:
        points = [(float(row["step"]), float(loss_of(row, name))) for row in rows if isinstance(loss_of(row, name), (int, float))]
        series.append(Series(LOSS_WORDS[name], points))
    longest = max((len(s.points) for s in series), default=0)
    return line_chart(title, series, smooth=max(1, longest // 20) if longest >= SMOOTHED_FROM else 1)


def loss_of(row: Mapping[str, Any], name: str) -> Any:
    """A loss of a log line, where the line itself or its ``losses`` hold it."""
    return row.get(name, row.get("losses", {}).get(name) if isinstance(row.get("losses"), Mapping) else None)


def jpeg_uri(frame: Tensor, side: int = 160, quality: int = 82) -> str:
    """A (3, H, W) uint8 frame as an embedded JPEG, at most ``side`` pixels wide and high."""
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().cpu().numpy())
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _cell(value: str | float | Cell | None) -> str:
    if value is None:
        return "<td>–</td>"
    if isinstance(value, Cell):
        return f'<td class="{value.look}">{escape(value.text)}</td>'
    return f"<td>{escape(value) if isinstance(value, str) else f'{value:.1f}'}</td>"


def _card(card: Card) -> str:
    frames = "".join(f'<img src="{p.uri}" alt="{escape(p.words)}">' for p in card.frames)
    parts = [f"<h3>{escape(card.title)}<small>{escape(card.aside)}</small></h3>"]
    if frames:
        parts.append(f'<div class="frames">{frames}</div>')
    if card.lines:
        parts.append("<dl>" + "".join(map(_line, card.lines)) + "</dl>")
    for heading, items in card.blocks:
        parts.append(f'<p class="heading">{escape(heading)}</p>')
        pictures = [item for item in items if isinstance(item, Picture)]
        lines = [item for item in items if isinstance(item, Line)]
        if pictures:
            parts.append('<div class="strip">' + "".join(map(_thumbnail, pictures)) + "</div>")
        if lines:
            parts.append("<dl>" + "".join(map(_line, lines)) + "</dl>")
    return f'<article class="card">{"".join(parts)}</article>'


def _line(line: Line) -> str:
    return f"<dt>{escape(line.label)}</dt><dd>{escape(line.text)}{_verdict(line.right)}</dd>"


def _verdict(right: bool | None) -> str:
    if right is None:
        return ""
    return ' <span class="right-mark">✓ right</span>' if right else ' <span class="wrong-mark">✗ wrong</span>'


def _thumbnail(picture: Picture) -> str:
    mark = ' class="right"' if picture.right else ""
    title = f"<b>{escape(picture.title)}{' ✓' if picture.right else ''}</b><br>" if picture.title else ""
    words = escape(picture.words)
    return f'<figure{mark}><img src="{picture.uri}" alt="{words}"><figcaption>{title}{words}</figcaption></figure>'

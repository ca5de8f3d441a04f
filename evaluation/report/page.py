"""One self-contained HTML page: text, tables, charts as inline SVG, galleries with embedded pictures and sounds. No scripts, no outside
files. The same in Markdown, without what Markdown cannot hold.

    python -m omnivast report RUN [RUN …] [--output page.html]
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import av
from PIL import Image
from torch import Tensor

from omnivast.evaluation.report.charts import Series, line_chart, waveform_chart
from omnivast.evaluation.report.markup import html_text
from omnivast.utils.files import write_atomically

STYLE = Path(__file__).with_name("page.css")
LOSSES = ("loss", "itc", "itm", "cap", "qa")
LOSS_WORDS = {"loss": "total", "itc": "contrastive", "itm": "matching", "cap": "caption", "qa": "answer"}
SMOOTHED_FROM = 40
"""Curves of at least this many points are smoothed, over a twentieth of their points."""
LONG_LABEL, LONG_CELL, LONG_HEAD = 24, 16, 8
"""Characters above which a label stands over its text where there is little room, and a cell or a column's head has several lines."""
MANY_COLUMNS = 6
"""Tables with more columns are set smaller in narrow windows."""


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


@dataclass(frozen=True)
class Sound:
    """An embedded sound: ``uri`` from :func:`sound_uri`, and its waveform as SVG."""

    uri: str
    waveform: str


@dataclass
class Card:
    """A case in a gallery: pictures side by side, sound, labelled lines, then blocks with a heading, each of pictures or of lines."""

    title: str
    aside: str = ""
    frames: Sequence[Picture] = ()
    lines: Sequence[Line] = ()
    blocks: Sequence[tuple[str, Sequence[Picture | Line]]] = ()
    sound: Sound | None = None


@dataclass
class Report:
    """A page made of sections, in the order in which they are added."""

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list)
    _plain: list[str] = field(default_factory=list)
    """The same parts as Markdown."""

    def section(self, title: str, note: str = "") -> Report:
        """Begin a section."""
        self._plain += [f"## {title}", *([note] if note else [])]
        self._parts.append(f"<h2>{html_text(title)}</h2>" + (f'<p class="note">{html_text(note)}</p>' if note else ""))
        return self

    def text(self, text: str) -> Report:
        """A paragraph."""
        self._plain.append(text)
        self._parts.append(f"<p>{html_text(text)}</p>")
        return self

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | float | Cell | None]],
        *,
        caption: str = "",
        over: Sequence[tuple[str, int]] = (),
        muted: Iterable[int] = (),
        small: bool = False,
    ) -> Report:
        """A table; numbers get one decimal, None a dash. A column of dashes alone is left out.

        Args:
            over: a row of headings above the columns, each with the number of columns that it spans.
            muted: numbers of rows that are for comparison only, shown paler.
            small: for facts to look up, in less room.
        """
        rows = [list(row) for row in rows]
        if rows and not over:
            kept = [n for n in range(len(columns)) if any(row[n] is not None for row in rows)]
            columns, rows = [columns[n] for n in kept], [[row[n] for n in kept] for row in rows]
        if caption:
            self._plain.append(f"**{caption}**")
        lines = [[_plain_cell(cell) for cell in row] for row in (self._spanned(columns, over), *rows)]
        lines.insert(1, ["---"] * len(columns))
        self._plain.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        head = "".join(_head(column, [row[number] for row in rows]) for number, column in enumerate(columns))
        above = "".join(f'<th colspan="{span}">{html_text(text)}</th>' for text, span in over)
        pale = set(muted)
        body = "".join(
            f"<tr{' class=muted' if number in pale else ''}>{''.join(map(_cell, row, columns))}</tr>" for number, row in enumerate(rows)
        )
        title = f'<p class="caption">{html_text(caption)}</p>' if caption else ""
        over_row = f'<tr class="over">{above}</tr>' if above else ""
        # Several columns of running text do not fit side by side into a narrow window: there each row becomes a list.
        several = any(sum(isinstance(cell, Cell) and cell.look == "left" for cell in row) > 1 for row in rows)
        looks = " ".join(name for name, applies in (("small", small), ("texts", several), ("many", len(columns) > MANY_COLUMNS)) if applies)
        look = f' class="{looks}"' if looks else ""
        self._parts.append(f'{title}<div class="scroll"><table{look}><thead>{over_row}<tr>{head}</tr></thead>'
                           f"<tbody>{body}</tbody></table></div>")
        return self

    @staticmethod
    def _spanned(columns: Sequence[str], over: Sequence[tuple[str, int]]) -> list[str]:
        """Column names with the heading above them, which Markdown has no row for."""
        above = [words for words, span in over for _ in range(span)] or [""] * len(columns)
        return [f"{words}: {column}" if words else column for words, column in zip(above, columns)]

    def charts(self, charts: Sequence[str], *, wide: bool = False, plain: str = "") -> Report:
        """SVG charts side by side, as many per row as fit. ``plain`` stands for them in the Markdown."""
        self._plain += [plain] if plain else []
        drawn = "".join(chart for chart in charts if chart)
        if drawn:
            self._parts.append(f'<div class="charts{" wide" if wide else ""}">{drawn}</div>')
        return self

    def gallery(self, cards: Iterable[Card], *, wall: bool = False) -> Report:
        """Cases as cards. ``wall``: smaller ones, more of them side by side."""
        cards = list(cards)
        self._plain.extend(map(_plain_card, cards))
        self._parts.append(f'<div class="cards{" wall" if wall else ""}">{"".join(map(_card, cards))}</div>')
        return self

    def html(self) -> str:
        """The whole page."""
        subtitle = f"<p>{html_text(self.subtitle)}</p>" if self.subtitle else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE.read_text()}</style></head><body><main>"
            f"<header><h1>{html_text(self.title)}</h1>{subtitle}</header>{''.join(self._parts)}</main></body></html>\n"
        )

    def markdown(self) -> str:
        """The same without charts, pictures and sounds."""
        return "\n\n".join([f"# {self.title}", *([self.subtitle] if self.subtitle else []), *self._plain]) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the page and, beside it with the ending ``.md``, its Markdown, each atomically; returns the page's path."""
        write_atomically(Path(path).with_suffix(".md"), self.markdown())
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


def sound_uri(waveform: Tensor, rate: int, bit_rate: int = 32_000) -> str:
    """(samples,) float32 in [-1, 1] as an embedded MP3."""
    file = io.BytesIO()
    samples = (waveform.clamp(-1, 1) * 32767).short().cpu().numpy()[None]
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = rate
        for part in av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()


def sound_of(waveform: Tensor | None, rate: int, seconds: float = 20.0) -> Sound | None:
    """The first ``seconds`` of a waveform, to look at and to play; None without sound."""
    if waveform is None or not waveform.numel():
        return None
    shown = waveform[: int(seconds * rate)]
    return Sound(sound_uri(shown, rate), waveform_chart(shown.abs().tolist(), len(shown) / rate))


def _plain_cell(value: str | float | Cell | None) -> str:
    text = value.text if isinstance(value, Cell) else "–" if value is None else value if isinstance(value, str) else f"{value:.1f}"
    return text.replace("|", "\\|").replace("\n", " ")


def _plain_card(card: Card) -> str:
    lines = [f"### {card.title}" + (f" ({card.aside})" if card.aside else ""), "", *map(_plain_line, card.lines)]
    for heading, items in card.blocks:
        pictures = [f"{item.title} {item.words}{' ✓' if item.right else ''}" for item in items if isinstance(item, Picture)]
        lines += [f"- {heading}: {', '.join(pictures)}"] if pictures else []
        lines += [_plain_line(item) for item in items if isinstance(item, Line)]
    return "\n".join(lines)


def _plain_line(line: Line) -> str:
    verdict = "" if line.right is None else " ✓" if line.right else " ✗"
    return f"- {line.label}: {line.text}{verdict}"


def _head(column: str, cells: Sequence[str | float | Cell | None]) -> str:
    """A column's name, above running text at the left as that is."""
    left = bool(cells) and all(isinstance(cell, Cell) and cell.look == "left" for cell in cells)
    looks = " ".join(name for name, applies in (("long", len(column) > LONG_HEAD), ("left", left)) if applies)
    look = f' class="{looks}"' if looks else ""
    return f"<th{look}>{html_text(column)}</th>"


def _cell(value: str | float | Cell | None, column: str) -> str:
    if value is None:
        return "<td>–</td>"
    if isinstance(value, Cell):
        named = f' data-column="{escape(column)}"' if value.look == "left" and column else ""
        return f'<td class="{value.look}"{named}>{html_text(value.text)}</td>'
    if isinstance(value, float | int):
        return f"<td>{value:.1f}</td>"
    return f"<td{' class=long' if len(value) > LONG_CELL else ''}>{html_text(value)}</td>"


def _card(card: Card) -> str:
    frames = "".join(f'<img src="{p.uri}" alt="{escape(p.words)}">' for p in card.frames)
    parts = [f"<h3>{html_text(card.title)}<small>{html_text(card.aside)}</small></h3>"]
    if frames:
        parts.append(f'<div class="frames">{frames}</div>')
    if card.sound:
        parts.append(f'<div class="sound">{card.sound.waveform}<audio controls preload="none" src="{card.sound.uri}"></audio></div>')
    if card.lines:
        parts.append(_lines(card.lines))
    for heading, items in card.blocks:
        parts.append(f'<p class="heading">{html_text(heading)}</p>')
        pictures = [item for item in items if isinstance(item, Picture)]
        lines = [item for item in items if isinstance(item, Line)]
        if pictures:
            parts.append('<div class="strip">' + "".join(map(_thumbnail, pictures)) + "</div>")
        if lines:
            parts.append(_lines(lines))
    return f'<article class="card">{"".join(parts)}</article>'


def _lines(lines: Sequence[Line]) -> str:
    """Labels and their texts in two columns; in little room long labels, such as questions, stand above their texts."""
    look = ' class="long"' if any(len(line.label) > LONG_LABEL for line in lines) else ""
    rows = (f"<dt>{html_text(line.label)}</dt><dd>{html_text(line.text)}{_verdict(line.right)}</dd>" for line in lines)
    return f"<dl{look}>{''.join(rows)}</dl>"


def _verdict(right: bool | None) -> str:
    if right is None:
        return ""
    return ' <span class="right-mark">✓ right</span>' if right else ' <span class="wrong-mark">✗ wrong</span>'


def _thumbnail(picture: Picture) -> str:
    mark = ' class="right"' if picture.right else ""
    title = f"<b>{html_text(picture.title)}{' ✓' if picture.right else ''}</b><br>" if picture.title else ""
    image = f'<img src="{picture.uri}" alt="{escape(picture.words)}">' if picture.uri else ""
    return f"<figure{mark}>{image}<figcaption>{title}{html_text(picture.words)}</figcaption></figure>"

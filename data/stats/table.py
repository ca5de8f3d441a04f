"""The figures of annotation files as a table: a column for each kind of text of each file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from omnivast.data.stats.measure import TEXTS

GAP = "  "
LONGEST_NAME = 28
"""Signs of a file's name."""
LISTS = {"most frequent words": "top_words", "most frequent concepts": "top_concepts", "most frequent answers": "top_answers"}

Figures = Mapping[str, Any]
"""What ``measure`` returns for a file."""


def table(files: Sequence[Figures], width: int) -> str:
    """The table, in blocks below each other where more columns stand side by side than fit ``width`` signs."""
    rows = _rows(files)
    label_width = max(len(label) for label, *_ in rows)
    widths = [max(map(len, cells)) for cells in zip(*(cells for _, *cells in rows))]
    blocks, first = [], 0
    while first < len(widths):
        last = first + 1
        while last < len(widths) and label_width + sum(len(GAP) + size for size in widths[first : last + 1]) <= width:
            last += 1
        shown = [(label, cells[first:last]) for label, *cells in rows if any(cells[first:last])]
        blocks.append([GAP.join([label.ljust(label_width), *map(str.rjust, own, widths[first:last])]).rstrip() for label, own in shown])
        first = last
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _rows(files: Sequence[Figures]) -> list[list[str]]:
    """Label and cells of each row. A file without texts has one column too."""
    columns = [(file, kind) for file in files for kind in list(file["texts"]) or [""]]
    rows = [["", *(_short(file["file"], files) for file, _ in columns)], ["", *(kind for _, kind in columns)]]
    figures = zip(*(_figures(file, kind) for file, kind in columns))
    rows += [[cells[0][0], *(value for _, value in cells)] for cells in figures]
    for title, name in LISTS.items():
        lists = zip_longest(*(file["texts"].get(kind, {}).get(name, ()) for file, kind in columns), fillvalue=None)
        rows += [["" if place else title, *(f"{entry[0]} {entry[1]:,}" if entry else "" for entry in entries)]
                 for place, entries in enumerate(lists)]
    return rows


def _figures(file: Figures, kind: str) -> Iterator[tuple[str, str]]:
    """Label and value of every row, "" where it says nothing of this kind of text. What is said of the whole file stands in its first
    column."""
    first = kind == next(iter(file["texts"]), "")
    yield "rows", f"{file['rows']:,}" if first else ""
    yield "clips", f"{file['clips']:,}" if first else ""
    for other in TEXTS:
        yield f"  with {other}", f"{file['texts'][other]['clips']:,}" if first and other in file["texts"] else ""
    own = file["texts"].get(kind, {})
    for label, name, value in ROWS:
        found = own.get(name)
        yield label, "" if found is None else value(own, found)


def _share(own: Mapping[str, Any], number: int) -> str:
    return f"{number:,}" + (f" ({100 * number / own['count']:.1f} %)" if number and own["count"] else "")


ROWS = (
    ("texts", "count", lambda own, count: f"{count:,}"),
    ("  empty, beside them", "empty", lambda own, empty: f"{empty:,}"),
    ("  repeated", "repeated", _share),
    ("  repeated in their clip", "repeated_in_clip", _share),
    ("  per clip", "per_clip", lambda own, clip: f"{clip['mean']:.1f} ({clip['fewest']} to {clip['most']})"),
    ("words", "words", lambda own, words: f"{words['total']:,}"),
    ("  per text", "words", lambda own, words: f"{words['mean']:.1f}"),
    ("  half have up to", "words", lambda own, words: f"{words['median']}"),
    ("  95 % have up to", "words", lambda own, words: f"{words['p95']}"),
    ("  the longest has", "words", lambda own, words: f"{words['longest']}"),
    ("tokens per text", "tokens", lambda own, tokens: f"{tokens['mean']:.1f}"),
    ("  95 % have up to", "tokens", lambda own, tokens: f"{tokens['p95']}"),
    ("  the longest has", "tokens", lambda own, tokens: f"{tokens['longest']}"),
    ("  the limit", "tokens", lambda own, tokens: f"{tokens['limit']}"),
    ("  cut to it", "tokens", lambda own, tokens: _share(own, tokens["cut"])),
    ("vocabulary", "vocabulary", lambda own, vocabulary: f"{vocabulary:,}"),
    ("audio concepts", "concepts", lambda own, concepts: f"{concepts:,}"),
    ("  different ones", "different_concepts", lambda own, different: f"{different:,}"),
    ("  ACD: per 100 words", "acd", lambda own, acd: f"{acd:.1f}"),
    ("answers", "answers", lambda own, answers: f"{answers:,}"),
    ("  different ones", "different_answers", lambda own, different: f"{different:,}"),
    ("  questions without", "unanswered", lambda own, unanswered: f"{unanswered:,}"),
)
"""Label, name of the figure, and (all figures, this one) → what is shown."""


def _short(name: str, files: Sequence[Figures]) -> str:
    """The file's name without its ending, with its folder where another has the same; its end where it is long."""
    path = Path(name)
    same = sum(Path(file["file"]).stem == path.stem for file in files) > 1
    short = f"{path.parent.name}/{path.stem}" if same and path.parent.name else path.stem
    return short if len(short) <= LONGEST_NAME else f"…{short[1 - LONGEST_NAME:]}"

"""Charts as inline SVG: no scripts, no outside fonts, colours that colour-blind eyes tell apart and line styles that print.

A chart is a ``<figure>``: title and legend are HTML, which has as many lines as they need; in the drawing stand short texts alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from omnivast.evaluation.report.markup import html_text

# Okabe and Ito's palette, without its yellow, which is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4")
WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 112, 14, 38
LONGEST_NAME = 11
"""Characters of a line's name that fit beside its end; longer ones stand in a legend."""
MOST_NAMES = 12
LETTER = 8.5
"""Width of a letter in the drawing, at most."""
NAME_COLUMN = 22
"""Characters of a row's name in one line."""
MAX_POINTS = 200
FEWEST_BINS = 8
"""For which a histogram has room, so that one bar does not fill it."""
MARKS = ("disc", "ring", "bar", "cross")


@dataclass(frozen=True)
class Series:
    """A named line; points with a value that is not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dots:
    """A row of a dot chart: its name and its values, one per mark, None where absent."""

    name: str
    values: Sequence[float | None]


def line_chart(title: str, series: Sequence[Series], *, x_label: str = "step", smooth: int = 1) -> str:
    """An SVG of lines over a shared axis from zero, each named at its end.

    ``smooth``: draw a running mean over so many points, and the raw values faintly behind it.
    """
    kept = [Series(s.name, [(x, y) for x, y in s.points if math.isfinite(y)]) for s in series]
    kept = [s for s in kept if s.points]
    if not kept:
        return ""
    low_x, high_x = min(s.points[0][0] for s in kept), max(s.points[-1][0] for s in kept)
    ticks = nice_ticks(min(0.0, min(y for s in kept for _, y in s.points)), max(_upper(s.points) for s in kept))
    named = len(kept) <= MOST_NAMES and all(len(s.name) <= LONGEST_NAME for s in kept)
    left = max(LEFT, 10 + LETTER * max(len(f"{tick:g}") for tick in ticks))
    scale = _Scale(low_x, high_x, ticks[0], ticks[-1], left, WIDTH - (RIGHT if named else 30))
    parts = [_axes(scale, ticks, nice_ticks(low_x, high_x, 4), x_label)]
    ends = []
    for number, line in enumerate(kept):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        points = thinned(line.points)
        if smooth > 1:
            parts.append(f'<path d="{_path(points, scale)}" fill="none" stroke="{colour}" stroke-width="1" opacity=".25"/>')
            points = thinned(running_mean(line.points, smooth))
        look = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<path d="{_path(points, scale)}" fill="none" {look} stroke-linejoin="round"/>')
        ends.append((scale.y(points[-1][1]), line.name, look))
    legend = [] if named else [(f'<line x1="0" x2="24" y1="6" y2="6" {look}/>', name) for _, name, look in ends]
    for height, name, look in _apart(ends) if named else ():
        parts.append(f'<line x1="{WIDTH - RIGHT + 5}" x2="{WIDTH - RIGHT + 23}" y1="{height:.1f}" y2="{height:.1f}" {look}/>'
                     f'<text x="{WIDTH - RIGHT + 27}" y="{height + 4:.1f}" class="name">{escape(name)}</text>')
    return _figure(title, legend, HEIGHT, parts)


def dot_chart(title: str, marks: Sequence[str], rows: Sequence[Dots], *, high: float = 100.0, unit: str = "%") -> str:
    """An SVG with one line per row and one mark per value on it, from 0 to ``high``; the marks are named above."""
    names = [textwrap.wrap(row.name, NAME_COLUMN) or [""] for row in rows]
    left = max(78.0, 24 + LETTER * max((len(line) for lines in names for line in lines), default=0))
    tops = [TOP]
    for lines in names:
        tops.append(tops[-1] + max(26, 8 + 15 * len(lines)))
    height = tops[-1] + 30

    def x(value: float) -> float:
        return left + (WIDTH - left - 26) * min(max(value, 0.0), high) / high

    parts = []
    for tick in nice_ticks(0, high, 4):
        value = f"{tick:g} {unit if tick else ''}".strip()
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 8}" y2="{height - 26}" class="grid"/>'
                     f'<text x="{x(tick):.1f}" y="{height - 10}" text-anchor="middle">{value}</text>')
    for row, lines, top, end in zip(rows, names, tops, tops[1:]):
        y = (top + end) / 2
        for number, line in enumerate(lines):
            baseline = y + 4 + 15 * (number - (len(lines) - 1) / 2)
            parts.append(f'<text x="{left - 12:.1f}" y="{baseline:.1f}" text-anchor="end" class="row">{escape(line)}</text>')
        parts.append(f'<line x1="{left:.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>')
        parts.extend(_mark(k, x(value), y) for k, value in enumerate(row.values) if value is not None and math.isfinite(value))
    return _figure(title, [(_mark(number, 12, 6), name) for number, name in enumerate(marks)], height, parts)


def bar_chart(title: str, bins: Sequence[tuple[float, float, float]], *, x_label: str) -> str:
    """An SVG of a histogram: (from, to, how many), side by side without gaps between their edges; "" for none."""
    if not bins:
        return ""
    ticks = nice_ticks(0.0, max(count for *_, count in bins))
    left = max(LEFT, 10 + LETTER * max(len(f"{tick:g}") for tick in ticks))
    end = max(bins[-1][1], bins[0][0] + FEWEST_BINS * (bins[0][1] - bins[0][0]))
    scale = _Scale(bins[0][0], end, ticks[0], ticks[-1], left, WIDTH - 30)
    parts = [_axes(scale, ticks, nice_ticks(bins[0][0], end, 6), x_label)]
    for low, high, count in bins:
        x, y = scale.x(low) + 0.75, scale.y(count)
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.8, scale.x(high) - x - 0.75):.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
                     f'fill="{COLOURS[0]}" aria-label="{low:g} to {high:g}: {count:,}"/>')
    return _figure(title, [], HEIGHT, parts)


def waveform_chart(amplitudes: Sequence[float], seconds: float, bars: int = 160) -> str:
    """An SVG of a sound's peaks over time. ``amplitudes``: absolute values in [0, 1], at equal distances."""
    width, height = 480, 48
    step = max(1, math.ceil(len(amplitudes) / bars))
    peaks = [min(1.0, max(amplitudes[start : start + step])) for start in range(0, len(amplitudes), step)]
    drawn = "".join(f"M{(n + 0.5) * width / len(peaks):.1f} {height / 2 * (1 - p) - 0.5:.1f}V{height / 2 * (1 + p) + 0.5:.1f}"
                    for n, p in enumerate(peaks))
    return (f'<svg class="wave" viewBox="0 -2 {width} {height + 4}" role="img" aria-label="waveform, {seconds:.1f} s" '
            f'preserveAspectRatio="none"><path d="{drawn}" stroke="{COLOURS[0]}" stroke-width="2" fill="none"/></svg>')


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span ``low`` to ``high``, about ``count`` of them."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def running_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Each value averaged with the ones before it, ``window`` at most in all."""
    result, total = [], 0.0
    for number, (x, y) in enumerate(points):
        total += y - (points[number - window][1] if number >= window else 0.0)
        result.append((x, total / min(number + 1, window)))
    return result


def thinned(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most about ``most`` points: means of neighbours, so that no spike is invented, and the last point itself."""
    group = math.ceil(len(points) / most)
    if group <= 1:
        return list(points)
    chunks = [points[start : start + group] for start in range(0, len(points), group)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks] + [points[-1]]


@dataclass(frozen=True)
class _Scale:
    low_x: float
    high_x: float
    low_y: float
    high_y: float
    left: float
    right: float

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * (value - self.low_x) / ((self.high_x - self.low_x) or 1.0)

    def y(self, value: float) -> float:
        share = min(max((value - self.low_y) / (self.high_y - self.low_y), 0.0), 1.0)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _figure(title: str, legend: Sequence[tuple[str, str]], height: float, parts: Sequence[str]) -> str:
    """The chart; ``legend``: (what is drawn, at 24 × 12, and its name)."""
    keys = "".join(f'<span class="key"><svg viewBox="0 0 24 12" aria-hidden="true">{drawn}</svg><span>{html_text(name)}</span></span>'
                   for drawn, name in legend)
    return (f'<figure class="chart" aria-label="{escape(title)}"><figcaption>{html_text(title)}</figcaption>'
            f'{f"<p>{keys}</p>" if keys else ""}<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg></figure>')


def _axes(scale: _Scale, ticks: Sequence[float], steps: Sequence[float], x_label: str) -> str:
    parts = []
    for tick in ticks:
        y = scale.y(tick)
        parts.append(f'<line x1="{scale.left:.1f}" x2="{scale.right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
                     f'<text x="{scale.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for step in steps:
        if scale.low_x <= step <= scale.high_x and step == round(step):
            parts.append(f'<text x="{scale.x(step):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{step:g}</text>')
    parts.append(f'<text x="{(scale.left + scale.right) / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle" class="axis">'
                 f"{escape(x_label)}</text>")
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], scale: _Scale) -> str:
    return "M" + "L".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in points)


def _upper(points: Sequence[tuple[float, float]]) -> float:
    """The highest value without the rare spikes (above the 99th percentile), which would flatten everything else."""
    values = sorted(y for _, y in points)
    return max(values[math.ceil(0.99 * len(values)) - 1], points[0][1])


def _apart(ends: Sequence[tuple[float, str, str]], gap: float = 15.0) -> list[tuple[float, str, str]]:
    """Labels moved so that none covers another, and all stay inside the chart."""
    placed: list[tuple[float, str, str]] = []
    for height, name, look in sorted(ends):
        placed.append((max(height, placed[-1][0] + gap) if placed else height, name, look))
    low = float(HEIGHT - BOTTOM)
    for number in range(len(placed) - 1, -1, -1):
        height, name, look = placed[number]
        placed[number] = (min(height, low), name, look)
        low = placed[number][0] - gap
    return placed


def _mark(number: int, x: float, y: float) -> str:
    """Marks differ in shape and in colour."""
    colour, kind = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    if kind == "disc":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    if kind == "ring":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.4" fill="none" stroke="{colour}" stroke-width="2"/>'
    if kind == "bar":
        return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}" stroke="{colour}" stroke-width="3"/>'
    return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="{colour}" stroke-width="2" fill="none"/>'

"""Draws docs/architecture.svg, the figure of the README: ``python -m omnivast.scripts.tools.draw_architecture docs/architecture.svg``.

The clip in it is train00000 of the OmniStamps debug set. Sound stands left of vision and vision left of the subtitle, as in a Memory, so
that nearly every group is one stretch of it.
"""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from omnivast.config.tasks import Group, Modality

ROOT = Path(__file__).resolve().parents[2]
STAMP = ROOT / "datasets" / "omnistamps" / "images" / "zebra.png"

WIDTH, HEIGHT = 880, 800
INK, GREY, LINE, PAPER = "#1f2933", "#5f6b7a", "#9aa5b1", "#ffffff"
COLUMNS = {Modality.AUDIO: 160, Modality.VISION: 400, Modality.SUBTITLE: 640}
COLUMN = 220
COLOURS = {Modality.AUDIO: ("#d98324", "#fdf0de"), Modality.VISION: ("#2f74b5", "#e4effa"), Modality.SUBTITLE: ("#3c8d5a", "#e3f3e9")}
CONTRASTIVE, MATCHING, GENERATION = ("#a23b72", "#f8e6ef"), ("#6a4fb0", "#ece7f8"), ("#17828a", "#def2f3")


def box(x: float, y: float, width: float, height: float, stroke: str, fill: str, radius: float = 10) -> str:
    return (f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" stroke="{stroke}" '
            'stroke-width="1.5"/>')


def words(x: float, y: float, text: str, size: int = 14, colour: str = INK, weight: str = "normal", anchor: str = "middle",
          style: str = "normal") -> str:
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" font-weight="{weight}" font-style="{style}" '
            f'text-anchor="{anchor}">{escape(text)}</text>')


def heading(y: float, title: str, *lines: str) -> str:
    """The name of a storey of the figure, at its left, and what happens there."""
    return words(20, y, title, 15, weight="bold", anchor="start") + "".join(
        words(20, y + 18 + 15 * i, line, 12, GREY, anchor="start") for i, line in enumerate(lines))


def arrow(points: Sequence[tuple[float, float]], colour: str = LINE, dashed: bool = False) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    (x0, y0), (x1, y1) = points[-2:]
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    head = f'<path d="M0,0 L-9,-4.5 L-9,4.5 Z" fill="{colour}" transform="translate({x1:g},{y1:g}) rotate({angle:g})"/>'
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>{head}'


def middle(modality: Modality) -> float:
    return COLUMNS[modality] + COLUMN / 2


def clip() -> list[str]:
    """The three tracks of the clip: a waveform, two frames, a sentence."""
    parts = [heading(46, "one clip", "three tracks,", "three facts")]
    for modality, x in COLUMNS.items():
        parts.append(box(x, 20, COLUMN, 112, COLOURS[modality][0], PAPER))
    left, colour = COLUMNS[Modality.AUDIO], COLOURS[Modality.AUDIO][0]
    for i in range(36):
        call = max(math.exp(-((i - 9) / 4) ** 2), math.exp(-((i - 24) / 6) ** 2))
        high = 3 + 30 * call * (0.55 + 0.45 * math.sin(2.1 * i) ** 2)
        parts.append(f'<rect x="{left + 20 + 5 * i}" y="{64 - high:.1f}" width="3" height="{2 * high:.1f}" rx="1.5" fill="{colour}"/>')
    parts.append(words(middle(Modality.AUDIO), 121, "sound: an owl", 13, GREY))
    stamp = "data:image/png;base64," + base64.b64encode(STAMP.read_bytes()).decode()
    parts.append(f'<defs><image id="stamp" width="62" height="62" x="-31" y="-31" href="{stamp}"/></defs>')
    for place, turn in ((-48, 0), (48, 70)):
        centre = middle(Modality.VISION) + place
        parts.append(f'<rect x="{centre - 40:g}" y="28" width="80" height="76" rx="5" fill="#7cc47f"/>'
                     f'<use href="#stamp" transform="translate({centre:g},66) rotate({turn})"/>')
    parts.append(words(middle(Modality.VISION), 121, "frames: a zebra turns", 13, GREY))
    for i, line in enumerate(("“i found twelve books", "about a mug", "in the library”")):
        parts.append(words(middle(Modality.SUBTITLE), 50 + 21 * i, line, 15, style="italic"))
    return [*parts, words(middle(Modality.SUBTITLE), 121, "subtitle: a mug", 13, GREY)]


def towers() -> list[str]:
    parts = [heading(178, "towers", "each track is", "encoded once")]
    named = {Modality.AUDIO: ("audio tower", "BEATs, AST, CLAP, Whisper"), Modality.VISION: ("vision tower", "EVA-CLIP, CLIP, Swin, timm"),
             Modality.SUBTITLE: ("text model", "BERT")}
    for modality, (name, examples) in named.items():
        stroke, fill = COLOURS[modality]
        parts += [arrow([(middle(modality), 132), (middle(modality), 157)], stroke), box(COLUMNS[modality], 158, COLUMN, 52, stroke, fill),
                  words(middle(modality), 180, name, 15, weight="bold"), words(middle(modality), 199, examples, 12, GREY),
                  arrow([(middle(modality), 210), (middle(modality), 237)], stroke)]
    return parts


def memory() -> list[str]:
    """The tokens of all tracks side by side, and below them what each group sees."""
    parts = [heading(256, "memory", "keys and values,", "made once")]
    for modality, x in COLUMNS.items():
        stroke, fill = COLOURS[modality]
        parts.append(box(x - 10, 238, COLUMN + 20, 50, stroke, fill, 4))
        parts += [f'<rect x="{x + 1 + 20 * i}" y="250" width="14" height="26" rx="3" fill="{stroke}" opacity="0.75"/>' for i in range(11)]
    parts.append(heading(318, "groups", "what one text", "may see"))
    for line, names in enumerate((("ta", "tv", "ts"), ("tva",), ("tvs",), ("tvas",))):
        for group in map(Group.parse, names):
            left = min(COLUMNS[m] for m in group)
            right = max(COLUMNS[m] for m in group) + COLUMN
            y = 303 + 25 * line
            shades = "".join(f'<stop offset="{(COLUMNS[m] + end * COLUMN - left) / (right - left):.3f}" stop-color="{COLOURS[m][0]}"/>'
                             for m in COLUMNS if m in group for end in (0.25, 0.75))
            parts += [f'<defs><linearGradient id="{group}">{shades}</linearGradient></defs>',
                      box(left, y, right - left, 20, "none", f"url(#{group})", 10),
                      words((left + right) / 2, y + 15, str(group), 14, PAPER, "bold")]
    return parts


def text_model() -> list[str]:
    """All rows of the joint text forward, coloured by the objective that reads them."""
    parts = [heading(452, "text model", "one forward for", "all groups and", "objectives"),
             arrow([(510, 400), (510, 431)]), words(524, 421, "cross-attention", 13, GREY, anchor="start"),
             box(150, 432, 720, 150, INK, "#f7f8fa")]
    rows = ((MATCHING, "a story about a mug is told while a zebra is visible …", "its own caption: belongs"),
            (MATCHING, "a tale of a key while a zebra is seen …", "hard-negative caption: does not"),
            (MATCHING, "a story about a mug … with a similar, wrong clip", "hard-negative clip: does not"),
            (GENERATION, "a [M] about a [M] is [M] while a [M] is …", "masked caption: fill in"),
            (GENERATION, "what can be heard?  [M]", "question: answer"))
    for i, ((stroke, fill), row, purpose) in enumerate(rows):
        y = 441 + 27 * i
        parts += [box(162, y, 418, 23, stroke, fill, 6), words(172, y + 16, row, 13, anchor="start"),
                  words(594, y + 16, purpose, 13, stroke, "bold", "start")]
    return parts


def objectives() -> list[str]:
    parts = [heading(640, "objectives", "for every group")]
    named = ((160, CONTRASTIVE, "contrastive", "clip and text as vectors:", "which belong together?", "search: R@1, R@10"),
             (400, MATCHING, "matching", "text and clip together:", "does it belong?", "re-ranking the first 50"),
             (640, GENERATION, "generation", "word by word, seeing the", "clip: what comes next?", "captions, answers"))
    for x, (stroke, fill), name, first, second, use in named:
        centre = x + COLUMN / 2
        parts += [box(x, 618, COLUMN, 82, stroke, fill), words(centre, 640, name, 16, weight="bold"), words(centre, 662, first, 13),
                  words(centre, 680, second, 13), arrow([(centre, 700), (centre, 733)], stroke), box(x, 734, COLUMN, 38, stroke, PAPER, 19),
                  words(centre, 758, use, 14, stroke, "bold")]
    parts += [heading(757, "used for"),
              arrow([(510, 582), (510, 617)], MATCHING[0]), arrow([(750, 582), (750, 617)], GENERATION[0]),
              arrow([(750, 223), (138, 223), (138, 660), (159, 660)], CONTRASTIVE[0]),
              *(f'<circle cx="{middle(m):g}" cy="223" r="3.5" fill="{CONTRASTIVE[0]}"/>' for m in COLUMNS),
              words(20, 227, "pooled vectors", 12, CONTRASTIVE[0], "bold", "start"),
              arrow([(270, 618), (270, 583)], CONTRASTIVE[0], dashed=True),
              words(282, 605, "hard negatives", 13, CONTRASTIVE[0], "bold", "start")]
    return parts


def figure() -> str:
    """The whole figure as SVG."""
    title = "OmniVAST: the tracks of a clip are encoded once into a memory; texts of all groups and objectives attend to it in one forward"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
             'font-family="Helvetica, Arial, sans-serif">', f"<title>{escape(title)}</title>",
             box(1, 1, WIDTH - 2, HEIGHT - 2, "#d5dae1", PAPER, 14),
             *clip(), *towers(), *memory(), *text_model(), *objectives(), "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(figure())

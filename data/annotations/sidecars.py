"""The subtitle of a clip, from a file beside it: SubRip (.srt), WebVTT (.vtt), or a transcript (.txt). Captions that roll up, as those of
automatic recognition do, show each line several times: it counts once, when it is new."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path

TIMED = (".srt", ".vtt")
TRANSCRIPT = ".txt"
PAUSE = 0.1
"""Seconds between two cues of which the later follows at once."""
FLASH = 0.05
"""Seconds of a cue that nobody can read: those of 10 ms between the steps of captions that roll up."""


class Sidecars:
    """The subtitle files of a folder, each folder listed once. ``clip.srt``, ``clip.vtt``, ``clip.en.vtt`` and ``clip.txt`` are
    ``clip.mp4``'s; of several the first in this order, of several languages the one asked for, else the first by name."""

    def __init__(self, *, more: tuple[str, ...] = (), language: str = "en") -> None:
        """``more``: further endings of files with times, which come behind .vtt."""
        self._timed, self._language = (*TIMED, *more), f".{language.lower()}"
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def find(self, clip: Path, transcripts: bool = True) -> Path | None:
        """The file of a clip, None without one. ``transcripts``: a .txt counts (that of a picture is more often its caption)."""
        return next(iter(self.all(clip, transcripts)), None)

    def all(self, clip: Path, transcripts: bool = True) -> list[Path]:
        """All files of a clip, the one that counts first."""
        names = [name for name in self._listed(clip.parent).get(clip.stem, ()) if transcripts or not name.endswith(TRANSCRIPT)]

        def place(name: str) -> tuple[bool, bool, bool, bool, str]:
            ending = Path(name).suffix.lower()
            middle = name[len(clip.stem):-len(ending)].lower()
            return ending == TRANSCRIPT, ending not in TIMED, middle != "", not middle.startswith(self._language), f"{ending}{name}"

        return [clip.parent / name for name in sorted(names, key=place)]

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        """Stem of a clip → names of the subtitle files that may be its."""
        if folder not in self._folders:
            found: dict[str, list[str]] = {}
            for path in folder.iterdir():
                if path.suffix.lower() in (*self._timed, TRANSCRIPT) and not path.name.startswith("."):
                    found.setdefault(path.stem, []).append(path.name)
                    language = re.fullmatch(r"(.+)\.[A-Za-z]{2,3}([_-][A-Za-z0-9]+)*", path.stem)
                    if language and path.suffix.lower() in self._timed:
                        found.setdefault(language[1], []).append(path.name)
            self._folders[folder] = found
        return self._folders[folder]


def read_sidecar(path: Path) -> str:
    """The words of a subtitle file in one line, without times, numbers and marks. Raises OSError."""
    text = _decoded(path.read_bytes())
    return joined(text.splitlines() if path.suffix.lower() == TRANSCRIPT else [line for cue in _cues(text) for line in cue.lines])


@dataclass(frozen=True)
class Cue:
    """Lines that are shown from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def read_cues(path: Path) -> list[Cue] | None:
    """What is said when, of a .srt or .vtt file; None for a transcript, which has no times. Raises OSError."""
    return None if path.suffix.lower() == TRANSCRIPT else _cues(_decoded(path.read_bytes()))


def joined(lines: Iterable[str]) -> str:
    """Lines of subtitles as one, without marks."""
    said: list[str] = []
    for line in lines:
        words = " ".join(unescape(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", line)).split())
        # Captions that roll up show each line twice.
        if words and words not in said[-2:]:
            said.append(words)
    return " ".join(said)


def _cues(text: str) -> list[Cue]:
    """The lines of text that follow each line of times; a time that cannot be read is 0."""
    cues: list[Cue] = []
    within = False
    strict = text.startswith("WEBVTT")  # where a line of spaces is a line, as YouTube's automatic captions have them
    for line in text.splitlines():
        if "-->" in line:
            start, end = ([_seconds(time) for time in re.findall(r"[\d:.,]*\d", line)] + [0.0, 0.0])[:2]
            cues.append(Cue(start, end, ()))
            within = True
        elif not line.strip():
            within = within and strict and line != ""
        elif within:
            cues[-1] = replace(cues[-1], lines=(*cues[-1].lines, line))
    return _unrolled(cues)


def _unrolled(cues: list[Cue]) -> list[Cue]:
    """Without lines that only stay, moved up, from the cue before; cues that had nothing else are gone."""
    found: list[Cue] = []
    before = Cue(0.0, 0.0, ())
    words: tuple[str, ...] = ()
    for cue in cues:
        own = tuple(joined([line]) for line in cue.lines)
        count = next((number for number in range(min(len(words), len(own)), 0, -1) if words[-number:] == own[:number]), 0)
        stays = abs(cue.start - before.end) <= PAUSE and (count < len(own) or min(cue.end - cue.start, before.end - before.start) < FLASH)
        if not (count and stays):
            found.append(cue)
        elif count < len(own):
            found.append(replace(cue, lines=cue.lines[count:]))
        before, words = cue, own
    return found


def _seconds(time: str) -> float:
    """``01:02:03,500``, ``02:03.5`` → seconds."""
    parts = time.replace(",", ".").split(":")
    try:
        return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        return 0.0


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")

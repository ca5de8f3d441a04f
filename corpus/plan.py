"""Which sources a corpus is built from, and how: written once into its folder, and compared with what is asked later."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.data.annotations.own_clips import find_files
from omnivast.data.media.containers import VIDEO_EXTENSIONS
from omnivast.utils.files import write_atomically

SHARD = 16
"""Sources of a shard: what one worker takes at a time."""
BUILDER = 2
"""Raise it when the same settings would give other results."""


class BuildError(RuntimeError):
    """A corpus that cannot be built in this folder, or at all; the message says why and what would do."""


@dataclass(frozen=True)
class Settings:
    """What decides what is found in a source. How clips are made of it is decided anew by each call."""

    detector: str
    root: str
    """The folder below which the sources' paths are."""
    tower: str | None = None
    """By which frames are told alike, and its weights; None: by thumbnails."""
    builder: int = BUILDER


class Plan:
    """The folder of a corpus: its settings and its sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._settings, self._sources = folder / "corpus.json", folder / "sources"

    def open(self, videos: Sequence[str], detector: str, tower: str | None = None) -> Settings:
        """Write down what is asked, or check that it is what was asked before; sources that were not there before come behind the others.
        Raises BuildError or DataError."""
        found = find_files(videos)
        names = [name for name in found.subtitles if Path(name).suffix.lower() in VIDEO_EXTENSIONS]
        if not names:
            raise BuildError(f"{', '.join(videos)}: holds no video")
        settings = Settings(detector, str(found.root), tower)
        if self._settings.exists():
            self._check(settings)
        elif self.folder.is_dir() and any(path for path in self.folder.iterdir() if path.name != "log"):
            raise BuildError(f"{self.folder} holds files that this command did not write; name an empty or a new folder")
        else:
            write_atomically(self._settings, json.dumps(asdict(settings), indent=1) + "\n")
        self._add(names)
        return settings

    def _check(self, settings: Settings) -> None:
        before = json.loads(self._settings.read_text())
        differing = [f"{key} {before.get(key)!r} (asked: {value!r})" for key, value in asdict(settings).items() if before.get(key) != value]
        if differing:
            raise BuildError(f"{self.folder} is another corpus: {', '.join(differing)}; name another folder for --output")

    def _add(self, names: Sequence[str]) -> None:
        rows = self.sources()
        known = {row["path"] for row in rows}
        first = int(rows[-1]["shard"]) + 1 if rows else 0
        new = [name for name in names if name not in known]
        for number, start in enumerate(range(0, len(new), SHARD)):
            shard = f"{first + number:05d}"
            own = [{"id": name, "path": name, "shard": shard} for name in new[start : start + SHARD]]
            write_atomically(self._sources / f"{shard}.jsonl", b"".join(map(line_of, own)))

    def sources(self) -> list[Row]:
        """``id``, ``path`` below the root, ``shard``."""
        return [row for path in sorted(self._sources.glob("*.jsonl")) for row in read_rows(path)]

    def sizes(self) -> dict[str, int]:
        """Shard → how many sources it has."""
        return dict(Counter(row["shard"] for row in self.sources()))

    def settings(self) -> dict[str, Any]:
        return json.loads(self._settings.read_text())

    def note(self, **facts: Any) -> None:
        """Write down what is good to know of a corpus besides; what was noted first stays."""
        known = self.settings()
        if facts.keys() - known.keys():
            write_atomically(self._settings, json.dumps({**facts, **known}, indent=1) + "\n")


def items_of(folder: Path, shard: str) -> list[Row]:
    """The sources of a shard."""
    return list(read_rows(folder / "sources" / f"{shard}.jsonl"))

"""The stage ``subtitles``: a source → what is said in it, and when. The first of these counts that has words: a file beside the source, a
track inside it, its speech where a recogniser is named."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.engine.workers import Stage, redo_from
from omnivast.corpus.models import fingerprint
from omnivast.corpus.plan import Plan
from omnivast.corpus.subtitles.cues import Subtitles
from omnivast.corpus.subtitles.files import read_files, sidecars
from omnivast.corpus.subtitles.speech import Command, Recogniser, SpeechError, SpeechSetupError, recognise, recogniser, runs_a_model
from omnivast.corpus.subtitles.tracks import read_track
from omnivast.corpus.subtitles.voice import Voice
from omnivast.data.annotations.sidecars import Sidecars
from omnivast.data.media.containers import VIDEO_EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.utils.files import write_atomically

READER = 1
"""Raise it when the same files and settings would give other results."""
KEY = 12
"""Characters of a hash in the name of a folder."""


@dataclass(frozen=True)
class Speech:
    """How subtitles are found."""

    asr: str | None = None
    """``whisper:FOLDER``, ``faster-whisper:FOLDER`` or a command; None: speech is not recognised."""
    language: str = "en"
    """Which of several files and tracks is taken, the first two letters of a code."""
    spoken: str | None = None
    """The language of the speech; None: the recogniser says."""

    def check(self) -> None:
        """Raises SpeechSetupError or ImportError for a recogniser that cannot be used, before a source is opened."""
        if self.asr is None:
            return
        if runs_a_model(self.asr):
            folder = as_path(self.asr.partition(":")[2])
            if not (folder / "config.json").is_file():
                raise SpeechSetupError(f"--asr {self.asr}: expected a folder with a model, but there is no {folder / 'config.json'}")
        else:
            Command(self.asr)
        Voice()

    @property
    def name(self) -> str | None:
        """What recognises speech, by the name of a model's folder, wherever that lies; None: nothing does."""
        if self.asr is None or not runs_a_model(self.asr):
            return self.asr
        kind, _, folder = self.asr.partition(":")
        return f"{kind}:{as_path(folder).name}"

    @property
    def decisive(self) -> dict[str, Any]:
        """What results depend on."""
        model = fingerprint(as_path(self.asr.partition(":")[2])) if self.asr and runs_a_model(self.asr) else None
        return {"asr": self.name, "model": model, "language": self.language, "spoken": self.spoken, "reader": READER}


def subtitles_of(path: Path, files: Sequence[str], how: Speech, by: tuple[Voice, Recogniser] | None) -> Subtitles:
    """Of one video or sound. ``files``: subtitle files beside it, the one that counts first. Raises MediaError, SpeechError, OSError."""
    found = read_files(path, files)
    if found is None and path.suffix.lower() in VIDEO_EXTENSIONS:
        found = read_track(path, how.language)
    if found is None and by is not None:
        found = recognise(path, *by, how.spoken, how.name or "")
    return found or Subtitles()


@functools.lru_cache(maxsize=1)
def tools(asr: str | None) -> tuple[Voice, Recogniser] | None:
    """What recognises speech, once in a process."""
    return (Voice(), recogniser(asr)) if asr is not None else None


def subtitles_item(item: Row, settings: dict[str, Any]) -> Row:
    """A source that cannot be read, or whose speech cannot be recognised, is a result with ``failed``."""
    how: Speech = settings["how"]
    try:
        found = subtitles_of(Path(settings["root"], item["path"]), [name for name, *_ in item["files"]], how, tools(how.asr))
    except MediaError as error:
        return {"id": item["id"], "failed": error.reason}
    except SpeechError as error:
        return {"id": item["id"], "failed": str(error)}
    except OSError as error:
        return {"id": item["id"], "failed": f"a subtitle file cannot be read: {error.strerror}"}
    return {"id": item["id"], **found.to_json()}


def subtitles_stage(output: Path, how: Speech) -> Stage:
    """The stage for the sources of a corpus. Those beside which files came, went or changed since are done again, and with them those
    behind them in their shard."""
    plan = Plan(output)
    root = Path(plan.settings()["root"])
    decisive = hashlib.sha256(json.dumps(how.decisive, sort_keys=True).encode()).hexdigest()[:KEY]
    folder = output / "work" / f"subtitles_{decisive}"
    stage = Stage("subtitles", subtitles_item, {"root": str(root), "how": how}, folder, partial(_items, folder / "items"), plan.sizes())
    known: dict[str, list[Row]] = {}
    beside = sidecars(how.language)
    for row in plan.sources():
        known.setdefault(row["shard"], []).append({"id": row["id"], "path": row["path"], "files": _files(root / row["path"], beside)})
    stage.leases.open(list(stage.sizes))
    taken = {path.name.split("@")[0] for path in stage.leases.taken.iterdir()}
    for shard, items in known.items():
        path = folder / "items" / f"{shard}.jsonl"
        before = list(read_rows(path)) if path.exists() else []
        changed = next((number for number, pair in enumerate(zip(before, items)) if pair[0] != pair[1]), None)
        if shard in taken and before:
            continue  # by another machine; the next call sees what changed
        if changed is not None:
            redo_from(stage, shard, changed)
        if before != items:
            write_atomically(path, b"".join(map(line_of, items)))
    return stage


def told(rows: Iterable[Row]) -> dict[str, Any]:
    """What the summary says: sources by where their words come from, by language, and those that failed by reason."""
    origins: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for row in rows:
        if "failed" in row:
            failed[row["failed"]] += 1
            continue
        origins[row["from"] or "none"] += 1
        if row["from"]:
            languages[row["language"] or "not said"] += 1
    return {"from": dict(sorted(origins.items())), "languages": dict(sorted(languages.items())), "failed": dict(sorted(failed.items()))}


def _items(folder: Path, shard: str) -> list[Row]:
    return list(read_rows(folder / f"{shard}.jsonl"))


def _files(video: Path, beside: Sidecars) -> list[list[Any]]:
    """[name, bytes, time of the last change] of each subtitle file beside a video, the one that counts first."""
    found = []
    for path in beside.all(video, transcripts=False):
        state = path.stat()
        found.append([path.name, state.st_size, state.st_mtime_ns])
    return found

"""The index on disk: a folder that grows by appending.

``meta.json``
    what made it: the model, how it was shown clips, the windows. An index is only ever searched and extended by that model.
``vectors/<group>.<name>.f16``
    what the model compares moments by, float16, a row for every moment; zeros where a moment lacks a track of the group.
``clips.sqlite``
    files (path, size, time of change, why it could not be read) and moments (row, file, start, end, tracks), and a full-text index of
    what is said.
``background.json``
    texts about other things, against which scores are calibrated.
``known/``, ``rerank.json``
    clips whose texts are known, an index of their own, and what was fitted by them; where that was done.

Rows are appended first and become valid with the transaction that names them: whatever a killed process left behind them is cut off when
the index is next opened for writing. Rows of files that are gone stay, unnamed.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from omnivast.config.paths import looked_up
from omnivast.model.interface import Rows
from omnivast.training.checkpoints.checkpoint import OutputDirError, on_main
from omnivast.training.checkpoints.lock import OutputLock
from omnivast.utils.files import write_atomically

META, VECTORS, CLIPS = "meta.json", "vectors", "clips.sqlite"
FORMAT = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY, path TEXT UNIQUE NOT NULL, size INTEGER NOT NULL, changed INTEGER NOT NULL,
    words TEXT NOT NULL, seconds REAL, fault TEXT);
CREATE TABLE IF NOT EXISTS moments (row INTEGER PRIMARY KEY, file INTEGER NOT NULL REFERENCES files (id), start REAL NOT NULL,
    stop REAL NOT NULL, tracks TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS moments_of ON moments (file);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS said USING fts5 (words, tokenize = 'porter unicode61');
"""


class BadIndexError(ValueError):
    """An index that cannot be used as asked; the message names the folder and what to do."""


@dataclass(frozen=True)
class Meta:
    """What made an index."""

    model: str
    """Where the model was loaded from: searching loads it from there."""
    weights: str
    """sha256 of its weights."""
    shown: dict[str, Any]
    """How it was shown clips: frames, slices, transform, resolution."""
    window: float
    stride: float
    groups: list[str]
    """Keys of the groups that are compared: "vas", "va", "v" …"""
    shapes: dict[str, dict[str, list[int]]]
    """Group → name of a tensor → the shape of its row."""
    root: str
    """The folder that paths are below."""
    omnivast: str
    """The version that began it."""
    format: int = FORMAT


@dataclass(frozen=True)
class File:
    """A file as it was when it was indexed."""

    path: str
    """Below the root, with ``/``."""
    size: int
    changed: int
    """Time of change, in ns."""
    words: str = ""
    """Name, size and time of change of the file with its subtitles; "" without one."""
    seconds: float | None = None
    fault: str | None = None
    """Why it could not be read."""

    @property
    def unread(self) -> File:
        """It, as it is known before it is read."""
        return replace(self, seconds=None, fault=None)


@dataclass(frozen=True)
class Place:
    """A moment as it is kept."""

    path: str
    start: float
    end: float
    tracks: str
    """Letters of the modalities that it has: "va"."""


class Store:
    """An opened index. One process may write; any number may read, and see what was written before they opened it."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder, self.meta = folder, meta
        self._clips = sqlite3.connect(folder / CLIPS, check_same_thread=False)
        self._clips.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + SCHEMA)

    # ------------------------------------------------------------------------------------------------------------ opening

    @classmethod
    def read(cls, folder: Path) -> Store:
        """An index to search. Raises BadIndexError where there is none."""
        return cls(folder, read_meta(folder))

    @classmethod
    @contextmanager
    def write(cls, folder: Path, meta: Meta) -> Iterator[Store]:
        """An index to extend, new or made by the same model; what a killed process left unfinished is cut off. Raises BadIndexError for one
        that was made otherwise, and for one that another process is writing. Of the processes of a launcher, all enter it and rank 0
        writes."""
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            store = cls(folder, on_main(lambda: _begun(folder, meta)))
            try:
                yield store
            finally:
                store.close()

    @classmethod
    def begin(cls, folder: Path, meta: Meta) -> Store:
        """As :meth:`write`, of a folder that no other process writes."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, _begun(folder, meta))

    def close(self) -> None:
        """Close the database."""
        self._clips.close()

    # ------------------------------------------------------------------------------------------------------------ reading

    def __len__(self) -> int:
        """How many moments there are."""
        return int(self._clips.execute("SELECT count(*) FROM moments").fetchone()[0])

    @property
    def rows(self) -> int:
        """Rows of the vectors, those without a moment included."""
        found = self._clips.execute("SELECT value FROM counts WHERE name = 'rows'").fetchone()
        return int(found[0]) if found else 0

    def files(self) -> dict[str, File]:
        """All files by path."""
        found = self._clips.execute("SELECT path, size, changed, words, seconds, fault FROM files ORDER BY path")
        return {row[0]: File(*row) for row in found}

    def places(self, rows: Sequence[int]) -> list[Place]:
        """The moments of some rows, in their order."""
        query = "SELECT path, start, stop, tracks FROM moments JOIN files ON file = id WHERE row = ?"
        return [Place(*self._clips.execute(query, (int(row),)).fetchone()) for row in rows]

    def moments(self, path: str) -> list[tuple[int, Place, str]]:
        """(row, place, what is said) of each moment of a file, in order."""
        query = "SELECT row, path, start, stop, tracks FROM moments JOIN files ON file = id WHERE path = ? ORDER BY row"
        return [(row, Place(*place), self.words(row)) for row, *place in self._clips.execute(query, (path,)).fetchall()]

    def words(self, row: int) -> str:
        """What is said in a moment."""
        found = self._clips.execute("SELECT words FROM said WHERE rowid = ?", (int(row),)).fetchone()
        return found[0] if found else ""

    def tracks(self) -> np.ndarray:
        """(rows,) uint8: which modalities each row has, v 1, a 2, s 4; 0 for rows without a moment."""
        bits = np.zeros(self.rows, np.uint8)
        for row, tracks in self._clips.execute("SELECT row, tracks FROM moments"):
            bits[row] = sum(1 << "vas".index(letter) for letter in tracks)
        return bits

    def vectors(self, group: str) -> dict[str, np.ndarray]:
        """(rows, …) float16 arrays of a group, mapped from their files; what is written into one is seen by nobody else."""
        count, shapes = self.rows, self.meta.shapes.get(group, {})
        return {name: np.memmap(self._file(group, name), np.float16, "c", shape=(count, *shape)) if count
                else np.empty((0, *shape), np.float16) for name, shape in shapes.items()}

    def saying(self, words: str, limit: int) -> list[tuple[int, float]]:
        """(row, relevance by BM25, larger is better) of the moments in which any of ``words`` is said, the best first."""
        query = " OR ".join('"' + word.replace('"', '""') + '"' for word in words.split())
        if not query:
            return []
        found = self._clips.execute("SELECT rowid, -rank FROM said WHERE said MATCH ? ORDER BY rank LIMIT ?", (query, limit))
        return [(int(row), float(rank)) for row, rank in found]

    # ------------------------------------------------------------------------------------------------------------ writing

    def append(self, vectors: Mapping[str, Rows]) -> int:
        """Append n rows of every group; they are not valid before :meth:`commit`. Returns n."""
        (self.folder / VECTORS).mkdir(exist_ok=True)
        for group, rows in vectors.items():
            for name, x in rows.tensors.items():
                with open(self._file(group, name), "ab") as file:
                    x.half().numpy().tofile(file)
        return len(next(iter(vectors.values())))

    def commit(self, found: Sequence[tuple[File, Sequence[tuple[Place, str]]]]) -> None:
        """Make the rows appended since the last commit valid: of each file its moments with what is said in them, in the order in which
        they were appended. What was known of these files before goes."""
        for path in (self.folder / VECTORS).glob("*.f16"):
            with open(path, "rb") as written:
                os.fsync(written.fileno())
        row = self.rows
        with self._clips:
            for file, moments in found:
                self._forget(file.path)
                cursor = self._clips.execute("INSERT INTO files (path, size, changed, words, seconds, fault) VALUES (?, ?, ?, ?, ?, ?)",
                                             (file.path, file.size, file.changed, file.words, file.seconds, file.fault))
                for place, words in moments:
                    self._clips.execute("INSERT INTO moments VALUES (?, ?, ?, ?, ?)",
                                        (row, cursor.lastrowid, place.start, place.end, place.tracks))
                    if words:
                        self._clips.execute("INSERT INTO said (rowid, words) VALUES (?, ?)", (row, words))
                    row += 1
            self._clips.execute("INSERT OR REPLACE INTO counts VALUES ('rows', ?)", (row,))

    def remove(self, paths: Iterable[str]) -> None:
        """Take files out of the index."""
        with self._clips:
            for path in paths:
                self._forget(path)

    def _forget(self, path: str) -> None:
        self._clips.execute("DELETE FROM said WHERE rowid IN (SELECT row FROM moments JOIN files ON file = id WHERE path = ?)", (path,))
        self._clips.execute("DELETE FROM moments WHERE file IN (SELECT id FROM files WHERE path = ?)", (path,))
        self._clips.execute("DELETE FROM files WHERE path = ?", (path,))

    def _file(self, group: str, name: str) -> Path:
        return self.folder / VECTORS / f"{group}.{name}.f16"

    def cut(self) -> None:
        """Cut off rows that no transaction has named."""
        for group, shapes in self.meta.shapes.items():
            for name, shape in shapes.items():
                path = self._file(group, name)
                if path.is_file():
                    os.truncate(path, self.rows * 2 * int(np.prod(shape)))


def _begun(folder: Path, meta: Meta) -> Meta:
    """Make an index, or check that it was made alike and cut off what is unfinished; what made it."""
    if (folder / META).is_file():
        known = read_meta(folder)
        check_same(folder, known, meta)
        meta = known
    else:
        write_atomically(folder / META, json.dumps(asdict(meta), indent=1) + "\n")
    store = Store(folder, meta)
    store.cut()
    store.close()
    return meta


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The one process that writes an index. Raises BadIndexError where there is another."""
    try:
        with OutputLock(folder):
            yield
    except OutputDirError as error:
        raise BadIndexError(f"{folder}: cannot be written now: {error}") from None


def read_meta(folder: Path) -> Meta:
    """What made the index in a folder. Raises BadIndexError."""
    try:
        content = json.loads((folder / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadIndexError(f"{folder}: no index{looked_up(folder)}; make one: omnivast index VIDEOS --model RUN") from None
    if content.get("format") != FORMAT:
        raise BadIndexError(f"{folder}: an index of format {content.get('format')}; this version reads {FORMAT}")
    return Meta(**content)


def check_same(folder: Path, known: Meta, meta: Meta) -> None:
    """Raise BadIndexError where an index was made otherwise than it is to be extended or searched."""
    names = ("weights", "shown", "window", "stride", "groups")
    differences = [f"{name}: {getattr(known, name)}, now {getattr(meta, name)}" for name in names
                   if getattr(known, name) != getattr(meta, name)]
    if differences:
        raise BadIndexError("\n  ".join([f"{folder}: was made otherwise, and vectors of two kinds cannot be compared:", *differences,
                                       "Index anew with --fresh, or into another folder with --index"]))

"""Annotations of tens of millions of rows: read once into a memory-mapped file of columns beside the JSON (Arrow IPC, through pyarrow),
whose pages all workers and processes of a machine share.

``x.json`` gets ``x.json.<key>.arrow``, the rows, and ``x.json.<key>.arrow.json``, what is known of them all; ``key`` stands for the
settings that change what is read. Both are whole or absent, and used only as long as the JSON has the size and the time, or else the
SHA-256, that it was read with. Of several processes one converts and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from array import array
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omnivast.config.extras import is_installed, not_installed
from omnivast.config.files import why_not_json
from omnivast.config.tasks import CaptionKind
from omnivast.data.annotations.json_stream import entries
from omnivast.data.annotations.rows import KINDS, AnnotationError, Row, RowReader, pack
from omnivast.data.annotations.table import Annotations, mark_of
from omnivast.data.derived import first_writable, locked, places
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.log import Progress, progress

FORMAT = 2
ROWS = 8192
"""Rows of a record batch."""
LISTS = ("questions", "answers", "question_ids", "question_types", "answer_types")
NEGATIVES, TOLD = "negatives", ("title", "description")
"""Files of earlier versions lack these columns, since rows with such a field were an error."""

logger = logging.getLogger("omnivast")


class MappedAnnotations(Annotations):
    """Rows in a memory-mapped file."""

    def __init__(self, path: Path, arrow: Path, facts: dict[str, Any]) -> None:
        """``facts``: the content of the file beside ``arrow``. Raises AnnotationError where they do not belong together."""
        self.path, self.sha256 = path, facts["sha256"]
        self.kinds = frozenset(CaptionKind(kind) for kind in facts["kinds"])
        self.with_subtitle, self.caption_count = facts["with_subtitle"], facts["caption_count"]
        self.question_count, self.with_negatives = facts["question_count"], facts.get("with_negatives", 0)
        self._arrow, self._facts = arrow, facts
        self._open()

    def __len__(self) -> int:
        return self._facts["rows"]

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        batch, row = divmod(index, ROWS)
        values = {name: column[row].as_py() for name, column in self._columns(batch).items()}
        captions = {kind: values[kind.value] for kind in KINDS if values[kind.value]}
        lists = {name: values[name] for name in LISTS}
        return Row(values["clip_id"], captions, values["subtitle"], **lists, negatives=values.get(NEGATIVES) or [],
                   title=values.get("title") or "", description=values.get("description") or "")

    def marks(self) -> tuple[int, str]:
        """As ``Annotations.marks``; without marks ("") for files that were converted by a version that wrote none."""
        return ROWS, self._facts.get("marks", "")

    def ids(self) -> list[str]:
        return [clip_id for batch in range(self._reader.num_record_batches) for clip_id in self._columns(batch)["clip_id"].to_pylist()]

    def first_lacking(self, kinds: set[CaptionKind], questions: bool) -> int | None:
        for batch in range(self._reader.num_record_batches):
            columns = self._columns(batch)
            without_omni = _lengths(columns[CaptionKind.OMNI.value]) == 0
            lacking = np.zeros(len(without_omni), dtype=bool)
            for kind in kinds:
                lacking |= without_omni & (_lengths(columns[kind.value]) == 0)
            if questions:
                lacking |= _lengths(columns["questions"]) == 0
            if lacking.any():
                return batch * ROWS + int(lacking.argmax())
        return None

    def repeats(self) -> tuple[int, int, int] | None:
        return self._facts["repeats"] and tuple(self._facts["repeats"])

    def repeated_id(self) -> tuple[int, int] | None:
        return self._facts["repeats"] and tuple(self._facts["repeats"][1:])

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_reader", "_batches")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(use_threads=False)
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(self._arrow)), options=options)
        except (OSError, pa.ArrowInvalid) as error:
            raise AnnotationError(f"{self._arrow}: cannot be read ({error}); delete it, and it is made again") from None
        if (self._reader.schema.metadata or {}).get(b"build") != self._facts["build"].encode():
            raise AnnotationError(f"{self._arrow}: another process has replaced it; start again")
        self._batches: dict[int, dict[str, Any]] = {}

    def _columns(self, batch: int) -> dict[str, Any]:
        """Name → Arrow array of a record batch; nothing is copied."""
        if batch not in self._batches:
            record = self._reader.get_batch(batch)
            self._batches[batch] = dict(zip(record.schema.names, record.columns))
        return self._batches[batch]


def load_mapped(path: Path, reader: RowReader) -> MappedAnnotations:
    """The rows of a JSON list, converted if that has not been done. Raises AnnotationError."""
    if not is_installed("pyarrow"):
        raise AnnotationError(f"{path}: annotations of {path.stat().st_size / 2**20:.0f} MiB are kept in a memory-mapped file, but "
                              f"{not_installed('pyarrow')}")
    key = hashlib.sha256(json.dumps([FORMAT, *reader.settings]).encode()).hexdigest()[:8]
    candidates = places(path, "annotations", f"{key}.arrow")
    for arrow in candidates:
        facts = _known(path, arrow)
        if facts is not None:
            break
    else:
        arrow = first_writable(candidates, f"{path}: its rows are kept in a memory-mapped file", AnnotationError)
        with locked(arrow, "converted"):
            facts = _known(path, arrow) or _convert(path, arrow, reader)
    reader.blanks, reader.first_blank = facts["blanks"], facts.get("first_blank", "")
    return MappedAnnotations(path, arrow, facts)


def _known(path: Path, arrow: Path) -> dict[str, Any] | None:
    """The facts beside the Arrow file, if they still hold for the JSON file; None where the rows must be converted (again)."""
    beside, status = _facts_of(arrow), path.stat()
    try:
        facts = json.loads(beside.read_bytes())
        if facts["format"] != FORMAT or facts["size"] != status.st_size or facts["arrow_size"] != arrow.stat().st_size:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if facts["mtime_ns"] != status.st_mtime_ns:
        if facts["sha256"] != sha256_file(path):
            return None
        facts["mtime_ns"] = status.st_mtime_ns
        if os.access(arrow.parent, os.W_OK):
            write_atomically(beside, json.dumps(facts))
    return facts


def _facts_of(arrow: Path) -> Path:
    return arrow.with_name(arrow.name + ".json")


# -------------------------------------------------------------------------------------------------------------- conversion


class _Totals:
    """Counts and hashes over all rows, gathered while they are converted."""

    def __init__(self, training: bool) -> None:
        self.kinds: set[CaptionKind] = set()
        self.rows = self.with_subtitle = self.caption_count = self.question_count = self.with_negatives = 0
        self._training, self._hashes = training, array("q")
        self.marks: list[str] = []

    def add(self, row: Row) -> None:
        self.rows += 1
        self.kinds.update(row.captions)
        self.with_subtitle += row.subtitle is not None
        self.caption_count += len(row.captions.get(CaptionKind.OMNI) or next(iter(row.captions.values()), ()))
        self.question_count += len(row.questions)
        self.with_negatives += bool(row.negatives)
        self._hashes.append(hash(_content(row)) if self._training else hash(row.clip_id))

    def repeats(self) -> tuple[int, int, int] | None:
        """As ``Annotations.repeats``, comparing whole rows in training and clip ids in evaluation. It compares 64-bit hashes, which take
        8 bytes a row."""
        hashes = np.frombuffer(self._hashes, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
        if not len(again):
            return None
        index = int(order[again].min())
        return len(again), index, int(np.flatnonzero(hashes == hashes[index])[0])

    def facts(self) -> dict[str, Any]:
        return {"rows": self.rows, "kinds": sorted(kind.value for kind in self.kinds), "with_subtitle": self.with_subtitle,
                "caption_count": self.caption_count, "question_count": self.question_count, "with_negatives": self.with_negatives,
                "repeats": self.repeats(), "marks": "".join(self.marks)}


def _convert(path: Path, arrow: Path, reader: RowReader) -> dict[str, Any]:
    before, digest, build = path.stat(), hashlib.sha256(), uuid.uuid4().hex
    totals = _Totals(reader.training)
    logger.info("%s: %.0f MiB of annotations are converted to %s, once", path, before.st_size / 2**20, arrow)

    def write(output: BinaryIO) -> None:
        bar: Progress[Any] = progress(before.st_size >> 20, "annotations", unit="MiB")
        with open(path, "rb") as file, bar:
            def seen(chunk: bytes) -> None:
                digest.update(chunk)
                bar.update((file.tell() >> 20) - bar.count)

            rows = (reader.read(index, item) for index, item in enumerate(entries(file, seen)))
            _write(rows, output, build, totals)

    try:
        write_atomically(arrow, write)
    except AnnotationError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {why_not_json(error)}") from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be converted to {arrow}: {error.strerror or error}") from None
    if not totals.rows:
        arrow.unlink()
        raise AnnotationError(f"{path}: the list is empty")
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise AnnotationError(f"{path}: it changed while it was read; start again")
    facts = {"format": FORMAT, "build": build, "size": after.st_size, "mtime_ns": after.st_mtime_ns, "sha256": digest.hexdigest(),
             "arrow_size": arrow.stat().st_size, "blanks": reader.blanks, "first_blank": reader.first_blank, **totals.facts()}
    write_atomically(_facts_of(arrow), json.dumps(facts))
    return facts


def _write(rows: Iterable[Row], output: BinaryIO, build: str, totals: _Totals) -> None:
    import pyarrow as pa

    texts = pa.list_(pa.string())
    fields = [("clip_id", pa.string()), *((kind.value, texts) for kind in KINDS), ("subtitle", pa.string()),
              *((n, texts) for n in (*LISTS, NEGATIVES)), *((n, pa.string()) for n in TOLD)]
    schema = pa.schema(fields, metadata={"build": build})
    rows = iter(rows)
    with pa.ipc.new_file(output, schema) as file:
        while chunk := list(islice(rows, ROWS)):
            for row in chunk:
                totals.add(row)
            totals.marks.append(mark_of(pack(row) for row in chunk))
            columns = [[row.clip_id for row in chunk], *([row.captions.get(kind, []) for row in chunk] for kind in KINDS),
                       [row.subtitle for row in chunk], *([getattr(row, name) for row in chunk] for name in (*LISTS, NEGATIVES, *TOLD))]
            file.write_batch(pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema))


def _content(row: Row) -> tuple[object, ...]:
    lists = [row.captions.get(kind, ()) for kind in KINDS] + [getattr(row, name) for name in (*LISTS, NEGATIVES)]
    return (row.clip_id, row.subtitle, row.title, row.description, *map(tuple, lists))


def _lengths(column: Any) -> np.ndarray:
    """Texts in each list of a column."""
    return np.diff(column.offsets.to_numpy())

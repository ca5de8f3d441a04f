"""The rows of a corpus as columns: ``index.parquet``, for pyarrow, pandas, DuckDB and the like. Lost clips are in it too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from omnivast.corpus.engine.results import Row, read_rows
from omnivast.corpus.pack.rows import OMNI, ROWS
from omnivast.utils.files import write_atomically

INDEX = "index.parquet"
BATCH = 8192
"""Rows of a row group."""


def write_index(output: Path, shards: list[dict[str, Any]]) -> Path:
    """``shards``: of ``shards.json``. Needs pyarrow (extra ``large``)."""
    import pyarrow as pa
    from pyarrow import parquet

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    schema = pa.schema([
        ("clip_id", text), ("source", text), ("start", number), ("end", number), ("first", whole), ("last", whole),
        ("pts", pa.list_(whole)), ("time_base", text),
        ("modalities", text), ("subtitle", text), ("vision_cap", pa.list_(text)), ("audio_cap", pa.list_(text)),
        (OMNI, text), ("how", text), ("shard", text), ("lost_stage", text), ("lost_reason", text), ("history", text)])

    def write(file: BinaryIO) -> None:
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            rows = _columns(output, shards)
            while part := list(islice(rows, BATCH)):
                writer.write_table(pa.Table.from_pylist(part, schema))

    return write_atomically(output / INDEX, write)


def _columns(output: Path, shards: list[dict[str, Any]]) -> Iterator[Row]:
    ends = iter(shards)
    shard = next(ends, None)
    for place, row in enumerate(read_rows(output / ROWS)):
        while shard is not None and place >= shard["rows"][1]:
            shard = next(ends, None)
        history = row["history"]
        lost = history.get("lost")
        named = {key: history[key] for key in ("source", "start", "end", "first", "last", "pts", "time_base", "modalities")}
        yield {**{key: value for key, value in row.items() if key != "history"}, **named, "how": history.get("fuse", {}).get("how"),
               "shard": shard["name"] if shard is not None and lost is None else None, "lost_stage": lost and lost["stage"],
               "lost_reason": lost and lost["reason"], "history": json.dumps(history, ensure_ascii=False)}

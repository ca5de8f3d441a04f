"""Rows and files of clips → tar shards, and the annotation files beside them that trainings read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from omnivast.corpus.engine.results import Row, read_rows
from omnivast.corpus.pack.rows import FIELD_OF, OMNI, ROWS
from omnivast.corpus.plan import BuildError
from omnivast.data.shards.pack import FORMAT, Sample, write_shards
from omnivast.data.shards.shard_index import key_of
from omnivast.utils.files import sha256_file, write_atomically

SHARD_BYTES = 2**30
"""After which a shard is closed."""
GROUPS = {"vas": "tvas%tva%tvs%tv%ta", "va": "tva%tv%ta", "vs": "tvs%tv", "v": "tv"}
"""Modalities that clips have → the groups that a training on fused captions learns; what a clip lacks is told to the model as missing."""


def kept(output: Path) -> Iterator[tuple[int, Row]]:
    """(its place in ``rows.jsonl``, row) of the clips that are not lost."""
    return ((place, row) for place, row in enumerate(read_rows(output / ROWS)) if "lost" not in row["history"])


def pack_shards(output: Path, shard_size: int = SHARD_BYTES) -> dict[str, Any]:
    """``shards/``: the file of each clip, and its row as ``key.json``. Shards of other rows are replaced. What ``shards.json`` says.
    Raises BuildError, DataError and OSError."""
    settings = {"format": FORMAT, "rows_sha256": sha256_file(output / ROWS), "shard_size": shard_size}

    def survey(manifest: dict[str, Any]) -> Iterator[Sample]:
        manifest["samples"] = sum(_checked(output, row) for _, row in kept(output))
        if not manifest["samples"]:
            raise BuildError(f"{output}: no clip is left to pack; {ROWS} says of each at which stage it was lost, and why")
        begin = manifest["shards"][-1]["rows"][1] if manifest["shards"] else 0
        return (_sample(output, place, row) for place, row in kept(output) if place >= begin)

    return write_shards(output / "shards", "clips", shard_size, settings, survey, anew=True)


def _checked(output: Path, row: Row) -> bool:
    """Before anything is written: whether the clip's file is there as it was cut."""
    path, file = output / "clips" / row["history"]["file"]["file"], row["history"]["file"]
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        size = -1
    if size != file["bytes"]:
        state = "is absent" if size < 0 else f"has {size} bytes in place of {file['bytes']}"
        raise BuildError(f"{path}: {state}; remove {output / 'work'}/cut_{row['history']['made_by']['cut']}_* and repeat the command, "
                         "which then cuts the clips again")
    return True


def _sample(output: Path, place: int, row: Row) -> Sample:
    name = row["history"]["file"]["file"]
    text = json.dumps(row, ensure_ascii=False).encode()
    return Sample(place, key_of(row["clip_id"]), {os.path.splitext(name)[1]: str(output / "clips" / name)}, text)


def write_annotations(output: Path) -> dict[str, dict[str, Any]]:
    """``annotations/vision.json``, ``audio.json`` and ``omni.json`` for the ``txt`` of a dataset: clips with captions of the kind, omni
    those with all of their captions and subtitle. Kinds that there are none of have no file. Kind → file, clips, and the tasks to train."""
    found: dict[str, dict[str, Any]] = {}
    for kind, field in {**FIELD_OF, "omni": OMNI}.items():
        fields = ("clip_id", *FIELD_OF.values(), OMNI, "subtitle") if kind == "omni" else ("clip_id", field)
        path = output / "annotations" / f"{kind}.json"
        clips, there = 0, set[str]()
        for _, row in kept(output):
            if field in row:
                clips, there = clips + 1, there | set(row["history"]["modalities"])
        if not clips:
            path.unlink(missing_ok=True)
            continue
        write_atomically(path, _list({key: row[key] for key in fields if key in row} for _, row in kept(output) if field in row))
        groups = GROUPS["".join(letter for letter in "vas" if letter in there)] if kind == "omni" else f"t{kind[0]}"
        found[kind] = {"txt": f"annotations/{kind}.json", "clips": clips, "task": f"ret%{groups}_cap%{groups}"}
    return found


def _list(rows: Iterable[Row]) -> Callable[[BinaryIO], None]:
    """Writes a JSON list, a row on a line, without holding it."""
    def write(file: BinaryIO) -> None:
        before = b"[\n"
        for row in rows:
            file.write(before + json.dumps(row, ensure_ascii=False).encode())
            before = b",\n"
        file.write(b"\n]\n")

    return write

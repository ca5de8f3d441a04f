"""An index as a file of another program: a Parquet table of moments with their vectors, or a FAISS index of one group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from omnivast.config.extras import import_extra
from omnivast.config.paths import as_path
from omnivast.config.tasks import Group, Modality
from omnivast.config.words import did_you_mean
from omnivast.inference.index.store import BadIndexError, Store
from omnivast.utils.files import write_atomically

Format = Literal["parquet", "faiss"]
AT_ONCE = 1 << 14
"""Moments that are written at once."""


def export_index(store: Store, path: str | Path, format: Format | None = None, group: str | None = None) -> Path:
    """Write the moments of an index, in the order of its rows.

    ``parquet``: a row for every moment: path, start, end (s), tracks, said, and a list of float16 for every group and tensor by which the
    model compares (``va``, or ``va.name`` where these are several or not called vector), null where the moment lacks a track of the group.

    ``faiss``: an ``IndexFlatIP`` of the float32 vectors of one group, of the moments that have all its tracks. Beside ``x.faiss`` lies
    ``x.faiss.json`` with their places: number in the index → [path, start, end].

    Args:
        format: None: as ``path`` ends.
        group: of FAISS, such as "va"; None: the largest. Of Parquet, None: all of them.

    Returns the path. Raises BadIndexError, ImportError.
    """
    path = as_path(str(path))
    chosen = format or path.suffix.removeprefix(".")
    known = get_args(Format)
    if chosen not in known:
        hint = did_you_mean(chosen, known)
        raise BadIndexError(f"{path}: an index is exported as {' or '.join(known)}: end the name in that, or name the format.{hint}")
    if group is not None and group not in store.meta.groups:
        raise BadIndexError(f"{store.folder}: has no vectors of group '{group}'; it has those of {', '.join(store.meta.groups)}")
    if not len(store):
        raise BadIndexError(f"{store.folder}: is empty; there is nothing to export")
    write = _parquet if chosen == "parquet" else _faiss
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(store, temporary, path, group)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _parquet(store: Store, temporary: Path, path: Path, group: str | None) -> None:
    import_extra("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    bits = store.tracks()
    columns = {_name(key, name, tensors): (key, x) for key in ([group] if group else store.meta.groups)
               for tensors in [store.vectors(key)] for name, x in tensors.items()}
    schema = pa.schema([("path", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("tracks", pa.string()),
                        ("said", pa.string()), *((name, pa.list_(pa.float16())) for name in columns)],
                       metadata={"omnivast": json.dumps({"model": store.meta.model, "weights": store.meta.weights})})
    with parquet.ParquetWriter(temporary, schema) as writer:
        for rows in _blocks(np.flatnonzero(bits)):
            places = store.places(rows.tolist())
            table = {"path": [one.path for one in places], "start": [one.start for one in places], "end": [one.end for one in places],
                     "tracks": [one.tracks for one in places], "said": [store.words(row) for row in rows]}
            for name, (key, x) in columns.items():
                table[name] = _lists(x[rows], (bits[rows] & _needs(key)) == _needs(key))
            writer.write_table(pa.table(table, schema))


def _lists(values: np.ndarray, present: np.ndarray) -> Any:
    """values (n, …) → an array of n lists, null where ``present`` (n,) is false."""
    import pyarrow as pa

    width = int(np.prod(values.shape[1:]))
    offsets = np.concatenate([[0], np.cumsum(np.where(present, width, 0))]).astype(np.int32)
    starts = pa.array(offsets, mask=np.append(~present, False))
    return pa.ListArray.from_arrays(starts, pa.array(values[present].reshape(-1)))


def _faiss(store: Store, temporary: Path, path: Path, group: str | None) -> None:
    faiss = import_extra("faiss")
    key = group or store.meta.groups[0]
    tensors = store.vectors(key)
    if list(tensors) != ["vector"] or tensors["vector"].ndim != 2:
        raise BadIndexError(f"{store.folder}: this model compares by more than a vector ({', '.join(tensors)}), which FAISS cannot hold")
    rows = np.flatnonzero((store.tracks() & _needs(key)) == _needs(key))
    if not len(rows):
        raise BadIndexError(f"{store.folder}: no moment has all tracks of group '{key}'")
    index = faiss.IndexFlatIP(tensors["vector"].shape[1])
    for block in _blocks(rows):
        index.add(np.asarray(tensors["vector"][block], np.float32))
    faiss.write_index(index, str(temporary))
    places = [[place.path, place.start, place.end] for place in store.places(rows.tolist())]
    facts = {"group": key, "root": store.meta.root, "model": store.meta.model, "weights": store.meta.weights, "moments": places}
    write_atomically(path.with_name(f"{path.name}.json"), json.dumps(facts, ensure_ascii=False) + "\n")


def _name(key: str, name: str, tensors: dict[str, np.ndarray]) -> str:
    return key if list(tensors) == ["vector"] else f"{key}.{name}"


def _needs(key: str) -> int:
    """The bits of ``Store.tracks`` that a moment with all tracks of a group has."""
    order = list(Modality)
    return sum(1 << order.index(track) for track in Group.parse(key))


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, range(AT_ONCE, len(rows), AT_ONCE))

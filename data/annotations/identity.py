"""A fingerprint of a corpus, in few bytes, so that a resumed training can tell whether its data are still those it began with.

The fingerprint covers content, not file times or paths: a hash (a mark) for each block of rows, and one for each shard, made from the
names, sizes and last bytes of its members. Files in media folders are left out: for millions of them, even reading their sizes would
take minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnivast.data.annotations.table import Annotations
    from omnivast.data.shards.shard_set import Shards

FORMAT = 1
DIGITS = 16
"""Hexadecimal digits of a mark."""
Identity = dict[str, Any]
"""Plain values, that checkpoints and JSON take."""


def identity(annotations: Annotations, shards: Shards | None) -> Identity:
    """The fingerprint of a corpus."""
    block, marks = annotations.marks()
    fingerprint = {"format": FORMAT, "txt": str(annotations.path), "rows": len(annotations), "sha256": annotations.sha256, "block": block,
             "marks": marks}
    return fingerprint if shards is None else {**fingerprint, "samples": len(shards), "shards": shards.header["marks"]}


def changes(before: Identity, now: Identity, paths: list[str] | None = None) -> list[str]:
    """The differences between two fingerprints of a corpus, one phrase each. ``paths``: the corpus's shards as they are now."""
    differences = []
    rows = _rows(before, now)
    if rows:
        differences.append(rows)
    old, new = before.get("shards", ""), now.get("shards", "")
    if old != new and before["format"] == now["format"]:
        differing = _differing(old, new)
        names = [paths[shard] for shard in differing if paths and shard < len(paths)]
        counts = f"{len(old) // DIGITS} shards of {before.get('samples', 0)} clips, now {len(new) // DIGITS} of {now.get('samples', 0)}"
        differences.append(f"{counts}; {len(differing)} of them are not the same{f', {names[0]} first' if names else ''}")
    return differences


def _rows(before: Identity, now: Identity) -> str:
    """How the annotations differ; "" where their rows are the same."""
    if before["sha256"] == now["sha256"]:
        return ""
    comparable = before["format"] == now["format"] and before["block"] == now["block"] and before["marks"] and now["marks"]
    if comparable and before["marks"] == now["marks"]:
        return ""
    counts = f"{now['rows']} rows as before" if before["rows"] == now["rows"] else f"{before['rows']} rows, now {now['rows']}"
    if not comparable:
        return f"{now['txt']}: {counts}, of other content"
    differing, block = _differing(before["marks"], now["marks"]), now["block"]
    first = differing[0] * block
    last = min(first + block, max(before["rows"], now["rows"])) - 1
    return (f"{now['txt']}: {counts}, the first that differs among rows {first} to {last}; {len(differing)} of "
            f"{max(len(before['marks']), len(now['marks'])) // DIGITS} blocks of {block} rows differ")


def _differing(old: str, new: str) -> list[int]:
    """Indices of the blocks whose marks differ, or which only one of the two has."""
    return [start // DIGITS for start in range(0, max(len(old), len(new)), DIGITS)
            if old[start : start + DIGITS] != new[start : start + DIGITS]]

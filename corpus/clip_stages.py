"""Stages over the clips that were chosen: files, captions, fused captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.engine.workers import Function, Stage
from omnivast.corpus.plan import Plan
from omnivast.utils.files import sha256_file, write_atomically

KEY = 12
"""Characters of a hash in the name of a folder."""


def clip_stage(output: Path, name: str, function: Function, settings: dict[str, Any], decisive: tuple[str, ...] = (),
               known: Mapping[str, Row] | None = None, at_once: int = 0) -> Stage:
    """A stage whose items are the rows of ``clips.jsonl``, in the shards of their sources.

    Its results lie in ``work/<name>_<hash>``: another choice of clips, or another value of one of the ``decisive`` keys of ``settings``
    (those that change results), is another folder, and what was made for one before stays. ``function``: (clip, settings) → result with
    the clip's ``id``; an item that fails gives ``{"id": …, "failed": reason}``.
    ``known``: clip → what stages before found, which its item has too, and which is decisive. ``at_once``: see :class:`Stage`.
    """
    known = known or {}
    found = hashlib.sha256(b"".join(line_of(known[clip]) for clip in sorted(known))).hexdigest() if known else ""
    chosen = sha256_file(output / "clips.jsonl") + found + json.dumps({key: settings[key] for key in decisive}, sort_keys=True)
    folder = output / "work" / f"{name}_{hashlib.sha256(chosen.encode()).hexdigest()[:KEY]}"
    plan = Plan(output)
    own: dict[str, list[Row]] = {shard: [] for shard in plan.sizes()}
    shard_of = {row["path"]: row["shard"] for row in plan.sources()}
    for row in read_rows(output / "clips.jsonl"):
        own[shard_of[row["source"]]].append({**row, **known.get(row["id"], {})})
    for shard, rows in own.items():
        path = folder / "items" / f"{shard}.jsonl"
        if not path.exists():
            write_atomically(path, b"".join(map(line_of, rows)))
    sizes = {shard: len(rows) for shard, rows in own.items()}
    return Stage(name, function, settings, folder, partial(_items, folder / "items"), sizes, "clip", at_once)


def clip_results(stage: Stage) -> dict[str, Row]:
    """Clip → what the stage found, those that failed too."""
    return {row["id"]: row for shard in stage.sizes for row in read_rows(stage.folder / f"{shard}.jsonl")}


def _items(folder: Path, shard: str) -> list[Row]:
    return list(read_rows(folder / f"{shard}.jsonl"))

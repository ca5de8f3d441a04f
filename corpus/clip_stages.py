"""Stages over the clips that were chosen: files, captions, fused captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.engine.workers import Function, Stage
from omnivast.corpus.plan import BuildError, Plan
from omnivast.utils.files import sha256_file, write_atomically

KEY = 12
"""Characters of a hash in the name of a folder."""


def clip_stage(output: Path, name: str, function: Function, settings: dict[str, Any], decisive: tuple[str, ...] = (),
               known: Mapping[str, Row] | None = None, at_once: int = 0) -> Stage:
    """A stage whose items are the rows of ``clips.jsonl``, in the shards of their sources.

    Its results lie in ``work/<name>_<hash>``: another choice of clips, or another value of one of the ``decisive`` keys of ``settings``
    (those that change results), is another folder, and what was made for one before stays; ``work/<name>.json`` notes the latest.
    ``function``: (clip, settings) → result with the clip's ``id``; an item that fails gives ``{"id": …, "failed": reason}``.
    ``known``: clip → what stages before found, which its item has too, and which is decisive. ``at_once``: see :class:`Stage`.
    """
    known = known or {}
    found = hashlib.sha256(b"".join(line_of(known[clip]) for clip in sorted(known))).hexdigest() if known else ""
    chosen = sha256_file(output / "clips.jsonl") + found + json.dumps({key: settings[key] for key in decisive}, sort_keys=True)
    folder = output / "work" / f"{name}_{hashlib.sha256(chosen.encode()).hexdigest()[:KEY]}"
    plan = Plan(output)
    note_latest(output, name, {"folder": folder.name, "clips": sha256_file(output / "clips.jsonl"),
                               "settings": {key: settings[key] for key in decisive}})
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


@dataclass(frozen=True)
class Latest:
    """Where the results of the latest call of a stage over the clips are, and the settings that decided them."""

    name: str
    folder: Path
    settings: dict[str, Any]

    def of_shard(self, shard: str) -> Iterator[Row]:
        """Raises BuildError where the stage has not come so far."""
        path = self.folder / f"{shard}.jsonl"
        if not path.exists():
            raise BuildError(f"the stage {self.name} is not finished ({path} is absent); repeat the command that ran it")
        return read_rows(path)


def note_latest(output: Path, name: str, facts: dict[str, Any]) -> None:
    """Write down which folder is that of the latest call of a stage."""
    write_atomically(output / "work" / f"{name}.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def latest(output: Path, name: str) -> Latest | None:
    """The latest call of a stage over clips; None where it was not run on those that are chosen now."""
    path = output / "work" / f"{name}.json"
    if not path.exists():
        return None
    note = json.loads(path.read_text(encoding="utf-8"))
    if note["clips"] != sha256_file(output / "clips.jsonl"):
        return None
    return Latest(name, output / "work" / note["folder"], note["settings"])


def latest_of_sources(output: Path, name: str) -> Latest | None:
    """The same of a stage over sources, in folders ``<name>_<hash>``: the one that was noted, or the only one that there is."""
    path = output / "work" / f"{name}.json"
    if path.exists():
        return Latest(name, output / "work" / json.loads(path.read_text(encoding="utf-8"))["folder"], {})
    folders = [path for path in (output / "work").glob(f"{name}_*") if path.is_dir()]
    return Latest(name, folders[0], {}) if len(folders) == 1 else None


def _items(folder: Path, shard: str) -> list[Row]:
    return list(read_rows(folder / f"{shard}.jsonl"))

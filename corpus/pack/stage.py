"""The stage ``pack``: needs a corpus whose clips were chosen, and takes what the stages over clips found so far."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from omnivast.config.extras import is_installed, not_installed
from omnivast.corpus import cut
from omnivast.corpus.clip_stages import clip_stage
from omnivast.corpus.engine.results import read_rows
from omnivast.corpus.engine.workers import run
from omnivast.corpus.pack.card import SHOWN, write_card
from omnivast.corpus.pack.index import INDEX, write_index
from omnivast.corpus.pack.rows import ROWS, write_rows
from omnivast.corpus.pack.shards import SHARD_BYTES, pack_shards, write_annotations
from omnivast.corpus.pack.statistics import statistics, write_statistics
from omnivast.corpus.plan import BuildError, Plan
from omnivast.utils.files import write_atomically

log = logging.getLogger("omnivast")


def pack(output: Path, *, cutting: str = "encode", workers: int = 1, shard_size: int = SHARD_BYTES, shown: int = SHOWN) -> dict[str, Any]:
    """Pack the corpus in ``output``, or go on packing, and return its summary with ``packed``.

    ``cutting``: how clips become files, where they are none yet: "encode", to the frame, or "keyframes". ``shard_size``: bytes after which
    a shard is closed. ``shown``: clips on the card. What is written is the same to the byte whatever the number of workers, and
    whoever was stopped when. Raises BuildError, DataError, StageError, OSError.
    """
    plan, summary = Plan(output), _summary(output)
    settings = {"root": plan.settings()["root"], "output": str(output / "clips"), "how": cutting}
    run(clip_stage(output, f"cut_{cutting}", cut.cut_item, settings), workers)
    write_rows(plan, summary, cutting)
    manifest = pack_shards(output, shard_size)
    annotations = write_annotations(output)
    found = statistics(output, summary)
    first = next(read_rows(output / ROWS))
    summary["packed"] = {
        "cut": cutting, "clips": found["clips"], "shards": len(manifest["shards"]),
        "bytes": sum(one["bytes"] for one in manifest["shards"]), "lost": dict(sorted(_lost(output).items())),
        "annotations": annotations, "made_by": first["history"]["made_by"]}
    if is_installed("pyarrow"):
        write_index(output, manifest["shards"])
    else:
        log.warning("%s is not written: %s", INDEX, not_installed("pyarrow"))
    write_statistics(output, found)
    write_card(output, summary, found, shown)
    write_atomically(output / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def _summary(output: Path) -> dict[str, Any]:
    """What the build said. Raises BuildError where it has not chosen clips."""
    try:
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        summary = {}
    if "clips" not in summary or not (output / "clips.jsonl").exists():
        raise BuildError(f"{output}: no corpus whose clips are chosen; `omnivast build VIDEOS --output {output}` makes one")
    if not summary["clips"]:
        raise BuildError(f"{output}: no clip to pack; summary.json counts what was dropped, and why")
    return summary


def _lost(output: Path) -> Counter[str]:
    """Stage → how many clips it lost."""
    return Counter(row["history"]["lost"]["stage"] for row in read_rows(output / ROWS) if "lost" in row["history"])

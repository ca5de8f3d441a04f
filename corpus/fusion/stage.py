"""Fusing as a stage of a corpus, and of a file of annotations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omnivast.config.words import did_you_mean
from omnivast.corpus.clip_stages import clip_results, clip_stage
from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.engine.view import View
from omnivast.corpus.engine.workers import Stage, StageError, run
from omnivast.corpus.fusion.fuse import DECISIVE, fuse_items, summary_of
from omnivast.corpus.fusion.writers import endpoint_of
from omnivast.data.annotations.rows import ID_KEYS
from omnivast.data.spec import DataError
from omnivast.utils.endpoint import EndpointError
from omnivast.utils.files import write_atomically

AT_ONCE = 32
"""Clips that a model in this process writes together."""
SHARD = 512
"""Rows of a file that are one shard."""
FIELDS = ("vision_cap", "audio_cap", "captions")


def check_writer(settings: dict[str, Any]) -> None:
    """Find out whether the model can be used, before hours of work depend on it. Raises StageError."""
    if settings["llm"]:
        from omnivast.config.schema import ModelConfig
        from omnivast.model.interface import ModelError
        from omnivast.model.text.llm import check_llm
        try:
            check_llm(ModelConfig(model_type="avllm", llm=settings["llm"]))
        except ModelError as error:
            raise StageError(str(error).replace("model_cfg.llm", "--llm")) from None
        return
    try:
        endpoint_of(settings).check()
    except EndpointError as error:
        raise StageError(str(error)) from None


def fuse_clips(output: Path, captions: Mapping[str, Row], settings: dict[str, Any], view: View | None = None) -> dict[str, Any]:
    """Fuse the captions of a corpus' clips (clip → its row of the captions' stage, with ``captions``); what ``summary.json`` says of it.
    The rows: :func:`fused_clips`. Raises StageError."""
    stage = replace(_of_corpus(output, captions, settings), view=view or View())
    run(stage, 1)
    return _told(clip_results(stage), settings)


def fused_clips(output: Path, captions: Mapping[str, Row], settings: dict[str, Any]) -> dict[str, Row]:
    """Clip → its row, after :func:`fuse_clips` with the same arguments."""
    return clip_results(_of_corpus(output, captions, settings))


def _of_corpus(output: Path, captions: Mapping[str, Row], settings: dict[str, Any]) -> Stage:
    own = {clip: {"id": clip, "captions": row.get("captions", [])} for clip, row in captions.items()}
    stage = clip_stage(output, "fuse", fuse_items, settings, DECISIVE, known=own, at_once=_at_once(settings))
    return replace(stage, settings={**settings, "replies": str(output / "work" / "replies")})


def fuse_file(path: Path, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Fuse the captions of annotations (a JSON list of objects with an id, ``vision_cap``, ``audio_cap``, ``subtitle``); the summary.

    Written: ``output``, the same rows with ``vast_cap``, without those that were left out; beside it ``.fused.jsonl``, a row for every one
    with its history, and ``.summary.json``. What is done lies in ``output`` + ``.work``, so that the same command goes on. Raises
    DataError, StageError, OSError.
    """
    rows = read_annotations(path)
    work = output.with_name(f"{output.name}.work")
    stage = _of_rows(rows, work, settings)
    run(stage, 1)
    found = clip_results(stage)
    write_atomically(output.with_suffix(".fused.jsonl"), b"".join(line_of(found[name]) for name in rows))
    taken = [{**row, "vast_cap": found[name]["omni"]} for name, row in rows.items() if found[name].get("omni")]
    write_atomically(output, json.dumps(taken, indent=1, ensure_ascii=False) + "\n")
    summary = _told(found, settings)
    write_atomically(output.with_suffix(".summary.json"), json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def read_annotations(path: Path) -> dict[str, Row]:
    """Id → row. Raises DataError that names the row."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); expected a list of rows with an id, vision_cap, audio_cap and subtitle") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: expected a list of rows with an id, vision_cap, audio_cap and subtitle")
    rows: dict[str, Row] = {}
    for number, row in enumerate(content):
        name = next((str(row[key]) for key in ID_KEYS if key in row), None) if isinstance(row, dict) else None
        if name is None or not any(key in row for key in FIELDS):
            keys = list(row) if isinstance(row, dict) else []
            near = next((hint for key in keys if (hint := did_you_mean(key, (*ID_KEYS, *FIELDS)))), "") if keys else ""
            raise DataError(f"{path}: row {number} has {', '.join(keys) or 'no field'}; expected an id ({', '.join(ID_KEYS)}) and "
                            f"vision_cap or audio_cap.{near}")
        if name in rows:
            raise DataError(f"{path}: row {number} has the id {name}, which another has too")
        for key in ("vision_cap", "audio_cap"):
            if not _texts(row.get(key) or []):
                raise DataError(f"{path}: row {number}: {key} is {row[key]!r:.80}; expected a text or a list of texts")
        rows[name] = row
    return rows


def _texts(value: Any) -> bool:
    return isinstance(value, str) or isinstance(value, list) and all(isinstance(text, str) for text in value)


def _of_rows(given: Mapping[str, Row], work: Path, settings: dict[str, Any]) -> Stage:
    rows = [{"id": name, **{key: row[key] for key in (*FIELDS, "subtitle") if key in row}} for name, row in given.items()]
    decisive = json.dumps([rows, {key: settings[key] for key in DECISIVE}], sort_keys=True)
    folder = work / f"fuse_{hashlib.sha256(decisive.encode()).hexdigest()[:12]}"
    sizes = {}
    for number, first in enumerate(range(0, len(rows), SHARD)):
        shard, own = f"{number:05d}", rows[first : first + SHARD]
        sizes[shard] = len(own)
        if not (folder / "items" / f"{shard}.jsonl").exists():
            write_atomically(folder / "items" / f"{shard}.jsonl", b"".join(map(line_of, own)))
    settings = {**settings, "replies": str(work / "replies")}
    return Stage("fuse", fuse_items, settings, folder, partial(_items, folder / "items"), sizes, "clip", _at_once(settings))


def _items(folder: Path, shard: str) -> list[Row]:
    return list(read_rows(folder / f"{shard}.jsonl"))


def _at_once(settings: dict[str, Any]) -> int:
    return AT_ONCE if settings["llm"] else 8 * settings["concurrency"]


def _told(found: Mapping[str, Row], settings: dict[str, Any]) -> dict[str, Any]:
    return {"model": settings["model"], "prompt": settings["prompt"], **summary_of(found.values())}

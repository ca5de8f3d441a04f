"""What the stages found → one row for each clip, with its texts and all that is known of how they came to be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from omnivast.corpus.clip_stages import Latest, latest, latest_of_sources
from omnivast.corpus.clips.recipes import recipe_named
from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.plan import BuildError, Plan
from omnivast.utils.files import write_atomically

ROWS = "rows.jsonl"
FIELD_OF = {"vision": "vision_cap", "audio": "audio_cap"}
"""Kind of a caption → the field of an annotation row."""
OMNI = "vast_cap"
STAGES = ("captions", "fuse")
"""Stages over clips whose results a row takes, beside the one that cut files; those that were not run are absent."""


def write_rows(plan: Plan, summary: dict[str, Any], cutting: str) -> Path:
    """``rows.jsonl``: an annotation row for each chosen clip, in their order, with ``history``.

    ``history``: source, frames, pts, time base and pieces; ``made_by`` (detector, recipe and its thresholds, folders of the stages);
    ``file`` (size, SHA-256); ``subtitles``, ``captions`` and ``fuse``, all that these stages say; ``lost`` with stage and reason where
    the clip is left out.
    ``summary``: of the build. ``cutting``: how files were cut. Raises BuildError.
    """
    output = plan.folder

    def write(file: Any) -> None:
        for row in _rows(plan, summary, cutting):
            file.write(line_of(row))

    return write_atomically(output / ROWS, write)


def _rows(plan: Plan, summary: dict[str, Any], cutting: str) -> Iterator[Row]:
    output = plan.folder
    stages = {name: found for name in (f"cut_{cutting}", *STAGES) if (found := latest(output, name)) is not None}
    spoken = latest_of_sources(output, "subtitles")
    folders = [stage.folder.name for stage in (spoken, *stages.values()) if stage is not None]
    made_by = {**_made_by(plan, summary), "cut": cutting, "stages": folders}
    shard_of = {row["path"]: row["shard"] for row in plan.sources()}
    ids: set[str] = set()
    for shard, clips in groupby(read_rows(output / "clips.jsonl"), key=lambda clip: shard_of[clip["source"]]):
        results = {name: {row["id"]: row for row in stage.of_shard(shard)} for name, stage in stages.items()}
        said = {row["id"]: row for row in spoken.of_shard(shard)} if spoken else {}
        for clip in clips:
            if clip["id"] in ids:
                raise BuildError(f"two sources have clips named '{clip['id']}': they differ in their extension alone; rename one of them")
            ids.add(clip["id"])
            own = {name.partition("_")[0]: _of_clip(stages[name], rows, clip["id"]) for name, rows in results.items()}
            yield _row(clip, made_by, own, _spoken(said.get(clip["source"], {}), clip))


def _of_clip(stage: Latest, rows: dict[str, Row], clip: str) -> Row:
    if clip not in rows:
        raise BuildError(f"the stage {stage.name} has no result for the clip '{clip}'; remove {stage.folder} and repeat the command that "
                         "ran it")
    return rows[clip]


def _made_by(plan: Plan, summary: dict[str, Any]) -> dict[str, Any]:
    """The settings that decided where clips begin and end. Thresholds are in the recipe's scale, in which neighbours join at ``join``;
    ``join_distance`` is what stands for that here."""
    settings = plan.settings()
    thresholds = {name: value for name, value in vars(recipe_named(summary["recipe"])).items()
                  if name not in ("name", "detector") and value not in (0, "", False, math.inf)}
    return {"builder": settings["builder"], "detector": settings["detector"], "detector_version": settings.get("detector_version"),
            "recipe": summary["recipe"], "thresholds": thresholds, "join_distance": summary.get("join_distance")}


def _spoken(source: Row, clip: Row) -> dict[str, Any]:
    """What the stage ``subtitles`` says of a clip: where its words come from, and the cues that it shows."""
    if not source.get("from"):
        return {}
    cues = [cue for cue in source["cues"] if cue["end"] > clip["start"] and cue["start"] < clip["end"]]
    return {"subtitles": {**{key: value for key, value in source.items() if key not in ("id", "cues")}, "cues": cues}}


def _row(clip: Row, made_by: dict[str, Any], results: dict[str, Row], spoken: dict[str, Any]) -> Row:
    texts: dict[str, Any] = {}
    captions = results.get("captions", {}).get("captions", [])
    for kind, field in FIELD_OF.items():
        if own := list(dict.fromkeys(caption["text"] for caption in captions if caption["kind"] == kind)):
            texts[field] = own
    fused = results.get("fuse", {})
    if fused.get("omni"):
        texts[OMNI] = fused["omni"]
    known = {key: value for key, value in clip.items() if key not in ("id", "subtitle")}
    said = {**spoken, **{key: value for key, value in results.get("captions", {}).items() if key != "id"}}
    said |= {"fuse": {key: value for key, value in fused.items() if key != "id"}} if "fuse" in results else {}
    file = {key: value for key, value in results.get("cut", {}).items() if key != "id"}
    lost = _lost(results, texts)
    history = {**known, "made_by": made_by, "file": file, **said, **({"lost": lost} if lost else {})}
    return {"clip_id": clip["id"], **texts, "subtitle": clip["subtitle"], "history": history}


def _lost(results: dict[str, Row], texts: dict[str, Any]) -> dict[str, str] | None:
    """The first stage that this clip did not come through, and why."""
    for stage, result in results.items():
        if "failed" in result:
            return {"stage": stage, "reason": result["failed"]}
        if stage == "captions" and texts.keys().isdisjoint(FIELD_OF.values()):
            return {"stage": stage, "reason": "no caption"}
        if stage == "fuse" and OMNI not in texts:
            return {"stage": stage, "reason": (result.get("reasons") or ["no caption"])[-1]}
    return None

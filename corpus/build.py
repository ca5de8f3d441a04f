"""A folder of videos → a corpus: probe, split, subtitles, clips, captions, one caption of all of a clip, shards, and files of
clips where they are wanted. Killed at any moment, on any machine, the same command goes on, and what comes out is the same to the byte."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from omnivast.corpus import cut, split
from omnivast.corpus.boundaries.others import DETECTORS, version_of
from omnivast.corpus.captions.stage import caption
from omnivast.corpus.captions.stage import check as check_teachers
from omnivast.corpus.captions.teachers import Teacher
from omnivast.corpus.clip_stages import clip_results, clip_stage
from omnivast.corpus.clips.calibrate import join_distance
from omnivast.corpus.clips.choose import copies, spread
from omnivast.corpus.clips.pieces import Source, clips_of
from omnivast.corpus.clips.recipes import IMAGEBIND_JOIN, Recipe, recipe_named
from omnivast.corpus.engine.here import one_by_one, run_here
from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.engine.workers import Stage, forget_failures, run
from omnivast.corpus.fusion.stage import check_writer, fuse_clips
from omnivast.corpus.pack.stage import pack
from omnivast.corpus.plan import BuildError, Plan, items_of
from omnivast.corpus.subtitles.speech import runs_a_model
from omnivast.corpus.subtitles.stage import Speech, subtitles_stage, told
from omnivast.data.annotations.sidecars import joined
from omnivast.data.media.excerpts import Excerpt
from omnivast.utils.files import write_atomically

log = logging.getLogger("omnivast")
STAGES = ("probe", "split", "subtitles", "clips", "captions", "fuse", "pack")
FILES_ALONE = Speech()


@dataclass(frozen=True)
class Choice:
    """What is chosen of the clips that a recipe makes."""

    count: int | None = None
    """Clips of the whole corpus, spread evenly over the sources; None: all."""
    copies: float = 0.0
    """Clips of other sources nearer than this share of ``join`` are left out; 0: none."""
    seed: int = 0


def build(videos: list[str], output: Path, recipe_name: str, *, detector: str | None = None, workers: int = 1, choice: Choice = Choice(),
          cutting: str = "references", last: str = STAGES[-1], retry: bool = False, speech: Speech = FILES_ALONE,
          teachers: Sequence[Teacher] = (), fusion: dict[str, Any] | None = None, captions: Path | None = None) -> dict[str, Any]:
    """Build, or go on building, and return what ``summary.json`` says. ``cutting``: "references", "encode" or "keyframes" (see
    :mod:`omnivast.corpus.cut`). ``last``: the stage to end with. ``retry``: sources that
    could not be read, and clips that a teacher could not caption, are tried again. ``teachers``: who captions. ``fusion``: settings of
    :mod:`omnivast.corpus.fusion`, by which the captions of each clip, those of the teachers or those in the file ``captions`` (rows with
    ``id`` and ``captions``), become one. Raises BuildError, RecipeError, DataError, StageError."""
    recipe = recipe_named(recipe_name)
    if fusion is not None:
        if captions is None and not teachers:
            raise BuildError("captions are to be fused, but there are none: give --captioner NAME or --captions FILE")
        check_writer(fusion)
    plan = Plan(output)
    settings = plan.open(videos, detector or recipe.detector)
    DETECTORS[settings.detector]()  # what it needs is missed here and not by each worker
    plan.note(detector_version=version_of(settings.detector))
    speech.check()
    wanted = STAGES[: STAGES.index(last) + 1]
    if "captions" in wanted:
        check_teachers(output, Path(settings.root), teachers)
    sizes = plan.sizes()
    common = {"root": settings.root, "detector": settings.detector}
    for name, function in (("probe", split.probe_item), ("split", split.split_item))[: STAGES.index(last) + 1]:
        stage = Stage(name, function, common, output / "work" / name, partial(items_of, output), sizes)
        if retry:
            forget_failures(stage)
        run(stage, workers)
    said = None
    if "subtitles" in wanted:
        said = subtitles_stage(output, speech)
        if retry:
            forget_failures(said)
        if runs_a_model(speech.asr):
            run_here(said, one_by_one(said))
        else:
            run(said, workers)
    summary = _summary(plan, recipe) if said is None or "clips" not in wanted else make_clips(plan, recipe, choice, said)
    if said is not None:
        summary["subtitles"] = told(results(output, said.folder.name, list(said.sizes)))
    if "clips" in wanted and cutting != "references":
        stage = clip_stage(output, f"cut_{cutting}", cut.cut_item, {"root": settings.root, "output": str(output / "clips"), "how": cutting})
        run(stage, workers)
        failed = Counter(row["failed"] for row in clip_results(stage).values() if "failed" in row)
        summary["cut"] = {"how": cutting, "clips": summary["clips"] - sum(failed.values()), "failed": dict(sorted(failed.items()))}
    if "captions" in wanted and teachers:
        _, summary["captions"] = caption(output, Path(settings.root), teachers, retry)
    if "fuse" in wanted and fusion is not None:
        summary["fuse"] = fuse_clips(output, {row["id"]: row for row in read_rows(captions or output / "captions.jsonl")}, fusion)
    write_atomically(output / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    if "pack" in wanted:
        return pack(output, cutting="encode" if cutting == "references" else cutting, workers=workers)
    return summary


def results(output: Path, stage: str, shards: list[str]) -> Iterator[Row]:
    """The results of a stage, in the order of the sources."""
    for shard in shards:
        yield from read_rows(output / "work" / stage / f"{shard}.jsonl")


def _summary(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    """Of what was read so far."""
    sources = plan.sources()
    shards = sorted({row["shard"] for row in sources})
    failed: Counter[str] = Counter()
    lost: dict[str, str] = {}
    seconds = 0.0
    for stage in ("probe", "split"):
        if (plan.folder / "work" / stage / f"{shards[-1]}.jsonl").exists():
            for row in results(plan.folder, stage, shards):
                if "failed" in row:
                    lost.setdefault(row["id"], row["failed"])
                elif stage == "probe":
                    seconds += row["seconds"] or 0.0
    failed.update(lost.values())
    return {"recipe": recipe.name, "detector": plan.settings()["detector"], "sources": len(sources), "seconds": round(seconds, 3),
            "unreadable": sum(failed.values()), "unreadable_by_reason": dict(sorted(failed.items()))}


def make_clips(plan: Plan, recipe: Recipe, choice: Choice, said_in: Stage) -> dict[str, Any]:
    """``clips.jsonl`` (one row a clip, with its history) and ``annotations.json`` (which ``data/`` reads), from what splitting and
    ``said_in``, the stage ``subtitles``, found. Needs no video and is quick, so it is done anew each time."""
    output = plan.folder
    sources = {row["id"]: row for row in plan.sources()}
    shards = sorted({row["shard"] for row in sources.values()})
    heard = {row["id"] for row in results(output, "probe", shards) if row.get("sound")}
    rows = (row for row in results(output, "split", shards) if "failed" not in row)
    join, errors = join_distance(map(split.Split.from_json, rows), IMAGEBIND_JOIN) if recipe.join else (IMAGEBIND_JOIN, None)
    dropped: Counter[str] = Counter()
    boundaries: Counter[str] = Counter()
    found: list[Row] = []
    vectors: list[ndarray] = []
    for row, words in zip(results(output, "split", shards), results(output, said_in.folder.name, shards), strict=True):
        if "failed" in row:
            continue
        source = Source(split.Split.from_json(row), join)
        boundaries.update(one.kind for one in source.split.boundaries)
        clips, lost = clips_of(source, recipe)
        dropped += lost
        for clip in clips:
            said = _said(words.get("cues", ()), source, clip.first, clip.end)
            present = "v" + "a" * (row["id"] in heard) + "s" * bool(said)
            if lacking := set(recipe.modalities) - set(present):
                dropped["without " + ", ".join({"a": "sound", "s": "subtitle", "v": "picture"}[letter] for letter in sorted(lacking))] += 1
                continue
            found.append(_row(sources[row["id"]], source, clip.first, clip.end, present, said, clip.pieces))
            vectors.append(clip.mean / (np.linalg.norm(clip.mean) + 1e-6))
    if choice.copies and found:
        twice = copies(np.stack(vectors).astype(np.float32), choice.copies * join / IMAGEBIND_JOIN)
        dropped["copies"] = int(twice.sum())
        found = [row for row, again in zip(found, twice) if not again]
    if choice.count is not None and choice.count < len(found):
        chosen = spread([row["source"] for row in found], choice.count, choice.seed)
        dropped["not chosen"] = len(found) - len(chosen)
        found = [found[number] for number in chosen]
    write_atomically(output / "clips.jsonl", b"".join(map(line_of, found)))
    texts = [{"clip_id": row["reference"], "subtitle": row["subtitle"]} for row in found]
    write_atomically(output / "annotations.json", json.dumps(texts, indent=1, ensure_ascii=False) + "\n")
    lengths = [row["end"] - row["start"] for row in found]
    return {**_summary(plan, recipe), "boundaries": dict(sorted(boundaries.items())), "join_distance": join, "join_errors": errors,
            "clips": len(found), "clip_seconds": round(sum(lengths), 3),
            "mean_seconds": round(float(np.mean(lengths)), 3) if found else None, "dropped": dict(sorted(dropped.items()))}


def _row(source: Row, known: Source, first: int, end: int, present: str, said: str, pieces: int) -> Row:
    """One clip: where it is, to the frame, and how it came to be."""
    times = known.split.times
    pts = times.pts()
    start, stop = (round(float(pts[frame] * times.base), 6) for frame in (first, end))
    return {"id": f"{Path(source['path']).with_suffix('').as_posix()}_{first:07d}_{end:07d}", "source": source["path"],
            "reference": Excerpt(source["path"], first, end - 1, start, stop).name, "first": first, "last": end - 1, "start": start,
            "end": stop, "pts": [int(pts[first]), int(pts[end])], "time_base": str(times.base), "modalities": present, "subtitle": said,
            "pieces": pieces}


def _said(cues: Iterable[Mapping[str, Any]], source: Source, first: int, end: int) -> str:
    """What is said in a clip: cues of which the larger part lies in it."""
    pts, base = source.split.times.pts(), float(source.split.times.base)
    start, stop = pts[first] * base, pts[end] * base
    return joined(cue["text"] for cue in cues
                  if min(cue["end"], stop) - max(cue["start"], start) > 0.5 * max(cue["end"] - cue["start"], 1e-3))

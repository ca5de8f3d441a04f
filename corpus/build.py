"""A folder of videos → a corpus: probe, split, subtitles, clips, captions, one caption of all of a clip, shards, and files of
clips where they are wanted. Killed at any moment, on any machine, the same command goes on, and what comes out is the same to the byte."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omnivast.config.extras import import_extra
from omnivast.corpus import cut, split
from omnivast.corpus.boundaries.others import DETECTORS, version_of
from omnivast.corpus.captions.stage import caption
from omnivast.corpus.captions.stage import check as check_teachers
from omnivast.corpus.captions.teachers import Teacher
from omnivast.corpus.clip_stages import clip_results, clip_stage, note_latest
from omnivast.corpus.clips import tower
from omnivast.corpus.clips.calibrate import join_distance
from omnivast.corpus.clips.choose import spread
from omnivast.corpus.clips.copies import NEAR, SAME, Seen, copies
from omnivast.corpus.clips.pieces import Source, clips_of
from omnivast.corpus.clips.recipes import IMAGEBIND_JOIN, Recipe, recipe_named
from omnivast.corpus.engine import on_ray
from omnivast.corpus.engine.here import one_by_one, run_here
from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.engine.view import View
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
    copies: bool = True
    """False: clips that are copies of one before them, in any source, are left out."""
    seed: int = 0


def build(videos: list[str], output: Path, recipe_name: str, *, detector: str | None = None, workers: int = 1, choice: Choice = Choice(),
          cutting: str = "references", last: str = "fuse", retry: bool = False, speech: Speech = FILES_ALONE,
          teachers: Sequence[Teacher] = (), fusion: dict[str, Any] | None = None, captions: Path | None = None,
          seen_by: str | None = None, engine: str = "processes") -> dict[str, Any]:
    """Build, or go on building, and return what ``summary.json`` says.

    Args:
        cutting: "references", "encode" or "keyframes" (see :mod:`omnivast.corpus.cut`).
        last: the stage to end with.
        retry: sources that could not be read, and clips that a teacher could not caption, are tried again.
        teachers: who captions.
        fusion: settings of :mod:`omnivast.corpus.fusion`, by which the captions of each clip, those of the teachers or those in the file
            ``captions`` (rows with ``id`` and ``captions``), become one.
        seen_by: the tower by which frames are told alike.
        engine: "processes", of this machine, or "ray".

    Raises BuildError, RecipeError, DataError, StageError, and what loading the tower raises.
    """
    recipe = recipe_named(recipe_name)
    wanted = STAGES[: STAGES.index(last) + 1]
    _check(wanted, speech, teachers, fusion, captions, engine)
    plan = Plan(output)
    settings = plan.open(videos, detector or recipe.detector, tower.identity(seen_by) if seen_by else None)
    DETECTORS[settings.detector]()  # what it needs is missed here and not by each worker
    plan.note(detector_version=version_of(settings.detector))
    if seen_by:
        tower.load(seen_by)
    if "captions" in wanted:
        check_teachers(output, Path(settings.root), teachers)
    view = View(_shown(wanted, cutting, teachers, fusion))
    do = on_ray.run if engine == "ray" else run
    sizes = plan.sizes()
    common = {"root": settings.root, "detector": settings.detector, "tower": seen_by}
    for name, function in (("probe", split.probe_item), ("split", split.split_item))[: STAGES.index(last) + 1]:
        stage = Stage(name, function, common, output / "work" / name, partial(items_of, output), sizes, view=view)
        if retry:
            forget_failures(stage)
        do(stage, workers)
    said = _find_subtitles(output, speech, retry, view, do, workers) if "subtitles" in wanted else None
    summary = _summary(plan, recipe) if said is None or "clips" not in wanted else make_clips(plan, recipe, choice, said, view)
    if said is not None:
        summary["subtitles"] = told(results(output, said.folder.name, list(said.sizes)))
    if "clips" in wanted and cutting != "references":
        stage = clip_stage(output, f"cut_{cutting}", cut.cut_item, {"root": settings.root, "output": str(output / "clips"), "how": cutting})
        do(replace(stage, view=view), workers)
        failed = Counter(row["failed"] for row in clip_results(stage).values() if "failed" in row)
        summary["cut"] = {"how": cutting, "clips": summary["clips"] - sum(failed.values()), "failed": dict(sorted(failed.items()))}
    if "captions" in wanted and teachers:
        _, summary["captions"] = caption(output, Path(settings.root), teachers, retry, view)
    if "fuse" in wanted and fusion is not None:
        summary["fuse"] = fuse_clips(output, {row["id"]: row for row in read_rows(captions or output / "captions.jsonl")}, fusion, view)
    write_atomically(output / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    if "pack" in wanted:
        return pack(output, cutting="encode" if cutting == "references" else cutting, workers=workers)
    return summary


def _check(wanted: Sequence[str], speech: Speech, teachers: Sequence[Teacher], fusion: dict[str, Any] | None, captions: Path | None,
           engine: str) -> None:
    """What is missing is missed before hours of work. Raises BuildError, StageError, ImportError."""
    if engine == "ray":
        import_extra("ray")
    speech.check()
    if fusion is not None and "fuse" in wanted:
        if captions is None and not teachers:
            raise BuildError("captions are to be fused, but there are none: give --captioner NAME or --captions FILE")
        check_writer(fusion)


def _shown(wanted: Sequence[str], cutting: str, teachers: Sequence[Teacher], fusion: dict[str, Any] | None) -> list[str]:
    """The stages that are shown, in the order in which they run."""
    cuts = [f"cut_{cutting}"] if "clips" in wanted and cutting != "references" else []
    captioned = [f"captions_{teacher.name}" for teacher in teachers] if "captions" in wanted else []
    fused = ["fuse"] if "fuse" in wanted and fusion is not None else []
    return [*(name for name in wanted if name in STAGES[: STAGES.index("captions")]), *cuts, *captioned, *fused]


def _find_subtitles(output: Path, speech: Speech, retry: bool, view: View, do: Callable[[Stage, int], None], workers: int) -> Stage:
    """Run the stage ``subtitles``: a model of speech in this process, anything else by workers."""
    stage = replace(subtitles_stage(output, speech), view=view)
    if retry:
        forget_failures(stage)
    if runs_a_model(speech.asr):
        run_here(stage, one_by_one(stage))
    else:
        do(stage, workers)
    note_latest(output, "subtitles", {"folder": stage.folder.name})
    return stage


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


def make_clips(plan: Plan, recipe: Recipe, choice: Choice, said_in: Stage, view: View) -> dict[str, Any]:
    """``clips.jsonl`` (one row a clip, with its history) and ``annotations.json`` (which ``data/`` reads), from what splitting and
    ``said_in``, the stage ``subtitles``, found. Needs no video and is quick, so it is done anew each time."""
    output = plan.folder
    sources = {row["id"]: row for row in plan.sources()}
    shards = sorted({row["shard"] for row in sources.values()})
    seen_by = plan.settings()["tower"]
    join, errors = IMAGEBIND_JOIN, None
    if recipe.join or (seen_by and not choice.copies):
        rows = (row for row in results(output, "split", shards) if "failed" not in row)
        join, errors = join_distance(map(split.Split.from_json, rows), IMAGEBIND_JOIN)
    dropped: Counter[str] = Counter()
    boundaries: Counter[str] = Counter()
    found: list[Row] = []
    seen: list[Seen] = []
    bar = view.bar("clips", len(sources), "source")
    for row, words in zip(results(output, "split", shards), results(output, said_in.folder.name, shards), strict=True):
        bar.update()
        if "failed" in row:
            continue
        source = Source(split.Split.from_json(row), join)
        boundaries.update(one.kind for one in source.split.boundaries)
        clips, lost = clips_of(source, recipe)
        dropped += lost
        for clip in clips:
            said = _said(words.get("cues", ()), source, clip.first, clip.end)
            present = "v" + "a" * source.is_heard(clip.first, clip.end) + "s" * bool(said)
            if lacking := set(recipe.modalities) - set(present):
                dropped["without " + ", ".join({"a": "sound", "s": "subtitle", "v": "picture"}[letter] for letter in sorted(lacking))] += 1
                continue
            found.append(_row(sources[row["id"]], source, clip.first, clip.end, present, said, clip.pieces))
            if not choice.copies:
                seen.append(source.seen(clip.first, clip.end))
    bar.close()
    if not choice.copies:
        of = copies(seen, *((join, join * SAME / IMAGEBIND_JOIN) if seen_by else (NEAR, SAME))).tolist()
        again = [{"id": row["id"], "copy_of": found[one]["id"]} for row, one in zip(found, of) if one >= 0]
        write_atomically(output / "work" / "copies.jsonl", b"".join(map(line_of, again)))
        dropped["copies"] = len(again)
        found = [row for row, one in zip(found, of) if one < 0]
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
            "pieces": pieces, **known.heard(first, end)}


def _said(cues: Iterable[Mapping[str, Any]], source: Source, first: int, end: int) -> str:
    """What is said in a clip: cues of which the larger part lies in it."""
    pts, base = source.split.times.pts(), float(source.split.times.base)
    start, stop = pts[first] * base, pts[end] * base
    return joined(cue["text"] for cue in cues
                  if min(cue["end"], stop) - max(cue["start"], start) > 0.5 * max(cue["end"] - cue["start"], 1e-3))

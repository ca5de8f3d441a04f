"""A folder of videos → a corpus: probe, split, clips, and their files where they are wanted. Killed at any moment, on any machine, the
same command goes on, and what comes out is the same to the byte."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omnivast.config.extras import import_extra
from omnivast.corpus import cut, split
from omnivast.corpus.boundaries.others import DETECTORS
from omnivast.corpus.clip_stages import clip_results, clip_stage
from omnivast.corpus.clips import tower
from omnivast.corpus.clips.calibrate import join_distance
from omnivast.corpus.clips.choose import spread
from omnivast.corpus.clips.copies import NEAR, SAME, Seen, copies
from omnivast.corpus.clips.pieces import Source, clips_of
from omnivast.corpus.clips.recipes import IMAGEBIND_JOIN, Recipe, recipe_named
from omnivast.corpus.engine import on_ray
from omnivast.corpus.engine.results import Row, line_of, read_rows
from omnivast.corpus.engine.view import View
from omnivast.corpus.engine.workers import Stage, forget_failures, run
from omnivast.corpus.plan import Plan, items_of
from omnivast.data.annotations.sidecars import Cue, Sidecars, joined, read_cues
from omnivast.data.media.excerpts import Excerpt
from omnivast.utils.files import write_atomically

log = logging.getLogger("omnivast")
STAGES = ("probe", "split", "clips")


@dataclass(frozen=True)
class Choice:
    """What is chosen of the clips that a recipe makes."""

    count: int | None = None
    """Clips of the whole corpus, spread evenly over the sources; None: all."""
    copies: bool = True
    """False: clips that are copies of one before them, in any source, are left out."""
    seed: int = 0


def build(videos: list[str], output: Path, recipe_name: str, *, detector: str | None = None, workers: int = 1, choice: Choice = Choice(),
          cutting: str = "references", last: str = "clips", retry: bool = False, seen_by: str | None = None,
          engine: str = "processes") -> dict[str, Any]:
    """Build, or go on building, and return what ``summary.json`` says. ``cutting``: "references", "encode" or "keyframes" (see
    :mod:`omnivast.corpus.cut`). ``last``: the stage to end with. ``retry``: sources that
    could not be read are tried again. ``seen_by``: the tower by which frames are told alike. Raises BuildError, RecipeError, DataError,
    StageError, and what loading the tower raises. ``engine``: "processes", of this machine, or "ray"."""
    recipe = recipe_named(recipe_name)
    if engine == "ray":
        import_extra("ray")
    plan = Plan(output)
    settings = plan.open(videos, detector or recipe.detector, tower.identity(seen_by) if seen_by else None)
    DETECTORS[settings.detector]()  # what it needs is missed here and not by each worker
    if seen_by:
        tower.load(seen_by)
    view = View([*STAGES[: STAGES.index(last) + 1], *([f"cut_{cutting}"] if last == "clips" and cutting != "references" else [])])
    do = on_ray.run if engine == "ray" else run
    sizes = plan.sizes()
    common = {"root": settings.root, "detector": settings.detector, "tower": seen_by}
    for name, function in (("probe", split.probe_item), ("split", split.split_item))[: STAGES.index(last) + 1]:
        stage = Stage(name, function, common, output / "work" / name, partial(items_of, output), sizes, view=view)
        if retry:
            forget_failures(stage)
        do(stage, workers)
    summary = _summary(plan, recipe) if last != "clips" else make_clips(plan, recipe, choice, view)
    if last == "clips" and cutting != "references":
        stage = clip_stage(output, f"cut_{cutting}", cut.cut_item, {"root": settings.root, "output": str(output / "clips"), "how": cutting})
        do(replace(stage, view=view), workers)
        failed = Counter(row["failed"] for row in clip_results(stage).values() if "failed" in row)
        summary["cut"] = {"how": cutting, "clips": summary["clips"] - sum(failed.values()), "failed": dict(sorted(failed.items()))}
    write_atomically(output / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
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


def make_clips(plan: Plan, recipe: Recipe, choice: Choice, view: View) -> dict[str, Any]:
    """``clips.jsonl`` (one row a clip, with its history) and ``annotations.json`` (which ``data/`` reads), from what splitting found. Needs
    no video and is quick, so it is done anew each time."""
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
    sidecars = Sidecars()
    bar = view.bar("clips", len(sources), "source")
    for row in results(output, "split", shards):
        bar.update()
        if "failed" in row:
            continue
        source = Source(split.Split.from_json(row), join)
        boundaries.update(one.kind for one in source.split.boundaries)
        clips, lost = clips_of(source, recipe)
        dropped += lost
        cues = _cues(Path(plan.settings()["root"], sources[row["id"]]["path"]), sidecars)
        for clip in clips:
            said = _said(cues, source, clip.first, clip.end)
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


def _cues(path: Path, sidecars: Sidecars) -> list[Cue]:
    """The lines of the subtitle file beside a video; none where there is no file with times."""
    file = sidecars.find(path, transcripts=False)
    return (read_cues(file) or []) if file else []


def _said(cues: list[Cue], source: Source, first: int, end: int) -> str:
    """What is said in a clip: lines of which the larger part lies in it."""
    pts, base = source.split.times.pts(), float(source.split.times.base)
    start, stop = pts[first] * base, pts[end] * base
    inside = [cue for cue in cues if min(cue.end, stop) - max(cue.start, start) > 0.5 * max(cue.end - cue.start, 1e-3)]
    return joined(line for cue in inside for line in cue.lines)

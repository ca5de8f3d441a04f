"""The stage ``captions``: a clip → captions by all teachers. Each teacher is a stage of its own, in which it is loaded once on a machine,
so that another teacher later asks none of the others again; the captions of all are then put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnivast.corpus.captions.chat import ChatCaptioner
from omnivast.corpus.captions.pictures import PictureCaptioner
from omnivast.corpus.captions.prompts import INPUTS, prompt_hash, template
from omnivast.corpus.captions.teachers import Kind, Teacher
from omnivast.corpus.captions.vast import OurCaptioner
from omnivast.corpus.clip_stages import clip_results, clip_stage
from omnivast.corpus.engine.here import Results, run_here
from omnivast.corpus.engine.results import Row, line_of
from omnivast.corpus.engine.view import View
from omnivast.corpus.engine.workers import Stage, StageError, forget_failures
from omnivast.utils.endpoint import EndpointError
from omnivast.utils.files import write_atomically

CAPTIONER = 1
"""Raise it when the same teachers would write other captions."""
OPENED: dict[Kind, Callable[[Teacher, Path], Results]] = {"omnivast": OurCaptioner, "pictures": PictureCaptioner, "endpoint": ChatCaptioner}


def check(output: Path, root: Path, teachers: Sequence[Teacher]) -> None:
    """Open each teacher and let it go again, unless clips were captioned before: what is missing is missed before hours of other work.
    Raises TeacherError, StageError."""
    if not (output / "captions.jsonl").exists():
        for teacher in teachers:
            _opened(teacher, root)


def _opened(teacher: Teacher, root: Path) -> Results:
    try:
        return OPENED[teacher.kind](teacher, root)
    except EndpointError as error:
        raise StageError(f"the captioner '{teacher.name}': {error}") from None


def caption(output: Path, root: Path, teachers: Sequence[Teacher], retry: bool = False,
            view: View | None = None) -> tuple[Stage, dict[str, Any]]:
    """Have all clips of a corpus captioned, or go on. Returns the stage, whose results are ``{"id", "captions": [{"kind", "text", "by",
    "model", "prompt", "seed", "score"}], "lacking": {teacher: reason}}``, and what the summary says. They are also written to
    ``captions.jsonl``, a row a clip. ``retry``: clips of which a teacher wrote none are tried again. Raises TeacherError, StageError."""
    found: dict[str, dict[str, Row]] = {}
    for teacher in teachers:
        stage = _stage(output, f"captions_{teacher.name}", {"teacher": teacher.decisive, "captioner": CAPTIONER})
        stage = replace(stage, view=view or View())
        if retry:
            forget_failures(stage)
        stage.leases.open(list(stage.sizes))
        if stage.leases.counts()[2] < len(stage.sizes):
            try:
                run_here(stage, _opened(teacher, root))
            except EndpointError as error:
                raise StageError(f"the captioner '{teacher.name}': {error}; the same command goes on") from None
        found[teacher.name] = clip_results(stage)
    whole = _stage(output, "captions", {"teachers": [teacher.decisive for teacher in teachers], "captioner": CAPTIONER})
    for shard in whole.sizes:
        rows = [_together(clip["id"], found) for clip in whole.items(shard)]
        write_atomically(whole.folder / f"{shard}.jsonl", b"".join(map(line_of, rows)))
    write_atomically(output / "captions.jsonl", b"".join(map(line_of, clip_results(whole).values())))
    return whole, {"clips": sum(whole.sizes.values()), "teachers": {name: _told(rows.values()) for name, rows in found.items()},
                   "prompts": _prompts(teachers)}


def _stage(output: Path, name: str, settings: dict[str, Any]) -> Stage:
    return clip_stage(output, name, _alone, settings, tuple(settings))


def _alone(clip: Row, settings: dict[str, Any]) -> Row:
    raise AssertionError(f"{clip['id']}: models run in one process, by engine/here.py")


def _together(clip: str, found: dict[str, dict[str, Row]]) -> Row:
    captions = [caption for rows in found.values() for caption in rows[clip].get("captions", ())]
    lacking = {name: rows[clip]["failed"] for name, rows in found.items() if "failed" in rows[clip]}
    return {"id": clip, "captions": captions, **({"lacking": lacking} if lacking else {})}


def _told(rows: Any) -> dict[str, Any]:
    """Clips with captions, captions by kind, their words on average, the one that was written most often, and clips without by reason."""
    kinds: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    words = clips = 0
    for row in rows:
        if "failed" in row:
            failed[row["failed"]] += 1
            continue
        clips += 1
        kinds.update(caption["kind"] for caption in row["captions"])
        texts.update({caption["text"] for caption in row["captions"]})
        words += sum(len(caption["text"].split()) for caption in row["captions"])
    often = min(texts.items(), key=lambda pair: (-pair[1], pair[0]), default=None)
    return {"clips": clips, "captions": dict(sorted(kinds.items())), "words": round(words / kinds.total(), 2) if kinds else None,
            "most_often": None if often is None else {"text": often[0], "clips": often[1]}, "failed": dict(sorted(failed.items()))}


def _prompts(teachers: Sequence[Teacher]) -> dict[str, str]:
    """Hash → template of every prompt that may have been used."""
    found = {}
    for teacher in (teacher for teacher in teachers if teacher.kind != "omnivast"):
        own = [name for name in INPUTS if name in teacher.inputs]
        for chosen in range(1 << len(own)):
            text = template([name for place, name in enumerate(own) if chosen >> place & 1], teacher.pictures == 1)
            found[prompt_hash(text)] = text
    return dict(sorted(found.items()))

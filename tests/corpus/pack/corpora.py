"""A small corpus with results of all stages, made without a model."""

from __future__ import annotations

import json

from omnivast.corpus.build import build
from omnivast.corpus.clip_stages import clip_stage
from omnivast.corpus.engine.workers import work
from tests.corpus.videos import BLUE, GREEN, GREY, RED, write

LONG = [RED] * 40 + [GREEN] * 40 + [BLUE] * 40
LEFT_OUT, WITHOUT, FAILED = "a_0000080_0000120", "deep/b_0000030_0000070", "deep/b_0000110_0000150"
"""Clips of which fusion, captioning and captioning again make nothing."""


def run_here(stage, workers=1):
    """In this process: starting others takes seconds, and tests/corpus/engine does it."""
    stage.leases.open(list(stage.sizes))
    work(stage)


def make_videos(folder):
    """Three, one of them damaged, one silent: seven clips."""
    write(folder / "a.mp4", LONG)
    write(folder / "deep" / "b.mp4", [GREY] * 30 + LONG, sound=False)
    write(folder / "c.mkv", LONG).write_bytes((folder / "c.mkv").read_bytes()[:9000])
    (folder / "a.srt").write_text("1\n00:00:00,200 --> 00:00:01,000\nfirst words\n\n2\n00:00:01,700 --> 00:00:03,000\nother words\n")
    return folder


def caption(clip, settings):
    """Two of each kind that the clip has, one of them twice."""
    if clip["id"] == FAILED:
        return {"id": clip["id"], "failed": "no frame could be decoded"}
    kinds = [] if clip["id"] == WITHOUT else ["vision", *["audio"] * ("a" in clip["modalities"])]
    told = [{"kind": kind, "text": f"{words} of {clip['id'] if settings['long'] else clip['first']} {kind}", "by": "tiny", "model": "abc",
             "prompt": None, "seed": 0, "score": 0.5} for kind in kinds for words in ("a colour", "a colour", "some more words")]
    return {"id": clip["id"], "captions": told}


def fuse(clip, settings):
    left_out = clip["id"] in (LEFT_OUT, WITHOUT, FAILED)
    return {"id": clip["id"], "omni": None if left_out else f"all that is seen and heard from {clip['first']} on",
            "how": "left out" if left_out else "llm", "tries": 3, "inputs": {}, "model": "tiny", "prompt": "0123456789abcdef",
            "reasons": ["a fact is missing"] if left_out else []}


def captioned(videos, output, monkeypatch, long=False):
    """A corpus of which all was done but packing."""
    monkeypatch.setattr("omnivast.corpus.build.run", run_here)
    monkeypatch.setattr("omnivast.corpus.pack.stage.run", run_here)
    build([str(videos)], output, "shots")
    for name, function in (("captions", caption), ("fuse", fuse)):
        run_here(clip_stage(output, name, function, {"long": long}, ("long",)))
    return output


def rows_of(output):
    return [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()]

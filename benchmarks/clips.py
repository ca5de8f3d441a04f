"""Clips by several recipes, of the same videos in one run: how long they are, how much changes within them, and how many hold a boundary.

    python benchmarks/clips.py --sources VIDEO [VIDEO …] [--videos 16] [--least 1] [--trunk alexnet.pth] [--json out.json]

The sources are composed into videos with known transitions as in benchmarks/boundaries.py; the true shots are one of the rows. What
changes is Panda-70M's Max Running LPIPS: the largest LPIPS of frames that are a second apart, and its mean over clips; less is better,
and longer clips are. By a random trunk, the default, numbers compare rows of one run alone. A clip holds a boundary if more than
TOLERANCE of its frames lie on both sides of it; it is clean if no frame of it is of a transition or of another shot. ``--least`` is the
shortest clip of all recipes: composed shots are shorter than films'. Intervals: 95 %, bootstrap over videos.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy import ndarray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.boundaries import clean_shots, composed_videos, digest  # noqa: E402
from benchmarks.perceptual import Lpips  # noqa: E402
from omnivast.corpus.boundaries.compose import Happening  # noqa: E402
from omnivast.corpus.boundaries.detector import Transition  # noqa: E402
from omnivast.corpus.clips.calibrate import join_distance  # noqa: E402
from omnivast.corpus.clips.pieces import Source, clips_of  # noqa: E402
from omnivast.corpus.clips.recipes import IMAGEBIND_JOIN, RECIPES  # noqa: E402
from omnivast.corpus.split import Split, split  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.utils.log import progress, setup_logging  # noqa: E402

log = logging.getLogger("omnivast")
TOLERANCE = 2
ROWS = {"true shots": ("shots", "truth"), "vast": ("vast", "ours"), "vast_long": ("vast_long", "ours"),
        "vast_clean": ("vast_clean", "ours"), "shots": ("shots", "ours"),
        "panda_code": ("panda_code", "content25"), "panda_paper": ("panda_paper", "content25"),
        "PySceneDetect Content": ("shots", "content"), "PySceneDetect Adaptive": ("shots", "adaptive"), "fixed 5 s": ("fixed", "none")}
"""Row → (recipe, what finds boundaries)."""
SAMPLES = 1000
Clips = list[tuple[int, int, float, float]]
"""(first frame, frame behind the last, seconds, Max Running LPIPS) of each clip of a video."""


def known(path: Path, truth: Sequence[Happening], detectors: Sequence[str]) -> dict[str, Split]:
    """What each detector finds in a video, and the truth."""
    found = {name: split(path, name) for name in detectors if name != "truth"}
    real = [Transition(one.first, one.last, "cut" if one.first == one.last else one.kind, 1.0) for one in truth]
    return {**found, "truth": replace(next(iter(found.values())), boundaries=real, doubts=[])}


def clips_by(recipe: str, splits: Sequence[Split], least: float) -> list[list[tuple[int, int]]]:
    """Frames of the clips of each video; distances are calibrated on these videos."""
    how = replace(RECIPES[recipe], least=least)
    join = join_distance(splits, IMAGEBIND_JOIN)[0] if how.join else IMAGEBIND_JOIN
    return [[(clip.first, clip.end) for clip in clips_of(Source(one, join), how)[0]] for one in splits]


def running(path: Path, frames: Sequence[tuple[int, int]], fps: float, lpips: Lpips, cache: dict[tuple[int, ...], float]) -> list[float]:
    """Max Running LPIPS of each clip: of frames a second apart, of its first and last where it has one alone."""
    step = max(1, round(fps))
    wanted = [tuple(sorted({*range(first, end, step), *([end - 1] if end - first <= step else [])})) for first, end in frames]
    missing = {number for numbers in wanted if numbers not in cache for number in numbers}
    pictures: dict[int, ndarray] = {}
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0) if missing else ()):
            if number in missing:
                pictures[number] = frame.to_ndarray(format="rgb24")
    for numbers in wanted:
        if numbers not in cache:
            cache[numbers] = float(lpips.running(np.stack([pictures[number] for number in numbers])).max(initial=0.0))
    return [cache[numbers] for numbers in wanted]


def holds(clip: tuple[int, int], one: Happening) -> bool:
    """Whether a clip shows both sides of a transition."""
    behind = clip[1] - (one.first if one.first == one.last else one.last + 1)
    return one.first - clip[0] > TOLERANCE and behind > TOLERANCE


def is_clean(clip: tuple[int, int], truth: Sequence[Happening]) -> bool:
    return not any(clip[0] < one.first < clip[1] if one.first == one.last else one.first < clip[1] and one.last >= clip[0] for one in truth)


def told(videos: Sequence[Clips], truths: Sequence[Sequence[Happening]], frames: Sequence[int]) -> dict[str, Any]:
    """The row of a recipe."""
    clips = [(clip, truth) for own, truth in zip(videos, truths) for clip in own]
    if not clips:
        return {"clips": 0}
    seconds, changes = (np.array([clip[column] for clip, _ in clips]) for column in (2, 3))
    rng = np.random.default_rng(0)
    drawn = [[clip for video in rng.integers(0, len(videos), len(videos)) for clip in videos[video]] for _ in range(SAMPLES)]
    means = np.array([np.mean([clip[2:] for clip in one], 0) for one in drawn if one])
    spread = {name: np.quantile(means[:, column], (0.025, 0.975)).round(3).tolist() for column, name in enumerate(("seconds", "changes"))}
    return {"clips": len(clips), "mean_seconds": round(float(seconds.mean()), 3), "median_seconds": round(float(np.median(seconds)), 3),
            "max_running_lpips": round(float(changes.mean()), 4), "intervals": spread,
            "hold_a_boundary": round(float(np.mean([any(holds(clip[:2], one) for one in truth) for clip, truth in clips])), 4),
            "clean": round(float(np.mean([is_clean(clip[:2], truth) for clip, truth in clips])), 4),
            "kept": round(sum(clip[1] - clip[0] for clip, _ in clips) / sum(frames), 4)}


def measured(videos: Sequence[tuple[Path, Sequence[Happening]]], least: float, lpips: Lpips, rows: Mapping[str, tuple[str, str]] = ROWS
             ) -> dict[str, Any]:
    """Row → its numbers, of videos with their transitions."""
    detectors = list(dict.fromkeys(detector for _, detector in rows.values()))
    splits = [known(path, truth, detectors) for path, truth in progress(videos, "splitting", unit="video")]
    caches: list[dict[tuple[int, ...], float]] = [{} for _ in videos]
    found = {}
    for name, (recipe, detector) in progress(list(rows.items()), "comparing", unit="recipe"):
        made = clips_by(recipe, [one[detector] for one in splits], least)
        clips: list[Clips] = []
        for (path, _), own, one, cache in zip(videos, made, splits, caches):
            changes = running(path, own, one[detector].fps, lpips, cache)
            source = Source(one[detector])
            clips.append([(first, end, source.seconds(first, end), change) for (first, end), change in zip(own, changes)])
        found[name] = told(clips, [truth for _, truth in videos], [one["truth"].frames for one in splits])
        log.info("%s: %s", name, json.dumps(found[name]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, nargs="+", required=True)
    parser.add_argument("--videos", type=int, default=16, help="to compose (default 16)")
    parser.add_argument("--least", type=float, default=1.0, help="seconds of the shortest clip (default 1)")
    parser.add_argument("--trunk", type=Path, help="AlexNet of torchvision (alexnet-owt-7be5be79.pth); default: a random one")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    torch.set_num_threads(1)
    lpips = Lpips(options.trunk, options.seed)
    with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
        shots = [shot for path in progress(options.sources, "cutting into shots") for shot in clean_shots(path)]
        videos = composed_videos(shots, options.videos, Path(folder), options.seed)
        result = {"machine": hardware(), "lpips": lpips.name, "videos": len(videos), "sha256_of_videos": digest(videos),
                  "least": options.least, "rows": measured([(path, truth.transitions) for path, truth in videos], options.least, lpips)}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

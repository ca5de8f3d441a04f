"""Shot boundaries: ours beside PySceneDetect and TransNetV2, on composed videos whose transitions are known.

    python benchmarks/boundaries.py --sources VIDEO [VIDEO …] [--detectors ours content adaptive hash transnetv2 …] [--part 12]
    python benchmarks/boundaries.py --public FOLDER          # videos with NAME.txt beside them: "first last" frame of a shot per line

Composed: the sources are cut into shots where no detector at hand sees anything (ours does not take part), the shots are composed into
videos with known transitions and distractors, and these are encoded by x264, MPEG-4 and VP9 with several settings, and decoded again. No
source may have been used in training. A hit: within 2 frames, one to one; of a transition that lasts, anywhere in it. Intervals: 95 %,
bootstrap over videos. ``--public`` is for BBC Planet Earth (Zenodo 14873790) and the like. TransNetV2 is a hundred times slower than the
others: with ``--part N`` it sees the first N videos alone, and everybody's row says what was reached on these (``first``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.corpus.boundaries.compose import Composed, Happening, Style, compose  # noqa: E402
from omnivast.corpus.boundaries.detector import Detector  # noqa: E402
from omnivast.corpus.boundaries.others import DETECTORS  # noqa: E402
from omnivast.corpus.boundaries.score import Tally, intervals, rates, tally  # noqa: E402
from omnivast.corpus.boundaries.thumbnails import Thumbnails  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.utils.files import sha256_file  # noqa: E402
from omnivast.utils.log import progress, setup_logging  # noqa: E402

log = logging.getLogger("omnivast")
SIZE = (160, 90)
LEAST, MARGIN = 30, 4
"""Frames of a shot that is used, after so many were taken off each end."""
JUDGES = ("content", "adaptive", "hash", "transnetv2_many")
ENCODERS: list[tuple[str, dict[str, str], int, int]] = [
    ("libx264", {"preset": "veryfast", "crf": "23"}, 25, 3), ("libx264", {"preset": "veryfast", "crf": "34", "g": "250"}, 30, 2),
    ("mpeg4", {"qscale": "5", "flags": "+qscale"}, 24, 0),
    ("libvpx-vp9", {"crf": "36", "b": "0", "cpu-used": "8", "deadline": "realtime"}, 50, 0),
]
"""Name, options, frames a second, B-frames; used in turn."""
INTERVALS = ("f1", "precision", "recall_cut", "recall_dissolve", "precision_dissolve", "recall_fade", "recall_wipe", "iou",
             "alarms_per_100")
STYLE = Style(frames=(8, 48), eases=("linear", "smooth"), distractors=0.5)


def clean_shots(path: Path) -> list[np.ndarray]:
    """(T, 90, 160, 3) uint8 shots of a video, cut wherever any of JUDGES sees something."""
    detectors = [DETECTORS[name]() for name in JUDGES]
    frames = []
    for batch in Thumbnails(path, frame_width=256):
        for detector in detectors:
            detector.add(batch)
    scaler = av.video.reformatter.VideoReformatter()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(scaler.reformat(frame, *SIZE, "rgb24", interpolation="AREA").to_ndarray())
    ends = sorted({(one.first, one.last + 1) for detector in detectors for one in detector.end()} | {(len(frames), len(frames))})
    shots, start = [], 0
    for first, last in ends:
        if first - start >= LEAST + 2 * MARGIN:
            shots.append(np.stack(frames[start + MARGIN : first - MARGIN]))
        start = max(start, last)
    return shots


def encode(frames: np.ndarray, path: Path, encoder: tuple[str, dict[str, str], int, int]) -> None:
    name, options, fps, between = encoder
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(name, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = frames.shape[2], frames.shape[1], "yuv420p", 1
        stream.codec_context.max_b_frames = between
        for n, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def composed_videos(shots: Sequence[np.ndarray], count: int, folder: Path, seed: int) -> list[tuple[Path, Composed]]:
    found = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        composed = compose(shots, 9, rng, STYLE)
        path = folder / f"{number:03d}.mkv"
        encode(composed.frames, path, ENCODERS[number % len(ENCODERS)])
        found.append((path, composed))
    return found


def public_videos(folder: Path) -> list[tuple[Path, Composed]]:
    """The videos of a folder with their shots beside them; what lies between two shots is a transition."""
    found = []
    for path in sorted(folder.rglob("*.txt")):
        videos = [other for other in path.parent.glob(f"{path.stem}.*") if other.suffix in (".mp4", ".mkv", ".webm", ".avi", ".mov")]
        if videos:
            shots = [tuple(map(int, line.split()[:2])) for line in path.read_text().splitlines() if line.strip()]
            between = [Happening(min(end + 1, start), max(end + 1, start - 1), "cut" if start - end < 2 else "gradual")
                       for (_, end), (start, _) in zip(shots, shots[1:])]
            found.append((videos[0], Composed(np.empty(0), between)))
    return found


def digest(videos: Sequence[tuple[Path, Composed]]) -> str:
    """Of the encoded videos, by which two results are known to be of the same."""
    return hashlib.sha256("".join(sha256_file(path) for path, _ in videos).encode()).hexdigest()[:16]


def run(name: str, videos: Sequence[tuple[Path, Composed]], tolerance: int, part: int | None = None) -> dict[str, Any]:
    """One detector's row; of the first ``part`` videos in a row of their own too, or of them alone where it is slow."""
    slow = part is not None and name.startswith("transnet")
    tallies: list[Tally] = []
    seconds, frames = 0.0, 0
    for path, truth in videos[:part] if slow else videos:
        detector: Detector = DETECTORS[name]()
        thumbnails = Thumbnails(path, frame_width=detector.frame_width)
        for batch in thumbnails:
            began = time.process_time()
            detector.add(batch)
            seconds += time.process_time() - began
        began = time.process_time()
        found = detector.end()
        seconds += time.process_time() - began
        frames += thumbnails.count
        tallies.append(tally(truth.transitions, found, truth.distractors, tolerance))
    row = {"detector": name, "frames_per_core_second": round(frames / seconds), **_scores(tallies)}
    return row if part is None or slow else {**row, "first": _scores(tallies[:part])}


def _scores(tallies: Sequence[Tally]) -> dict[str, Any]:
    whole = sum(tallies[1:], tallies[0])
    own = rates(whole)
    spread = intervals(tallies, [key for key in INTERVALS if key in own])
    return {"videos": len(tallies), **{key: round(value, 3) for key, value in own.items()}, "there": dict(whole.there),
            "false": whole.false, "distractors": whole.distractors, "alarms": dict(whole.alarms),
            "intervals": {key: [round(value, 3) for value in ends] for key, ends in spread.items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, nargs="*", default=[])
    parser.add_argument("--public", type=Path)
    parser.add_argument("--detectors", nargs="+", default=[name for name in DETECTORS if name != "none"], choices=list(DETECTORS))
    parser.add_argument("--videos", type=int, default=96, help="to compose (default 96)")
    parser.add_argument("--part", type=int, metavar="N", help="TransNetV2 sees the first N videos alone (default: all)")
    parser.add_argument("--tolerance", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
        shots = [shot for path in progress(options.sources, "cutting into shots") for shot in clean_shots(path)]
        videos = public_videos(options.public) if options.public else composed_videos(shots, options.videos, Path(folder), options.seed)
        same = "" if options.public else digest(videos)
        rows = []
        for name in progress(options.detectors, "detectors"):
            rows.append(run(name, videos, options.tolerance, options.part))
            log.info("%s", json.dumps(rows[-1]))
    kinds = {kind: sum(one.kind == kind for _, video in videos for one in video.transitions)
             for kind in sorted({one.kind for _, video in videos for one in video.transitions})}
    result = {"hardware": hardware(), "shots": len(shots), "videos": len(videos), "frames": sum(len(video.frames) for _, video in videos),
              "transitions": kinds, "distractors": sum(len(video.distractors) for _, video in videos), "tolerance": options.tolerance,
              "sha256_of_videos": same, "seed": options.seed, "composed": options.public is None, "rows": rows}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Planted copies among clips of the same videos: how many are found, and how much else is taken for one.

    python benchmarks/copies.py --sources VIDEO [VIDEO …] [--scenes 12 --pictures FOLDER] [--seconds 4] [--json out.json]

Originals are all stretches of the sources, one behind the other, of so many seconds, whatever is cut within them, and synthetic shots,
three of each scene: other moments of the same scene are the hard negatives. Of each original there is a copy of every kind, encoded again:
REQUIRED are those that ``build --no-copies`` is for; OTHERS are told beside them. All are read as ``build`` reads them. A copy is found
where it is said to be one of its own original; precision is the share of found ones among all that are said to be copies of anything.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy import ndarray
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.boundaries import encode  # noqa: E402
from omnivast.corpus.boundaries.synthetic import film, pictures_of, scene  # noqa: E402
from omnivast.corpus.clips.copies import Seen, copies  # noqa: E402
from omnivast.corpus.clips.pieces import Source  # noqa: E402
from omnivast.corpus.split import split  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.utils.log import progress, setup_logging  # noqa: E402

log = logging.getLogger("omnivast")
REQUIRED = ("encoded", "rescaled", "trimmed", "brightness")
OTHERS = ("cropped", "logo", "faster", "mirrored")
FPS = 25
PLAIN = ("libx264", {"preset": "veryfast", "crf": "23"}, FPS, 2)
POOR = [("mpeg4", {"qscale": "12", "flags": "+qscale"}, FPS, 0), ("libx264", {"preset": "veryfast", "crf": "36"}, FPS, 3)]
SIZES = [(320, 180), (96, 54), (240, 180)]


def resized(frames: ndarray, width: int, height: int) -> ndarray:
    """(T, H, W, 3) uint8 → (T, height, width, 3) uint8."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    found = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return found.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def copied(frames: ndarray, kind: str, rng: np.random.Generator) -> tuple[ndarray, tuple[str, dict[str, str], int, int]]:
    """A copy of ``kind`` and how it is encoded."""
    height, width = frames.shape[1:3]
    if kind == "encoded":
        return frames, POOR[int(rng.integers(len(POOR)))]
    if kind == "rescaled":
        return resized(frames, *SIZES[int(rng.integers(len(SIZES)))]), PLAIN
    if kind == "trimmed":
        length = round(len(frames) * rng.uniform(0.55, 0.85))
        start = int(rng.integers(len(frames) - length + 1))
        return frames[start : start + length], PLAIN
    if kind == "brightness":
        gain = rng.uniform(0.6, 0.85) if rng.random() < 0.5 else rng.uniform(1.15, 1.4)
        return np.clip(frames * gain + rng.uniform(-25, 25), 0, 255).astype(np.uint8), PLAIN
    if kind == "cropped":
        return resized(frames[:, height // 20 : -height // 20, width // 20 : -width // 20], width, height), PLAIN
    if kind == "logo":
        frames = frames.copy()
        frames[:, height // 18 : height // 5, width // 20 : width // 4] = (240, 240, 30)
        return frames, PLAIN
    return (frames, (*PLAIN[:2], 28, 2)) if kind == "faster" else (frames[:, :, ::-1], PLAIN)


def originals(options: argparse.Namespace) -> Iterator[ndarray]:
    """(T, H, W, 3) uint8 each."""
    for path in options.sources:
        part: list[ndarray] = []
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                part.append(frame.to_ndarray(format="rgb24"))
                if len(part) == round(options.seconds * FPS):
                    yield np.stack(part)
                    part = []
    rng = np.random.default_rng((options.seed, 1))
    pictures = pictures_of([options.pictures]) if options.pictures else []
    for _ in range(options.scenes):
        what = scene(pictures, [], rng)
        for _ in range(3):
            yield resized(film(what, int(rng.integers(60, 150)), rng), 160, 90)


def as_built(frames: ndarray, encoder: tuple[str, dict[str, str], int, int], path: Path) -> Seen:
    """What ``build`` knows of a clip that is the whole of a file."""
    encode(frames, path, encoder)
    known = split(path, "none")
    return Source(known).seen(0, known.frames)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--pictures", type=Path, help="folder of pictures for the synthetic scenes")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth original")
    parser.add_argument("--from", type=int, default=0, dest="first", help="beginning with this one")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    torch.set_num_threads(1)
    whole: list[Seen] = []
    planted: list[tuple[Seen, str, int]] = []
    with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
        path = Path(folder, "clip.mkv")
        for number, frames in progress(list(enumerate(originals(options)))[options.first :: options.every], "copying", unit="clip"):
            rng = np.random.default_rng((options.seed, 2, number))
            planted += [(as_built(*copied(frames, kind, rng), path), kind, len(whole)) for kind in (*REQUIRED, *OTHERS)]
            whole.append(as_built(frames, PLAIN, path))
    result = {"machine": hardware(), "originals": len(whole), "seconds": options.seconds, "seed": options.seed, **measured(whole, planted)}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measured(whole: Sequence[Seen], planted: Sequence[tuple[Seen, str, int]]) -> dict[str, Any]:
    """Precision and recall of the required kinds, recall of each kind."""
    required = [one for one in planted if one[1] in REQUIRED]
    found = copies([*whole, *(seen for seen, _, _ in required)]).tolist()
    right = sum(said == of for said, (_, _, of) in zip(found[len(whole) :], required))
    said = sum(one >= 0 for one in found)
    asked, hits = Counter(kind for _, kind, _ in planted), Counter[str]()
    for kind in asked:
        own = [(seen, of) for seen, name, of in planted if name == kind]
        hits[kind] = sum(one == of for one, (_, of) in zip(copies([*whole, *(seen for seen, _ in own)]).tolist()[len(whole) :], own))
    return {"planted": len(required), "said": said, "right": right, "originals_said": sum(one >= 0 for one in found[: len(whole)]),
            "precision": round(right / max(said, 1), 4), "recall": round(right / max(len(required), 1), 4),
            "recall_by_kind": {kind: round(hits[kind] / asked[kind], 4) for kind in asked}}


if __name__ == "__main__":
    raise SystemExit(main())

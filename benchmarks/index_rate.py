"""How fast files become an index, beside decoding and encoding clip by clip.

    python benchmarks/index_rate.py --model output/quickstart/ret [--data datasets/omnistamps/quick] [--clips 64] [--json out.json]

- **short**: a folder of clips as it is, beside ``model.embed`` of each by itself;
- **long**: the same clips joined into one video, in windows of 2 s every second, beside ``model.embed`` of as many clips, each a file of
  its own, as there are windows: what one does who cuts the video into windows first (cutting is not counted).

Both ways in turn, the median of ``--repeats``: seconds by the clock and of the processor (others may use the machine), and minutes of video
for which there is an index after a minute.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.search import FADES, join  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.inference.index.api import Index  # noqa: E402
from omnivast.inference.pipeline import Pipeline, load  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402

log = logging.getLogger("omnivast")
WINDOW, STRIDE = FADES[0.0]
"""Seconds, of the moments of joined videos."""


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    began, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - busy


def compare(model: Pipeline, folder: Path, clips: Sequence[Path], repeats: int) -> dict[str, Any]:
    """An index of ``folder`` beside each of ``clips`` by itself."""
    with tempfile.TemporaryDirectory(prefix="omnivast_") as place:
        index = Index(folder, model, folder=Path(place, "first"), window=WINDOW, stride=STRIDE, background=())
        ours, plain = [], []
        for number in range(repeats):
            own = Path(place, str(number))
            ours.append(timed(lambda: Index(folder, model, folder=own, window=WINDOW, stride=STRIDE, background=())))  # noqa: B023
            plain.append(timed(lambda: [model.embed(clip) for clip in clips]))
    seconds, busy = ([median(times[which] for times in way) for way in (ours, plain)] for which in (0, 1))
    played = index.report.seconds
    return {"moments": len(index), "minutes": round(played / 60, 2),
            "index_s": round(seconds[0], 2), "clip_by_clip_s": round(seconds[1], 2), "ratio": round(seconds[1] / seconds[0], 2),
            "index_cpu_s": round(busy[0], 2), "clip_by_clip_cpu_s": round(busy[1], 2), "cpu_ratio": round(busy[1] / busy[0], 2),
            "minutes_per_minute": round(played / seconds[0], 1), "minutes_per_cpu_minute": round(played / busy[0], 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("datasets/omnistamps/quick"))
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    model = load(options.model)
    texts = json.loads((options.data / "ret_test.json").read_text())[: options.clips]
    result: dict[str, Any] = {"machine": hardware(), "threads": torch.get_num_threads(), "precision": model.parts.config.run_cfg.precision,
                              "repeats": options.repeats}
    with tempfile.TemporaryDirectory(prefix="omnivast_") as place:
        short, long = Path(place, "short"), Path(place, "long")
        short.mkdir()
        long.mkdir()
        clips = [Path(shutil.copy(options.data / "clips" / f"{row['video_id']}.mp4", short)) for row in texts]
        for clip, row in zip(clips, texts):
            clip.with_suffix(".txt").write_text(row["subtitle"])
        join(clips, [row["subtitle"] for row in texts], long / "long.mp4")
        result["short"] = compare(model, short, clips, options.repeats)
        result["long"] = compare(model, long, (clips + clips)[: 2 * len(clips) - 1], options.repeats)
    log.info("%s", json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Whether the frames and slices that an answer is said to depend on are those, in clips where this is known.

    python benchmarks/evidence.py --model output/quickstart/qa [--data datasets/omnistamps/quick] [--clips 200] [--json out.json]

Two test clips, which differ in what is seen and heard, are joined by a cut, in an order drawn from a seed, and the model is shown 8 frames
and 2 slices of sound of the whole. It is asked what is seen and what is heard. Where the answer is the fact of one of the two clips, the
frames, or the slice, of that clip are the right ones; other answers (mixtures, mistakes) have no right evidence, and are counted apart.

- **named**: answers for which anything is named, and of what is named, how much lies in the right clip and is of the right track;
- **without what is named**: the share of answers that change when all of it is left out;
- **without as many others**: the same when as many others, drawn from a seed, are left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.search import join  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.inference.pipeline import Pipeline, load  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402

FRAMES, SLICES = 8, 2
QUESTIONS = {"seen": "what is shown in the video?", "heard": "what is heard?"}

log = logging.getLogger("omnivast")


def pairs_of(rows: Sequence[dict[str, Any]], facts: dict[str, Any], count: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """``count`` pairs of clips that share neither picture nor sound."""
    draw = random.Random(0)
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    while len(found) < count:
        one, other = draw.sample(list(rows), 2)
        first, second = facts[one["video_id"]], facts[other["video_id"]]
        if all(first[track] != second[track] for track in QUESTIONS):
            found.append((one, other))
    return found


def measure(model: Pipeline, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], data: Path, facts: dict[str, Any], track: str
            ) -> dict[str, Any]:
    """One question about every pair."""
    draw, rows, seconds, question = random.Random(1), [], 0.0, QUESTIONS[track]
    everything = [*(("seen", number) for number in range(FRAMES)), *(("heard", number) for number in range(SLICES))]
    with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
        for number, pair in enumerate(pairs):
            path = Path(folder, f"{number}.mp4")
            spans = join([data / "clips" / f"{row['video_id']}.mp4" for row in pair], [row["subtitle"] for row in pair], path)
            began = time.perf_counter()
            found = model.answer(path, question, evidence=True)
            seconds += time.perf_counter() - began
            of = [facts[row["video_id"]][track] for row in pair]
            if found.text not in of:
                continue
            start, end = spans[of.index(found.text)]
            named = [(one.track, one.number) for one in found.evidence]
            right = [one.track == track and start <= (one.start + one.end) / 2 <= end for one in found.evidence]
            others = [part for part in everything if part not in named]
            others = draw.sample(others, min(len(named), len(others)))
            rows.append({"named": len(named), "right": sum(right), "all_right": bool(named) and all(right),
                         "changed": bool(named) and model.answer(path, question, without=named).text != found.text,
                         "changed_by_others": bool(named) and model.answer(path, question, without=others).text != found.text})
    told = [row for row in rows if row["named"]]
    return {"question": track, "clips": len(pairs), "answers_of_one_clip": len(rows), "named": _percent([row["named"] > 0 for row in rows]),
            "parts_named": round(float(np.mean([row["named"] for row in told])), 2),
            "right": round(100 * sum(row["right"] for row in told) / sum(row["named"] for row in told), 1),
            "all_right": _percent([row["all_right"] for row in told]),
            "changed_without_named": _percent([row["changed"] for row in rows]),
            "changed_without_others": _percent([row["changed_by_others"] for row in told]),
            "seconds_per_answer": round(seconds / len(pairs), 3)}


def _percent(values: Sequence[bool]) -> float:
    return round(100.0 * float(np.mean(values)), 1) if len(values) else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("datasets/omnistamps/quick"))
    parser.add_argument("--clips", type=int, default=200, help="pairs of clips (default 200)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    model = load(options.model, frames=FRAMES, slices=SLICES)
    facts = {clip["clip_id"]: clip for clip in json.loads((options.data / "clips.json").read_text())}
    pairs = pairs_of(json.loads((options.data / "qa_test.json").read_text()), facts, options.clips)
    result: dict[str, Any] = {"machine": hardware(), "precision": model.parts.config.run_cfg.precision,
                              "evidence": [measure(model, pairs, options.data, facts, track) for track in QUESTIONS]}
    text = json.dumps(result, indent=1)
    log.info("%s", text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The options of ``build`` by which clips are captioned, and the verb ``teachers``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from typing import Any

from omnivast.config.paths import as_path
from omnivast.corpus.captions.cover import cover, read_judgements
from omnivast.corpus.captions.teachers import TeacherError

log = logging.getLogger("omnivast")
MANY, REPEATED = 50, 0.1
"""Of so many clips or more, the share with one and the same caption from which on a captioner's work is in doubt."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Who captions."""
    parser.add_argument("--captioner", action="append", default=[], metavar="WHICH", help="caption each clip, by the output folder of a "
                        "training with captions (five of what is seen, five of what is heard), by a folder of transformers that turns "
                        "pictures into text, or by all that a JSON file lists (docs/corpus_captions.md); may be given several times")


def say(summary: dict[str, Any]) -> None:
    """What captioning gave, by the log."""
    for name, own in summary["teachers"].items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in own["captions"].items()) or "none"
        log.info("captions by %s: %s, of %d clips", name, kinds, own["clips"])
        often = own["most_often"]
        if own["clips"] >= MANY and often["clips"] > REPEATED * own["clips"]:
            log.warning("%s wrote the same of %d of %d clips: %s", name, often["clips"], own["clips"], often["text"])
        for reason, count in own["failed"].items():
            log.warning("%d clips have no caption by %s: %s", count, name, reason)


def teachers_parser() -> argparse.ArgumentParser:
    """Of ``teachers``."""
    made = argparse.ArgumentParser(prog="python -m omnivast teachers", description="Choose captioners by people's judgements of their "
                                   "captions: the best one, then the one that is good where those before are not, and so on.")
    made.add_argument("file", type=as_path, metavar="FILE", help=".csv (a column 'clip', one of 1 and 0 for each captioner), .json or "
                      ".jsonl (of each clip {\"clip\": …, \"good\": [captioners]})")
    made.add_argument("--most", type=int, metavar="N", help="choose at most so many (default: until no other adds a clip)")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    return made


def teachers(options: argparse.Namespace) -> int:
    """Prints the choice. Raises JudgementError, OSError, TeacherError."""
    if options.most is not None and options.most < 1:
        raise TeacherError(f"--most {options.most}: expected 1 or more")
    good, clips = read_judgements(options.file)
    chosen = cover(good, clips, options.most)
    every = len(set().union(*good.values())) / clips
    if options.json:
        json.dump({"clips": clips, "teachers": len(good), "covered_by_all": round(every, 4),
                   "chosen": [{key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(one).items()}
                              for one in chosen]}, sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
        return 0
    width = max((len(one.name) for one in chosen), default=0)
    lines = [f"{'':<{width}}   good    adds  covered"]
    lines += [f"{one.name:<{width}}  {one.good:6.1%}  {one.adds:6.1%}  {one.covered:6.1%}" for one in chosen]
    sys.stdout.write("\n".join([*lines, f"all {len(good)} captioners: {every:.1%} of {clips} clips"]) + "\n")
    return 0

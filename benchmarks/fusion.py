"""Fusing captions by a language model, on OmniStamps, where the truth is known.

    python benchmarks/fusion.py [--llm FOLDER_OR_GGUF | --endpoint URL --model NAME] [--clips 200] [--minutes 12] [--check 400] [--json OUT]

The sources of a clip are made from its facts by templates: three vision and three audio captions and a sentence that is said. In a third
of the clips one vision caption is wrong, in a third one audio caption: half of these are another clip's, half name another thing in the
clip's own ("planted"). Printed: how many captions the model wrote itself; how many of those that were taken name all three facts; how
many name something that is not true (any other stamp of the set, another colour, motion or number), or give a fact to another sense; how
many planted things came through. The truth is read off by words of the set alone, without the check's code.

``--check N``: without a language model, what the check itself makes of sentences that are right and wrong by construction, on N clips.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.corpus.engine.results import Row  # noqa: E402
from omnivast.corpus.fusion.alarm import Alarm  # noqa: E402
from omnivast.corpus.fusion.check import problems  # noqa: E402
from omnivast.corpus.fusion.fuse import fuse, settings_of, summary_of  # noqa: E402
from omnivast.corpus.fusion.sources import facts_of  # noqa: E402
from omnivast.corpus.fusion.writers import writer_of  # noqa: E402
from omnivast.corpus.omnistamps.facts import (  # noqa: E402
    BACKGROUNDS,
    MOTIONS,
    NUMBERS,
    Clip,
    Stamp,
    draw_clips,
    entities_of,
    read_stamps,
    size_named,
)
from omnivast.corpus.omnistamps.texts import OMNI, write_texts  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.utils.files import write_atomically  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402

log = logging.getLogger("omnivast")
ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 16
"""Clips that are written together."""
PLANTS = ("none", "vision", "audio")


@dataclass(frozen=True)
class Case:
    """A clip, its sources, and what was planted."""

    clip: Clip
    item: Row
    plant: str
    planted: str = ""
    """The phrase of the wrong thing."""


class Truth:
    """What sentences say of a clip, by the set's own words."""

    def __init__(self, stamps: dict[str, Stamp]) -> None:
        self.stamps = stamps
        nouns = sorted({stamp.noun for stamp in stamps.values()}, key=len, reverse=True)
        self._things = re.compile(rf"\b({'|'.join(map(re.escape, nouns))})s?\b")

    def nouns(self, clip: Clip) -> list[str]:
        return [self.stamps[name].noun for name in clip.triple]

    def lacking(self, clip: Clip, text: str) -> list[str]:
        said = self._things.findall(_plain(text))
        return [noun for noun in self.nouns(clip) if noun not in said and not re.search(rf"\b{re.escape(noun)}s?\b", _plain(text))]

    def false(self, clip: Clip, text: str, item: Row) -> list[str]:
        """Things, colours, motions and numbers in a sentence that are not the clip's."""
        text = _plain(text)
        own = self.nouns(clip)
        told = " | ".join([*own, item["subtitle"], clip.background])  # an orange background is no orange
        found = [thing for thing in self._things.findall(text) if not re.search(rf"\b{re.escape(thing)}s?\b", told)]
        rest = self._things.sub(" ", text)
        found += [colour for colour in BACKGROUNDS if colour != clip.background and re.search(rf"\b{colour}\b", rest)]
        found += [number for number in NUMBERS if number != clip.number and re.search(rf"\b{number}\b", rest)]
        forms = {"left": "left", "right": "right", "up": "up", "down": "down", "growing": "grow(s|ing)", "shrinking": "shrink(s|ing)",
                 "turning": "turn(s|ing)"}
        moves = rest.replace(" came up ", " ")
        return found + [motion for motion in MOTIONS if motion != clip.motion and re.search(rf"\b{forms[motion]}\b", moves)]

    def swapped(self, clip: Clip, text: str) -> bool:
        """Whether what is heard or talked about is said to move or to be seen, or what is seen or talked about to sound; in the forms that
        occur."""
        seen, heard, said = (re.escape(noun) for noun in self.nouns(clip))
        moves = "(is |are |that |as it )*(mov|grow|shrink|turn|shown|seen|appear|visible)"
        sounds = "(is |are |can be |being )+(heard|audible)"
        forms = (rf"\b({heard}|{said}) {moves}", rf"\b({seen}|{said}) {sounds}",
                 rf"\b(sound|noise|recording) of (a |an |the )?({seen}|{said})\b")
        return any(re.search(form, _plain(text)) for form in forms)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def cases(clips: Sequence[Clip], stamps: dict[str, Stamp], seed: int) -> list[Case]:
    """Of each clip its sources; every second and third of three clips has a wrong caption among its three."""
    found = []
    for number, clip in enumerate(clips):
        texts, rng = write_texts(clip, stamps, seed), random.Random(f"{seed} {clip.clip_id}")
        vision, audio, plant, planted = list(texts.vision), list(texts.audio), PLANTS[number % len(PLANTS)], ""
        if plant != "none":
            other = rng.choice([one for one in clips if not set(one.triple) & set(clip.triple)])
            role, own = ("seen", vision) if plant == "vision" else ("heard", audio)
            planted = stamps[getattr(other, role)].phrase
            whole = write_texts(other, stamps, seed)
            place = rng.randrange(3)
            mine = stamps[getattr(clip, role)].phrase
            another = (whole.vision if plant == "vision" else whole.audio)[0]
            own[place] = another if rng.random() < 0.5 else own[place].replace(mine, planted)
        item = {"id": clip.clip_id, "vision_cap": vision, "audio_cap": audio, "subtitle": texts.subtitle}
        found.append(Case(clip, item, plant, planted))
    return found


def of_the_model(found: list[Case], rows: list[Row], truth: Truth) -> dict[str, Any]:
    taken = [(case, row) for case, row in zip(found, rows) if row["omni"]]
    lacking = [(row["omni"], names) for case, row in taken if (names := truth.lacking(case.clip, row["omni"]))]
    false = [(row["omni"], names) for case, row in taken if (names := truth.false(case.clip, row["omni"], case.item))]
    swapped = [row["omni"] for case, row in taken if truth.swapped(case.clip, row["omni"])]
    planted = [(case, row) for case, row in zip(found, rows) if case.plant != "none"]
    survived = [row["omni"] for case, row in planted if row["omni"] and case.planted.split(" ", 1)[1] in _plain(row["omni"])
                and case.planted.split(" ", 1)[1] not in " ".join([*truth.nouns(case.clip), case.item["subtitle"]])]
    own = [row for _, row in taken if row["how"] == "llm"]
    return {**summary_of(rows), "taken": len(taken), "written_by_the_llm_percent": _percent(len(own), len(rows)),
            "all_three_facts_percent": _percent(len(taken) - len(lacking), len(taken)), "contradicting": len(false),
            "wrong_sense": len(swapped), "planted": len(planted), "planted_that_came_through": len(survived),
            "different_texts": len({row["omni"] for row in own}),
            "examples": {"lacking": lacking[:5], "contradicting": false[:5], "wrong_sense": swapped[:5], "came_through": survived[:5],
                         "llm": [row["omni"] for row in own[:8]],
                         "sentence": [row["omni"] for _, row in taken if row["how"] == "sentence"][:3]}}


def of_the_check(found: list[Case], truth: Truth) -> dict[str, Any]:
    """Sentences that are right by construction, and such with one mistake, against the check."""
    asked: Counter[str] = Counter()
    wrongly: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    things = [stamp.phrase for stamp in truth.stamps.values()]
    for case in found:
        rng = random.Random(case.clip.clip_id)
        facts = facts_of(case.item["vision_cap"], case.item["audio_cap"], case.item["subtitle"])
        own = dict(zip(("seen", "heard", "said"), (truth.stamps[name].phrase for name in case.clip.triple)))
        for kind, text in _sentences(own, case, things, rng):
            asked[kind] += 1
            if bool(problems(text, facts)) == (kind == "right"):
                wrongly[kind] += 1
                examples.setdefault(kind, []).append(text)
    errors = sum(wrongly[kind] for kind in asked if kind != "right")
    mistakes = sum(asked[kind] for kind in asked if kind != "right")
    return {"clips": len(found), "right": asked["right"], "false_rejects_percent": _percent(wrongly["right"], asked["right"]),
            "wrong": mistakes, "false_accepts_percent": _percent(errors, mistakes),
            "false_accepts_by_mistake": {kind: f"{wrongly[kind]} of {asked[kind]}" for kind in asked if kind != "right"},
            "examples": {kind: texts[:4] for kind, texts in examples.items()}}


def _sentences(own: dict[str, str], case: Case, things: list[str], rng: random.Random) -> Iterable[tuple[str, str]]:
    """(what is wrong with it, a sentence)."""
    for template in OMNI:
        yield "right", template.format(**own)
        yield from (("sense", template.format(**dict(zip(own, turned)))) for turned in list(itertools.permutations(own.values()))[1:])
        for role in own:
            other = rng.choice([thing for thing in things if thing not in own.values()])
            yield "another thing", template.format(**{**own, role: other})
        if case.planted:
            yield "planted", template.format(**{**own, "seen" if case.plant == "vision" else "heard": case.planted})
        colour = rng.choice([name for name in BACKGROUNDS if name != case.clip.background])
        yield "another colour", template.format(**{**own, "seen": f"{own['seen']} on a {colour} background"})
    yield "a sense is missing", f"{own['seen']} is shown while {own['heard']} is heard"


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm")
    parser.add_argument("--endpoint")
    parser.add_argument("--model")
    parser.add_argument("--size", default="full", help="of OmniStamps")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=12.0, help="after which no more clips are begun")
    parser.add_argument("--check", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    setup_logging(None)
    stamps, size = read_stamps(ROOT / "datasets/omnistamps"), size_named(options.size)
    counts = {"train": max(options.clips, options.check), "val": 4 * 24, "test": 4 * 24}
    clips = [clip for clip in draw_clips(entities_of(size, stamps), counts, options.seed, size.cells) if clip.split == "train"]
    truth, found = Truth(stamps), cases(clips, stamps, options.seed)
    result: dict[str, Any] = {"hardware": hardware(), "size": options.size, "check": of_the_check(found[: options.check], truth)}
    log.info("%s", json.dumps(result["check"], indent=1))
    if options.llm or options.endpoint:
        result["model"] = _written(found[: options.clips], options, truth)
        log.info("%s", json.dumps(result["model"], indent=1))
    if options.json:
        write_atomically(options.json, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def _written(found: list[Case], options: argparse.Namespace, truth: Truth) -> dict[str, Any]:
    settings = settings_of(llm=options.llm, endpoint=options.endpoint, model=options.model, seed=options.seed)
    settings["replies"] = str((options.json or Path("fusion")).with_suffix(".replies"))
    writer, alarm = writer_of(settings), Alarm()
    rows: list[Row] = []
    start, spent = time.monotonic(), time.process_time()
    while len(rows) < len(found) and time.monotonic() < start + 60 * options.minutes:
        rows += fuse([case.item for case in found[len(rows) : len(rows) + AT_ONCE]], settings, writer, alarm)
        log.info("%d clips, %.0f s of the processor: %s", len(rows), time.process_time() - spent, Counter(row["how"] for row in rows))
    return {"llm": writer.name, "processor_seconds_per_clip": round((time.process_time() - spent) / len(rows), 3),
            **of_the_model(found[: len(rows)], rows, truth)}


if __name__ == "__main__":
    main()

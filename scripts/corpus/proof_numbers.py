"""What the proof found: a corpus beside the truth that it was made of, and two models beside each other."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import read_rows
from omnivast.evaluation.report.page import Report
from omnivast.scripts.omnistamps.quickstart_summary import FACTS, retrieval_numbers
from omnivast.scripts.omnistamps.stages import MissingResult, read_result

GROUP = "vas"
NEARLY = 0.9
"""Share of a scene that a clip must show to count as that scene, and of a clip that must be of it."""


@dataclass(frozen=True)
class Inputs:
    """What is compared."""

    rows: list[dict[str, Any]]
    """Of the built corpus, lost ones too."""
    scenes: list[dict[str, Any]]
    clips: dict[str, dict[str, Any]]
    """The facts of OmniStamps' clips."""
    tests: dict[str, dict[str, Any]]
    """Arm → the result of its test."""
    statistics: dict[str, Any]

    @staticmethod
    def read(folder: Path, data: Path, arms: Sequence[str]) -> Inputs:
        """Raises MissingResult that names the file and the stage to run."""
        again = "run the same command again"
        tests = {}
        for arm in arms:
            found = sorted((folder / f"test_{arm}" / "results").glob("*.ret.json"))
            if not found:
                raise MissingResult(f"{folder / f'test_{arm}'} has no result: {again}")
            tests[arm] = read_result(found[0], again)
        clips = {clip["clip_id"]: clip for clip in read_result(data / "clips.json", again)}
        rows, scenes = list(read_rows(folder / "corpus" / "rows.jsonl")), read_result(folder / "videos" / "scenes.json", again)
        return Inputs(rows, scenes, clips, tests, read_result(folder / "corpus" / "statistics.json", again))


def numbers(inputs: Inputs) -> dict[str, Any]:
    """The content of proof.json, in percent."""
    retrieval = {arm: retrieval_numbers(result, inputs.clips) for arm, result in inputs.tests.items()}
    return {"composed": "long videos composed from OmniStamps", "reached": _reached(retrieval), "retrieval": retrieval,
            "corpus": beside_the_truth(inputs.rows, inputs.scenes, inputs.clips), "fusion": inputs.statistics["fusion"],
            "lost": inputs.statistics["lost"], "test_clips": inputs.tests["true"]["protocol"]["clips"]}


def _reached(retrieval: Mapping[str, Any]) -> float | None:
    """R@1 of vas, re-ranked, in percent of that with the true annotations."""
    built, true = (retrieval[arm][GROUP]["itm"]["r1"] for arm in ("built", "true"))
    return round(100.0 * built / true, 2) if true else None


def beside_the_truth(rows: Sequence[Mapping[str, Any]], scenes: Sequence[Mapping[str, Any]],
                     clips: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many scenes became clips of their own, and what is said of them, in percent.

    ``named``: clips whose omni caption names what is seen, heard, said, and all three. ``others``: those whose omni caption names a thing
    of another scene besides. ``subtitles``: those with all words of the subtitle, in order.
    """
    by_video: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for scene in scenes:
        by_video[scene["video"]].append(scene)
    kept = [row for row in rows if "lost" not in row["history"]]
    owners = [_owner(row["history"], by_video[row["history"]["source"]]) for row in kept]
    own = [(row, scene) for row, scene in zip(kept, owners) if scene is not None]
    names = {clip[fact] for clip in clips.values() for fact in FACTS}
    counts: Counter[str] = Counter()
    for row, scene in own:
        text, facts = str(row.get("vast_cap", "")).lower(), clips[scene["clip_id"]]
        told = [_names(text, facts[fact]) for fact in FACTS]
        counts.update(fact for fact, there in zip(FACTS, told) if there)
        counts["all"] += all(told)
        counts["others"] += _names_others(text, facts, names)
        counts["subtitles"] += _words(row["subtitle"]) == _words(scene["subtitle"])
    share = {key: round(100.0 * counts[key] / len(own), 2) if own else None for key in (*FACTS, "all", "others", "subtitles")}
    return {"scenes": len(scenes), "clips": len(kept), "clips_of_one_scene": len(own),
            "scenes_found": len({scene["clip_id"] for _, scene in own}), "named": {key: share[key] for key in (*FACTS, "all")},
            "others": share["others"], "subtitles": share["subtitles"]}


def _owner(clip: Mapping[str, Any], scenes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The scene that a clip is of; None where it shows several, or too little of one."""
    for scene in scenes:
        shared = min(clip["last"], scene["last"]) - max(clip["first"], scene["first"]) + 1
        if shared >= NEARLY * (scene["last"] - scene["first"] + 1) and shared >= NEARLY * (clip["last"] - clip["first"] + 1):
            return scene
    return None


def _names(text: str, noun: str) -> bool:
    return re.search(rf"\b{re.escape(noun.lower())}\b", text) is not None


def _names_others(text: str, facts: Mapping[str, Any], names: set[str]) -> bool:
    """Whether a thing is named that is none of the clip's, nor a part of one of its names (an apple in "apple tree")."""
    for fact in sorted((facts[fact].lower() for fact in FACTS), key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(fact)}\b", " ", text)
    return any(_names(text, name) for name in names)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def verdict(found: Mapping[str, Any]) -> str:
    """The outcome in a sentence."""
    built, true = (found["retrieval"][arm][GROUP]["itm"]["r1"] for arm in ("built", "true"))
    reached = "" if found["reached"] is None else f": {found['reached']:.1f} % of it"
    return f"vas R@1 on OmniStamps' test clips: {built:.1f} % trained on the built corpus, {true:.1f} % on the true annotations{reached}"


def page(found: Mapping[str, Any]) -> Report:
    """The same as a page."""
    corpus = found["corpus"]
    report = Report("From raw videos to a corpus: the proof", f"{found['composed']}, {found['test_clips']} test clips")
    report.section("Retrieval", "The same small VAST, trained for as many steps on both and tested on the same clips; % of test texts "
                   "whose clip comes first, by the contrastive score (ITC) and re-ranked by matching (ITM).").text(verdict(found) + ".")
    groups = list(found["retrieval"]["true"])
    arms = {"built": "corpus", "true": "truth"}
    report.table(["group", *["ITC", "ITM"] * len(arms)], [
        [group, *(found["retrieval"][arm].get(group, {}).get(stage, {}).get("r1") for arm in arms for stage in ("itc", "itm"))]
        for group in groups], over=[("", 1), *((words, 2) for words in arms.values())])
    report.section("The corpus beside the truth", "A clip is of one scene where it shows nine tenths of it and little else.")
    shares = [*((f"omni caption names what is {fact}", corpus["named"][fact]) for fact in FACTS), ("… all three", corpus["named"]["all"]),
              ("… a thing of another scene", corpus["others"]), ("subtitle, word for word", corpus["subtitles"])]
    report.table(["", "scenes or clips"], [["scenes composed", f"{corpus['scenes']:,}"], ["clips built", f"{corpus['clips']:,}"],
                                           ["clips of one scene", f"{corpus['clips_of_one_scene']:,}"],
                                           ["scenes with a clip of their own", f"{corpus['scenes_found']:,}"]])
    report.table(["of the clips of one scene", "%"], [[name, value] for name, value in shares])
    if found["fusion"]:
        report.table(["omni captions", "clips"], [[how, f"{count:,}"] for how, count in found["fusion"]["how"].items()])
    if found["lost"]:
        report.table(["stage", "lost", "why"], [[row["stage"], f"{row['count']:,}", row["reason"]] for row in found["lost"]])
    return report

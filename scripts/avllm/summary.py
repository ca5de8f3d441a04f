"""What the Audio-Visual LLM of OmniStamps found: ``metrics.json`` and ``report.html`` from the folders of its stages.

    python -m omnivast.scripts.avllm.summary [--folder output/avllm] [--data datasets/omnistamps/quick]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.corpus.omnistamps.conversations import CANNOT, TRACKS
from omnivast.evaluation.metrics.accuracy import accuracy, exact_matches
from omnivast.evaluation.report.cases import ClipFiles
from omnivast.evaluation.report.charts import Dots, dot_chart
from omnivast.evaluation.report.page import Card, Line, Report, loss_chart
from omnivast.evaluation.report.run_report import short
from omnivast.scripts.omnistamps.stages import MissingResult, read_result
from omnivast.utils.files import write_atomically
from omnivast.utils.log import read_jsonl

Entry = Mapping[str, Any]
FACTS_OF = {"seen": ("seen",), "seen.motion": ("motion",), "seen.background": ("background",), "heard": ("heard",),
            "said.said": ("said",), "said.number": ("number",), "seen_heard": ("seen", "heard"), "all": ("seen", "heard", "said")}
"""``type`` of a question that is asked of given tracks → the facts that it asks for."""
OF_VAST = {"seen": "vision", "heard": "audio", "said": "subtitle", "seen_heard": "vision_audio", "all": "vision_audio_subtitle"}
"""Track → what the quickstart calls such questions."""
TRAININGS = {"stage1": "Stage 1: captions, projectors alone", "stage2": "Stage 2: conversations", "blind": "The same without media"}
SHOWN_CLIPS = 12


@dataclass
class Inputs:
    """Everything that is summarised."""

    test: dict[str, Any]
    """The result of the questions about test clips."""
    swapped: dict[str, Any]
    """That of the clips with the sound of another."""
    blind: dict[str, Any] | None
    """That of the model without media; None where it was not trained."""
    training: list[dict[str, Any]]
    """The training conversations."""
    probes: dict[str, Any]
    clips: dict[str, dict[str, Any]]
    vast: dict[str, Any] | None
    """Questions of a quickstart's metrics.json."""
    seconds: dict[str, float]
    logs: dict[str, list[dict[str, Any]]]
    media: ClipFiles


def read_inputs(folder: Path, data: Path, quickstart: Path) -> Inputs:
    """Read what the stages wrote. Raises MissingResult."""
    vast = quickstart / "metrics.json"
    return Inputs(
        test=_json(folder / "test" / "results" / "omnistamps.chat.json"),
        swapped=_json(folder / "test" / "results" / "swapped.chat.json"),
        blind=_json(folder / "test_blind" / "results" / "omnistamps_blind.chat.json") if (folder / "test_blind").is_dir() else None,
        training=_json(folder / "conversations" / "chat_train.json"),
        probes=_json(folder / "probes.json"),
        clips={clip["clip_id"]: clip for clip in _json(data / "clips.json")},
        vast=_json(vast).get("qa") if vast.is_file() else None,
        seconds=_json(folder / "seconds.json"),
        logs={name: read_jsonl(folder / name / "log" / "metrics.jsonl") for name in TRAININGS},
        media=ClipFiles(str(data / "clips")),
    )


def _json(path: Path) -> Any:
    return read_result(path, "run the stages with bash scripts/avllm/omnistamps.sh")


# ------------------------------------------------------------------------------------------------------------------ numbers


def summarise(inputs: Inputs) -> dict[str, Any]:
    """The content of metrics.json: numbers in percent, seconds, protocols."""
    entries, group = answered(inputs.test)
    prior = commonest(inputs.training)
    answers: dict[str, dict[str, float]] = {}
    for track in TRACKS:
        own = [entry for entry in entries if of_track(entry, track)]
        if own:
            answers[track] = {"accuracy": right(own, group), "majority": accuracy(majority_right(own, prior)),
                              "probe": accuracy([probe_right(entry, inputs) for entry in own])}
    metrics: dict[str, Any] = {"answers": answers, "kinds": kinds(entries, group), "abstain": abstentions(entries, group),
                               "swap": swaps(*answered(inputs.swapped)), "probe": inputs.probes["accuracy"]}
    if inputs.blind is not None:
        unseen, blind_group = answered(inputs.blind)
        metrics["blind"] = {track: right([e for e in unseen if of_track(e, track)], blind_group) for track in answers}
    if inputs.vast:
        metrics["vast"] = {track: inputs.vast[name]["accuracy"] for track, name in OF_VAST.items() if name in inputs.vast}
    protocols = {"test": inputs.test, "swapped": inputs.swapped, **({"blind": inputs.blind} if inputs.blind else {})}
    return {**metrics, "seconds": inputs.seconds, "versions": inputs.test["protocol"].get("versions", {}),
            "protocol": {name: {k: v for k, v in result["protocol"].items() if k != "versions"} for name, result in protocols.items()}}


def answered(result: Mapping[str, Any]) -> tuple[list[Entry], str]:
    """The entries of a result, and the name under which they hold the model's answers."""
    return result["predictions"], next(iter(result["metrics"]))


def of_track(entry: Entry, track: str) -> bool:
    """Whether an open question is of a track, and the track is given."""
    return entry["type"] in FACTS_OF and entry["type"].split(".")[0] == track


def right(entries: Sequence[Entry], group: str) -> float:
    """Percent of answers that match."""
    return accuracy(exact_matches([entry[group] for entry in entries], [entry["answer"] for entry in entries]))


def kinds(entries: Iterable[Entry], group: str) -> dict[str, float]:
    """Percent of right answers by ``type``."""
    by_kind: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_kind[entry["type"]].append(entry)
    return {kind: right(own, group) for kind, own in sorted(by_kind.items())}


def commonest(training: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Question → its most frequent answer in training, of those that answer it."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in training:
        for question, answer in zip(row["question"], row["answer"]):
            if not answer.startswith(CANNOT):
                counts[question][answer] += 1
    return {question: max(sorted(own), key=own.__getitem__) for question, own in counts.items()}


def majority_right(entries: Sequence[Entry], prior: Mapping[str, str]) -> list[bool]:
    """Whether each question's most frequent training answer is right."""
    return exact_matches([prior.get(entry["question"], "") for entry in entries], [entry["answer"] for entry in entries])


def probe_right(entry: Entry, inputs: Inputs) -> bool:
    """Whether the linear probes find all facts that a question asks for; what is said is text, which needs none."""
    said, true = inputs.probes["said"][entry["clip_id"]], inputs.clips[entry["clip_id"]]
    return all(said[fact] == true[fact] for fact in FACTS_OF[entry["type"]] if fact in said)


def abstentions(entries: Sequence[Entry], group: str) -> dict[str, float]:
    """``right``: percent of questions about tracks that are not given of which the model says that it cannot tell; ``false``: of all
    others."""
    said: dict[bool, list[bool]] = {True: [], False: []}
    for entry in entries:
        said[entry["type"].startswith("cannot")].append(entry[group].strip().lower().startswith(CANNOT))
    return {"right": accuracy(said[True]), "false": accuracy(said[False])}


def swaps(entries: Sequence[Entry], group: str) -> dict[str, float]:
    """With the sound of clip B under the pictures of clip A: percent of answers about the sound that name B's (``follows``), and about the
    picture that name A's (``stays``)."""
    by_fact = {fact: [entry for entry in entries if entry["type"] == f"swap.{fact}"] for fact in ("heard", "seen")}
    return {"follows": right(by_fact["heard"], group), "stays": right(by_fact["seen"], group)}


# --------------------------------------------------------------------------------------------------------------------- page


def table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: a row for each track."""
    columns = ["track asked about", "accuracy", "linear probe", "majority answer", "without media", "quickstart's VAST"]
    return columns, [[track.replace("_", " + "), own["accuracy"], own["probe"], own["majority"], metrics.get("blind", {}).get(track),
                      metrics.get("vast", {}).get(track)] for track, own in metrics["answers"].items()]


def page(inputs: Inputs, metrics: Mapping[str, Any], shown: int = SHOWN_CLIPS) -> Report:
    """The report: outcome, tables, curves, and some test clips with what was answered."""
    protocol = metrics["protocol"]["test"]
    facts = [f"{protocol['clips']} test clips", f"{protocol['texts']} questions", protocol.get("hardware")]
    report = Report("Audio-Visual LLM on OmniStamps", " · ".join(fact for fact in facts if fact))
    columns, rows = table(metrics)
    report.section("Answers", "% of open questions answered right (exact match). Linear probe: what one linear layer finds in the same "
                   "frozen features. Majority: each question's most frequent training answer. Without media: a model trained on the same "
                   "texts. The quickstart's VAST answers its own questions about the same facts.").table(columns, rows)
    report.charts([dot_chart("Questions answered right", ["model", "probe", "without media"],
                             [Dots(str(row[0]), [row[1], row[2], row[4]]) for row in rows])])
    report.table(["kind of question", "accuracy"], [[kind, value] for kind, value in metrics["kinds"].items()])
    report.section("Tracks that are not given, and of two clips")
    abstain, swap = metrics["abstain"], metrics["swap"]
    report.table(["", "%"], [
        ["asked about a track that is not given, says that it cannot tell", abstain["right"]],
        ["says so though the track is given", abstain["false"]],
        ["sound of clip B under pictures of clip A: names B's sound", swap["follows"]], ["and A's picture", swap["stays"]]])
    report.section("Training", "Losses over optimiser steps.")
    report.charts([loss_chart(title, inputs.logs[name]) for name, title in TRAININGS.items() if inputs.logs[name]], wide=True)
    report.section("Test clips", "Taken at equal distances from the test set, not picked.").gallery(_cards(inputs, shown))
    report.section("Time and protocol")
    report.table(["stage", "seconds"], [[stage, float(value)] for stage, value in metrics["seconds"].items()])
    return report.table(["", "test"], [[name, short(value)] for name, value in protocol.items()])


def _cards(inputs: Inputs, shown: int) -> list[Card]:
    entries, group = answered(inputs.test)
    by_clip: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_clip[entry["clip_id"]].append(entry)
    ids = sorted(by_clip)
    picked = [ids[n * len(ids) // shown] for n in range(shown)] if len(ids) >= shown else ids
    return [_card(inputs, clip_id, by_clip[clip_id], group) for clip_id in picked]


def _card(inputs: Inputs, clip_id: str, entries: Sequence[Entry], group: str) -> Card:
    clip = inputs.clips[clip_id]
    lines = [Line(f"{entry['question']} (given: {entry['given']})", entry[group] + ("" if match else f" (true: {entry['answer']})"), match)
             for entry in entries for match in exact_matches([entry[group]], [entry["answer"]])]
    return Card(f"{clip['seen']} · {clip['heard']} · {clip['said']}", clip_id, inputs.media.frames(clip_id),
                [Line("facts", f"{clip['motion']}, on {clip['background']}; {clip['number']}")], [("Questions", lines)],
                inputs.media.sound(clip_id))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write metrics.json, report.html and report.md, print the table. Returns 2, with one line on stderr, when a stage is missing."""
    parser = argparse.ArgumentParser(description="Summarise the Audio-Visual LLM of OmniStamps: metrics.json, report.html and a table.")
    parser.add_argument("--folder", type=as_path, default=Path("output/avllm"), help="where the stages wrote their folders")
    parser.add_argument("--data", type=as_path, default=Path("datasets/omnistamps/quick"), help="the OmniStamps set they used")
    parser.add_argument("--quickstart", type=as_path, default=Path("output/quickstart"), help="a quickstart, to compare with its VAST")
    options = parser.parse_args(arguments)
    try:
        inputs = read_inputs(options.folder, options.data, options.quickstart)
    except MissingResult as error:
        print(f"avllm summary: {error}", file=sys.stderr)
        return 2
    metrics = summarise(inputs)
    write_atomically(options.folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    path = page(inputs, metrics).write(options.folder / "report.html")
    columns, rows = table(metrics)
    lines: list[list[Any]] = [columns, *rows]
    print("\n".join("  ".join(f"{'–' if cell is None else cell if isinstance(cell, str) else f'{cell:.1f}':<18}" for cell in row)
                    for row in lines))
    print(f"abstain {metrics['abstain']}, swap {metrics['swap']}\n{options.folder / 'metrics.json'}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

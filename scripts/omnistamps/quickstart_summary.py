"""What the quickstart found: ``metrics.json`` and ``report.html`` from its training and testing folders.

    python -m omnivast.scripts.omnistamps.quickstart_summary [--folder output/quickstart] [--data datasets/omnistamps/quick]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.config.metrics import METRICS
from omnivast.config.paths import as_path
from omnivast.config.tasks import Group
from omnivast.corpus.omnistamps.ceilings import FACT_OF, told
from omnivast.evaluation.metrics.accuracy import accuracy, exact_matches
from omnivast.evaluation.report.cases import ClipFiles
from omnivast.evaluation.report.charts import Dots, dot_chart
from omnivast.evaluation.report.page import Card, Cell, Line, Report, loss_chart
from omnivast.evaluation.report.run_report import short, training_charts
from omnivast.scripts.omnistamps.stages import MissingResult, read_result
from omnivast.utils.files import write_atomically
from omnivast.utils.log import read_jsonl

TRAININGS = {
    "pretrain": "Pretraining (all objectives, modality groups)",
    "ret": "Fine-tuning: retrieval",
    "cap": "Fine-tuning: captions",
    "qa": "Fine-tuning: questions",
}
FACTS = tuple(FACT_OF.values())
GROUP_ORDER = ("v", "a", "s", "va", "vs", "as", "vas")
GROUP_WORDS = {"v": "vision", "a": "audio", "s": "subtitle"}
RECALLS = ("r1", "r5", "r10")
CAPTION_SCORES = ("bleu4", "rougeL", "cider", "facts_named")
SHOWN_CLIPS, SHOWN_REFERENCES = 12, 2


@dataclass
class Inputs:
    """Everything that is summarised."""

    logs: dict[str, list[dict[str, Any]]]
    """log/metrics.jsonl of each training."""
    ret: dict[str, Any]
    cap: dict[str, Any]
    qa: dict[str, Any]
    zero_shot: dict[str, Any] | None
    """Retrieval of the pretrained checkpoint before fine-tuning, where it was tested."""
    seconds: dict[str, float]
    clips: dict[str, dict[str, Any]]
    """The facts of each clip, by id."""
    subtitles: dict[str, str]
    ceilings: dict[str, Any]
    qa_train: list[dict[str, Any]]
    media: ClipFiles
    size: str
    """Which OmniStamps: quick, full, debug."""


def read_inputs(folder: Path, data: Path) -> Inputs:
    """Read what the stages wrote. Raises MissingResult that names the file and the stage to run."""
    logs = {}
    for name in TRAININGS:
        path = folder / name / "log" / "metrics.jsonl"
        logs[name] = read_jsonl(path)
        if not logs[name]:
            raise MissingResult(f"{path} is absent or empty: run the training stage '{name}' first (bash scripts/quickstart.sh)")
    return Inputs(
        logs=logs,
        ret=_result(folder, "ret"),
        cap=_result(folder, "cap"),
        qa=_result(folder, "qa"),
        zero_shot=_result(folder, "pretrain_ret", "ret") if (folder / "test_pretrain_ret").is_dir() else None,
        seconds=read_result(folder / "seconds.json", "run the stages with bash scripts/quickstart.sh, which times them"),
        clips={clip["clip_id"]: clip for clip in _data(data, "clips.json")},
        subtitles={row["video_id"]: row.get("subtitle", "") for row in _data(data, "ret_test.json")},
        ceilings=_data(data, "ceilings.json"),
        qa_train=_data(data, "qa_train.json"),
        media=ClipFiles(str(data / "clips")),
        size=_data(data, "build.json")["size"],
    )


def _result(folder: Path, stage: str, objective: str | None = None) -> dict[str, Any]:
    pattern = f"test_{stage}/results/*.{objective or stage}.json"
    found = sorted(folder.glob(pattern))
    if not found:
        raise MissingResult(f"{folder / pattern} is absent: run the testing stage 'test_{stage}' first (bash scripts/quickstart.sh)")
    return read_result(found[0], f"run the testing stage 'test_{stage}' again")


def _data(data: Path, name: str) -> Any:
    return read_result(data / name, f"build the clips first: python -m omnivast omnistamps --size quick --output {data}")


# ------------------------------------------------------------------------------------------------------------------ numbers


def summarise(inputs: Inputs) -> dict[str, Any]:
    """The content of metrics.json: nested numbers in percent (CIDEr times 100), seconds, versions, protocols."""
    protocols = {"retrieval": inputs.ret["protocol"], "caption": inputs.cap["protocol"], "qa": inputs.qa["protocol"]}
    retrieval = retrieval_numbers(inputs.ret, inputs.clips)
    clips = protocols["retrieval"]["clips"]
    retrieval["chance"] = {name: min(100.0, 100.0 * int(name[1:]) / clips) for name in RECALLS}
    retrieval["ceiling"] = {key: inputs.ceilings[key]["r1"] for key in retrieval if key in inputs.ceilings and key != "chance"}
    metrics = {
        "retrieval": retrieval,
        "caption": caption_numbers(inputs.cap, inputs.clips),
        "qa": qa_numbers(inputs.qa, inputs.qa_train),
        "seconds": inputs.seconds,
        "versions": inputs.ret["protocol"].get("versions", {}),
        "protocol": {name: {k: v for k, v in protocol.items() if k != "versions"} for name, protocol in protocols.items()},
    }
    if inputs.zero_shot:
        metrics["pretrained"] = {"retrieval": retrieval_numbers(inputs.zero_shot, inputs.clips)}
    return metrics


def retrieval_numbers(result: Mapping[str, Any], clips: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``{"vas": {"itc": {"r1", "r5", "r10", "facts"}, "itm": {…}}, …}``, groups without their t, in canonical order."""
    numbers: dict[str, Any] = {}
    for key, group in _groups(result["metrics"]):
        own = result["metrics"][group]
        stages = [stage for stage in ("itc", "itm") if stage in own]
        tops = {stage: "itc_top" if stage == "itc" and "itm" in own else "top" for stage in stages}
        numbers[key] = {stage: {**{name: own[stage][name] for name in RECALLS},
                                "facts": facts_found(result["predictions"], group, tops[stage], clips)} for stage in stages}
    return numbers


def facts_found(
    predictions: Sequence[Mapping[str, Any]], group: str, top: str, clips: Mapping[str, Mapping[str, Any]]
) -> float | None:
    """Percent of texts whose first clip by the order ``top`` has all that the group's tracks can tell of the text's own clip; None where
    that order was not kept. Which of the clips that share it is the right one is luck, and so is much of R@1."""
    tracks = Group.parse(group).key
    own = [entry for entry in predictions if group in entry]
    if any(top not in entry[group] for entry in own):
        return None
    right = [told(clips[entry["clip_id"]]["stamps"], tracks) == told(clips[entry[group][top][0]]["stamps"], tracks) for entry in own]
    return 100.0 * sum(right) / len(right)


def caption_numbers(result: Mapping[str, Any], clips: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by group, with the percent of captions that name all three facts of their clip."""
    numbers = {}
    for key, group in _groups(result["metrics"]):
        naming = [names_facts(entry[group], clips[entry["clip_id"]]) for entry in result["predictions"]]
        scores = {**result["metrics"][group], "facts_named": 100.0 * sum(naming) / len(naming)}
        numbers[key] = {name: scores[name] for name in CAPTION_SCORES}
    return numbers


def names_facts(caption: str, clip: Mapping[str, Any]) -> bool:
    """Whether the caption holds, in words, what is seen, heard and said in the clip."""
    return all(re.search(rf"\b{re.escape(clip[fact].lower())}\b", caption.lower()) for fact in FACTS)


def qa_numbers(result: Mapping[str, Any], training: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By track (question type): accuracy of the group with the most tracks, and of always giving the commonest training answer."""
    group = _fullest(result["metrics"])
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in training:
        answers[row["question_type"]][row["answer"]] += 1
    by_track: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in result["predictions"]:
        by_track[entry["type"]].append(entry)
    numbers = {}
    for track, entries in by_track.items():
        truth = [entry["answer"] for entry in entries]
        commonest = answers[track].most_common(1)[0][0] if answers[track] else ""
        numbers[track] = {
            "accuracy": accuracy(exact_matches([entry[group] for entry in entries], truth)),
            "majority": accuracy(exact_matches([commonest] * len(truth), truth)),
        }
    return numbers


def _groups(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(``"vas"``, ``"tvas"``) of every group, single tracks first."""
    found = [(Group.parse(name).key, name) for name in metrics]
    return sorted(found, key=lambda pair: GROUP_ORDER.index(pair[0]))


def _fullest(metrics: Mapping[str, Any]) -> str:
    return max(metrics, key=lambda name: len(Group.parse(name).modalities))


# ------------------------------------------------------------------------------------------------------------------- tables


@dataclass
class Table:
    """Columns and rows that both the terminal and the page show."""

    title: str
    columns: list[str]
    rows: list[list[str | float | None]]
    over: list[tuple[str, int]]

    def as_text(self) -> str:
        """Aligned columns for a terminal."""
        rows: list[list[str | float | None]] = [[*self.columns], *self.rows]
        cells = [[("–" if c is None else c if isinstance(c, str) else f"{c:.1f}") for c in row] for row in rows]
        widths = [max(len(row[n]) for row in cells) for n in range(len(self.columns))]
        lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in cells]
        above = []
        start = 0
        for words, span in self.over:
            above.append(words.center(sum(widths[start : start + span]) + 2 * (span - 1)))
            start += span
        head = ["  ".join(above).rstrip()] if any(words for words, _ in self.over) else []
        return "\n".join([self.title, *head, lines[0], "-" * len(lines[0]), *lines[1:]])


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Retrieval, captions and questions."""
    retrieval = metrics["retrieval"]
    chance, ceiling = retrieval["chance"], retrieval["ceiling"]
    heads = ["R@1", "R@5", "R@10", "facts"]
    rows: list[list[str | float | None]] = []
    for key in (key for key in retrieval if key not in ("chance", "ceiling")):
        stages = [retrieval[key].get(stage, {}) for stage in ("itc", "itm")]
        rows.append([_words(key), *(own.get(name) for own in stages for name in (*RECALLS, "facts")), ceiling.get(key)])
    rows.append(["chance", *[*(f"{chance[name]:.2f}" for name in RECALLS), None] * 2, None])
    names = {name: METRICS[name].label if name in METRICS else "name all 3 facts" for name in CAPTION_SCORES}
    return [
        Table("Text-to-video retrieval, % of test texts", ["group", *heads, *heads, "ceiling R@1"], rows,
              [("", 1), ("contrastive", 4), ("re-ranked by matching", 4), ("", 1)]),
        Table("Captions, % (CIDEr × 100)", ["group", *names.values()],
              [[_words(key), *(own[name] for name in names)] for key, own in metrics["caption"].items()], []),
        Table("Questions, % answered right", ["track asked about", "accuracy", "majority answer"],
              [[track.replace("_", " + "), own["accuracy"], own["majority"]] for track, own in metrics["qa"].items()], []),
    ]


def _words(key: str) -> str:
    return f"{key} ({' + '.join(GROUP_WORDS[letter] for letter in key)})" if len(key) == 1 else key


# --------------------------------------------------------------------------------------------------------------------- page


def page(inputs: Inputs, metrics: Mapping[str, Any], shown: int = SHOWN_CLIPS) -> Report:
    """The report: outcome, tables, curves, and some test clips with what was retrieved, written and answered for them."""
    protocol = metrics["protocol"]["retrieval"]
    facts = [f"OmniStamps, {inputs.size} size", f"{protocol['clips']} test clips", protocol.get("hardware")]
    report = Report("OmniVAST quickstart", " · ".join(fact for fact in facts if fact))
    retrieval, captions, questions = tables(metrics)
    report.section("Retrieval", "Every test text looks for its clip. What is seen, heard and said is shared by many clips, so that no "
                   "single track identifies one: the ceiling is the best R@1 that its tracks allow. Facts: texts whose first clip has all "
                   "that the group's tracks can tell, whichever of the clips that share it.")
    report.text(_outcome(metrics)).table(retrieval.columns, _best(retrieval.rows, -1), over=retrieval.over, muted=[len(retrieval.rows) - 1])
    report.charts([_recall_chart(metrics), _named_chart(metrics), _qa_chart(metrics)])
    if "pretrained" in metrics:
        limits = {name: metrics["retrieval"][name] for name in ("chance", "ceiling")}
        table = tables({**metrics, "retrieval": {**metrics["pretrained"]["retrieval"], **limits}})[0]
        report.table(table.columns, table.rows, over=table.over, muted=[len(table.rows) - 1],
                     caption="The same with the pretrained checkpoint, before fine-tuning")
    report.section("Captions", "Beam search; scores against four references per clip. The last column: captions that name what is "
                   "seen, what is heard and what is said.")
    report.table(captions.columns, _best(captions.rows))
    report.section("Questions", "Answers are generated and must match exactly; beside them, always giving the track's most frequent "
                   "training answer.").table(questions.columns, questions.rows)
    report.section("Training", "Losses over optimiser steps: running means, the single steps behind them.")
    report.charts([loss_chart(title, inputs.logs[name]) for name, title in TRAININGS.items()], wide=True)
    report.section("Pretraining in detail", "Losses by corpus, learning rate, gradient norm, throughput.")
    report.charts(training_charts(inputs.logs["pretrain"]))
    report.section("Test clips", "Taken at equal distances from the test set, not picked. Retrieval, captions and answers use all tracks.")
    report.gallery(_cards(inputs, shown))
    report.section("Time and protocol")
    report.text("The fine-tunings and their tests run at the same time where there is no GPU.")
    report.table(["stage", "seconds"], [[stage, float(value)] for stage, value in metrics["seconds"].items()])
    rows = [[name, *(Cell(short(metrics["protocol"][part].get(name)), "left") for part in metrics["protocol"])]
            for name in dict.fromkeys(key for own in metrics["protocol"].values() for key in own)]
    return report.table(["", *metrics["protocol"]], rows)


def _outcome(metrics: Mapping[str, Any]) -> str:
    retrieval = metrics["retrieval"]
    keys = [key for key in retrieval if key not in ("chance", "ceiling")]
    best = max(keys, key=lambda key: (len(key), key))
    stage = "itm" if "itm" in retrieval[best] else "itc"
    single = ", ".join(f"{retrieval[key][stage]['r1']:.1f} % by {GROUP_WORDS[key]}" for key in keys if len(key) == 1)
    ceiling = retrieval["ceiling"].get(best)
    limits = (f" Its ceiling is {ceiling:.1f} %, chance" if ceiling is not None else " Chance is") + f" {retrieval['chance']['r1']:.2f} %."
    share = f"{retrieval[best][stage]['r1']:.1f} %"
    return f"With the tracks {best} together the right clip comes first for {share} of the texts; alone: {single}.{limits}"


def _best(rows: Sequence[Sequence[str | float | None]], last: int | None = None) -> list[list[Any]]:
    """The rows with the highest number of every column emphasised, unless all are equal; columns from ``last`` on are left alone."""
    found = {n: {value for row in rows if isinstance(value := row[n], float)} for n in range(1, len(rows[0]))[:last]}
    highest = {n: max(values) for n, values in found.items() if len(values) > 1}
    return [[Cell(f"{value:.1f}", "best") if isinstance(value, float) and highest.get(n) == value else value for n, value in enumerate(row)]
            for row in rows]


def _recall_chart(metrics: Mapping[str, Any]) -> str:
    retrieval = metrics["retrieval"]
    rows = [Dots(key, [retrieval[key].get("itm", {}).get("r1"), retrieval[key].get("itc", {}).get("r1"), retrieval["ceiling"].get(key)])
            for key in retrieval if key not in ("chance", "ceiling")]
    return dot_chart("R@1 by group of tracks", ["re-ranked", "contrastive", "ceiling"], rows)


def _named_chart(metrics: Mapping[str, Any]) -> str:
    return dot_chart("Captions that name all three facts", ["share of captions"],
                     [Dots(key, [own["facts_named"]]) for key, own in metrics["caption"].items()])


def _qa_chart(metrics: Mapping[str, Any]) -> str:
    short = {track: "+".join(word[0] for word in track.split("_")) if "_" in track else track for track in metrics["qa"]}
    return dot_chart("Questions answered right", ["model", "majority answer"],
                     [Dots(short[track], [own["accuracy"], own["majority"]]) for track, own in metrics["qa"].items()])


def _cards(inputs: Inputs, shown: int) -> list[Card]:
    """The cases, at equal distances in the test set."""
    ret = {entry["clip_id"]: entry for entry in reversed(inputs.ret["predictions"])}
    cap = {entry["clip_id"]: entry for entry in inputs.cap["predictions"]}
    qa: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in inputs.qa["predictions"]:
        qa[entry["clip_id"]].append(entry)
    common = [clip_id for clip_id in ret if clip_id in cap and clip_id in qa and clip_id in inputs.clips]
    common.sort()
    picked = [common[n * len(common) // shown] for n in range(shown)] if len(common) >= shown else common
    groups = [_fullest(result["metrics"]) for result in (inputs.ret, inputs.cap, inputs.qa)]
    return [_case(inputs, clip_id, ret[clip_id], cap[clip_id], qa[clip_id], groups) for clip_id in picked]


def _case(
    inputs: Inputs, clip_id: str, ret: Mapping[str, Any], cap: Mapping[str, Any], qa: Sequence[Mapping[str, Any]], groups: Sequence[str]
) -> Card:
    """One clip; ``groups``: the group shown for retrieval, caption and answers."""
    facts, found = inputs.clips[clip_id], ret[groups[0]]
    rank = found.get("itm_rank", found["itc_rank"])
    retrieved = inputs.media.retrieved(found["top"], clip_id, {other: _facts(inputs.clips[other]) for other in found["top"]})
    answers = [
        Line(entry["question"], (entry[groups[2]] or "(nothing)") + ("" if right else f" (true: {entry['answer']})"), right)
        for entry in qa for right in exact_matches([entry[groups[2]]], [entry["answer"]])
    ]
    caption = cap[groups[1]]
    return Card(
        title=_facts(facts),
        aside=clip_id,
        frames=inputs.media.frames(clip_id),
        sound=inputs.media.sound(clip_id),
        lines=[Line("seen", f"{facts['seen']}, {facts['motion']}, on {facts['background']}"), Line("sound", facts["heard"]),
               Line("subtitle", f"“{inputs.subtitles.get(clip_id, '')}”")],
        blocks=[
            (f"Retrieved for “{ret['text']}” (rank {rank})", retrieved),
            ("Caption (right: names all three facts)", [Line("model", caption, names_facts(caption, facts)),
                         *(Line("reference", reference) for reference in cap["references"][:SHOWN_REFERENCES])]),
            ("Questions", answers),
        ],
    )


def _facts(clip: Mapping[str, Any]) -> str:
    return " · ".join(clip[fact] for fact in FACTS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write metrics.json, report.html and report.md, print the tables. Returns 2, with one line on stderr, when a stage is missing."""
    parser = argparse.ArgumentParser(description="Summarise the quickstart: metrics.json, report.html and three tables.")
    parser.add_argument("--folder", type=as_path, default=Path("output/quickstart"), help="where the stages wrote their folders")
    parser.add_argument("--data", type=as_path, default=Path("datasets/omnistamps/quick"), help="the OmniStamps set they used")
    parser.add_argument("--clips", type=int, default=SHOWN_CLIPS, help="test clips shown in the report")
    options = parser.parse_args(arguments)
    try:
        inputs = read_inputs(options.folder, options.data)
    except MissingResult as error:
        print(f"quickstart_summary: {error}", file=sys.stderr)
        return 2
    metrics = summarise(inputs)
    write_atomically(options.folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    path = page(inputs, metrics, options.clips).write(options.folder / "report.html")
    print("\n\n".join(table.as_text() for table in tables(metrics)))
    print(f"\n{options.folder / 'metrics.json'}\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Eight captions of a clip, one of them right."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from omnivast.config.tasks import Task
from omnivast.corpus.omnistamps.build import SOURCE
from omnivast.corpus.omnistamps.facts import SourceError, read_stamps
from omnivast.corpus.omnistamps.rejected import REJECTED, ROLES, rejected, write_rejected, wrong_fact
from omnivast.corpus.omnistamps.texts import OMNI
from omnivast.data.annotations.load import load_annotations
from omnivast.scripts.omnistamps.choose import _table, parser
from tests.media_factory import write_json

STAMPS = read_stamps(SOURCE)
FACTS = {"seen": "cow", "heard": "dog", "said": "owl"}
KNOWN = {"seen": ["cow", "pig", "tiger", "lion"], "heard": ["dog", "pig", "horse", "owl", "bee"],
         "said": ["owl", "fox", "zebra", "whale", "bat"]}


def test_each_has_one_wrong_fact_in_the_words_of_the_right_one():
    for number, template in enumerate(OMNI):
        caption = template.format(**{role: STAMPS[name].phrase for role, name in FACTS.items()})
        found = rejected(caption, FACTS, STAMPS, KNOWN, f"clip{number}")
        assert len(found) == len({caption, *found}) - 1 == REJECTED and wrong_fact(caption, FACTS, STAMPS) is None
        assert sorted(Counter(wrong_fact(text, FACTS, STAMPS) for text in found).values()) == [2, 2, 3]
        for text in found:
            role = wrong_fact(text, FACTS, STAMPS)
            others = {template.format(**{**{r: STAMPS[n].phrase for r, n in FACTS.items()}, role: STAMPS[other].phrase})
                      for other in KNOWN[role] if other not in FACTS.values()}
            assert text in others
    assert rejected(caption, FACTS, STAMPS, KNOWN, "a") == rejected(caption, FACTS, STAMPS, KNOWN, "a") != rejected(
        caption, FACTS, STAMPS, KNOWN, "b")
    with pytest.raises(ValueError, match="'a cow' is no caption of a cow, a dog, an owl"):
        rejected("a cow", FACTS, STAMPS, KNOWN, "a")


def test_a_name_within_a_name_is_another():
    facts = {"seen": "pig", "heard": "dog", "said": "owl"}
    assert wrong_fact("a pigeon is shown while a dog is heard and someone talks about an owl", facts, STAMPS) == "seen"


def test_files_that_training_reads(tmp_path):
    clips = [{"clip_id": f"{split}{n}", "split": split, "stamps": {role: KNOWN[role][(n + shift) % len(KNOWN[role])]
                                                                   for shift, role in enumerate(ROLES)}}
             for split in ("train", "val", "test") for n in range(4)]
    clips += [{"clip_id": f"more{n}", "split": "train", "stamps": {"seen": name, "heard": name, "said": name}}
              for n, name in enumerate(["elephant", "gorilla", "penguin", "frog"])]
    write_json(tmp_path / "clips.json", clips)
    for split in ("train", "val", "test"):
        write_json(tmp_path / f"ret_{split}.json", [
            {"video_id": clip["clip_id"], "subtitle": "x", "desc": OMNI[0].format(
                **{role: STAMPS[name].phrase for role, name in clip["stamps"].items()})}
            for clip in clips if clip["split"] == split and clip["clip_id"].startswith(split)])
    written = write_rejected(tmp_path, SOURCE, tmp_path / "out")
    assert [path.name for path in written] == ["choose_train.json", "choose_val.json", "choose_test.json"]
    for path in written:
        annotations = load_annotations(path, Task.parse("ret%tvas"), training=True)
        assert len(annotations) == annotations.with_negatives == 4 and len(annotations[0].negatives) == REJECTED
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_rejected(tmp_path, SOURCE, tmp_path / "out")] == before
    with pytest.raises(SourceError, match="has no clips.json"):
        write_rejected(tmp_path / "out", SOURCE, tmp_path / "out")


def test_the_script_has_a_table_and_a_command_line():
    own = {"r1": 98.0, "wrong": {"seen": 1, "heard": 2, "said": 0}, "threshold": 0.6, "own lost, %": 1.0, "rejected let through, %": 2.0,
           "kept, %": 95.0, "r1 of kept": None, "kept at 0.43, %": 99.0}
    lines = _table({"tuned": {"matching": own}}).splitlines()
    assert lines[2] == "| tuned | matching | 98.0 | 1, 2, 0 | 0.600 | 1.0 | 2.0 | 95.0 | – | 99.0 |"
    assert json.loads(json.dumps(vars(parser().parse_args([])), default=str))["size"] == "quick"

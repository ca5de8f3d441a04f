"""Choosing the best of several captions: what is scored, what is chosen, and by which threshold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from omnivast import choose
from omnivast.config.tasks import CaptionKind, Group, Task
from omnivast.data.annotations.load import load_annotations
from omnivast.evaluation.choose import Scored, calibrated, candidates, chosen_rows, score, summary
from tests.data.conftest import vast_rows
from tests.inference.conftest import media, run  # noqa: F401 (fixtures)
from tests.media_factory import write_json
from tests.model.tiny import CAPTIONS, NEGATIVES, SUBTITLES, batch, texts, vast

VAS = Group.parse("vas")


def clip(row, own, rejected, **changes):
    """A clip with the scores of its own captions and of rejected ones."""
    scores = [*own, *rejected]
    return Scored(**{"row": row, "clip_id": f"c{row}", "texts": [f"text {n}" for n in range(len(scores))], "own": len(own),
                     "scores": scores, "margins": scores, **changes})


def test_candidates_are_own_captions_of_the_groups_kind_and_rejected_ones(tmp_path):
    rows = [{**vast_rows()[1], "negatives": ["wrong", "worse", "wrong"]}, {"clip_id": "x", "desc": ["one", "two", "one"]}]
    both = load_annotations(write_json(tmp_path / "a.json", rows), Task.parse("ret%tvas%tv"), training=False)
    assert candidates(both[0], CaptionKind.OMNI) == (["omni 1 says both of them", "wrong", "worse"], 1)
    found, own = candidates(both[0], CaptionKind.VISION)
    assert own == 5 and found[0] == "seen 1 wording 0" and found[5:] == ["wrong", "worse"]
    assert candidates(both[1], CaptionKind.AUDIO) == (["one", "two"], 2)


def test_each_caption_is_scored_with_its_own_clip(tmp_path):
    """Scores are those that the model gives pair by pair."""
    rows = [{"id": f"clip{n}", "desc": text, "negatives": rejected, "subtitle": said}
            for n, (text, rejected, said) in enumerate(zip(CAPTIONS, NEGATIVES, SUBTITLES))]
    annotations = load_annotations(write_json(tmp_path / "a.json", rows), Task.parse("ret%tvas"), training=False)
    model, own = vast().eval(), batch()
    features = model.encode(own, list(VAS))
    for by in ("matching", "contrastive"):
        found = list(score(model, own, list(annotations), VAS, by, 14))
        assert [one.clip_id for one in found] == own.clip_ids and [len(one.texts) for one in found] == [3, 1, 2, 4]
        for place, one in enumerate(found):
            for text, value, margin in zip(one.texts, one.scores, one.margins):
                asked = texts([text], 14, [0])
                if by == "matching":
                    wanted = model.match(model.memory(features), VAS, asked.ids, asked.mask, texts(["x"], 14, [place]).clip)[0]
                    assert margin == pytest.approx(wanted.item(), abs=1e-5) and value == pytest.approx(wanted.sigmoid().item(), abs=1e-6)
                else:
                    wanted = model.embed_texts(asked)[0] @ model.embed_clips(features, VAS)[place]
                    assert value == margin == pytest.approx(wanted.item(), abs=1e-6)


def test_the_best_is_found_by_margins_where_probabilities_are_all_1():
    assert clip(0, [1.0, 1.0], [1.0], margins=[20.0, 30.0, 25.0]).best == 1
    assert clip(0, [0.2], [0.2]).best == 0


def test_the_threshold_makes_as_few_errors_of_either_kind_as_can_be():
    apart = [clip(0, [0.9], [0.1, 0.2]), clip(1, [0.6], [0.3])]
    assert calibrated(apart) == {"threshold": pytest.approx(0.45), "lost": 0.0, "let through": 0.0}
    mixed = [clip(0, [0.9], [0.1, 0.2]), clip(1, [0.4], [0.5, 0.3]), clip(2, [0.8, 0.7], [])]  # the last says nothing of own ones
    found = calibrated(mixed)
    assert found == {"threshold": pytest.approx(0.35), "lost": 0.0, "let through": pytest.approx(0.25)}
    many = [clip(n, [own], [rejected]) for n, (own, rejected) in enumerate(np.random.default_rng(0).normal([1, 0], 1, (2000, 2)))]
    found = calibrated(many)
    assert found["threshold"] == pytest.approx(0.5, abs=0.1) and found["lost"] == pytest.approx(found["let through"], abs=0.01)
    assert calibrated([clip(0, [0.9, 0.1], [])]) is None
    assert calibrated([clip(0, [0.5], [0.5])])["threshold"] == 0.5


def test_summary_and_chosen_rows(tmp_path):
    rows = load_annotations(write_json(tmp_path / "a.json", [{"id": "c0", "desc": "x", "subtitle": "said"}, {"id": "c1", "desc": "x"},
                                                            {"id": "c2", "desc": "x"}]), Task.parse("ret%tva"), training=False)
    found = [clip(0, [0.5, 0.9], [0.1]), clip(1, [0.4], [0.43]), clip(2, [0.1, 0.2], [])]
    told = summary(found, 0.43)
    assert (told["clips"], told["captions"], told["at or above"], told["labelled"], told["r1"]) == (3, 7, 2, 2, 50.0)
    assert told["chance"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert "r1" not in summary(found[2:], 0.43)
    assert chosen_rows(found, rows, CaptionKind.OMNI, 0.43) == [{"clip_id": "c0", "desc": "text 1", "subtitle": "said"},
                                                               {"clip_id": "c1", "desc": "text 1"}]
    assert chosen_rows(found, rows, CaptionKind.VISION, 0.9) == [{"clip_id": "c0", "vision_cap": "text 1", "subtitle": "said"}]


def test_the_verb(run, media, tmp_path, monkeypatch):  # noqa: F811
    """Broken off after its first clip it goes on with the second; the threshold that it finds is taken by the next call."""
    rows = [{"clip_id": name, "desc": [CAPTIONS[0]], "negatives": [CAPTIONS[1], CAPTIONS[2]]} for name in ("said", "b/long")]
    command = [str(write_json(tmp_path / "rows.json", rows)), "--model", str(run), "--media", str(media), "--group", "tva", "--output"]
    assert choose.main([*command, str(tmp_path / "whole")]) == 0
    told = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert told["clips"] == told["labelled"] == 2 and told["by"] == "matching" and told["threshold"] == 0.43
    lines = [json.loads(line) for line in (tmp_path / "whole" / "choices.jsonl").read_text().splitlines()]
    assert [line["clip_id"] for line in lines] == ["said", "b/long"] and [c["own"] for c in lines[0]["captions"]] == [True, False, False]

    scored = []

    def breaking(*arguments):
        scored.append(arguments[1].clip_ids)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr("omnivast.evaluation.choose.score", breaking)
    again = [*command, str(tmp_path / "parts"), "--batch_size", "1"]
    assert choose.main(again) == 130 and not (tmp_path / "parts" / "summary.json").exists()
    assert choose.main([*again, "--threshold", str(tmp_path / "whole" / "summary.json")]) == 0 and scored[1:] == [["b/long"], ["b/long"]]
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["threshold"] == told["calibrated"]["threshold"]


def test_a_corpus_is_chosen_from_its_captions(run, media, tmp_path):  # noqa: F811
    corpus = tmp_path / "corpus"
    (corpus / "work" / "captions_1").mkdir(parents=True)
    (corpus / "corpus.json").write_text(json.dumps({"root": str(media)}))
    clips = [{"id": name, "reference": f"{name}.mp4#frames=2-9&t=0.2-1", "subtitle": "hello"} for name in ("said", "silent")]
    (corpus / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in clips))
    made = [{"kind": "vision", "text": text, "by": "teacher", "model": "m", "prompt": None, "seed": 0, "score": None} for text in CAPTIONS]
    (corpus / "work" / "captions_1" / "00000.jsonl").write_text("".join(
        json.dumps(row) + "\n" for row in ({"id": "said", "captions": made}, {"id": "silent", "failed": "unreadable"})))
    command = [str(corpus), "--model", str(run), "--group", "tv", "--threshold", "0", "--output", str(tmp_path / "out")]
    assert choose.main(command) == 0
    (row,) = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert row["clip_id"] == clips[0]["reference"] and row["vision_cap"] in CAPTIONS and row["subtitle"] == "hello"
    (corpus / "work" / "captions_2").mkdir()
    assert choose.main(command) == 2


@pytest.mark.parametrize(("change", "message"), [
    (["--group", "ts", "--batch_size", "0"], "--batch_size is at least 1; got 0"),
    (["--group", "tas"], "--group tas: the model was not trained for retrieval by it; it was by tvas, tva"),
    (["--threshold", "summary.json"], "summary.json: has no calibrated threshold"),
    (["--media", ""], "where are the clips"),
])
def test_bad_input_is_one_line(run, media, tmp_path, monkeypatch, caplog, change, message):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "summary.json", {"calibrated": None})
    rows = write_json(tmp_path / "rows.json", [{"clip_id": "said", "desc": CAPTIONS}])
    assert choose.main([str(rows), "--model", str(run), "--media", str(media), "--output", "out", *change]) == 2
    assert message in caplog.text

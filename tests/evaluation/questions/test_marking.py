"""Answers marked with synonyms and by a judge, in a test as a run makes it."""

from __future__ import annotations

import json
import sys

import pytest

from omnivast.evaluation.questions.evaluator import answer_metrics
from omnivast.evaluation.run import evaluate
from tests.evaluation.fakes import FakeModel, config_of
from tests.evaluation.questions.test_people import VqaLoader

ALONE = [["Red"], ["blue"], ["crimson"], ["green"]]
JUDGE = "import json, sys\nfor line in sys.stdin:\n    " \
        "print('yes' if 'red' in json.loads(line)['prompt'].split('given:')[1].splitlines()[0].lower() else 'no', flush=True)"


def outcome_of(tmp_path, **run):
    metrics = evaluate(FakeModel(), [VqaLoader(tmp_path / "qa.json", ALONE)], config_of(output_dir=str(tmp_path), **run),
                       folder=tmp_path / "results", provenance={})
    return metrics, json.loads((tmp_path / "results" / "toy.qa.json").read_text())


def test_synonyms_are_a_number_of_their_own(tmp_path):
    plain, result = outcome_of(tmp_path)
    said = [entry["tv"].strip().lower() for entry in result["predictions"]]
    assert set(said) == {"red", "blue"} and "accuracy_synonyms" not in result["metrics"]["tv"]
    (tmp_path / "s.json").write_text(json.dumps([["red", "crimson"], ["blue", "green"]]))
    metrics, result = outcome_of(tmp_path, synonyms=str(tmp_path / "s.json"))
    sets = {"red": {"red", "crimson"}, "blue": {"blue", "green"}}
    right = [answer[0].lower() in sets[text] for text, answer in zip(said, ALONE)]
    assert metrics["toy.qa.tv.accuracy_synonyms"] == 100 * sum(right) / 4 and "accuracy_synonyms" in result["protocol"]["answers"]
    assert metrics["toy.qa.tv.accuracy"] == plain["toy.qa.tv.accuracy"] and result["intervals"]["tv.accuracy_synonyms"]


def test_synonyms_of_a_row():
    entries = [{"clip_id": "x", "answer": "couch", "tv": "sofa", "synonyms": ["Sofa"]}, {"clip_id": "y", "answer": "bed", "tv": "sofa"}]
    assert answer_metrics(entries, ["tv"])[0]["tv"] == {"accuracy": 0.0, "accuracy_normalised": 0.0, "accuracy_synonyms": 50.0}


def test_a_judge_stands_in_the_result_with_what_it_was_asked(tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)
    judge = {"judge": f"{sys.executable} {tmp_path / 'judge.py'}", "judge_model": "mine"}
    _, result = outcome_of(tmp_path, **judge)
    assert "judged" not in result["protocol"], "asked in an evaluation during a training"
    metrics, result = outcome_of(tmp_path, mode="testing", **judge)
    found = result["protocol"]["judged"]["tv"]
    said = [entry["tv"].strip().lower() for entry in result["predictions"]]
    assert found["accuracy"] == 100 * sum(text == "red" for text in said) / 4 and found["model"] == "mine"
    assert "not comparable with exact match" in found["note"] and len(found["prompt_sha256"]) == 64
    lines = [json.loads(line) for line in (tmp_path / "results" / "toy.tv.judged.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and {line["reply"] for line in lines} <= {"yes", "no"}
    assert not any("judge" in name for name in metrics)


def test_a_judge_that_fails_loses_no_answer(tmp_path, caplog):
    (tmp_path / "judge.py").write_text("import sys; sys.exit(3)")
    with caplog.at_level("WARNING", logger="omnivast"):
        metrics, result = outcome_of(tmp_path, mode="testing", judge=f"{sys.executable} {tmp_path / 'judge.py'}")
    assert "does not answer" in result["protocol"]["judged"]["tv"]["not_computed"] and len(result["predictions"]) == 4
    assert "toy.qa.tv.accuracy" in metrics and "a test that is run again goes on from there" in caplog.text


def test_a_file_of_synonyms_that_cannot_be_used_ends_the_test_before_it_begins(tmp_path):
    (tmp_path / "s.json").write_text("[3]")
    with pytest.raises(ValueError, match="entry 0 is 3"):
        outcome_of(tmp_path, synonyms=str(tmp_path / "s.json"))

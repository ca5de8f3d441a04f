"""Questions that several people answered, tested as a run tests them."""

import json

import pytest

from omnivast.evaluation.compare import main as compare
from omnivast.evaluation.questions.people import answers_of_people
from omnivast.evaluation.report.run_report import main as report
from omnivast.evaluation.run import evaluate
from omnivast.evaluation.score.predictions import main as score
from tests.evaluation.fakes import FakeLoader, FakeModel, config_of, texts_of

PEOPLE = [["red"] * 2 + ["blue"] * 8, ["Red."] * 10, ["red", "a red"] * 5, ["blue"] * 10, ["3", "4"] * 5, ["red"] + ["no"] * 9]


class VqaLoader(FakeLoader):
    """One question per image, with the answer given most often."""

    def __init__(self, path, people, ids=True):
        super().__init__("qa%tv", clips=len(people))
        rows = [{"image_id": f"clip{n}", "question": f"what is {n}?", "question_id": 100 + n, "answer": own}
                for n, own in enumerate(people)]
        path.write_text(json.dumps(rows))
        self.config = type(self.config)(name="toy", task="qa%tv", txt=str(path), vision_sample_num=1)
        self.people, self.ids = people, ids

    def batch(self, rows):
        batch, places = super().batch(rows), list(range(len(rows)))
        batch.questions = texts_of([f"what is {row}?" for row in rows], places)
        batch.answers = texts_of([str(max(self.people[row], key=self.people[row].count)) for row in rows], places)
        batch.question_types, batch.question_ids = [], [str(100 + row) for row in rows] if self.ids else []
        return batch


def test_a_run_reports_the_official_accuracy_and_writes_the_submission(tmp_path, capsys):
    loader = VqaLoader(tmp_path / "vqa.json", PEOPLE)
    metrics = evaluate(FakeModel(), [loader], config_of(), folder=tmp_path, provenance={})
    result = json.loads((tmp_path / "toy.qa.json").read_text())
    said = [entry["tv"] for entry in result["predictions"]]
    assert {text.strip().lower() for text in said} == {"red", "blue"}
    # The fake says red or blue, and "Red." of ten people is not what "Red" is compared with: they agree, so it is not normalised.
    by_hand = {"red": [(2 * 1 / 3 + 8 * 2 / 3) / 10, 0.0, 1.0, 0.0, 0.0, (9 * 1 / 3) / 10], "blue": [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]}
    expected = [by_hand[text.strip().lower()][n] for n, text in enumerate(said)]
    assert metrics["toy.qa.tv.vqa_accuracy"] == pytest.approx(100 * sum(expected) / 6) and sum(expected) > 0
    assert result["intervals"]["tv.vqa_accuracy"] and "VQAv2's own" in result["protocol"]["answers"]
    submission = tmp_path / "submission" / "toy.tv.json"
    assert json.loads(submission.read_text()) == [{"question_id": 100 + n, "answer": text} for n, text in enumerate(said)]
    # Scoring the submission against the annotation file finds the same.
    assert score(["--task", "qa", "--predictions", str(submission), "--references", str(tmp_path / "vqa.json"), "--json",
                  str(tmp_path / "scored.json")]) == 0
    assert json.loads((tmp_path / "scored.json").read_text())["vqa_accuracy"] == pytest.approx(metrics["toy.qa.tv.vqa_accuracy"])


class UnansweredLoader(VqaLoader):
    def batch(self, rows):
        batch = super().batch(rows)
        batch.answers, batch.answer_types = None, ["other"] * len(rows)
        return batch


def test_questions_without_answers_are_answered_but_not_scored(tmp_path, caplog, capsys):
    loader = UnansweredLoader(tmp_path / "vqa.json", PEOPLE)
    loader.config = type(loader.config)(name="toy", task="qa%tv", txt="absent.json", vision_sample_num=1)
    with caplog.at_level("WARNING", logger="omnivast"):
        assert evaluate(FakeModel(), [loader], config_of(), folder=tmp_path, provenance={}) == {}
    assert "accuracy not computed: no answers in toy.json" in caplog.text
    result = json.loads((tmp_path / "toy.qa.json").read_text())
    assert result["metrics"] == {"tv": {}} and result["intervals"] == {}
    assert result["not_computed"] == result["protocol"]["not_computed"] == {"accuracy": "no answers in toy.json"}
    assert [entry.keys() for entry in result["predictions"]] == [{"clip_id", "question", "question_id", "answer_type", "tv"}] * 6
    submission = json.loads((tmp_path / "submission" / "toy.tv.json").read_text())
    assert submission == [{"question_id": 100 + n, "answer": entry["tv"]} for n, entry in enumerate(result["predictions"])]
    # Who has the answers can score it; nothing is compared without them; the report says so and shows cases.
    own = str(tmp_path / "toy.qa.json")
    assert score(["--task", "qa", "--predictions", own, "--references", str(tmp_path / "vqa.json")]) == 0
    assert "vqa_accuracy" in capsys.readouterr().out
    assert compare([own, own]) == 2 and "came without answers; there is nothing to compare" in capsys.readouterr().err
    (tmp_path / "run" / "results").mkdir(parents=True)
    (tmp_path / "toy.qa.json").rename(tmp_path / "run" / "results" / "toy.qa.json")
    assert report([str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.md").read_text()
    for words in ("| accuracy | not computed |", "toy, not computed: accuracy, no answers in toy.json.", "### Case 1 (clip0)"):
        assert words in page
    assert "✗" not in page


def test_accuracy_by_answer_type(tmp_path):
    loader = VqaLoader(tmp_path / "vqa.json", PEOPLE)
    plain = loader.batch

    def typed(rows):
        batch = plain(rows)
        batch.answer_types = ["number" if row == 4 else "other" for row in rows]
        return batch

    loader.batch = typed
    metrics = evaluate(FakeModel(), [loader], config_of(), folder=tmp_path, provenance={})
    assert metrics["toy.qa.tv.answer_types.number"] == 0.0
    assert metrics["toy.qa.tv.answer_types.other"] == pytest.approx(metrics["toy.qa.tv.vqa_accuracy"] * 6 / 5)


def test_questions_without_ids_have_no_submission(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="omnivast"):
        metrics = evaluate(FakeModel(), [VqaLoader(tmp_path / "vqa.json", PEOPLE, ids=False)], config_of(), folder=tmp_path, provenance={})
    assert "toy.qa.tv.vqa_accuracy" in metrics and not (tmp_path / "submission").exists()
    assert "no file for the VQA server: prediction 0 has no 'question_id'" in caplog.text


def test_only_questions_that_several_people_answered(tmp_path):
    rows = [{"question": "q", "answer": ["a", 2]}, {"question": ["q", "r"], "answer": ["a", "b"]}, {"question": "q", "answer": "a"},
            {"question": "q", "answer": ["a"]}, "id"]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert answers_of_people(tmp_path / "a.json") == {0: ["a", "2"]} and answers_of_people(tmp_path / "absent.json") == {}

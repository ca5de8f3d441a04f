import pytest

from omnivast.evaluation.metrics.accuracy import accuracy, exact_matches
from omnivast.evaluation.questions.evaluator import answer_metrics


def test_matches_ignore_case_and_outer_blanks_only():
    predictions = [" Red ", "red", "a red", "two  dogs", "", "Yes."]
    answers = ["red", "blue", "red", "two dogs", "", "yes"]
    assert exact_matches(predictions, answers) == [True, False, False, False, True, False]


def test_accuracy_in_percent():
    assert accuracy([True, False, True, True]) == 75.0


def test_metrics_by_group_with_and_without_types():
    entries = [{"clip_id": "x", "answer": "cow", "tv": "cow", "tvas": "cow", "type": "seen"},
               {"clip_id": "y", "answer": "two dogs", "tv": "cow", "tvas": "the 2 Dogs"}]
    metrics, intervals = answer_metrics(entries, ["tv", "tvas"])
    assert metrics == {
        "tv": {"accuracy": 50.0, "accuracy_normalised": 50.0, "types": {"seen": 100.0}},
        "tvas": {"accuracy": 50.0, "accuracy_normalised": 100.0, "types": {"seen": 100.0}},
    }
    assert intervals["tv.accuracy"] == [0.0, 100.0] and intervals["tvas.accuracy_normalised"] == [100.0, 100.0]
    assert list(answer_metrics([{"clip_id": "x", "answer": "dog", "tv": "dog"}], ["tv"])[0]["tv"]) == ["accuracy", "accuracy_normalised"]


def test_several_answers_give_vqa_accuracy_and_types_by_it():
    people = ["yes"] * 2 + ["no"] * 8
    entries = [{"clip_id": "x", "answer": "no", "answers": people, "tv": "yes", "type": "is it", "answer_type": "yes/no"}]
    own = answer_metrics(entries, ["tv"])[0]["tv"]
    # Ten people: the two who said yes leave one other, the eight who said no leave two.
    expected = 100 * (2 * 1 / 3 + 8 * 2 / 3) / 10
    assert own["accuracy"] == 0.0 and own["vqa_accuracy"] == pytest.approx(expected)
    assert own["types"] == {"is it": own["vqa_accuracy"]} and own["answer_types"] == {"yes/no": own["vqa_accuracy"]}


def test_errors():
    with pytest.raises(ValueError, match="1 predictions for 2 answers"):
        exact_matches(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no answer"):
        accuracy([])
    with pytest.raises(ValueError, match="no answer"):
        answer_metrics([], ["tv"])

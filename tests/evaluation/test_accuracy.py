import pytest

from evaluation.metrics.accuracy import accuracy, accuracy_by_type, exact_matches
from evaluation.qa import answer_metrics


def test_matches_ignore_case_and_outer_blanks_only():
    predictions = [" Red ", "red", "a red", "two  dogs", "", "Yes."]
    answers = ["red", "blue", "red", "two dogs", "", "yes"]
    assert exact_matches(predictions, answers) == [True, False, False, False, True, False]


def test_accuracy_overall_and_by_type():
    matches = [True, False, True, True]
    assert accuracy(matches) == 75.0
    assert accuracy_by_type(matches, ["seen", "seen", "heard", "said"]) == {"heard": 100.0, "said": 100.0, "seen": 50.0}


def test_metrics_by_group_with_and_without_types():
    entries = [{"answer": "cow", "tv": "cow", "tvas": "cow", "type": "seen"}, {"answer": "dog", "tv": "cow", "tvas": "Dog"}]
    assert answer_metrics(entries, ["tv", "tvas"]) == {
        "tv": {"accuracy": 50.0, "types": {"seen": 100.0}},
        "tvas": {"accuracy": 100.0, "types": {"seen": 100.0}},
    }
    assert answer_metrics([{"answer": "dog", "tv": "dog"}], ["tv"]) == {"tv": {"accuracy": 100.0}}


def test_errors():
    with pytest.raises(ValueError, match="1 predictions for 2 answers"):
        exact_matches(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="2 answers for 1 question types"):
        accuracy_by_type([True, False], ["seen"])
    with pytest.raises(ValueError, match="no answer"):
        accuracy([])

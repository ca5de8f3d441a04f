"""Resampling of clips against plain loops, and properties that any such interval has."""

import numpy as np
import pytest

from omnivast.evaluation.metrics import bootstrap
from omnivast.evaluation.metrics.bleu import bleu, bleu_of_sums, bleu_terms
from tests.evaluation.metrics.test_caption_metrics import corpus

CLIP = np.array([0, 0, 1, 2, 2, 2, 3])
VALUES = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0])


def drawn_values(weights):
    """The values of a draw, written out one by one."""
    return [value for value, clip in zip(VALUES, CLIP) for _ in range(int(weights[clip]))]


def test_measures_of_a_draw_equal_the_values_written_out():
    weights = np.concatenate(list(bootstrap.draws(4, 300, seed=3)))
    assert weights.shape == (300, 4) and (weights.sum(1) == 4).all()
    mean, median = bootstrap.mean(VALUES, CLIP, 4, 10.0), bootstrap.Median(VALUES, CLIP)
    assert mean.of(weights) == pytest.approx([10 * np.mean(drawn_values(row)) for row in weights])
    assert median.of(weights) == pytest.approx([np.median(drawn_values(row)) for row in weights])
    assert bootstrap.value(median, 4) == 3.0 and bootstrap.value(mean, 4) == pytest.approx(10 * VALUES.mean())


def test_a_draw_without_anything_to_measure_is_left_out():
    only = bootstrap.mean([7.0], np.array([1]), 3)
    assert np.isnan(only.of(np.array([[3.0, 0, 0]]))).all()
    assert np.isnan(bootstrap.Median(np.array([7.0]), np.array([1])).of(np.array([[3.0, 0, 0]]))).all()
    assert bootstrap.intervals({"x": only}, 3) == {"x": [7.0, 7.0]}


def test_corpus_bleu_of_a_draw_equals_bleu_of_its_clips():
    candidates, references = corpus(12)
    weights = np.concatenate(list(bootstrap.draws(12, 5)))
    scores = bleu_of_sums(weights @ bleu_terms(candidates, references))
    for row, found in zip(weights.astype(int), scores):
        chosen = [n for n, count in enumerate(row) for _ in range(count)]
        assert found == pytest.approx(bleu([candidates[n] for n in chosen], [references[n] for n in chosen]), abs=1e-12)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        values = rng.normal(2.0, 1.0, 60)
        low, high = bootstrap.intervals({"m": bootstrap.mean(values, np.arange(60), 60)}, 60, resamples=300)["m"]
        covered += low <= 2.0 <= high
    assert 0.89 <= covered / 200 <= 0.985


def test_intervals_are_the_same_each_time_and_whatever_else_is_measured(monkeypatch):
    mean, median = bootstrap.mean(VALUES, CLIP, 4), bootstrap.Median(VALUES, CLIP)
    expected = bootstrap.intervals({"m": mean}, 4)
    assert bootstrap.intervals({"m": mean, "d": median}, 4)["m"] == expected["m"]
    monkeypatch.setattr(bootstrap, "NUMBERS_AT_ONCE", 50)
    assert bootstrap.intervals({"m": mean}, 4) == expected


def test_p_values():
    assert bootstrap.p_value(np.zeros(1000)) == 1.0
    assert bootstrap.p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap.p_value(np.array([-1.0] * 100 + [1.0] * 899)) == pytest.approx(2 * 101 / 1000)

"""Planted copies: what is counted as found."""

from __future__ import annotations

from benchmarks.copies import measured
from tests.corpus.clips.test_copies import moving, seen


def test_found_are_copies_of_their_own_original():
    one, two, three = moving(1), moving(2), moving(3)
    whole = [seen([1, 0, 0], one), seen([1, 0.1, 0], two), seen([1, 0, 0.1], one)]  # the third is a copy itself: a false alarm
    planted = [(seen([1, 0, 0], one), "trimmed", 0), (seen([1, 0.1, 0], two), "trimmed", 1), (seen([1, 0, 0], three), "trimmed", 0),
               (seen([1, 0, 0], three), "mirrored", 0)]
    found = measured(whole, planted)
    assert (found["planted"], found["said"], found["right"], found["originals_said"]) == (3, 3, 2, 1)
    assert (found["precision"], found["recall"]) == (0.6667, 0.6667)
    assert found["recall_by_kind"] == {"trimmed": 0.6667, "mirrored": 0.0}

"""Scores of transitions, worked out by hand."""

from __future__ import annotations

import math

import pytest

from omnivast.corpus.boundaries.compose import Happening
from omnivast.corpus.boundaries.score import intervals, matched, overlap, rates, tally


def cut(frame):
    return Happening(frame, frame, "cut")


def test_within_the_tolerance_and_one_to_one():
    truth = [cut(10), cut(20), Happening(40, 59, "dissolve")]
    assert matched(truth, [cut(12), cut(23), cut(50)], 2) == [(0, 0), (2, 2)]
    assert matched([cut(10), cut(13)], [cut(12)], 2) == [(1, 0)]  # the nearest
    assert matched(truth, [cut(61)], 2) == [(2, 0)] and matched(truth, [cut(62)], 2) == []


def test_counts_rates_and_alarms():
    truth = [cut(10), cut(100), Happening(40, 59, "dissolve"), Happening(200, 209, "fade")]
    found = [cut(11), Happening(45, 64, "dissolve"), cut(58), cut(150), cut(300)]
    counts = tally(truth, found, [Happening(149, 155, "flash"), Happening(250, 260, "pan")])
    own = rates(counts)
    assert (own["precision"], own["recall"], own["f1"]) == (pytest.approx(2 / 5), pytest.approx(2 / 4), pytest.approx(4 / 9))
    assert own["recall_cut"] == 0.5 and own["recall_dissolve"] == 1 and own["recall_fade"] == 0
    assert own["precision_cut"] == pytest.approx(1 / 4) and own["precision_dissolve"] == 1
    assert counts.overlap == [pytest.approx(15 / 25), 0.0]
    assert own["iou"] == pytest.approx(0.3) and own["iou_of_found"] == pytest.approx(0.6)
    assert own["alarms_per_100"] == 50 and dict(counts.alarms) == {"flash": 1}
    assert overlap(cut(3), cut(3)) == 1 and overlap(cut(3), cut(4)) == 0


def test_videos_add_up_and_their_spread_gives_the_interval():
    good, bad = tally([cut(1)], [cut(1)]), tally([cut(1)], [])
    assert rates(good + bad)["recall"] == 0.5 and math.isnan(rates(bad)["precision"])
    found = intervals([good, bad] * 10, ["recall", "precision"])
    low, high = found["recall"]
    assert 0.2 <= low < 0.5 < high <= 0.8 and intervals([good, bad] * 10, ["recall", "precision"]) == found and found["precision"] == (1, 1)

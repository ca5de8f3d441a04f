"""The numbers on a card."""

from __future__ import annotations

import json

import pytest

from omnivast.corpus.pack.statistics import Tally, statistics

SUMMARY = {"sources": 3, "unreadable_by_reason": {"truncated": 1}, "dropped": {"short": 2, "still": 5, "copies": 0}}


def row(name, seconds, lost=None, **texts):
    history = {"source": name[0], "start": 0.0, "end": seconds, "modalities": "vas",
               "captions": [{"kind": "vision", "by": "b", "model": "m", "prompt": "0123456789abcdef", "score": 0.25}]}
    return {"clip_id": name, "subtitle": "", **texts, "history": {**history, **({"lost": lost} if lost else {})}}


@pytest.fixture
def found(tmp_path):
    rows = [row("a1", 5.0, vision_cap=["one two", "one two three"]), row("a2", 7.04, vision_cap=["one two"], vast_cap="a b c d"),
            row("b1", 6.0, lost={"stage": "fuse", "reason": "late"}), row("b2", 6.0, lost={"stage": "cut", "reason": "gone"})]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return statistics(tmp_path, SUMMARY)


def test_clips_that_are_lost_count_as_lost_alone(found):
    assert (found["clips"], found["sources"], found["sources_with_clips"]) == (2, 3, 1)
    assert found["seconds"]["mean"] == 6.0 and found["seconds"]["most"] == 7.0 and found["clips_per_source"]["mean"] == 2.0
    assert found["teachers"] == {"vision · b · m · prompt 0123456789ab": {
        "captions": 4, "score": {"count": 4, "sum": 1.0, "mean": 0.25, "least": 0.25, "median": 0.25, "most": 0.25}}}


def test_texts_by_kind(found):
    own = found["texts"]
    assert list(own) == ["vision", "omni"] and own["vision"]["clips"] == 2 and own["vision"]["texts"] == 3
    assert own["vision"]["words"]["sum"] == 7 and own["vision"]["different"] == 2
    assert own["vision"]["most_repeated"] == {"times": 2, "text": "one two"} and own["omni"]["words"]["mean"] == 4.0


def test_what_was_lost_is_told_in_the_order_of_the_stages(found):
    assert [(one["stage"], one["what"], one["reason"], one["count"]) for one in found["lost"]] == [
        ("read", "source", "truncated", 1), ("clips", "clip", "still", 5), ("clips", "clip", "short", 2), ("cut", "clip", "gone", 1),
        ("fuse", "clip", "late", 1)]


@pytest.mark.parametrize("values, least, bins", [
    ([], 1.0, []), ([3], 1.0, [(3.0, 4.0, 1)]), ([0.1, 0.3, 0.3], 0.1, [(0.1, 0.2, 1), (0.2, 0.3, 0), (0.3, 0.4, 2)]),
    ([5, 5, 36], 1.0, [(4.0, 6.0, 2), *((n, n + 2.0, 0) for n in range(6, 36, 2)), (36.0, 38.0, 1)])])
def test_histograms_have_round_edges_and_hold_every_value(values, least, bins):
    tally = Tally(least)
    for value in values:
        tally.add(value)
    assert tally.histogram() == bins


def test_the_median_is_one_of_the_values():
    tally = Tally()
    for value in (9, 1, 2, 2, 7):
        tally.add(value)
    assert tally.summary() == {"count": 5, "sum": 21, "mean": 4.2, "least": 1, "median": 2, "most": 9} and Tally().summary() is None

"""Weights of tracks, mixes of groups, and how sure a search is, by hand-made vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.inference.index.query import Part, Searcher
from omnivast.inference.index.store import File, Meta, Place, Store
from omnivast.inference.index.sure import QueryError
from omnivast.inference.index.weights import mix, track_weights
from omnivast.model.interface import Model, Rows

V, A, S = Modality
ALL = frozenset(Modality)
KNOWN = [Group.parse(key) for key in ("vas", "va", "vs", "v", "a", "s")]


def weights(seen=0.0, heard=0.0, said=0.0):
    return {V: seen, A: heard, S: said}


@pytest.mark.parametrize(("given", "has", "wanted"), [
    (weights(1, 1, 1), ALL, {"vas": 1.0}),
    (weights(1, 0, 0), ALL, {"v": 1.0}),
    (weights(0, 3, 0), ALL, {"a": 1.0}),
    (weights(1, 0.5, 0), ALL, {"v": 0.5, "va": 0.5}),
    (weights(1, 0.5, 0.25), ALL, {"v": 0.5, "va": 0.25, "vas": 0.25}),
    (weights(1, 1, 1), {V, A}, {"va": 1.0}),
    (weights(0.5, 1, 0), {V}, {"v": 1.0}),
    (weights(0, 1, 1), ALL, {"a": 0.5, "s": 0.5}),  # the model has no group of sound and subtitle
    (weights(0, 1, 0), {V}, {}),
])
def test_the_mix_of_groups_by_hand(given, has, wanted):
    assert {group.key: pytest.approx(share) for share, group in mix(given, frozenset(has), KNOWN)} == wanted


def test_groups_whose_scores_vary_more_count_less():
    variances = {Group.parse(key): variance for key, variance in (("v", 4.0), ("va", 2.0), ("vas", 1.0))}
    by_hand = {"v": 0.5 / 4, "va": 0.25 / 2, "vas": 0.25}  # of weights 1, ½, ¼
    found = {group.key: share for share, group in mix(weights(1, 0.5, 0.25), ALL, KNOWN, variances)}
    assert found == pytest.approx({key: share / sum(by_hand.values()) for key, share in by_hand.items()})
    for alone in (weights(1, 1, 1), weights(1, 0, 0), weights(0, 0, 2)):  # one group
        assert mix(alone, ALL, KNOWN, variances) == mix(alone, ALL, KNOWN)


def test_weights_that_mean_nothing_are_refused():
    assert track_weights(None) == weights(1, 1, 1)
    with pytest.raises(QueryError, match="no track 'hear' .* Did you mean 'heard'"):
        track_weights({"hear": 1})
    with pytest.raises(QueryError, match="every weight is 0"):
        track_weights({"seen": 0})
    with pytest.raises(QueryError, match="expected 0 or more"):
        track_weights({"seen": -1})


def unit(*numbers):
    return torch.nn.functional.normalize(torch.tensor(numbers, dtype=torch.float32), dim=0)


@pytest.fixture
def store(tmp_path):
    """Three moments: one by all tracks, one silent, one of sound alone; and a fourth row whose file has gone."""
    shapes = {group.key: {"vector": [3]} for group in KNOWN}
    meta = Meta("run", "abc", {}, 5, 2.5, [group.key for group in KNOWN], shapes, "/media", "0")
    rows = {group.key: Rows({"vector": torch.zeros(4, 3)}) for group in KNOWN}
    for number, (tracks, along) in enumerate([("vas", 0), ("v", 1), ("a", 2), ("vas", 0)]):
        for group in KNOWN:
            if set(group.key) <= set(tracks):
                vector = [0.1, 0.1, 0.1]
                vector[along] = 1.0 if len(group.modalities) == len(tracks) else 0.5
                rows[group.key]["vector"][number] = unit(*vector)
    with Store.write(tmp_path / "index", meta) as written:
        written.append(rows)
        clips = (("all", "vas", "hello today"), ("silent", "v", ""), ("sound", "a", ""), ("gone", "vas", "x"))
        written.commit([(File(f"{name}.mp4", 1, 1), [(Place(f"{name}.mp4", 0, 5, tracks), words)]) for name, tracks, words in clips])
        written.remove(["gone.mp4"])
    return Store.read(tmp_path / "index")


def searcher(store, background=None):
    return Searcher(store, Model(), background)


def text(*numbers):
    return Part(1.0, text=Rows({"vector": unit(*numbers)[None]}))


def test_moments_are_compared_by_the_tracks_that_they_have(store):
    found = searcher(store).search([text(1, 0, 0)], top=9)
    assert [one.path for one in found] == ["all.mp4", "silent.mp4", "sound.mp4"]
    assert found[0].score == pytest.approx(float(unit(1.0, 0.1, 0.1)[0]), abs=1e-3)
    assert set(found[0].tracks) == {"seen", "heard", "said"}
    assert set(found[1].tracks) == {"seen"}
    assert found[0].said == "hello today"
    heard = searcher(store).search([text(0, 1, 0)], top=9, weights={"heard": 1})
    assert [one.path for one in heard] == ["all.mp4", "sound.mp4"]  # the silent one has nothing to compare


def test_parts_of_a_query_add_up_and_negative_ones_subtract(store):
    own = searcher(store)
    by_track = track_weights(None)
    one, other = own.scores([text(1, 0, 0)], by_track), own.scores([text(0, 1, 0)], by_track)
    both = own.scores([text(1, 0, 0), Part(-0.5, text=text(0, 1, 0).text)], by_track)
    np.testing.assert_allclose(both[:3], one[:3] - 0.5 * other[:3], atol=1e-6)
    assert both[3] == -np.inf


def test_a_clip_is_compared_by_its_own_tracks_alone(store):
    clip = Part(1.0, clip={"a": Rows({"vector": unit(0, 0, 1)[None]})})
    found = searcher(store).search([clip], top=9)
    assert [one.path for one in found] == ["sound.mp4", "all.mp4"]
    assert all(one.probability is None for one in found)


def test_words_that_are_said_lift_a_moment(store):
    assert [one.path for one in searcher(store).search([], words="hello", top=3)] == ["all.mp4"]
    found = searcher(store).search([text(0, 1, 0)], words="today", top=3)
    assert found[0].path == "all.mp4"


def test_a_result_that_other_texts_would_find_as_well_is_left_out(store):
    background = Rows({"vector": torch.stack([unit(0.6, 0.5, 0.4)] * 98 + [unit(1, 0.0, 0.0), unit(0, 0, 1)])})
    own = searcher(store, background)
    assert [len(null) for null in own.nulls(track_weights(None), ALL)] == [100]
    best = own.search([text(1, 0.1, 0.1)], top=1)[0]
    assert best.probability == pytest.approx(1 - 1 / 101)  # better than all hundred
    assert [one.path for one in own.search([text(1, 0.1, 0.1)], at_most_false=0.05)] == ["all.mp4"]
    assert own.search([text(0.5, 0.5, 0.5)], at_most_false=0.05) == []
    with pytest.raises(QueryError, match="100 texts that nothing fits tell nothing below 0.0099"):
        own.search([text(1, 0, 0)], at_most_false=0.001)


def test_without_other_texts_nobody_can_be_sure(store):
    assert searcher(store).search([text(1, 0, 0)], top=1)[0].probability is None
    with pytest.raises(QueryError, match="--background TEXTS.txt"):
        searcher(store).search([text(1, 0, 0)], at_most_false=0.05)


def test_how_much_scores_vary_is_measured_by_the_background(store):
    assert searcher(store).variances == {}
    background = Rows({"vector": torch.stack([unit(1, 0, 0), unit(0, 1, 0)])})
    own = searcher(store, background)
    assert set(own.variances) == set(KNOWN)
    vectors = torch.from_numpy(np.asarray(store.vectors("v")["vector"][[0, 1]], np.float32))  # of the moments with pictures
    assert own.variances[Group.parse("v")] == pytest.approx(float((background["vector"] @ vectors.T).var(correction=0)), rel=1e-5)


def test_several_texts_are_as_sure_as_their_mean(store):
    background = Rows({"vector": torch.stack([unit(0.6, 0.5, 0.4)] * 98 + [unit(1, 0.0, 0.0), unit(0, 0, 1)])})
    own = searcher(store, background)
    (one,), (both,) = own.search([text(1, 0.2, 0.1)], top=1), own.search([text(1, 0.2, 0.1)] * 2, top=1)
    assert both.score == pytest.approx(2 * one.score)
    assert both.probability == one.probability
    (mixed,) = own.search([text(1, 0.2, 0.1), Part(1.0, clip={"v": Rows({"vector": unit(1, 0, 0)[None]})})], top=1)
    assert mixed.probability is None


def test_a_track_that_nothing_can_be_compared_by_is_named(store):
    own = searcher(store)
    own.known = tuple(group for group in own.known if group.key in ("va", "v", "a"))
    with pytest.raises(QueryError, match="by what is said alone: the model compares by the groups va, v, a"):
        own.search([text(1, 0, 0)], weights={"said": 1})


def test_nothing_asked_and_nothing_wanted(store):
    with pytest.raises(QueryError, match="the query is empty"):
        searcher(store).search([])
    with pytest.raises(QueryError, match="top is 0"):
        searcher(store).search([text(1, 0, 0)], top=0)

"""How sure a search is, by hand: p-values, texts whose own clip is left out, phrases put into other texts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from omnivast.config.tasks import Modality
from omnivast.inference.background import recombined
from omnivast.inference.index.api import Index
from omnivast.inference.index.known import own_moments, texts_to_fit
from omnivast.inference.index.query import Part
from omnivast.inference.index.sure import Nulls, QueryError, check_share, p_values
from omnivast.inference.index.weights import track_weights

ALL = frozenset(Modality)


def test_p_values_by_hand():
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert p_values([null], np.array([0.5, 0.4, 0.35, 0.05])) == pytest.approx([1 / 5, 2 / 5, 2 / 5, 5 / 5])
    assert p_values([null, np.array([0.45])], np.array([0.5, 0.42])) == pytest.approx([1 / 2, 2 / 2])  # the larger of both


def test_of_queries_like_the_null_as_many_find_something_as_was_asked():
    """The best of a text among all moments is what is compared; a single moment's score would be beaten far more often."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2000, 300))
    null, queries = np.sort(scores[:1000].max(1)), scores[1000:].max(1)
    assert np.mean(p_values([null], queries) <= 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(p_values([np.sort(scores[:1000, 0])], queries) <= 0.05) > 0.9


def test_a_share_that_so_few_texts_cannot_tell_is_refused():
    check_share(0.2, [np.zeros(4), np.zeros(100)])
    with pytest.raises(QueryError, match="4 texts that nothing fits tell nothing below 0.2"):
        check_share(0.19, [np.zeros(4), np.zeros(100)])
    with pytest.raises(QueryError, match="a share between 0 and 1"):
        check_share(1.0, [np.zeros(4)])


def test_nulls_are_computed_once_for_weights_and_tracks():
    calls = []

    def best(texts, weights):
        calls.append(texts)
        return np.array([0.3, 0.1])

    def absent(weights, has):
        calls.append(has)
        return np.array([0.2]) if Modality.AUDIO in has else np.array([])

    nulls, weights, seen = Nulls(best, ["texts"], absent), track_weights(None), frozenset((Modality.VISION,))
    assert [null.tolist() for null in nulls(weights, ALL)] == [[0.1, 0.3], [0.2]]
    assert [null.tolist() for null in nulls(weights, seen)] == [[0.1, 0.3]]  # nothing to compare so
    nulls(weights, ALL)
    assert calls == ["texts", ALL, seen]


def test_phrases_change_their_texts():
    texts = ["a dog barks while a train passes", "a cat sleeps while a bus passes"]
    assert sorted(recombined(texts, 2)) == ["a cat sleeps while a train passes", "a dog barks while a bus passes"]
    assert recombined(texts, 3) == []  # there are no more
    assert recombined(["a dog", "two cats"], 1) == recombined([], 1) == []  # no phrase is a whole text
    more = [*texts, "a man sings while a child cries"]
    assert recombined(more, 6) == recombined(more, 6)
    assert len(set(recombined(more, 6)) - set(more)) == 6


@pytest.fixture
def index(model, media, tmp_path):
    return Index(shutil.copytree(media, tmp_path / "files"), model, folder=tmp_path / "index", window=2.0, stride=1.0)


def val_list(tmp_path, media):
    """Four clips, two of which share a text; b/long has five moments."""
    file = tmp_path / "val.json"
    file.write_text(json.dumps([{"video_id": "b/long", "desc": ["a man talks", "a street"]}, {"video_id": "silent", "desc": "a street"},
                                {"video_id": "sound", "desc": "a bell"}, {"video_id": "said", "desc": "a car"}]))
    return file


def test_the_own_clips_of_a_text_are_left_out(index, model, tmp_path):
    index.fit(val_list(tmp_path, index.root), media=index.root)
    known = index._known()
    places = [place.path for place in known.searcher.store.places(range(len(known.searcher.bits)))]
    assert places == ["b/long.mp4"] * 5 + ["said.mp4", "silent.mp4", "sound.wav"]
    street = [True] * 5 + [False, True, False]
    assert known.own.tolist() == [[True] * 5 + [False] * 3, street, street, [False] * 7 + [True], [False] * 5 + [True] + [False] * 2]
    weights, texts = track_weights(None), [text for text, _ in texts_to_fit(model.parts, tmp_path / "val.json")[2]]
    scores = [known.searcher.scores([Part(1.0, text=model.embed_texts(text))], weights) for text in texts]
    wanted = [scores[number][~known.own[number]].max() for number in range(5)]
    np.testing.assert_allclose(known.absent(weights, ALL), wanted, atol=1e-5)
    assert len(known.absent(track_weights({"heard": 1}), ALL)) == 5
    assert len(known.absent(track_weights({"said": 1}), ALL)) == 4  # words are in one clip alone, which is that of "a car"


def test_once_fitted_a_result_has_to_be_better_than_texts_whose_clip_is_not_there(index, tmp_path):
    before = index.search("a red car", top=1)[0]
    index.fit(val_list(tmp_path, index.root), media=index.root)
    after = index.search("a red car", top=1)[0]
    assert (after.path, after.score) == (before.path, before.score)
    assert after.probability == pytest.approx(min(before.probability, after.probability))
    assert after.probability <= 1 - 1 / 6  # five texts tell no more
    with pytest.raises(QueryError, match="5 texts that nothing fits tell nothing below 0.17"):
        index.search("a red car", at_most_false=0.1)
    again = Index.open(index.folder, index.model).search("a red car", top=1)[0]
    assert again == after


def test_a_model_without_a_matching_head_is_fitted_as_well(index, tmp_path, monkeypatch):
    monkeypatch.setattr(type(index.model.model), "can_match", False)
    assert index.fit(val_list(tmp_path, index.root), media=index.root) is None
    assert index.search("a red car", top=1)[0].probability <= 1 - 1 / 6


def test_a_text_whose_clip_is_missing_is_about_no_moment(index):
    own = own_moments(index.searcher, [("a street", "nowhere"), ("a bell", "sound")])
    assert own.sum(1).tolist() == [0, 1]

"""Re-ranking by the matching head, and the weight that is fitted for it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from omnivast.inference.index import rerank
from omnivast.inference.index.api import Index
from omnivast.inference.index.rerank import FIT, Fit, chosen, ranked, write_fit
from omnivast.inference.index.sure import QueryError


def fit(weight):
    return Fit(weight, 50, 10, 0.6, 0.5, 0.7, 0.6, "val.json")


@pytest.fixture
def index(model, media, tmp_path):
    return Index(shutil.copytree(media, tmp_path / "files"), model, folder=tmp_path / "index", window=2.0, stride=1.0)


def test_the_blend_by_hand():
    """Two texts with three results each: the own clip is second by similarity, first by the head; and the other way round."""
    scores = np.array([0.5, 0.4, 0.1, 0.5, 0.4, 0.1], np.float32)
    matches = np.array([0.1, 0.9, 0.2, 0.1, 0.2, 0.9], np.float32)
    right = np.array([False, True, False, True, False, False])
    ends = np.array([3, 6])
    assert ranked(scores, matches, right, ends, 0.0) == pytest.approx([0.5, 1])
    assert ranked(scores, matches, right, ends, 0.2) == pytest.approx([1, 1])  # 0.42 < 0.5; 0.42, 0.36, 0.26
    assert ranked(scores, matches, right, ends, 1.0) == pytest.approx([1, 1 / 3])
    assert ranked(scores, matches, np.zeros(6, bool), ends, 0.2) == pytest.approx([0, 0])


def test_a_weight_counts_only_where_it_gains_more_than_chance():
    without = np.array([1, 0.5, 0.5, 0.5, 1, 1])
    assert chosen({0.0: without, 0.1: without}) == 0
    assert chosen({0.0: without, 0.1: np.array([1, 1, 0.5, 0.5, 1, 1])}) == 0  # one text gains
    assert chosen({0.0: without, 0.1: np.array([1, 1, 1, 1, 1, 0.5])}) == 0  # three gain and one loses: 2 ± 2
    assert chosen({0.0: without, 0.1: np.array([1, 1, 1, 0.5, 1, 1]), 0.2: np.ones(6), 0.3: np.ones(6)}) == 0.2


def test_results_are_ordered_by_similarity_and_head(index, model):
    text = "a red car"
    write_fit(index.folder, fit(0.3))
    plain = index.search(text, top=9, merge=False)
    found = index.search(text, top=9, merge=False, rerank=50)
    assert {one.row for one in found} == {one.row for one in plain}
    blend = [0.7 * one.score + 0.3 * one.match for one in found]
    assert blend == sorted(blend, reverse=True)
    said = next(one for one in found if one.path == "said.mp4")  # a short file: the moment is the whole
    assert said.match == pytest.approx(model.score(text, index.root / "said.mp4", by="matching")[0, 0], abs=1e-4)
    two = index.search(text, top=9, merge=False, rerank=2)
    assert [one.row for one in two[2:]] == [one.row for one in plain[2:]]
    assert all(one.match is None for one in two[2:])


def test_moments_of_long_files_are_matched_by_their_own_frames(index, model):
    write_fit(index.folder, fit(0.3))
    found = [one for one in index.search("a man", top=9, merge=False, rerank=9) if one.path == "b/long.mp4"]
    assert len(found) == 5
    assert len({one.match for one in found}) > 1


def test_without_a_fit_or_a_head_or_a_text_it_is_said(index, monkeypatch, caplog):
    with pytest.raises(QueryError, match="omnivast index FOLDER --fit VAL.json"):
        index.search("a man", rerank=5)
    write_fit(index.folder, fit(0.0))
    assert index.search("a man", rerank=5) == index.search("a man")
    assert "not re-ranked: on val.json that did no good" in caplog.text
    with pytest.raises(QueryError, match="give a text to re-rank by"):
        index.search(like=index.root / "silent.mp4", rerank=5)
    with pytest.raises(QueryError, match="not by both"):
        index.search("a man", words="car", rerank=5)
    with pytest.raises(QueryError, match="rerank is -1"):
        index.search("a man", rerank=-1)
    monkeypatch.setattr(type(index.model.model), "can_match", False)
    with pytest.raises(QueryError, match="VAST has no matching head"):
        index.search("a man", rerank=5)


def val_list(tmp_path):
    file = tmp_path / "val.json"
    file.write_text(json.dumps([{"video_id": "said", "desc": "a man talks"}, {"video_id": "silent", "desc": ["a dog", "a street"]},
                                {"video_id": "sound", "desc": "a bell"}]))
    return file


@pytest.mark.parametrize("helps", [True, False])
def test_the_weight_is_the_one_that_finds_most_and_none_where_none_helps(index, tmp_path, monkeypatch, helps):
    """A head that knows the own clips, and one that takes them for the least likely."""
    own = {"a man talks": "said", "a dog": "silent", "a street": "silent", "a bell": "sound"}
    texts = list(own)

    def matched(parts, searcher, weights, found, given, pairs):
        right = np.array([found[place].path == f"{own[texts[text]]}.mp4" or found[place].path == f"{own[texts[text]]}.wav"
                          for text, place in pairs])
        return (right if helps else ~right).astype(np.float32)

    monkeypatch.setattr(rerank, "_matched", matched)
    found = index.fit(val_list(tmp_path), media=index.root)
    assert found.texts == 4
    assert found.r1 >= found.r1_without
    if helps:
        assert found.weight > 0 and found.r1 == 1
    else:
        assert found.weight == 0 and found.r1 == found.r1_without
    assert Fit(**json.loads((index.folder / FIT).read_text())) == found


def test_a_fit_runs_with_the_models_own_head(index, tmp_path):
    found = index.fit(val_list(tmp_path), media=index.root)
    assert found.weight in rerank.GRID
    assert found.r1 >= found.r1_without
    with pytest.raises(QueryError, match="the model's run names no texts"):
        index.fit()


def test_a_list_without_its_own_clips_tells_nothing(index, tmp_path):
    file = tmp_path / "val.json"
    file.write_text(json.dumps([{"video_id": "nowhere", "desc": "a man"}, {"video_id": "sound", "desc": ""}]))
    with pytest.raises(ValueError):
        index.fit(file, media=index.root)

"""Figures of annotation files, against ones counted by hand."""

from collections import Counter

import pytest

from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.spec import TextLengths
from omnivast.data.stats import measure as measuring
from omnivast.data.stats.concepts import ConceptDetector, audioset_concepts
from omnivast.data.stats.measure import measure, quantile
from tests.media_factory import write_json

DETECTOR = ConceptDetector({"dog", "guitar", "acoustic guitar", "rain"})


@pytest.fixture
def figures(tmp_path):
    return lambda value, **options: measure(write_json(tmp_path / "a.json", value), DETECTOR, **options)


def test_audio_concept_density_by_hand(figures):
    """6 concepts in 20 words: dog; acoustic guitar and guitar; dog and rain; none; rain."""
    captions = ["The dog, a dog.", "An acoustic guitar is played.", "dog in rain", "dogs playing guitars outside", "It rains: rain falls!"]
    found = figures({"a": captions[:3], "b": captions[3:]})["texts"]["omni captions"]
    assert (found["words"]["total"], found["concepts"], found["different_concepts"], found["acd"]) == (20, 6, 4, 30.0)
    assert found["top_concepts"] == [("dog", 2), ("rain", 2), *found["top_concepts"][2:]]
    assert dict(found["top_concepts"][2:]) == {"guitar": 1, "acoustic guitar": 1}


def test_density_of_captions_about_sound_and_of_others(tmp_path):
    """With AudioSet's concepts. "a train chugging a child speaking and laughter": train, laughter; "a person is connecting something to
    system": none; "a little girl plays the piano": piano."""
    path = write_json(tmp_path / "a.json", [
        {"video_id": "a", "caption": "A train chugging, a child speaking, and laughter"},
        {"video_id": "b", "caption": ["a person is connecting something to system", "a little girl plays the piano"]}])
    found = measure(path, ConceptDetector(audioset_concepts()))["texts"]["omni captions"]
    assert (found["concepts"], found["words"]["total"]) == (3, 8 + 7 + 6) and found["acd"] == 100 * 3 / 21


def test_what_is_counted(figures):
    found = figures([
        {"video_id": "a", "desc": ["one two", "One, two!", "", " … "], "subtitle": "a b c"},
        {"video_id": "a", "desc": "three", "subtitle": " "},
        {"video_id": "b", "desc": ["one two"], "url": "x"},
        {"video_id": "c", "desc": [], "url": "x"},
    ])
    assert (found["rows"], found["clips"], found["unread_fields"]) == (4, 3, {"url": 2})
    assert list(found["texts"]) == ["omni captions", "subtitles"]
    own = found["texts"]["omni captions"]
    assert (own["count"], own["empty"], own["clips"]) == (4, 2, 2)
    assert own["per_clip"] == {"mean": 2.0, "fewest": 1, "most": 3}
    assert (own["repeated"], own["repeated_in_clip"]) == (2, 1)
    assert own["words"] == {"total": 7, "mean": 1.75, "median": 2, "p95": 2, "longest": 2, "lengths": {"1": 1, "2": 3}}
    assert own["vocabulary"] == 3 and own["top_words"] == [("one", 3), ("two", 3), ("three", 1)] and "tokens" not in own
    subtitles = found["texts"]["subtitles"]
    assert (subtitles["count"], subtitles["empty"], subtitles["clips"], subtitles["words"]["total"]) == (1, 0, 1, 3)


def test_kinds_of_captions_are_apart(figures):
    found = figures([{"clip_id": "a", "vision_cap": ["a dog", "b"], "audio_cap": "rain", "vast_cap": "a dog in rain"},
                     {"clip_id": "b", "vision_cap": "c", "audio_cap": []}])["texts"]
    assert {kind: (own["count"], own["clips"], own["concepts"]) for kind, own in found.items()} == {
        "omni captions": (1, 1, 2), "vision captions": (3, 2, 1), "audio captions": (1, 1, 1)}


def test_questions_and_answers(figures):
    found = figures([{"video_id": "a", "question": ["what is it?", "who?"], "answer": ["A dog", "me"]},
                     {"video_id": "b", "question": "what is it?", "answer": ["a dog ", "a cat", "a dog"]},
                     {"video_id": "b", "question": "why?"}], top=1)["texts"]
    assert list(found) == ["questions"]
    own = found["questions"]
    assert (own["count"], own["clips"], own["repeated"], own["repeated_in_clip"]) == (4, 2, 1, 0)
    assert (own["answers"], own["different_answers"], own["unanswered"], own["top_answers"]) == (5, 3, 1, [("a dog", 3)])


class Letters:
    """A token per letter, and two that frame them."""

    def __init__(self):
        self.calls = []

    def encode(self, texts, max_length):
        self.calls.append(len(texts))
        return [[0] * min(len(text) + 2, max_length) for text in texts]


def lengths(several_kinds):
    return TextLengths(caption=dict.fromkeys(measuring.CAPTIONS, 6) if several_kinds else dict.fromkeys(measuring.CAPTIONS, 4),
                       question=5, answer=2, subtitle=3)


def test_tokens_and_what_is_cut(figures, monkeypatch):
    monkeypatch.setattr(measuring, "AT_ONCE", 2)
    letters, rows = Letters(), [{"id": "a", "desc": ["ab", "abc", "abcde"], "subtitle": "a"}]
    found = figures(rows, tokenizer=letters, lengths=lengths)["texts"]
    assert letters.calls == [2, 1, 1]
    assert found["omni captions"]["tokens"] == {"total": 16, "mean": 16 / 3, "median": 5, "p95": 7, "longest": 7,
                                                "lengths": {"4": 1, "5": 1, "7": 1}, "limit": 4, "cut": 2}
    assert (found["subtitles"]["tokens"]["limit"], found["subtitles"]["tokens"]["cut"]) == (3, 0)
    rows[0]["audio_cap"] = "a"
    found = figures(rows, tokenizer=letters, lengths=lengths)["texts"]
    assert (found["omni captions"]["tokens"]["limit"], found["omni captions"]["tokens"]["cut"]) == (6, 1)


def test_some_clips_alone(figures):
    mapper = {"a": "a dog", "b": ["rain", "x"], "c": "y"}
    found = figures(mapper, only={"b", "c", "d"})
    assert (found["rows"], found["clips"], found["texts"]["omni captions"]["count"]) == (2, 2, 3)
    with pytest.raises(AnnotationError, match="a.json: none of its clips is among the 1 ids"):
        figures(mapper, only={"d"})


def test_files_without_texts(figures):
    found = figures(["a", "b", "a"])
    assert (found["rows"], found["clips"], found["texts"]) == (3, 2, {})
    own = figures({"a": ["", " "]})["texts"]["omni captions"]
    assert (own["count"], own["empty"], own["clips"], own["acd"], own["words"]["mean"]) == (0, 2, 0, 0.0, 0.0)
    assert own["per_clip"] == {"mean": 0.0, "fewest": 0, "most": 0}
    with pytest.raises(AnnotationError, match="a.json: the list is empty"):
        figures([])


def test_quantiles():
    lengths = Counter({3: 10, 5: 9, 40: 1})
    assert [quantile(lengths, share) for share in (0.0, 0.5, 0.51, 0.95, 0.96, 1.0)] == [3, 3, 5, 5, 40, 40]
    assert quantile(Counter(), 0.5) == 0

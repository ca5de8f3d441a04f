"""Annotation files of every layout, and what is said of others."""

import json
from dataclasses import replace

import pytest

from omnivast.config.tasks import CaptionKind
from omnivast.data.annotations import json_stream
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.stats.layouts import Entry, read_entries
from tests.media_factory import write_json

OMNI, VISION, AUDIO = CaptionKind.OMNI, CaptionKind.VISION, CaptionKind.AUDIO


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 40)


@pytest.fixture
def read(tmp_path):
    def entries(value):
        return [replace(entry, questions=tuple(entry.questions), answers=tuple(entry.answers), unread=tuple(entry.unread))
                for entry in read_entries(write_json(tmp_path / "a.json", value))]

    return entries


def test_rows(read):
    assert read([
        {"video_id": "a", "desc": "one", "subtitle": "hello", "url": "x"},
        {"clip_id": 7, "vision_cap": ["v", " "], "audio_cap": [], "vast_cap": "o"},
        {"image": "b.jpg", "question": ["who?", "what?", "why?"], "answer": ["me", 3]},
        {"id": "c", "question": "what?", "answer": ["x", "x", "y"]},
        {"id": "d", "caption": None},
        "e", 8,
    ]) == [
        Entry("a", {OMNI: ["one"]}, "hello", unread=("url",)),
        Entry("7", {VISION: ["v", " "], AUDIO: [], OMNI: ["o"]}),
        Entry("b.jpg", {}, None, ("who?", "what?", "why?"), ("me", "3"), unanswered=1),
        Entry("c", {}, None, ("what?",), ("x", "x", "y")),
        Entry("d", {}),
        Entry("e", {}), Entry("8", {}),
    ]


def test_coco(read):
    notes = [{"video_id": "a", "caption": "one"}, {"image_id": 3, "id": 12, "caption": ["two", "three"], "score": 1}]
    expected = [Entry("a", {OMNI: ["one"]}), Entry("3", {OMNI: ["two", "three"]}, unread=("score",))]
    assert read({"annotations": notes}) == expected
    assert read({"info": {"year": 2014}, "images": [{"id": 3}], "annotations": notes, "licenses": []}) == expected


def test_text_mapper(read):
    assert read({"a": "one", "b": ["two", "three"], "c": [], "7": [{"question": "what?", "answer": "x", "question_id": 3},
                 {"question": "who?", "answer": ["y", "z"], "answer_weights": [1, 0.3], "note": ""}, {"question": "why?"}]}) == [
        Entry("a", {OMNI: ["one"]}), Entry("b", {OMNI: ["two", "three"]}), Entry("c", {OMNI: []}),
        Entry("7", {}, None, ("what?", "who?", "why?"), ("x", "y", "z"), 1, ("note",))]


def test_other_encodings(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "a.json").write_bytes(json.dumps({"a": "ü 🎬"}, ensure_ascii=False).encode(encoding))
        assert list(read_entries(tmp_path / "a.json")) == [Entry("a", {OMNI: ["ü 🎬"]})]


@pytest.mark.parametrize(("text", "message"), [
    ("", "a.json: the file is empty; expected a list of rows with an id"),
    ("hello", "a.json: not JSON: line 1, column 1: Expecting a list"),
    ('[{"id": 1} {"id": 2}]', "a.json: not JSON: line 1, column 12: Expecting ',' delimiter"),
    ('{"id": "a", "desc": "b"}', "a.json: unknown layout, one object with 'id' instead of a list of such; expected a list of rows"),
    ('{"a": "b"}\n{"c": "d"}\n', "line 2, column 1: Extra data; one object per line is JSON Lines: write one list of them"),
    ("{}", "a.json: unknown layout, an object with nothing in it; expected"),
    ('{"annotations": []}', "unknown layout, an object with nothing in it"),
    ('{"info": {}, "images": [1, 2]}', "unknown layout, an object with info, images; expected"),
    ('{"a": 3}', "unknown layout, 'a' is a number; expected"),
    ('{"a": {"b": "c"}}', "unknown layout, 'a' holds an object with b; expected"),
    ('{"questions": [{"question": "what?", "image_id": 3}]}', "unknown layout, 'questions' holds an object with question, image_id"),
    ('{"a": ["b", 3, null]}', "a.json: 'a' must be a string or a list of strings, found null"),
    ("[[1]]", "a.json: row 0: expected an object, found a list"),
    ('[{"id": 1}, {"text": "b"}]', "a.json: row 1 has no id; found text; expected one of clip_id, video_id, image_id, image, id"),
    ('[{"id": "a", "desc": {"en": "b"}}]', "a.json: row 0 (id 'a'): 'desc' must be a string or a list of strings, found an object"),
    ('[{"id": "a", "subtitle": ["b"]}]', "a.json: row 0 (id 'a'): 'subtitle' must be a string, found a list"),
    ('{"annotations": [{"id": 3, "caption": "b"}]}', "a.json: annotation 0 has no id; found id, caption; expected one of clip_id"),
    ('{"annotations": [{"image_id": 3, "answer": "b"}]}', "a.json: annotation 0 (id '3') has no 'caption'; found image_id, answer"),
])
def test_what_is_not_read(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(AnnotationError) as error:
        list(read_entries(tmp_path / "a.json"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(AnnotationError, match="absent.json: no such annotation file"):
        list(read_entries(tmp_path / "absent.json"))
    with pytest.raises(AnnotationError, match="cannot be read: it is a folder"):
        list(read_entries(tmp_path))
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with pytest.raises(AnnotationError, match="not JSON: it is not UTF-8"):
        list(read_entries(tmp_path / "a.json"))

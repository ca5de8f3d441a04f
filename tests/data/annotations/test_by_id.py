"""VALOR's annotation files: a list of ids, and an object of texts."""

from __future__ import annotations

import json
import logging

import pytest

from omnivast.config.tasks import CaptionKind, Task
from omnivast.data.annotations.by_id import load_by_id
from omnivast.data.annotations.load import load_references
from omnivast.data.annotations.rows import AnnotationError, pack, unpack
from tests.media_factory import write_json

RET, QA = Task.parse("ret%tv"), Task.parse("qa%tv")
TEXTS = {"b": ["one", "two"], "a": "alone", "c": "of another split"}
ASKED = {"a": [{"question": "what?", "answer": ["sea", "beach"], "answer_weights": [0.3, 1], "question_id": 7, "image": 3},
               {"question": "who?", "answer": "a dog", "question_id": 8}],
         "b": [], "c": [{"question": "how many?", "answer": 2, "question_id": 9}]}


@pytest.fixture
def load(tmp_path):
    def load(ids, texts, task=RET, training=True, **more):
        return load_by_id(write_json(tmp_path / "ids.json", ids), write_json(tmp_path / "txt.json", texts), task, training=training, **more)

    return load


def captions(rows):
    return [(row.clip_id, row.captions.get(CaptionKind.OMNI)) for row in rows]


def test_a_row_is_a_clip_in_the_order_of_the_ids(load):
    rows = load(["b", "a"], TEXTS)
    assert captions(rows) == [("b", ["one", "two"]), ("a", ["alone"])] and rows.path.name == "ids.json"
    assert captions(load([3, "a"], {**TEXTS, "3": "number"})) == [("3", ["number"]), ("a", ["alone"])]


def test_of_several_captions_the_first_where_asked_and_in_testing_alone(load):
    assert captions(load(["b"], TEXTS, training=False, first_alone=True)) == [("b", ["one"])]
    assert captions(load(["b"], TEXTS, training=False)) == captions(load(["b"], TEXTS, first_alone=True)) == [("b", ["one", "two"])]


def test_either_file_is_part_of_the_fingerprint(load):
    first = load(["a"], TEXTS).sha256
    assert first == load(["a"], TEXTS).sha256
    assert len({first, load(["b"], TEXTS).sha256, load(["a"], {**TEXTS, "a": "other"}).sha256}) == 3


def test_questions_of_training_keep_all_answers_with_their_weights(load, caplog):
    with caplog.at_level(logging.WARNING, logger="omnivast"):
        rows = list(load(["a", "b", "c"], ASKED, QA))
    assert [row.clip_id for row in rows] == ["a", "c"] and "1 of the 3 clips of" in caplog.text and "'b' first" in caplog.text
    assert (rows[0].questions, rows[0].answers, rows[0].question_ids) == (["what?", "who?"], ["beach", "a dog"], ["7", "8"])
    assert [[tuple(pair) for pair in pairs] for pairs in rows[0].several_answers] == [[("sea", 0.3), ("beach", 1.0)], [("a dog", 1.0)]]
    assert rows[1].answers == ["2"] and rows[1].several_answers == []
    assert unpack(pack(rows[0])) == rows[0]
    assert [len(json.loads(pack(row))) for row in rows] == [9, 8]  # rows with single answers are packed, and fingerprinted, as before


def test_questions_of_a_test_have_one_answer_or_none(load):
    row = load(["a"], ASKED, QA, training=False)[0]
    assert (row.answers, row.several_answers) == (["beach", "a dog"], [])
    assert load(["x"], {"x": [{"question": "q", "answer": ["no", "yes", "yes"]}]}, QA, training=False)[0].answers == ["yes"]
    row = load(["x"], {"x": [{"question": "q", "question_id": 1, "answer": ""}]}, QA, training=False)[0]
    assert (row.questions, row.answers, row.question_ids) == (["q"], [], ["1"])


def test_a_single_weight_counts(load):
    row = load(["x"], {"x": [{"question": "q", "answer": ["a"], "answer_weights": [0.3]}]}, QA)[0]
    assert [[tuple(pair) for pair in pairs] for pairs in row.several_answers] == [[("a", 0.3)]]


def test_ids_without_captions_where_references_come_from_elsewhere(load):
    cap = Task.parse("cap%tv")
    assert captions(load(["a", "x"], TEXTS, cap, training=False, captions_optional=True)) == [("a", ["alone"]), ("x", None)]
    with pytest.raises(AnnotationError, match="has no texts for 1 of the 2 clips"):
        load(["a", "x"], TEXTS, cap, training=False)


@pytest.mark.parametrize("ids, texts, task, message", [
    ({"a": 1}, TEXTS, RET, 'ids.json: expected a JSON list of ids, such as ["video0", "video1"], found an object'),
    ([], TEXTS, RET, "ids.json: the list is empty"),
    (["a", {"video_id": "b"}], TEXTS, RET, "ids.json: entry 1: expected an id, found an object; a list of objects is the txt of type "
                                           "annoindexed"),
    (["a", True], TEXTS, RET, "entry 1: expected an id, found true/false"),
    (["a"], [{"video_id": "a"}], RET, "txt.json: expected a JSON object, id → caption, captions, or questions; found a list; a list of"),
    (["video12.mp4", "a"], {"video12": "x", "a": "y"}, RET, "txt.json: has no texts for 1 of the 2 clips of"),
    (["video12.mp4", "a"], {"video12": "x", "a": "y"}, RET, "'video12.mp4' first. Did you mean 'video12'?"),
    (["a"], {"a": []}, RET, "ids.json: row 0 (id 'a') has no caption for task 'ret%tv'"),
    (["a"], {"a": [3]}, RET, "txt.json: row 0 (id 'a'): 'caption' must be a string or a list of strings, found a number"),
    (["../a"], {"../a": "x"}, RET, "does not name a file inside the media folder"),
    (["a"], {"a": "x"}, QA, "txt.json: 'a': expected a list of questions, each an object with 'question' and 'answer', found a string"),
    (["a"], {"a": ["x"]}, QA, "'a', question 0: expected an object with 'question' and 'answer', found a string"),
    (["a"], {"a": [{"answer": "x"}]}, QA, "'a', question 0: expected an object with 'question' and 'answer', found no question"),
    (["a"], {"a": []}, QA, "none of the 1 clips of"),
    (["a"], {"a": [{"question": "q"}]}, QA, "row 0 (id 'a'): 1 question(s) but 0 answer(s), which training needs"),
    (["a"], {"a": [{"question": "q", "answer": ["x", "y"]}]}, QA, "in 'answer_weights' a number for each of its 2 answers, found null"),
    (["a"], {"a": [{"question": "q", "answer": ["x", "y"], "answer_weights": [1]}]}, QA, "for each of its 2 answers, found 1 of them"),
    (["a"], {"a": [{"question": "q", "answer": ["x"], "answer_weights": ["1"]}]}, QA, "for each of its 1 answers, found a list"),
    (["a"], {"a": [{"question": "q", "answer": ["x", " "], "answer_weights": [1, 1]}]}, QA, "question 0: 'answer' is empty"),
])
def test_files_that_cannot_be_used(load, ids, texts, task, message):
    with pytest.raises(AnnotationError) as error:
        load(ids, texts, task)
    assert message in str(error.value), str(error.value)


def test_a_clip_twice_in_a_test(load):
    with pytest.raises(AnnotationError, match="row 1: duplicate id 'a'"):
        load(["a", "a"], TEXTS, training=False)
    assert len(load(["a", "a"], TEXTS)) == 2


def test_references_as_a_bare_list(tmp_path):
    entries = [{"video_id": "a", "caption": "x"}, {"video_id": "a", "caption": "y"}]
    for value in (entries, {"annotations": entries}):
        assert load_references(write_json(tmp_path / "r.json", value)) == {"a": ["x", "y"]}

import logging
from pathlib import Path

import pytest

from omnivast.config.tasks import CaptionKind, Task
from omnivast.data.annotations.load import load_annotations, load_references
from omnivast.data.annotations.rows import AnnotationError, pack
from tests.data.conftest import vast_rows
from tests.media_factory import write_json

SHARED = Path(__file__).parents[3].parent / "shared" / "annotations"
RET, CAP, QA = (Task.parse(text) for text in ("ret%tv", "cap%tv", "qa%tv"))


def load(tmp_path, rows, task=RET, training=False, **options):
    return load_annotations(write_json(tmp_path / "a.json", rows), task, training=training, **options)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/annotations is absent")
@pytest.mark.parametrize("path", sorted(SHARED.glob("*_descs_*.json")), ids=lambda path: path.stem)
def test_real_files(path):
    task = Task.parse(f"{'qa' if '_qa_' in path.stem else 'cap' if '_cap_' in path.stem else 'ret'}%tv")
    annotations = load_annotations(path, task, training="train" in path.stem)
    assert len(annotations) > 1 and len(annotations.sha256) == 64
    row = annotations[0]
    assert row.clip_id and (row.questions if "_qa_" in path.stem else row.captions[CaptionKind.OMNI])


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/annotations is absent")
def test_a_real_reference_file():
    references = load_references(SHARED / "youcook_caption_annotation.json")
    assert references["GLd3aX16zBg_90_102"] == ["spread margarine on two slices of white bread"]
    with pytest.raises(AnnotationError, match="annfile"):
        load_annotations(SHARED / "youcook_caption_annotation.json", CAP, training=False)


def test_every_field_is_mapped(tmp_path):
    annotations = load(tmp_path, vast_rows(), Task.parse("ret%tvas%tv%ta"))
    row = annotations[1]
    assert row.clip_id == "clip1" and row.subtitle == "said 1"
    assert row.captions[CaptionKind.OMNI] == ["omni 1 says both of them"]
    assert row.captions[CaptionKind.VISION][4] == "seen 1 wording 4" and len(row.captions[CaptionKind.AUDIO]) == 5
    assert annotations.several_kinds and annotations.ids() == [f"clip{i}" for i in range(8)]
    assert (annotations.caption_count, annotations.with_subtitle, annotations.question_count) == (8, 8, 0)


@pytest.mark.parametrize("key", ["clip_id", "video_id", "image_id", "image", "id"])
@pytest.mark.parametrize("caption", ["desc", "caption", "vast_cap"])
def test_every_name_of_id_and_caption(tmp_path, key, caption):
    row = load(tmp_path, [{key: 7, caption: "one"}])[0]
    assert row.clip_id == "7" and row.captions == {CaptionKind.OMNI: ["one"]}


def test_rejected_captions(tmp_path):
    rows = [{"id": "a", "desc": "one", "negatives": ["two", "three", " "]}, {"id": "b", "desc": "one", "negatives": "four"},
            {"id": "c", "desc": "one", "negatives": []}, {"id": "d", "desc": "one"}]
    annotations = load(tmp_path, rows, training=True)
    assert [row.negatives for row in annotations] == [["two", "three"], ["four"], [], []] and annotations.with_negatives == 2
    assert pack(annotations[3]) == pack(annotations[2]).replace(b'"c"', b'"d"') and pack(annotations[3]).endswith(b"[], [], [], [], []]")


@pytest.mark.parametrize(("row", "message"), [
    ({"negatives": ["two"]}, r"row 0 \(id 'a'\) has 'negatives' but no caption that they are worse than; expected one of desc, "),
    ({"desc": ["one", "two"], "negatives": ["two"]}, "row 0 .*'two' is a caption of the clip and one of its 'negatives'"),
    ({"desc": "one", "negatives": ["two", 3]}, "row 0 .*'negatives' must be a string or a list of strings, found a number"),
    ({"desc": "one", "negatives": {"two": 1}}, "row 0 .*'negatives' must be a string or a list of strings, found an object"),
    ({"desc": "one", "negatives": ["\ud800"]}, "row 0 .*not Unicode"),
    ({"desc": "one", "title": ["two"]}, "row 0 .*'title' must be a string, found a list"),
    ({"desc": "one", "negative": ["two"]}, "unknown field 'negative'; did you mean 'negatives'"),
])
def test_bad_rejected_captions(tmp_path, row, message):
    with pytest.raises(AnnotationError, match=message):
        load(tmp_path, [{"id": "a", **row}], Task.parse("cap%tv"), training=True)


def test_questions(tmp_path):
    rows = [
        {"id": "a", "question": ["q1", "q2"], "answer": ["yes", 2], "question_type": ["x", "y"], "question_id": [1, 2]},
        {"id": "a", "question": "q", "answer": "no"},
    ]
    annotations = load(tmp_path, rows, QA)
    assert (
        annotations[0].answers == ["yes", "2"] and annotations[0].question_ids == ["1", "2"] and annotations[0].question_types == ["x", "y"]
    )
    assert annotations[1].questions == ["q"] and annotations.question_count == 3


def test_one_question_that_several_people_answered(tmp_path):
    rows = [{"image_id": 7, "question": "what?", "answer": ["cat", "dog", "dog"], "question_id": 3}]
    row = load(tmp_path, rows, QA, training=True)[0]
    assert (row.questions, row.answers, row.question_ids) == (["what?"] * 3, ["cat", "dog", "dog"], ["3"] * 3)
    row = load(tmp_path, rows, QA)[0]
    assert (row.questions, row.answers, row.question_ids) == (["what?"], ["dog"], ["3"])
    assert load(tmp_path, [{"id": 1, "question": ["a?"], "answer": ["b"]}], QA)[0].answers == ["b"]


def test_questions_without_answers_are_for_tests_alone(tmp_path):
    """VQAv2's test splits."""
    rows = [{"image_id": n, "question": "what?", "question_id": n, "question_type": "what", **none}
            for n, none in enumerate([{}, {"answer": None}, {"answer": []}])]
    rows.append({"image_id": 9, "question": ["q", "r"], "question_id": [10, 11]})
    annotations = load(tmp_path, rows, QA)
    assert [(row.questions, row.answers) for row in annotations] == [(["what?"], [])] * 3 + [(["q", "r"], [])]
    assert annotations[3].question_ids == ["10", "11"] and annotations.question_count == 5
    with pytest.raises(AnnotationError, match=r"row 0 \(id '0'\): 1 question\(s\) but 0 answer\(s\), which training needs"):
        load(tmp_path, rows, QA, training=True)


def test_answer_types_of_vqav2(tmp_path):
    asked = {"image_id": 7, "question": "many?", "answer": ["2"] * 9 + ["3"], "question_id": 3, "question_type": "how many",
             "answer_type": "number"}
    for training, times in ((False, 1), (True, 10)):
        row = load(tmp_path, [asked], QA, training=training)[0]
        assert (row.question_types, row.answer_types) == (["how many"] * times, ["number"] * times)


GOOD = {"id": "a", "desc": "x"}
BAD_ROWS = {
    "not an object": ([GOOD, "b"], "row 1: expected an object, found a string"),
    "no id": ([GOOD, {"desc": "x"}], "row 1 has no id; expected one of clip_id, video_id"),
    "id is a list": ([{"id": ["a"], "desc": "x"}], "must be a string"),
    "two ids": ([{"id": "a", "video_id": "b", "desc": "x"}], "two ids: 'video_id' 'b' and 'id' 'a'"),
    "id climbs": ([{"id": "../../etc/passwd", "desc": "x"}], "inside the media folder"),
    "no caption": ([GOOD, {"id": "b"}], r"row 1 \(id 'b'\) has no caption"),
    "empty caption": ([{"id": "b", "desc": " "}], r"row 0 \(id 'b'\) has no caption"),
    "empty list of captions": ([{"id": "b", "desc": []}], "has no caption"),
    "subtitle is pandas' empty cell": ([{"id": "b", "desc": "x", "subtitle": float("nan")}],
                                       "'subtitle' must be a string, found NaN, which pandas writes for an empty cell"),
    "caption is pandas' empty cell": ([{"id": "b", "desc": float("nan")}], "found NaN, which pandas writes"),
    "one caption of two is": ([{"id": "b", "desc": ["x", float("nan")]}], "'desc' must be a string or a list of strings, found NaN"),
    "one caption of two is null": ([{"id": "b", "desc": ["x", None]}], "'desc' must be a string or a list of strings, found null"),
    "id is pandas' empty cell": ([{"id": float("nan"), "desc": "x"}], "the id 'id' must be a string, found NaN"),
    "answer is pandas' empty cell": ([{"id": "b", "desc": "x", "question": "q", "answer": float("nan")}], "'answer' must be a string or a"
                                     " list of strings, found NaN"),
    "caption is a number": ([{"id": "b", "desc": 5}], "'desc' must be a string or a list of strings, found a number"),
    "two captions": ([{"id": "b", "desc": "x", "caption": "y"}], "two captions, 'desc' and 'caption'"),
    "misspelt field": ([{"id": "b", "desc": "x", "subtitel": ""}], "unknown field 'subtitel'; did you mean 'subtitle'.*ignore_fields"),
    "unknown field": ([{"id": "b", "desc": "x", "zzzz": 1}], "unknown field 'zzzz'; valid are clip_id"),
    "duplicate ids": ([GOOD, {"id": "b", "desc": "y"}, GOOD], r"row 2: duplicate id 'a' \(first in row 0\)"),
    "subtitle is a list": ([{"id": "b", "desc": "x", "subtitle": ["s"]}], "'subtitle' must be a string, found a list"),
    "empty list": ([], "the list is empty"),
    "object": ({"a": 1}, "expected a JSON list of objects, found an object"),
    "number": (3, "expected a JSON list of objects, found a number"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(tmp_path, case):
    rows, message = BAD_ROWS[case]
    with pytest.raises(AnnotationError, match=message) as caught:
        load(tmp_path, rows)
    assert str(tmp_path / "a.json") in str(caught.value)


BAD_QUESTIONS = {
    "no question": ([{"id": "a", "desc": "x"}], "has no question and answer"),
    "unequal": ([{"id": "a", "question": ["q", "r"], "answer": "yes"}], r"2 question\(s\) but 1 answer"),
    "a list for one": ([{"id": "a", "question": ["q"], "answer": ["yes", "no"]}], r"1 question\(s\) but 2 answer"),
    "only an answer": ([{"id": "a", "answer": "yes"}], r"0 question\(s\) but 1 answer"),
    "empty answer": ([{"id": "a", "question": "q", "answer": ""}], "'answer' is empty"),
    "types": ([{"id": "a", "question": "q", "answer": "yes", "question_type": ["x", "y"]}], "2 value.s. of 'question_type' for 1 question"),
    "answered but for one": ([{"id": "a", "question": "q", "answer": "yes"}, {"id": "b", "desc": "x"}, {"id": "c", "question": "q"}],
                             r"row 2 \(id 'c'\): the question has no answer, but that of row 0 \(id 'a'\) has"),
    "unanswered but for one": ([{"id": "a", "question": "q"}, {"id": "b", "question": "q", "answer": "no"}],
                               r"row 1 \(id 'b'\): the question has an answer, but that of row 0 \(id 'a'\) has none"),
    "answer types": ([{"id": "a", "question": "q", "answer": "yes", "answer_type": ["x", "y"]}], "2 value.s. of 'answer_type' for 1"),
    "answer is an object": ([{"id": "a", "question": "q", "answer": {}}], "found an object"),
}


@pytest.mark.parametrize("case", BAD_QUESTIONS)
def test_bad_questions(tmp_path, case):
    rows, message = BAD_QUESTIONS[case]
    with pytest.raises(AnnotationError, match=message):
        load(tmp_path, rows, QA)


def test_not_json_names_the_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n {"id": "a",\n  "desc": }\n]')
    with pytest.raises(AnnotationError, match="a.json: not JSON: line 3, column"):
        load_annotations(path, RET, training=True)
    path.write_text('{"id": "a", "desc": "x"}\n{"id": "b", "desc": "y"}\n')
    with pytest.raises(AnnotationError, match="line 2, column 1: Extra data; one object per line is JSON Lines: write one list of them"):
        load_annotations(path, RET, training=True)
    path.write_text(" \n")
    with pytest.raises(AnnotationError, match="a.json: the file is empty; expected a JSON list of objects"):
        load_annotations(path, RET, training=True)
    path.write_bytes(b"\xff\xfe\x00[")
    with pytest.raises(AnnotationError, match="not JSON"):
        load_annotations(path, RET, training=True)
    with pytest.raises(AnnotationError, match="no such annotation file"):
        load_annotations(tmp_path / "absent.json", RET, training=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_annotations_as_editors_and_powershell_write_them(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('[{"id": "a", "desc": "über"}]'.encode(encoding))
    assert load_annotations(tmp_path / "a.json", RET, training=True)[0].captions[CaptionKind.OMNI] == ["über"]
    (tmp_path / "a.json").write_bytes('[\n{"id": "a", "desc": "über"}]'.encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"not JSON: it is not UTF-8 \(byte 0xfc in line 2\); save it as UTF-8"):
        load_annotations(tmp_path / "a.json", RET, training=True)


def test_a_relative_path_is_told_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AnnotationError) as error:
        load_annotations("absent.json", RET, training=True)
    assert str(error.value) == f"absent.json: no such annotation file (looked up from {tmp_path})"


def test_a_task_with_subtitles_needs_some(tmp_path):
    with pytest.raises(AnnotationError, match="dataset without the modality that its task needs.*subtitle"):
        load(tmp_path, [GOOD], Task.parse("ret%tvs"))
    assert load(tmp_path, [GOOD, {"id": "b", "desc": "y", "subtitle": None}], Task.parse("ret%tvs"))[1].subtitle == ""


def test_a_group_without_its_caption_kind_falls_back_to_omni_alone(tmp_path):
    vision_only = [{"id": "a", "vision_cap": "x"}]
    assert load(tmp_path, vision_only, Task.parse("ret%tv"))[0].captions == {CaptionKind.VISION: ["x"]}
    with pytest.raises(AnnotationError, match="has no caption for task 'ret%tva'"):
        load(tmp_path, vision_only, Task.parse("ret%tva"))
    assert load(tmp_path, [GOOD], Task.parse("ret%tv%ta"))


def test_repeated_rows_in_training(tmp_path, caplog):
    """MSR-VTT's training file has a row per caption, and people who described a clip in the same words."""
    again = [GOOD, {"id": "a", "desc": "another caption"}, GOOD, GOOD]
    with caplog.at_level(logging.WARNING, "omnivast"):
        assert len(load(tmp_path, again[:2], training=True)) == 2 and not caplog.messages
        assert len(load(tmp_path, again, training=True)) == 4
        question = {"id": "a", "question": "q", "answer": "x"}
        assert len(load(tmp_path, [question, question], QA, training=True)) == 2
    one, other = caplog.messages
    assert one.endswith("2 of 4 rows repeat another exactly; the first is row 2 (id 'a'), which repeats row 0")
    assert other.endswith("1 of 2 rows repeat another exactly; the first is row 1 (id 'a'), which repeats row 0")


def test_ignored_fields_and_blank_captions(tmp_path, caplog):
    rows = [{"id": "a", "desc": ["x", " "], "caption": "y", "url": "z"}]
    annotations = load(tmp_path, rows, ignore_fields=["url", "caption"])
    assert annotations[0].captions == {CaptionKind.OMNI: ["x"]} and "1 blank caption(s) are left out, the first in row 0 (id" in caplog.text


def test_captions_may_be_absent_when_labelling(tmp_path):
    assert load(tmp_path, [{"id": "a"}], CAP, captions_optional=True)[0].captions == {}
    with pytest.raises(AnnotationError, match="no caption"):
        load(tmp_path, [{"id": "a"}], Task.parse("ret%tv_cap%tv"), captions_optional=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected reference captions"),
        ({"annotations": 1}, "expected reference captions"),
        ({"annotations": [{"caption": "x"}]}, "annotation 0 has no id"),
        ({"annotations": [{"id": 3, "caption": "x"}]}, "annotation 0 has no id"),
        ({"annotations": [{"image_id": 3}]}, "has no caption"),
        ({"annotations": [3]}, "expected an object"),
    ],
)
def test_bad_references(tmp_path, value, message):
    with pytest.raises(AnnotationError, match=message):
        load_references(write_json(tmp_path / "r.json", value))


def test_references_of_one_clip_are_gathered(tmp_path):
    items = [{"image_id": 3, "id": 1, "caption": "x"}, {"image_id": 3, "id": 2, "caption": "y"}, {"clip_id": "b", "caption": ["z", "w"]}]
    assert load_references(write_json(tmp_path / "r.json", {"annotations": items})) == {"3": ["x", "y"], "b": ["z", "w"]}

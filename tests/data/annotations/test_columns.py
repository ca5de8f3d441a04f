"""Large annotation files: streamed once into a memory-mapped file, and otherwise the same as small ones."""

import io
import json
import multiprocessing
import os
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnivast.config.tasks import Task
from omnivast.data import derived
from omnivast.data.annotations import columns, json_stream
from omnivast.data.annotations import load as annotations
from omnivast.data.annotations.columns import MappedAnnotations
from omnivast.data.annotations.json_stream import entries, first_sign, members
from omnivast.data.annotations.load import load_annotations
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.annotations.table import Annotations
from tests.data.annotations.test_annotations import BAD_QUESTIONS, BAD_ROWS
from tests.data.conftest import vast_rows
from tests.media_factory import write_json

pytest.importorskip("pyarrow")
VAS = Task.parse("ret%tvas%tv%ta")


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch):
    monkeypatch.setattr(annotations, "MAPPED_FROM", 0)
    monkeypatch.setattr(columns, "ROWS", 3)
    monkeypatch.setattr(json_stream, "CHUNK", 50)


def small(path, task=VAS, **options) -> Annotations:
    """The same file read whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, "MAPPED_FROM", 2**60)
        return load_annotations(path, task, **options)


# ------------------------------------------------------------------------------------------------------------ the parser

ANY = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
                   lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=9)


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(values=st.lists(ANY, max_size=6), indent=st.sampled_from([None, 2]), ascii_only=st.booleans(), chunk=st.integers(1, 30))
def test_a_stream_of_entries_is_the_list(values, indent, ascii_only, chunk):
    json_stream.CHUNK = max(4, chunk)  # four bytes tell the encoding
    parts = []
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert list(entries(io.BytesIO(text), parts.append)) == values and b"".join(parts) == text


BROKEN = ['[', '[1', '[1,', '[1,]', '[1 2]', '[1]]', '[1] x', '[{"a" 1}]', '[{"a": }]', '[{a: 1}]', '[{"a": 1,}]', '["ab', '["a\nb"]',
          '["\\x"]', '["\\u12', '[tru]', '[nul', '[-]', '[1.]', '[1e]', '[\n1,\n\n  2 3]', '[{"a": [1, 2, {"b": tru}]},\n 3]', "['a']"]


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("lead", ["", "\n\n  ", '\n{"id": "é", "desc": "a caption of some length"},\n  '])
def test_what_is_broken_is_told_as_for_the_whole(text, lead):
    text = "[" + lead + text[1:] if lead.strip() else lead + text
    with pytest.raises(json.JSONDecodeError) as whole:
        json.loads(text)
    for size in (4, 7, 64, 10**6):
        json_stream.CHUNK = size
        with pytest.raises(json.JSONDecodeError) as streamed:
            list(entries(io.BytesIO(text.encode())))
        told = [(error.value.msg, error.value.lineno, error.value.colno) for error in (streamed, whole)]
        assert told[0] == told[1], size


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(value=st.dictionaries(st.text(max_size=4), ANY, max_size=4), rows=st.lists(ANY, max_size=4), indent=st.sampled_from([None, 2]),
       chunk=st.integers(4, 30))
def test_a_stream_of_members_is_the_object(value, rows, indent, chunk):
    json_stream.CHUNK = chunk
    file = io.BytesIO(json.dumps({**value, "a list": rows}, indent=indent).encode())
    assert first_sign(file) == "{"
    assert list(members(file, {"a list"})) == [*value.items(), *(("a list", row) for row in rows)]


BROKEN_OBJECTS = ["{", '{"a"', '{"a" 1}', '{"a":', '{"a":}', '{"a": 1', '{"a": 1,', '{"a": 1 "b": 2}', "{a: 1}", "{1: 2}", '{"a": 1}}',
                  '{"a": 1} x',
                  '{"list": [1, tru]}', '{"list": [1 2]}', '{"list": [1}', '{"list": [1]]', '{"a\nb": 1}', '{"ab', '{"a":\n {"b": [nul]}}']


@pytest.mark.parametrize("text", BROKEN_OBJECTS)
@pytest.mark.parametrize("lead", ["", '\n"first": ["é", "a value of some length"],\n  '])
def test_what_is_broken_in_an_object_is_told_as_for_the_whole(text, lead):
    text = "{" + lead + text[1:]
    with pytest.raises(json.JSONDecodeError) as whole:
        json.loads(text)
    for size in (4, 7, 64, 10**6):
        json_stream.CHUNK = size
        with pytest.raises(json.JSONDecodeError) as streamed:
            list(members(io.BytesIO(text.encode()), {"list"}))
        told = [(error.value.msg, error.value.lineno, error.value.colno) for error in (streamed, whole)]
        assert told[0] == told[1], size


def test_an_object_is_no_list_and_a_list_no_object():
    with pytest.raises(json.JSONDecodeError, match="Expecting a list"):
        list(entries(io.BytesIO(b'{"a": 1}')))
    with pytest.raises(json.JSONDecodeError, match="Expecting an object"):
        list(members(io.BytesIO(b"[1]"), ()))
    assert first_sign(io.BytesIO(b" \n")) == ""


def test_a_string_without_end_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(json_stream, "LONGEST_ENTRY", 1000)
    file = io.BytesIO(b'["' + b"x" * 100_000)
    with pytest.raises(json.JSONDecodeError, match="Unterminated string"):
        list(entries(file))
    assert file.tell() < 2000


# -------------------------------------------------------------------------------------------------------------- the rows


def test_mapped_rows_are_those_of_the_whole_file(tmp_path):
    rows = vast_rows(8) + [{"clip_id": "ü 🎬", "vision_cap": "one", "audio_cap": [], "vast_cap": "two", "negatives": ["three", "four"],
                            "title": "five", "description": "six"}]
    path = write_json(tmp_path / "a.json", rows)
    mapped, whole = load_annotations(path, VAS, training=True), small(path, training=True)
    assert isinstance(mapped, MappedAnnotations) and not isinstance(whole, MappedAnnotations)
    assert list(mapped) == list(whole) and mapped.ids() == whole.ids() and len(mapped) == 9
    for name in ("sha256", "kinds", "with_subtitle", "caption_count", "question_count", "several_kinds", "with_negatives"):
        assert getattr(mapped, name) == getattr(whole, name)
    assert (mapped[8].negatives, mapped[8].title, mapped[8].description, mapped[0].title) == (["three", "four"], "five", "six", "")
    again = pickle.loads(pickle.dumps(mapped))
    assert again[8] == whole[8] and again[8].subtitle is None and len(pickle.dumps(mapped)) < 2000
    with pytest.raises(IndexError, match="row 9 of 9"):
        mapped[9]


def test_questions(tmp_path):
    rows = [{"id": i, "question": "what?", "answer": ["a", "b", "b"], "question_id": i} for i in range(4)]
    rows.append({"id": "x", "question": ["q", "r"], "answer": ["s", 5], "question_type": ["u", "v"], "answer_type": ["w", "z"]})
    path = write_json(tmp_path / "a.json", rows)
    for training in (True, False):  # they read one question's answers differently, so each has its own file
        mapped = load_annotations(path, Task.parse("qa%tv"), training=training)
        assert list(mapped) == list(small(path, Task.parse("qa%tv"), training=training))
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_questions_without_answers(tmp_path):
    path = write_json(tmp_path / "a.json", [{"id": i, "question": "what?", "question_id": i} for i in range(5)])
    mapped = load_annotations(path, Task.parse("qa%tv"), training=False)
    assert list(mapped) == list(small(path, Task.parse("qa%tv"), training=False)) and mapped[4].answers == []
    for read in (load_annotations, small):
        with pytest.raises(AnnotationError, match="row 0 .*1 question.* 0 answer.*which training needs"):
            read(path, Task.parse("qa%tv"), training=True)


@pytest.mark.parametrize("case", [*BAD_ROWS, *BAD_QUESTIONS])
def test_bad_rows_are_told_as_for_the_whole(tmp_path, case):
    rows, task = (BAD_ROWS[case][0], "ret%tv") if case in BAD_ROWS else (BAD_QUESTIONS[case][0], "qa%tv")
    path = write_json(tmp_path / "a.json", rows)
    for _ in range(2):  # also once it has been converted
        with pytest.raises(AnnotationError) as mapped:
            load_annotations(path, Task.parse(task), training=False)
        with pytest.raises(AnnotationError) as whole:
            small(path, Task.parse(task), training=False)
        assert str(mapped.value) == str(whole.value)


@pytest.mark.parametrize("content", [b'[{"id": "a", "desc": }]', b'[{"id": "\xff"}]', b"[" * 100_000, b"[" + b"9" * 5000 + b"]",
                                     b'[{"id": "a", "desc": "\\ud800"}]'])
def test_broken_files_are_named_and_leave_nothing(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    for read in (load_annotations, small):
        with pytest.raises(AnnotationError, match=re.escape(str(tmp_path / "a.json")) + ".*(not JSON|not Unicode)"):
            read(tmp_path / "a.json", Task.parse("cap%tv"), training=True)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".lock"} and not list(tmp_path.glob("*.arrow*json"))


def test_warnings_are_repeated_at_later_starts(tmp_path, caplog):
    rows = [{"id": "a", "desc": ["x", " "]}, {"id": "b", "desc": "y"}, {"id": "b", "desc": "y"}, {"id": "a", "desc": "x"}]
    path = write_json(tmp_path / "a.json", rows)
    for _ in range(2):
        caplog.clear()
        load_annotations(path, Task.parse("cap%tv"), training=True)
        assert "1 blank caption(s) are left out" in caplog.text
        assert "2 of 4 rows repeat another exactly; the first is row 2 (id 'b'), which repeats row 1" in caplog.text


# -------------------------------------------------------------------------------------------------------------- the file


def counted(monkeypatch) -> list[str]:
    """Grows by one with each conversion."""
    made, real = [], columns._convert
    monkeypatch.setattr(columns, "_convert", lambda path, arrow, reader: made.append(str(arrow)) or real(path, arrow, reader))
    return made


def test_converted_once_and_again_when_the_json_changes(tmp_path, monkeypatch):
    made = counted(monkeypatch)
    path = write_json(tmp_path / "a.json", vast_rows(4))

    def read():
        return load_annotations(path, VAS, training=True)

    assert read()[0] == read()[0] and len(made) == 1
    os.utime(path, (1, 1))  # the same content at another time
    assert read() and read() and len(made) == 1
    changed = path.read_text().replace("omni 3", "omni 7")
    path.write_text(changed)
    assert next(iter(read()[3].captions.values())) == ["omni 7 says both of them"] and len(made) == 2
    [arrow] = tmp_path.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:-100])
    assert list(read()) == list(small(path, training=True)) and len(made) == 3
    Path(f"{arrow}.json").write_text("{")
    assert read() and len(made) == 4
    load_annotations(path, VAS, training=True, ignore_fields=["url"])
    assert len(made) == 5
    stale = pickle.dumps(read())
    path.write_text(changed + " ")
    read()
    with pytest.raises(AnnotationError, match="another process has replaced it"):
        pickle.loads(stale)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    made = counted(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_json(tmp_path / "data" / "a.json", vast_rows(4))
    writable = derived.writable
    monkeypatch.setattr(derived, "writable", lambda folder: folder != path.parent and writable(folder))
    for _ in range(2):
        assert len(load_annotations(path, VAS, training=True)) == 4
    monkeypatch.setattr(derived, "writable", lambda folder: False)
    assert load_annotations(path, VAS, training=True)[3].clip_id == "clip3"  # what is there needs no writing
    with pytest.raises(AnnotationError, match="a.json.*neither .* nor .* can be written"):
        load_annotations(path, VAS, training=False)
    assert len(made) == 1 and list(path.parent.iterdir()) == [path] and len(list((tmp_path / "cache").rglob("*.arrow"))) == 1


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write_json(tmp_path / "a.json", vast_rows(4))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AnnotationError, match=r'a.json.*pip install "omnivast\[large\]"'):
        load_annotations(path, VAS, training=True)
    assert len(small(path, training=True)) == 4


def test_of_many_processes_one_converts(tmp_path, monkeypatch):
    path, log = write_json(tmp_path / "a.json", vast_rows(200)), tmp_path / "log"
    real = columns._convert

    def convert(path, arrow, reader):
        with open(log, "a") as file:
            file.write("converted\n")
        return real(path, arrow, reader)

    monkeypatch.setattr(columns, "_convert", convert)
    monkeypatch.setattr(json_stream, "CHUNK", 4096)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=lambda: os._exit(len(load_annotations(path, VAS, training=True)) != 200)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [0, 0, 0] and log.read_text() == "converted\n"

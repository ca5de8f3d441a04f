"""``python -m omnivast stats``: what it prints, and what it says of bad files."""

import json

import pytest

from omnivast import __main__ as command
from tests.media_factory import write_json

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def annotations(tmp_path):
    return write_json(tmp_path / "a.json", [{"video_id": "a", "desc": "A dog barks", "url": "x"}, {"video_id": "b", "desc": "rain"}])


def stats(capsys, *words):
    status = command.main(["stats", *map(str, words)])
    return status, *capsys.readouterr()


def test_a_table(annotations, capsys):
    status, text, said = stats(capsys, annotations, annotations)
    assert status == 0 and "a.json: fields that are not read: url (in 1)" in said
    lines = {line[:25].strip(): line[25:].split() for line in text.splitlines()}
    assert lines["clips"] == ["2", "2"] and lines["words"] == ["4", "4"] and lines["ACD: per 100 words"] == ["50.0", "50.0"]


def test_json_is_all_that_is_printed(annotations, capsys):
    status, text, _ = stats(capsys, "--json", "--top", 1, annotations)
    [figures] = json.loads(text)
    own = figures["texts"]["omni captions"]
    assert status == 0 and figures["file"] == str(annotations) and own["top_words"] == [["a", 1]]
    assert own["words"]["lengths"] == {"1": 1, "3": 1} and sorted(own["top_concepts"]) in ([["dog", 1]], [["rain", 1]])


def test_tokens_are_counted_with_a_tokenizer(annotations, tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "a", "dog", "bark", "##s", "rain"]) + "\n")
    for flags, limit, cut in (([], 40, 0), (["--max_caption_len", 5], 5, 1)):
        _, text, _ = stats(capsys, "--json", "--tokenizer", tmp_path, *flags, annotations)
        tokens = json.loads(text)[0]["texts"]["omni captions"]["tokens"]
        assert (tokens["lengths"], tokens["limit"], tokens["cut"]) == ({"3": 1, "6": 1}, limit, cut)


def test_own_concepts_and_some_clips(annotations, tmp_path, capsys):
    ontology, ids = write_json(tmp_path / "ontology.json", [{"name": "Barks, rain"}]), write_json(tmp_path / "ids.json", ["a"])
    _, text, _ = stats(capsys, "--json", "--ontology", ontology, "--ids", ids, annotations)
    [figures] = json.loads(text)
    assert figures["clips"] == 1 and figures["texts"]["omni captions"]["top_concepts"] == [["barks", 1]]


@pytest.mark.parametrize(("words", "message"), [
    (["absent.json"], "stats: absent.json: no such annotation file (looked up from "),
    (["A", "--ontology", "absent.json"], "stats: absent.json: no such ontology"),
    (["A", "--tokenizer", "absent"], "stats: no vocabulary at absent"),
    (["A", "--ids", "A"], "a.json: expected a JSON list of ids"),
])
def test_what_cannot_be_read(annotations, capsys, words, message):
    status, text, said = stats(capsys, *(annotations if word == "A" else word for word in words))
    assert status == 2 and text == "" and message in said and said.count("\n") == 1


@pytest.mark.parametrize(("words", "message"), [
    ([], "the following arguments are required: FILE"),
    (["a.json", "--max_caption_len", "30"], "--max_caption_len counts tokens: name a --tokenizer"),
    (["a.json", "--top", "few"], "expected a whole number, got 'few'"),
])
def test_bad_command_lines(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        command.main(["stats", *words])
    assert end.value.code == 2 and message in capsys.readouterr().err

"""``python -m omnivast mine``: which clips are hard negatives, and files that are no result of retrieval."""

import json

import pytest

from omnivast.evaluation.mine import main


def entry(clip, text, top, key="top"):
    return {"clip_id": clip, "text": text, "tvas": {key: top, "itc_rank": 1}}


PREDICTIONS = [
    entry("a", "a cat", ["a", "b", "c", "d"]),
    entry("b", "a dog", ["c", "b", "d", "a"]),      # c may be right too
    entry("c", "a bird", ["d", "a", "b"]),          # its own is not among the first
    entry("d", "a cat", ["d", "c", "a", "b"], "itc_top") | {"ta": {}},  # a has the same text
    entry("a", "a pet", ["a", "c", "d", "b"]),
]
PREDICTIONS[3]["tvas"]["top"] = ["b", "d"]  # as matching ordered them


@pytest.fixture
def mined(tmp_path, capsys):
    def run(content, *flags):
        (tmp_path / "result.json").write_text(content if isinstance(content, str) else json.dumps(content))
        out = tmp_path / "mined.json"
        status = main([str(tmp_path / "result.json"), "--output", str(out), *flags])
        texts = capsys.readouterr()
        return (json.loads(out.read_text()), texts.out) if status == 0 else (status, texts.err)

    return run


def result(objective="ret"):
    return {"protocol": {"objective": objective, "groups": ["tvas"]}, "predictions": PREDICTIONS}


def test_what_is_found_behind_the_right_clip(mined):
    found, said = mined(result())
    assert found == {"a": ["b", "c"], "b": ["d", "a"], "c": [], "d": ["c", "b"]}
    assert "3 of 4 clips have hard negatives, 2.0 each" in said


def test_a_margin_leaves_out_the_next(mined):
    assert mined(result(), "--margin", "1")[0] == {"a": ["c", "b"], "b": ["a"], "c": [], "d": ["b"]}


@pytest.mark.parametrize("content, flags, message", [
    (result("cap"), (), "result.json is no result of a retrieval test"),
    ([], (), "result.json is no result of a retrieval test"),
    ("{", (), "result.json"),
    (result(), ("--group", "tva"), "has no group 'tva'; it has tvas"),
])
def test_what_cannot_be_mined(mined, content, flags, message):
    status, said = mined(content, *flags)
    assert status == 2 and message in said and said.count("\n") == 1

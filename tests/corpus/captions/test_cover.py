"""Which teachers are kept."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from omnivast.corpus import cli
from omnivast.corpus.captions.cover import JudgementError, cover, read_judgements


def test_each_teacher_adds_most_to_those_before():
    good = {"a": set("12345"), "b": set("12346"), "c": set("67"), "d": set("1"), "e": set()}
    chosen = cover(good, 10)
    assert [(one.name, one.good, one.adds, one.covered) for one in chosen] == [("a", 0.5, 0.5, 0.5), ("c", 0.2, 0.2, 0.7)]
    assert [one.name for one in cover(good, 10, most=1)] == ["a"] and cover({"e": set()}, 3) == []


def test_among_equals_the_better_then_the_first_by_name():
    assert [one.name for one in cover({"z": set("12"), "y": set("12"), "x": set("1")}, 2)] == ["y"]
    good = {"a": set("1234"), "b": set("5"), "c": set("125"), "d": set("6")}
    assert [one.name for one in cover(good, 6)] == ["a", "c", "d"]


@pytest.mark.parametrize("seed", range(5))
def test_as_a_plain_search_finds_it(seed):
    """The definition, tried out: at each step no other teacher would add more; and the whole is within the bound of greedy covers."""
    random.seed(seed)
    clips = range(40)
    good = {f"t{n}": {str(clip) for clip in clips if random.random() < 0.05 + 0.04 * n} for n in range(7)}
    chosen, covered = cover(good, len(clips)), set()
    for one in chosen:
        best = max(len(own - covered) for own in good.values())
        assert len(good[one.name] - covered) == best == round(one.adds * len(clips))
        covered |= good[one.name]
        assert one.covered == len(covered) / len(clips)
    assert covered == set().union(*good.values())
    for size in range(1, len(chosen) + 1):
        best = max(len(set().union(*some)) for some in itertools.combinations(good.values(), size))
        assert chosen[size - 1].covered * len(clips) >= (1 - 1 / 2.718281828) * best - 1e-9


def test_files_of_judgements(tmp_path):
    expected = {"a": {"x", "y"}, "b": {"y"}, "c": set()}, 3
    (tmp_path / "j.csv").write_text("clip,a,b,c\nx,1,0,0\ny,yes,good,\nz,0,0,no\n")
    (tmp_path / "j.json").write_text(json.dumps([{"clip_id": "x", "a": True, "b": False, "c": False},
                                                 {"clip_id": "y", "a": 1, "b": 1, "c": 0}, {"clip_id": "z", "a": False, "b": 0, "c": ""}]))
    assert read_judgements(tmp_path / "j.csv") == expected == read_judgements(tmp_path / "j.json")
    (tmp_path / "j.jsonl").write_text('{"clip": "x", "good": ["a"]}\n{"clip": "y", "good": ["a", "b"]}\n{"clip": "z", "good": []}\n')
    assert read_judgements(tmp_path / "j.jsonl") == ({"a": {"x", "y"}, "b": {"y"}}, 3)


@pytest.mark.parametrize("name, content, message", [
    ("j.csv", "clip,a\nx,3\n", 'clip 1: a is "3"; expected 1'), ("j.csv", "video,a\nx,1\n", "names no clip"),
    ("j.csv", "clip,a\nx,1\nx,0\n", "clip 2: 'x' was judged before"), ("j.csv", "clip,a\nx\n", "another number of columns"),
    ("j.csv", "clip,a\n", "holds no judgement"), ("j.json", "{}", "expected a list of objects"), ("j.json", "[", "no JSON"),
    ("j.jsonl", '{"clip": "x", "good": "a"}\n', "expected a list of teachers"),
])
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(JudgementError, match=message):
        read_judgements(tmp_path / name)


def test_the_verb(tmp_path, capsys, caplog):
    (tmp_path / "j.csv").write_text("clip,blip,vast\nx,1,0\ny,1,1\nz,0,0\nw,0,1\n")
    assert cli.teachers([str(tmp_path / "j.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["blip", "50.0%", "50.0%", "50.0%"] and lines[2].split() == ["vast", "50.0%", "25.0%", "75.0%"]
    assert lines[3] == "all 2 captioners: 75.0% of 4 clips"
    assert cli.teachers([str(tmp_path / "j.csv"), "--json", "--most", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["covered_by_all"] == 0.75 and told["chosen"] == [{"name": "blip", "good": 0.5, "adds": 0.5, "covered": 0.5}]
    assert cli.teachers([str(tmp_path / "none.csv")]) == 2 and cli.teachers([str(tmp_path / "j.csv"), "--most", "0"]) == 2

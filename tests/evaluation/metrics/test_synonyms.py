"""Answers that say the same in other words."""

from __future__ import annotations

import json

import pytest

from omnivast.evaluation.metrics.synonyms import Synonyms, read_synonyms


def test_sets_of_answers():
    synonyms = Synonyms([["sofa", "couch"], ["couch", "trainer"]])
    assert synonyms.same("a Couch.", "sofa") and synonyms.same("trainer", "couch") and synonyms.same("Sofa", "the sofa")
    assert not synonyms.same("trainer", "sofa") and not synonyms.same("bed", "sofa") and not synonyms.same("bed", "chair")
    assert synonyms.same("bed", "cot", ["A bed!"]) and not Synonyms().same("bed", "cot")


@pytest.mark.parametrize("content", [[["sofa", "couch"], ["two", "pair"]], {"sofa": ["couch"], "pair": ["two"]}])
def test_both_forms_of_the_file(tmp_path, content):
    (tmp_path / "s.json").write_text(json.dumps(content))
    synonyms = read_synonyms(tmp_path / "s.json")
    assert synonyms.same("couch", "sofa") and synonyms.same("2", "pair") and not synonyms.same("couch", "pair")


@pytest.mark.parametrize("content, message", [
    ("{", "not JSON"), ("3", "expected a list of lists"), ('["sofa"]', "entry 0 is \"sofa\"; expected two or more answers"),
    ('[["sofa", "couch"], ["bed"]]', 'entry 1 is ["bed"]'), ('{"sofa": "couch"}', "entry 0"), ('[["sofa", " "]]', "entry 0"),
    ('[["sofa", 3]]', "entry 0")])
def test_files_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ValueError) as error:
        read_synonyms(tmp_path / "s.json")
    assert str(error.value).startswith(f"synonyms {tmp_path / 's.json'}: ") and message in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        read_synonyms(tmp_path / "absent.json")

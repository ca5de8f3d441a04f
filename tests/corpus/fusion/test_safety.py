"""Names become "person"; texts with words of a list are found."""

from __future__ import annotations

import pytest

from omnivast.corpus.fusion.safety import NAMES, UNSAFE, Words, without_names
from omnivast.corpus.plan import BuildError


@pytest.mark.parametrize("text, plain", [
    ("then John Smith and Dr. Lee met Maria", "then a person and a person met a person"), ("John's dog barks", "A person's dog barks"),
    ("my name is Zaphod", "my name is a person"), ("a man named Tuvok waves", "a man named a person waves"),
    ("young Anna and the late Mr Bean", "young person and the late person"), ("He spoke. Peter left.", "He spoke. A person left."),
    ("a rose in May, will the mark fade", "a rose in May, will the mark fade"), ("a cow named nothing", "a cow named nothing"),
    ("an anna and a john", "an anna and a john"), ("Hello Alexander the Great", "Hello a person the Great")])
def test_names(text, plain):
    assert without_names(text) == plain


def test_a_list_of_ones_own(tmp_path):
    (tmp_path / "names.txt").write_text("# mine\nZaphod\n")
    assert without_names("Zaphod and John", tmp_path / "names.txt") == "A person and John"
    (tmp_path / "words.txt").write_text("bad*\nvery  rude # two words\n")
    words = Words(tmp_path / "words.txt", UNSAFE)
    assert [words.found(text) for text in ("badly", "a BAD one", "not-bad", "abad", "Very rude!", "rude")] == [
        "badly", "bad", "bad", None, "very rude", None]
    (tmp_path / "none.txt").write_text("")
    assert Words(tmp_path / "none.txt", UNSAFE).found("anything") is None and without_names("John", tmp_path / "none.txt") == "John"
    with pytest.raises(BuildError, match="absent.txt cannot be read"):
        Words(tmp_path / "absent.txt", UNSAFE)


def test_the_lists_that_come_with_it():
    assert Words(None, UNSAFE).found("a naked man") == "naked" and Words(None, UNSAFE).found("a grape and an essex road") is None
    assert not {"Rose", "Will", "Mark", "May", "Grace"} & set(Words(None, NAMES).lines)

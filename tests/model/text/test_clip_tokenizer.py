"""CLIP's words are those of open_clip and of transformers, from OpenAI's file and from Hugging Face's."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from omnivast.model.text.clip_tokenizer import END, FILE, START, load_clip_tokenizer
from omnivast.model.text.tokenizer import TokenizerError

TEXTS = ["A man is singing, while playing the piano!", "two  dogs running near the water .", "it's 2024: café naïve  don't—stop", "",
         "日本語 emoji 😀 x'll\tnext\nline", "the siren; <|endoftext|> #1", "supercalifragilisticexpialidocious"]


def of_open_clip():
    open_clip = pytest.importorskip("open_clip", reason="open_clip, which brings CLIP's vocabulary, is not installed")
    return open_clip.SimpleTokenizer(clean="lower")


def test_words_are_open_clips():
    theirs, own = of_open_clip(), load_clip_tokenizer(None)
    assert (own.vocab_size, own.start, own.end) == (theirs.vocab_size, theirs.sot_token_id, theirs.eot_token_id) == (49408, 49406, 49407)
    for text, ids in zip(TEXTS, own.encode(TEXTS, 60)):
        assert ids == [own.start, *theirs.encode(text), own.end], text
    (cut,) = own.encode(["word " * 50], 12)
    assert len(cut) == 12 and cut[-1] == own.end and cut[1:-1] == [theirs.encode("word")[0]] * 10


def test_words_are_those_of_hugging_face(tmp_path):
    of_open_clip()
    own = load_clip_tokenizer(None)
    own._tokenizer.model.save(str(tmp_path))  # vocab.json and merges.txt
    again = load_clip_tokenizer(str(tmp_path))
    assert again.encode(TEXTS, 30) == own.encode(TEXTS, 30) and again.vocab_size == own.vocab_size
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    plain = [text for text in TEXTS if END not in text]  # which theirs takes for the mark itself
    for text, ids in zip(plain, own.encode(plain, 60)):
        assert ids == theirs(text)["input_ids"], text


def test_the_vocabulary_is_found_and_missed(tmp_path, monkeypatch):
    with pytest.raises(TokenizerError, match=f"model_cfg.clip_tokenizer '.*absent'.*: expected {FILE}, a folder with it, or one with"):
        load_clip_tokenizer(str(tmp_path / "absent"))
    (tmp_path / FILE).write_text("no gzip")
    with pytest.raises(TokenizerError, match=f"{FILE}: expected a gzip file of merges"):
        load_clip_tokenizer(str(tmp_path))
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 0, START: 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(TokenizerError, match=r"CLIP's vocabulary holds <\|endoftext\|>, not found here"):
        load_clip_tokenizer(str(tmp_path))
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 0, START: 1, END: 2}))
    assert load_clip_tokenizer(str(tmp_path)).encode(["a A", "b"], 5) == [[1, 0, 0, 2], [1, 2, 2]]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    with pytest.raises(TokenizerError, match="CLIP's text tower needs CLIP's vocabulary. open_clip is not installed: pip install.*brings "
                                             "it; or set model_cfg.clip_tokenizer"):
        load_clip_tokenizer(None)

"""BERT's WordPiece as a file for other programs."""

from __future__ import annotations

import json

import tokenizers

from omnivast.model.text.tokenizer import load_tokenizer


def test_as_a_file_of_the_library_it_makes_the_same_ids(tmp_path):
    """Also where a config beside the vocabulary says that case counts."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "Car", "car"]) + "\n")
    texts = ["a Car", "a car a car a car"]
    for lower in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        own = load_tokenizer(tmp_path)
        wanted = own.encode(texts, 5)
        found = tokenizers.Tokenizer.from_str(own.as_json(5)).encode_batch(texts)
        assert [[id for id, real in zip(one.ids, one.attention_mask) if real] for one in found] == wanted
        assert [len(one.ids) for one in found] == [5, 5]
        assert (6 in wanted[0]) != lower
        assert own.encode(texts, 5) == wanted  # neither padded nor changed by it

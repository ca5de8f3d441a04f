"""WordPiece of the text tower: texts to ids and back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import BertWordPieceTokenizer
from tokenizers import Tokenizer as AnyTokenizer

from omnivast.config.paths import looked_up

log = logging.getLogger("omnivast")

Clean = Callable[[str], str]
"""Must be picklable, as the tokenizer is."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class TokenizerError(ValueError):
    """A vocabulary that is absent, lacks BERT's special tokens or is not WordPiece."""


class Tokenizer:
    """BERT's WordPiece. It can be pickled, so that each data worker has a copy.

    It is made of a ``vocab.txt`` or of a ``tokenizer.json``. Texts are lowercased unless ``tokenizer_config.json`` beside it, or the
    ``tokenizer.json`` itself, says otherwise. ``clean``: what is done to every text before; None: nothing.
    """

    def __init__(self, file: Path, clean: Clean | None = None) -> None:
        ids, options = _from_json(file) if file.suffix == ".json" else _from_text(file)
        lacking = [token for token in SPECIAL if token not in ids]
        if lacking:
            raise TokenizerError(f"{file}: a BERT vocabulary has one token per line, among them {', '.join(lacking)}, not found here"
                                 if file.suffix != ".json" else f"{file}: a BERT vocabulary holds {', '.join(lacking)}, not found here")
        self.path, self._clean = file, clean
        self._tokenizer = BertWordPieceTokenizer(ids, **options)
        self.pad, self.unk, self.cls, self.sep, self.mask = (ids[token] for token in SPECIAL)
        self.vocab_size = max(ids.values()) + 1

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Ids of each text, [CLS] first and [SEP] last, cut to ``max_length`` tokens in all."""
        if not texts:
            return []
        cleaned = texts if self._clean is None else [self._clean(text) for text in texts]
        ids = (encoded.ids for encoded in self._tokenizer.encode_batch(cleaned))
        # Not by enable_truncation: what it sets would be the tokenizer's, which several threads may use at once.
        return [own if len(own) <= max_length else [*own[: max_length - 1], self.sep] for own in ids]

    def as_json(self, max_length: int) -> str:
        """The text of a ``tokenizer.json``, with which the library tokenizers makes the same ids, padded; ``clean`` is not part of it."""
        tokenizer = AnyTokenizer.from_str(self._tokenizer.to_str())
        tokenizer.enable_truncation(max_length)
        tokenizer.enable_padding(pad_id=self.pad, pad_token=SPECIAL[0])
        return str(tokenizer.to_str())

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def load_tokenizer(path: str | Path, clean: Clean | None = None) -> Tokenizer:
    """A tokenizer from a ``vocab.txt``, a ``tokenizer.json``, or a folder that holds one of them. Raises TokenizerError naming what is
    missing."""
    file = Path(path)
    if file.is_dir():
        file = next((file / name for name in ("vocab.txt", "tokenizer.json") if (file / name).is_file()), file / "vocab.txt")
    if not file.is_file():
        raise TokenizerError(f"no vocabulary at {path}{looked_up(path)}: expected a vocab.txt (one WordPiece token per line), a "
                             "tokenizer.json of BERT, or a folder with one")
    return Tokenizer(file, clean)


def _from_text(file: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Ids by token, and how texts are normalised."""
    # A token's id is its line. Not splitlines(), for which U+2028 and others end a line too.
    ids = {word: i for i, word in enumerate(file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n"))}
    beside = file.with_name("tokenizer_config.json")
    config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    return ids, {name: config[key] for key, name in names.items() if key in config}


def _from_json(file: Path) -> tuple[dict[str, int], dict[str, Any]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    model, normalizer = content.get("model", {}), content.get("normalizer") or {}
    if (model.get("type"), normalizer.get("type")) != ("WordPiece", "BertNormalizer"):
        raise TokenizerError(f"{file}: its model is {model.get('type')} and its normalizer {normalizer.get('type')}; the text encoder "
                             "takes BERT's: WordPiece and BertNormalizer")
    ids = {**model["vocab"], **{token["content"]: token["id"] for token in content.get("added_tokens", ())}}
    return ids, {name: normalizer[name] for name in ("lowercase", "strip_accents", "handle_chinese_chars")}

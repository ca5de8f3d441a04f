"""WordPiece of the text tower: texts to ids and back."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import BertTokenizerFast  # type: ignore[attr-defined]

log = logging.getLogger("omnivast")


class TokenizerError(ValueError):
    """A vocabulary that is absent or lacks BERT's special tokens."""


class Tokenizer:
    """BERT's uncased WordPiece over a ``vocab.txt``; picklable, so that data workers hold their own."""

    def __init__(self, vocab_file: Path) -> None:
        words = vocab_file.read_text(encoding="utf-8").splitlines()
        ids = {word: i for i, word in enumerate(words)}
        lacking = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t not in ids]
        if lacking:
            raise TokenizerError(f"{vocab_file}: a BERT vocabulary has one token per line, among them {', '.join(lacking)}, not found here")
        self.path = vocab_file
        self._tokenizer = BertTokenizerFast(vocab=ids, do_lower_case=True)
        self.pad, self.unk, self.cls, self.sep, self.mask = (ids[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
        self.vocab_size = len(words)

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Ids of each text, [CLS] first and [SEP] last, cut to ``max_length`` tokens in all."""
        if not texts:
            return []
        return self._tokenizer(texts, truncation=True, max_length=max_length, add_special_tokens=True)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from a ``vocab.txt`` or a folder that holds one. Raises TokenizerError naming what is missing."""
    file = Path(path)
    if file.is_dir():
        file = file / "vocab.txt"
    if not file.is_file():
        raise TokenizerError(f"no vocabulary at {path}: expected a vocab.txt (one WordPiece token per line) or a folder with one")
    return Tokenizer(file)

"""CLIP's byte-pair tokens (Radford et al., arXiv:2103.00020), for texts that CLIP's own text tower reads."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from omnivast.config.extras import not_installed
from omnivast.config.paths import looked_up
from omnivast.model.text.tokenizer import TokenizerError

START, END = "<|startoftext|>", "<|endoftext|>"
FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2
"""Merges of the published file that CLIP uses; it lists more."""
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Texts → ids, the start first and the end last; texts are lowered, and runs of blanks become one."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]], file: Path) -> None:
        lacking = [token for token in (START, END) if token not in vocabulary]
        if lacking:
            raise TokenizerError(f"{file}: CLIP's vocabulary holds {' and '.join(lacking)}, not found here")
        self.start, self.end, self.vocab_size = vocabulary[START], vocabulary[END], max(vocabulary.values()) + 1
        self._tokenizer = FastTokenizer(models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix="</w>"))
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Ids of each text, cut to ``max_length`` in all; the end is kept."""
        return [[self.start, *found.ids[:max_length - 2], self.end] for found in self._tokenizer.encode_batch(texts)]


def load_clip_tokenizer(path: str | None) -> ClipTokenizer:
    """From OpenAI's ``bpe_simple_vocab_16e6.txt.gz``, or a folder with it, or with ``vocab.json`` and ``merges.txt`` as Hugging Face has
    them; None: the file that open_clip brings along. Raises TokenizerError."""
    if path is None:
        found = importlib.util.find_spec("open_clip")
        places = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
        if not places or not (places[0] / FILE).is_file():
            raise TokenizerError(f"CLIP's text tower needs CLIP's vocabulary. {not_installed('open_clip')}, which brings it; or set "
                                 f"model_cfg.clip_tokenizer to {FILE} of github.com/openai/CLIP, or to a folder with vocab.json and "
                                 "merges.txt of huggingface.co/openai/clip-vit-base-patch16")
        return _from_openai(places[0] / FILE)
    file = Path(path)
    if file.is_dir() and (file / "vocab.json").is_file() and (file / "merges.txt").is_file():
        vocabulary = json.loads((file / "vocab.json").read_text(encoding="utf-8"))
        lines = (file / "merges.txt").read_text(encoding="utf-8").split("\n")
        return ClipTokenizer(vocabulary, _pairs(lines[1:] if lines[0].startswith("#") else lines), file / "vocab.json")
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise TokenizerError(f"model_cfg.clip_tokenizer '{path}'{looked_up(path)}: expected {FILE}, a folder with it, or one with "
                             "vocab.json and merges.txt")
    return _from_openai(file)


def _from_openai(file: Path) -> ClipTokenizer:
    """The vocabulary follows from the merges: all bytes, all bytes that end a word, what each merge makes, and both marks."""
    try:
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError):
        raise TokenizerError(f"{file}: expected a gzip file of merges, as {FILE} of github.com/openai/CLIP is") from None
    merges = _pairs(lines[1:MERGES + 1])
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return ClipTokenizer({token: i for i, token in enumerate(tokens)}, merges, file)


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    return [(one, other) for one, other in (line.split() for line in lines if line.strip())]


def _letters() -> list[str]:
    """A visible letter for each of the 256 bytes, in CLIP's order: those that are letters already first (as in GPT-2)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, visible), *(chr(256 + n) for n in range(256 - len(visible)))]

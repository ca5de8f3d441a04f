"""Reference captions tokenised and counted once: kept while the program runs and, where there are many, in a cache folder.

The cache is named by a hash of the references themselves, so that another file, another split or a changed caption is counted anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnivast.evaluation.metrics.cider import Cider, document_frequency
from omnivast.evaluation.metrics.tokenizer import tokenize
from omnivast.utils.files import write_atomically

logger = logging.getLogger("omnivast")

VERSION = 1
"""Version of the cache's content: raise it whenever tokens or counts change."""
WORTH_KEEPING = 2000
"""The number of references from which on a cache file is written; fewer are counted faster than read."""
_recent: dict[str, ReferenceIndex] = {}


@dataclass(frozen=True)
class ReferenceIndex:
    """N lists of tokenised references, and CIDEr against them."""

    tokens: list[list[str]]
    cider: Cider


def reference_index(references: Sequence[Sequence[str]]) -> ReferenceIndex:
    """The index of N clips' references, from memory, from the cache folder (``$XDG_CACHE_HOME/omnivast``), or made now."""
    key = hashlib.sha256(json.dumps([VERSION, list(map(list, references))]).encode()).hexdigest()
    if key not in _recent:
        while len(_recent) >= 2:
            del _recent[next(iter(_recent))]
        _recent[key] = _read_or_make(references, key)
    return _recent[key]


def cache_folder() -> Path:
    """Where caches of this program are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omnivast" / "references"


def _read_or_make(references: Sequence[Sequence[str]], key: str) -> ReferenceIndex:
    large = sum(map(len, references)) >= WORTH_KEEPING
    path = cache_folder() / f"{key}.json"
    if large and path.is_file():
        try:
            kept = json.loads(path.read_text())
            frequency = {tuple(gram.split(" ")): count for gram, count in kept["frequency"].items()}
            return ReferenceIndex(kept["tokens"], Cider(kept["tokens"], frequency=frequency))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be used (%s); the references are counted anew", path, error)
    tokens = [[tokenize(reference) for reference in texts] for texts in references]
    # A gram that one clip alone has weighs as much as one that none has: leaving them out keeps the file small.
    frequency = {gram: count for gram, count in document_frequency(tokens).items() if count > 1}
    if large:
        try:
            content = {"tokens": tokens, "frequency": {" ".join(gram): count for gram, count in frequency.items()}}
            write_atomically(path, json.dumps(content))
        except OSError as error:
            logger.info("document frequencies are not kept: %s", error)
    return ReferenceIndex(tokens, Cider(tokens, frequency=frequency))

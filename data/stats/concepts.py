"""Audio concepts of captions, for the audio concept density of VALOR's paper (section 3.4): ACD = detected concepts / words.

The concepts are the names of AudioSet's classes, split at commas, in lowercase and without punctuation. What the paper leaves open:

- A concept is detected where its words stand one after the other in the caption, whole and as they are spelt: "dog barking" has "dog" but
  not "bark". Plurals and inflections count only where a class is named so.
- It counts once per caption ("detect the existence"), and each counts: "an acoustic guitar" has "acoustic guitar" and "guitar".
- Of 632 class names come 727 parts, and 724 concepts ("inside" and "outside" stand in several names). The paper counts 759, for which it
  gives no further rule; splitting at brackets too gives 758 parts, of which 738 differ.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from omnivast.config.files import parse_json, read_bytes
from omnivast.data.spec import DataError

SHIPPED = Path(__file__).with_name("audioset.json")
"""The names of AudioSet's classes; see the file for where they come from and their licence."""
_PUNCTUATION = re.compile(r"[^\w\s]|_")


class OntologyError(DataError):
    """A file of class names that cannot be used."""


def words_of(text: str) -> list[str]:
    """The words of a text in lowercase, without punctuation; a hyphen or an apostrophe leaves one word ("tick-tock" → "ticktock")."""
    return _PUNCTUATION.sub("", text.lower()).split()


def class_names(path: str | Path = SHIPPED) -> list[str]:
    """The class names in AudioSet's ``ontology.json`` (a list of objects with "name") or ``class_labels_indices.csv`` ("display_name"), in
    a JSON list of names, or in an object that has such a list under "classes". Raises OntologyError."""
    path = Path(path)
    content = read_bytes(path, OntologyError, what="ontology")
    if path.suffix.lower() == ".csv":
        return _column(content, path)
    value = parse_json(content, path, OntologyError, expected="AudioSet's ontology.json or a list of names")
    value = value["classes"] if isinstance(value, dict) and "classes" in value else value
    names = [_name(entry) for entry in value] if isinstance(value, list) else []
    if not names or None in names:
        where = f"entry {names.index(None)} of the list is neither" if names else "it holds no such list"
        raise OntologyError(f"{path}: expected a list of objects with 'name', as AudioSet's ontology.json, or a list of names; {where}")
    return [name for name in names if name]


def concepts_of(names: Iterable[str]) -> set[str]:
    """The concepts in class names: a name with commas is several. Words are joined by one space."""
    parts = (words_of(part) for name in names for part in name.split(","))
    return {" ".join(words) for words in parts if words}


class ConceptDetector:
    """Finds concepts in texts."""

    def __init__(self, concepts: Iterable[str]) -> None:
        self.concepts = frozenset(concepts)
        split = [tuple(concept.split()) for concept in self.concepts]
        self._single = frozenset(words[0] for words in split if len(words) == 1)
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        """Concepts of several words by their first."""
        for words in split:
            if len(words) > 1:
                self._by_first.setdefault(words[0], []).append(words)

    def find(self, words: list[str]) -> set[str]:
        """The concepts that a text has; ``words`` as ``words_of`` gives them."""
        found = self._single.intersection(words)
        several = {" ".join(concept) for at, word in enumerate(words) if word in self._by_first
                   for concept in self._by_first[word] if tuple(words[at : at + len(concept)]) == concept}
        return {*found, *several}


@cache
def audioset_concepts() -> frozenset[str]:
    """The concepts of AudioSet's 632 classes."""
    return frozenset(concepts_of(class_names()))


def _name(entry: Any) -> str | None:
    name = entry.get("name") if isinstance(entry, dict) else entry
    return name.strip() or None if isinstance(name, str) else None


def _column(content: bytes, path: Path) -> list[str]:
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        names = [(row.get("display_name") or "").strip() for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise OntologyError(f"{path}: cannot be read as CSV: {error}") from None
    if not any(names):
        raise OntologyError(f"{path}: expected the column 'display_name', as in AudioSet's class_labels_indices.csv")
    return [name for name in names if name]

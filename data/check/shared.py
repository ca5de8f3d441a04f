"""Clips that are both in training and in a test, under the same id, or with the same content under two ids. Either makes the test
worthless."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from omnivast.data.dataset import IndexedDataset
from omnivast.data.media.parts import Part, Source, span

SHOWN = 20
BLOCK = 2**20

logger = logging.getLogger("omnivast")


class HasSizes(Protocol):
    """What was found of a clip that was opened."""

    clip_id: str
    sizes: tuple[int, ...]
    """Bytes of its files."""


class HasFindings(Protocol):
    """What was found of a dataset."""

    @property
    def findings(self) -> Sequence[HasSizes]: ...


def log_shared(train: IndexedDataset, test: IndexedDataset, in_train: HasFindings, in_test: HasFindings) -> None:
    """Warn of clips that are in both. All ids are compared; the contents of clips with different ids only for clips that were opened."""
    ids = set(test.annotations.ids())
    shared = sorted(clip_id for clip_id in ids.intersection(train.annotations.ids()) if _same_clip(clip_id, train, test))
    if shared:
        logger.warning("%d of the %d clips of val %s are also in train %s: %s%s", len(shared), len(ids), test.name, train.name,
                       ", ".join(shared[:SHOWN]), " ..." if len(shared) > SHOWN else "")
    renamed = [f"{clip_id} (there {other})" for clip_id, other in _same_content(train, test, in_train, in_test) if clip_id not in shared]
    if renamed:
        logger.warning("%d of the clips of val %s that were opened are also in train %s under another id: %s%s", len(renamed), test.name,
                       train.name, ", ".join(renamed[:SHOWN]), " ..." if len(renamed) > SHOWN else "")


def _same_clip(clip_id: str, one: IndexedDataset, other: IndexedDataset) -> bool:
    """Whether an id names the same file in both, or files of equal content. Where a dataset has no file, the id is all there is."""
    files = list(zip(one.reader.files(clip_id), other.reader.files(clip_id)))
    return all(_place(a) == _place(b) or (size_of(a) == size_of(b) > 0 and digest(a) == digest(b)) for a, b in files)


def _same_content(train: IndexedDataset, test: IndexedDataset, in_train: HasFindings, in_test: HasFindings) -> list[tuple[str, str]]:
    """(id in the test, id in training) of clips whose files are equal; only files of equal sizes are read."""
    by_sizes: dict[tuple[int, ...], list[str]] = defaultdict(list)
    wanted = {finding.sizes for finding in in_test.findings if any(finding.sizes)}
    for finding in in_train.findings:
        if finding.sizes in wanted:
            by_sizes[finding.sizes].append(finding.clip_id)
    known: dict[str, list[str]] = {}
    pairs = []
    for finding in in_test.findings:
        candidates = by_sizes.get(finding.sizes, [])
        if candidates:
            digests = [digest(file) for file in test.reader.files(finding.clip_id)]
            for other in dict.fromkeys(candidates):
                if other not in known:
                    known[other] = [digest(file) for file in train.reader.files(other)]
                if digests and digests == known[other]:
                    pairs.append((finding.clip_id, other))
                    break
    return pairs


def size_of(file: Source) -> int:
    """The size of a file in bytes; 0 for a folder of frames, and where it cannot be read."""
    if isinstance(file, Part):
        return file.size
    return os.path.getsize(file) if os.path.isfile(file) else 0


def digest(file: Source) -> str:
    """SHA-256 of the content; "" of a folder."""
    if isinstance(file, str) and not os.path.isfile(file):
        return ""
    path, start, left = span(file)
    content = hashlib.sha256()
    with open(path, "rb") as opened:
        opened.seek(start)
        while left and (block := opened.read(min(left, BLOCK))):
            content.update(block)
            left -= len(block)
    return content.hexdigest()


def _place(file: Source) -> tuple[object, ...]:
    return (os.path.realpath(file.path), file.offset) if isinstance(file, Part) else (os.path.realpath(file),)

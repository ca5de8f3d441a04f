"""The rows of an annotation file, kept compactly in memory."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from omnivast.config.tasks import CaptionKind
from omnivast.data.annotations.rows import Row, pack, unpack

BLOCK = 64
"""Rows per mark: a change of the file can be located to a block of so many rows."""


class Annotations(Sequence[Row]):
    """The rows of one file, packed into one buffer (no Python object per row, so that worker processes share its pages)."""

    def __init__(self, path: Path, sha256: str, rows: Iterable[Row]) -> None:
        self.path, self.sha256 = path, sha256
        kinds: set[CaptionKind] = set()
        parts: list[bytes] = []
        self.with_subtitle = self.caption_count = self.question_count = self.with_negatives = 0
        for row in rows:
            kinds.update(row.captions)
            self.with_subtitle += row.subtitle is not None
            self.caption_count += len(row.captions.get(CaptionKind.OMNI) or next(iter(row.captions.values()), ()))
            self.question_count += len(row.questions)
            self.with_negatives += bool(row.negatives)
            parts.append(pack(row))
        self.kinds = frozenset(kinds)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)

    @property
    def several_kinds(self) -> bool:
        """Whether there are vision or audio captions beside the omni caption, as in VAST-27M."""
        return len(self.kinds) > 1

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        start = self._ends[index - 1] if index else 0
        return unpack(self._bytes[start : self._ends[index]].tobytes())

    def marks(self) -> tuple[int, str]:
        """(rows per block, the marks one after the other): a mark is 16 hexadecimal digits, a hash of the content of a block of rows. It
        does not depend on how the file formats them."""
        ends = [0, *self._ends[BLOCK - 1 : -1 : BLOCK].tolist(), len(self._bytes)]
        return BLOCK, "".join(mark_of([self._bytes[start:end].tobytes()]) for start, end in itertools.pairwise(ends))

    def ids(self) -> list[str]:
        """The clip id of every row, in order."""
        return [self[i].clip_id for i in range(len(self))]

    def first_lacking(self, kinds: set[CaptionKind], questions: bool) -> int | None:
        """The first row without a caption of one of ``kinds`` (an omni caption serves for any) or, if asked, without a question."""
        for index, row in enumerate(self):
            uncaptioned = any(kind not in row.captions for kind in kinds) and CaptionKind.OMNI not in row.captions
            if uncaptioned or (questions and not row.questions):
                return index
        return None

    def repeats(self) -> tuple[int, int, int] | None:
        """(how many rows repeat an earlier one exactly, the first of them, the row that it repeats); None for none."""
        return first_repeats(pack(row) for row in self)

    def repeated_id(self) -> tuple[int, int] | None:
        """(the first row whose clip id an earlier row has, that row); None for none."""
        repeats = first_repeats(clip_id.encode() for clip_id in self.ids())
        return repeats and repeats[1:]


def mark_of(contents: Iterable[bytes]) -> str:
    """The mark of packed rows: 16 hexadecimal digits of a hash of them."""
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def first_repeats(contents: Iterable[bytes]) -> tuple[int, int, int] | None:
    """(number of contents that occurred before, index of the first of them, index of what it repeats); None for none."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(content, digest_size=16).digest() for content in contents)
    repeats = [(index, first) for index, digest in enumerate(digests) if (first := seen.setdefault(digest, index)) != index]
    return (len(repeats), *repeats[0]) if repeats else None

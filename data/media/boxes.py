"""Whether a file is shorter than its outermost boxes say: MP4 and MOV (FFmpeg reads those cut inside their index as ones of fewer
tracks: a clip falls silent unseen), WAV and AVI (which just end)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from omnivast.data.media.parts import Source, span

EBML = b"\x1a\x45\xdf\xa3"
"""The first bytes of Matroska and WebM."""
UNKNOWN = 2**31 - 2**16
"""Recorders and pipes write 2³¹ − 1, a little less, or 2³² − 1 for a length that they do not know."""


def describes_itself(source: Source) -> bool:
    """Whether the file is MP4, QuickTime, Matroska or WebM, which say what decoders need to know. Raises OSError and CutError."""
    path, first, _ = span(source)
    with open(path, "rb", buffering=0) as file:
        file.seek(first)
        head = file.read(8)
    return head[4:] == b"ftyp" or head[:4] == EBML


def outermost(source: Source) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte, number of bytes) of the outermost boxes (ISO/IEC 14496-12, 4.2), as their heads declare them. Raises OSError and
    CutError."""
    path, first, end = span(source)
    with open(path, "rb", buffering=0) as file:
        start = 0
        while start + 8 <= end:
            file.seek(first + start)
            size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            size = large if size == 1 else size
            yield kind, start, size
            if size < 8:
                return
            start += size


def cut_in_index(source: Source) -> bool:
    """True where the ``moov`` box declares more bytes than the file has. Raises OSError and CutError."""
    end = span(source)[2]
    return next((size > end - start for kind, start, size in outermost(source) if kind == b"moov"), False)


def share_of_riff(source: Source) -> float:
    """Part of the bytes of a WAV or AVI file that is there, by the sizes of its RIFF chunks (of a WAV: of its ``data``), 0 to 1. Sizes
    that a program wrote before it knew them, 0 or about 2 GiB and above, say nothing and count as whole. Raises OSError and CutError."""
    path, first, end = span(source)
    with open(path, "rb", buffering=0) as file:
        start, whole = 0, 0
        while start + 8 <= end:
            file.seek(first + start)
            kind, size, form = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
            if size == 0 or size >= UNKNOWN:
                return 1.0
            if kind == b"data":
                return min(1.0, (end - start - 8) / size)
            if kind == b"RIFF" and form == b"WAVE":
                start += 12
                continue
            start += 8 + size + size % 2
            whole = start
    return min(1.0, end / whole) if whole else 1.0

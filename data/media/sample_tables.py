"""The sample tables of MP4 and QuickTime (ISO/IEC 14496-12, 8.5 to 8.7): where every packet of a track lies and when it is shown, known
without reading the packets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from omnivast.data.media.boxes import outermost
from omnivast.data.media.parts import Source, span

LARGEST = 2**28
"""Bytes of an index that is held in memory: days of video."""


class _UnknownError(Exception):
    """Something that is not read here."""


@dataclass
class Samples:
    """The packets of a track in decoding order."""

    offsets: np.ndarray
    """(n,) int64, bytes from the beginning of the file."""
    sizes: np.ndarray
    """(n,) int64, bytes, none empty."""
    times: np.ndarray
    """(n,) int64, when each is shown, in the track's time scale, from an origin that is the same for all."""
    order: np.ndarray
    """(n,) int64: the packets in the order in which they are shown."""
    entries: np.ndarray
    """(k,) int64, ascending: the packets that the file calls key frames, 0 the first."""

    def are_whole(self, end: int) -> bool:
        """Whether no packet is empty or reaches past ``end``, and no two are shown at once."""
        whole = (self.sizes > 0).all() and (self.offsets >= 0).all() and (self.offsets + self.sizes <= end).all()
        return bool(whole and (np.diff(self.times[self.order]) > 0).all())


def read_samples(source: Source, track: int) -> Samples | None:
    """The packets of the track with this number. None where the tables do not tell everything: the file is in fragments, edits leave out
    a part, two packets are shown at once, tables contradict each other or promise bytes that the file has not. Raises OSError and
    CutError."""
    path, first, end = span(source)
    found = next(((start, size) for kind, start, size in outermost(source) if kind == b"moov"), None)
    if found is None or found[1] > min(end - found[0], LARGEST):
        return None
    with open(path, "rb") as file:
        file.seek(first + found[0])
        movie = memoryview(file.read(found[1]))[8:]
    try:
        samples = _samples(movie, track)
    except (_UnknownError, struct.error, ValueError, IndexError):  # the last two: tables shorter than they say
        return None
    return samples if samples.are_whole(end) else None


def _samples(movie: memoryview, track: int) -> Samples:
    boxes = list(_boxes(movie))
    if any(kind == b"mvex" for kind, _ in boxes):
        raise _UnknownError
    tracks = [body for kind, body in boxes if kind == b"trak" and _number(_box(body, b"tkhd"), (12, 20), ">I") == track]
    if len(tracks) != 1:
        raise _UnknownError
    media = _box(tracks[0], b"mdia")
    table = _box(media, b"minf", b"stbl")
    sizes = _sizes(_box(table, b"stsz"))
    count = len(sizes)
    steps = _runs(_box(table, b"stts"), ">u4", count)
    times = np.cumsum(steps) - steps
    kinds = {kind for kind, _ in _boxes(table)}
    if b"ctts" in kinds:
        times = times + _runs(_box(table, b"ctts"), ">i4", count)
    entries = _numbers(_box(table, b"stss"), ">u4")[:, 0].astype(np.int64) - 1 if b"stss" in kinds else np.arange(count)
    if not len(entries) or entries[0] != 0 or entries[-1] >= count or (np.diff(entries) <= 0).any():
        raise _UnknownError
    if any(kind == b"edts" for kind, _ in _boxes(tracks[0])):
        scales = _number(_box(movie, b"mvhd"), (12, 20), ">I"), _number(_box(media, b"mdhd"), (12, 20), ">I")
        _check_edits(_box(tracks[0], b"edts", b"elst"), times, steps, *scales)
    return Samples(_offsets(table, sizes), sizes, times, times.argsort(kind="stable"), entries)


def _check_edits(edits: memoryview, times: np.ndarray, steps: np.ndarray, movie_scale: int, scale: int) -> None:
    """Passes where all frames are shown: after empty edits one that begins no later than the first frame and ends after the last."""
    shape = ">qqhh" if edits[0] else ">iihh"
    found = [struct.unpack_from(shape, edits, 8 + i * struct.calcsize(shape)) for i in range(struct.unpack_from(">I", edits, 4)[0])]
    shown = [edit for edit in found if edit[1] != -1]
    if len(shown) != 1 or found[-1] is not shown[0] or not movie_scale:
        raise _UnknownError
    duration, start, speed, fraction = shown[0]
    last = int(times.argmax())
    # Rounded to the movie's scale, the end may lie a little before that of the last frame.
    ends = duration == 0 or start + duration * scale / movie_scale > times[last] + steps[last] / 2
    if (speed, fraction) != (1, 0) or not 0 <= start <= times.min() or not ends:
        raise _UnknownError


def _offsets(table: memoryview, sizes: np.ndarray) -> np.ndarray:
    """Packets lie one after the other in chunks; ``stsc`` says how many in each from which chunk on."""
    wide = any(kind == b"co64" for kind, _ in _boxes(table))
    chunks = _numbers(_box(table, b"co64" if wide else b"stco"), ">u8" if wide else ">u4")[:, 0].astype(np.int64)
    first, each, description = _numbers(_box(table, b"stsc"), ">u4", 3).astype(np.int64).T
    counts = np.diff(np.append(first - 1, len(chunks)))
    if not len(first) or first[0] != 1 or (counts <= 0).any() or (description != 1).any() or (each <= 0).any():
        raise _UnknownError
    if int((counts * each).sum()) != len(sizes):
        raise _UnknownError
    each = np.repeat(each, counts)
    before = np.cumsum(sizes) - sizes
    return np.repeat(chunks - before[np.cumsum(each) - each], each) + before


def _sizes(box: memoryview) -> np.ndarray:
    same, count = struct.unpack_from(">II", box, 4)
    if same or not count:
        raise _UnknownError
    return np.frombuffer(box, ">u4", count, 12).astype(np.int64)


def _runs(box: memoryview, kind: str, count: int) -> np.ndarray:
    """(count,) int64 of a table of values that each hold for so many packets."""
    lengths = _numbers(box, ">u4", 2)[:, 0].astype(np.int64)
    if int(lengths.sum()) != count:
        raise _UnknownError
    return np.repeat(_numbers(box, kind, 2)[:, 1].astype(np.int64), lengths)


def _numbers(box: memoryview, kind: str, width: int = 1) -> np.ndarray:
    """(n, width) of a table that begins with its number of rows."""
    count = struct.unpack_from(">I", box, 4)[0]
    return np.frombuffer(box, kind, count * width, 8).reshape(count, width)


def _number(box: memoryview, places: tuple[int, int], kind: str) -> int:
    """A number that lies elsewhere in version 1 of a box than in version 0."""
    return int(struct.unpack_from(kind, box, places[box[0] == 1])[0])


def _box(body: memoryview, *kinds: bytes) -> memoryview:
    """The content of the one box of a kind in a box, and so on inwards."""
    for wanted in kinds:
        found = [content for kind, content in _boxes(body) if kind == wanted]
        if len(found) != 1:
            raise _UnknownError
        body = found[0]
    return body


def _boxes(body: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    place = 0
    while place + 8 <= len(body):
        size, kind = struct.unpack_from(">I4s", body, place)
        if not 8 <= size <= len(body) - place:  # none inside an index is long enough for a size of 64 bits
            raise _UnknownError
        yield kind, body[place + 8 : place + size]
        place += size

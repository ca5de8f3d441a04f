"""The blocks of Matroska and WebM (RFC 9559): where every packet of a video lies and when it is shown, from their heads alone."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator

import numpy as np

from omnivast.data.media.parts import Source, span
from omnivast.data.media.sample_tables import Samples

SEGMENT, TRACKS, CLUSTER = 0x18538067, 0x1654AE6B, 0x1F43B675
OTHERS = {0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF}
"""What lists no packets: the head of the file, what lies where, information, cues, attachments, chapters, tags, padding, sums."""
TRACK, NUMBER, KIND, SCALE, ENCODINGS = 0xAE, 0xD7, 0x83, 0x23314F, 0x6D80
VIDEO = 1
TIME, SIMPLE_BLOCK, GROUP, BLOCK, DURATION, REFERENCE = 0xE7, 0xA3, 0xA0, 0xA1, 0x9B, 0xFB
BESIDE_BLOCKS = {0xA7, 0xAB, 0xEC, 0xBF}
"""Where the cluster lies, how long the last one was, padding, sums."""
HIDDEN_OR_LACED = 0b1110
"""Flags of a block that is not to be shown, or holds several packets."""
LARGEST = 2**26
"""Bytes of a cluster, or of the list of tracks, that are held in memory."""


class _UnknownError(Exception):
    """Something that is not read here."""


def read_blocks(source: Source) -> Samples | None:
    """The packets of the only video track, in units of the segment's time scale. None where the blocks do not tell everything: sizes are
    missing or contradict each other, a part is missing at the end, packets are packed together or coded once more, two are shown at once.
    Raises OSError and CutError."""
    path, first, end = span(source)
    with open(path, "rb", buffering=0) as file:
        try:
            return _blocks(file.fileno(), first, end)
        except (_UnknownError, IndexError):  # the last: an element shorter than it says
            return None


def _blocks(file: int, first: int, end: int) -> Samples | None:
    number, clusters, space = None, [], bytearray()
    for kind, start, size in _outermost(file, first, end):
        if kind == TRACKS:
            tracks = bytearray(min(size, LARGEST))
            _read(file, first + start, size, tracks)
            number = _video_track(tracks)
        elif kind == CLUSTER:
            if number is None:
                raise _UnknownError
            if size > len(space):
                space = bytearray(min(2 * size, LARGEST))
            _read(file, first + start, size, space)
            offsets, sizes, times, keys = _cluster(space, size, number)
            clusters.append((offsets + start, sizes, times, keys))
    if not clusters:
        return None
    offsets, sizes, times, keys = (np.concatenate(parts) for parts in zip(*clusters))
    entries = np.flatnonzero(keys)
    if not len(entries) or entries[0] != 0:
        return None
    samples = Samples(offsets, sizes, times, times.argsort(kind="stable"), entries)
    return samples if samples.are_whole(end) else None


def _outermost(file: int, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(kind, first byte of the content, its size) of tracks and clusters in the one segment, which reaches to the end of the file."""
    start, inside = 0, False
    while start < end:
        kind, size, begin = _head(os.pread(file, 12, first + start), 0)
        start += begin
        if size > end - start or (kind == SEGMENT and (inside or size < end - start)):
            raise _UnknownError
        if kind == SEGMENT:
            inside = True
            continue
        if kind in (TRACKS, CLUSTER) and inside:
            yield kind, start, size
        elif kind not in OTHERS:
            raise _UnknownError
        start += size


def _read(file: int, start: int, size: int, space: bytearray) -> None:
    """Fills the first ``size`` bytes of ``space``: fresh memory for each cluster would cost more than reading."""
    if size > len(space) or os.preadv(file, [memoryview(space)[:size]], start) < size:
        raise _UnknownError


def _video_track(tracks: bytearray) -> int:
    """The number of the only track of pictures, whose packets are stored as they are."""
    found = []
    for kind, start, end in _elements(tracks, 0, len(tracks)):
        if kind != TRACK:
            continue
        own = {inner: tracks[begin:stop] for inner, begin, stop in _elements(tracks, start, end)}
        if int.from_bytes(own.get(KIND, b""), "big") == VIDEO:
            if own.keys() & {SCALE, ENCODINGS}:
                raise _UnknownError
            found.append(int.from_bytes(own.get(NUMBER, b""), "big"))
    if len(found) != 1 or not 0 < found[0] < 0x7F:
        raise _UnknownError
    return found[0]


def _cluster(content: bytearray, end: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(where they begin, sizes, times, whether they are key frames) of the track's packets in ``content`` up to ``end``, (n,) each."""
    starts, ends, time = array("q"), array("q"), None
    grouped: dict[int, bool] = {}
    """Whether the block of this place is a key frame, where its group tells and not the block."""
    place = 0
    while place < end:
        kind, size = content[place], content[place + 1]
        if kind == SIMPLE_BLOCK and size >= 0x20:  # nearly all: read here, for the sake of speed
            if size >= 0x80:
                place, size = place + 2, size & 0x7F
            elif size >= 0x40:
                place, size = place + 3, (size & 0x3F) << 8 | content[place + 2]
            else:
                place, size = place + 4, (size & 0x1F) << 16 | content[place + 2] << 8 | content[place + 3]
            starts.append(place)
            place += size
            ends.append(place)
            continue
        kind, size, place = _head(content, place)
        if kind == SIMPLE_BLOCK:
            starts.append(place)
            ends.append(place + size)
        elif kind == GROUP:
            parts = _elements(content, place, place + size)
            first, begin, stop = next(parts, (0, 0, 0))
            others = {part for part, _, _ in parts}
            if first != BLOCK:
                raise _UnknownError
            if content[begin] == 0x80 | number:
                if others - {DURATION, REFERENCE}:
                    raise _UnknownError
                grouped[len(starts)] = REFERENCE not in others
                starts.append(begin)
                ends.append(stop)
        elif kind == TIME and time is None:
            time = int.from_bytes(content[place : place + size], "big")
        elif kind not in BESIDE_BLOCKS:
            raise _UnknownError
        place += size
    if place != end or time is None:
        raise _UnknownError
    return _packets(np.frombuffer(content, np.uint8), np.array(starts), np.array(ends), grouped, number, time)


def _packets(content: np.ndarray, starts: np.ndarray, ends: np.ndarray, grouped: dict[int, bool], number: int, time: int
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What ``_cluster`` gives, of blocks: four bytes of track, time and flags, then the packet."""
    if (ends - starts < 4).any() or (content[starts] < 0x81).any():  # tracks of larger numbers
        raise _UnknownError
    keys = content[starts + 3] >> 7 == 1
    for place, key in grouped.items():
        keys[place] = key
    own = content[starts] == 0x80 | number
    starts, ends, keys = starts[own], ends[own], keys[own]
    if (content[starts + 3] & HIDDEN_OR_LACED).any():
        raise _UnknownError
    times = (content[starts + 1].astype(np.int64) << 8 | content[starts + 2]).astype(np.int16).astype(np.int64) + time
    return starts + 4, ends - starts - 4, times, keys


def _elements(content: bytes | bytearray, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(kind, first byte, end) of the elements that fill these bytes."""
    while place < end:
        kind, size, place = _head(content, place)
        if place + size > end:
            raise _UnknownError
        yield kind, place, place + size
        place += size


def _head(content: bytes | bytearray, place: int) -> tuple[int, int, int]:
    """(kind, size, first byte of the content) of the element that begins at ``place``."""
    width = 9 - content[place].bit_length()
    kind, place = int.from_bytes(content[place : place + width], "big"), place + width
    width = 9 - content[place].bit_length()
    size, place = int.from_bytes(content[place : place + width], "big") & (1 << 7 * width) - 1, place + width
    if width > 8 or size == (1 << 7 * width) - 1:  # unknown, as while something is recorded
        raise _UnknownError
    return kind, size, place

"""Which packets of an H.264 stream have to be decoded for the frames that are wanted, from the packets' first bytes alone.

A picture that no other refers to (``nal_ref_idc`` 0) is decoded only when it is wanted itself, and decoding starts at the last IDR picture
before a wanted one: nothing after an IDR refers to what is before it (ITU-T H.264, 7.4.1). Frames are numbered by their times, as a
decoder that sees every packet gives them out.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NON_REFERENCE, REFERENCE, IDR = range(3)
SLICES = (1, 2, 5)
"""NAL unit types with which a coded picture begins: a slice, the first partition of one, a slice of an IDR picture."""


def length_bytes(extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit, of a stream stored as ISO/IEC 14496-15 says (mp4, mov, mkv, flv); None for others."""
    return (extradata[4] & 3) + 1 if extradata is not None and len(extradata) > 6 and extradata[0] == 1 else None


def picture_kind(data: Any, length: int) -> int | None:
    """What the picture in a packet is; None where the packet is not one picture as this file understands it."""
    start = 0
    while start + length < len(data):
        size = int.from_bytes(data[start : start + length], "big")
        header = data[start + length]
        if header & 31 in SLICES:
            return IDR if header & 31 == 5 else REFERENCE if header >> 5 & 3 else NON_REFERENCE
        start += length + size
    return None


@dataclass
class Run:
    """Packets to decode from one IDR picture on: their times, ascending in decoding order, and which number a wanted frame has."""

    start: int
    """Time of the IDR picture."""
    times: set[int]
    last: int
    """Time of the packet to be decoded last."""


class PacketTable:
    """The times and kinds of a stream's packets in decoding order: nine bytes for each, however long the video is."""

    def __init__(self, extradata: bytes | None) -> None:
        self._length = length_bytes(extradata)
        self._times = array("q")
        self._kinds = bytearray()
        self.usable = self._length is not None
        """Whether every packet so far is one picture with a time of its own."""

    def __len__(self) -> int:
        return len(self._times)

    def add(self, packet: Any) -> None:
        """The next packet of the stream."""
        if not self.usable or not packet.size:
            return
        kind = picture_kind(memoryview(packet), self._length or 0)
        if kind is None or packet.pts is None or packet.is_discard or packet.is_corrupt or (not self._times and kind != IDR):
            self.usable = False
            return
        self._times.append(packet.pts)
        self._kinds.append(kind)

    def times(self) -> list[int]:
        """The times of the frames in the order in which they are shown."""
        return sorted(self._times)

    def runs(self, wanted: Sequence[int]) -> list[Run] | None:
        """What to decode for the frames at these times, in decoding order. None where the packets do not tell: two share a time, or one
        is shown before the IDR picture that it follows."""
        if len(set(self._times)) < len(self._times):
            return None
        runs: list[Run] = []
        sought = set(wanted)
        start, latest, pending = 0, -(2**63), list[int]()
        for time, kind in zip(self._times, self._kinds):
            if kind == IDR:
                if time <= latest:
                    return None
                start, pending = time, []
            elif time < start:
                return None
            latest = max(latest, time)
            if kind != NON_REFERENCE:
                pending.append(time)
            if time in sought:
                if not runs or runs[-1].start != start:
                    runs.append(Run(start, set(), time))
                runs[-1].times.update(pending, (time,))
                runs[-1].last = time
                pending = []
        return runs

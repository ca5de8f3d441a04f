"""Which packets of a video have to be decoded for the frames that are wanted. Frames are numbered by their times, as a decoder that sees
every packet gives them out."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omnivast.data.media.pictures import CLOSED, INSIDE, OPEN, PictureReader


@dataclass
class Run:
    """Packets to decode from one entry on. Those shown before it may give no frame."""

    start: int
    """Time of the picture at which decoding begins."""
    times: set[int]
    """Of all packets."""
    last: int
    """Time of the packet to be decoded last."""


@dataclass
class Plan:
    """What is decoded for the frames that were chosen."""

    count: int
    """Frames of the whole video."""
    wanted: list[int]
    """Times of the chosen frames, in the order of the choice."""
    runs: list[Run]
    last: int
    """Time of the frame shown last of all."""


class PacketTable:
    """The times and pictures of a stream's packets in decoding order: thirteen bytes for each, however long the video is."""

    def __init__(self, reader: PictureReader | None) -> None:
        self._reader = reader
        self._times = array("q")
        self._entries = bytearray()
        self._reads, self._fills = array("H"), array("H")
        self.usable = reader is not None
        """Whether every packet so far is one picture with a time of its own."""

    def __len__(self) -> int:
        return len(self._times)

    def add(self, packet: Any) -> None:
        """The next packet of the stream."""
        if self.usable and packet.size:
            self.usable = packet.pts is not None and not packet.is_discard and not packet.is_corrupt
            self.append(packet.pts, memoryview(packet))

    def append(self, time: int, data: Any) -> None:
        """A packet by its time and its bytes."""
        if self._reader is None or not self.usable:
            return
        picture = self._reader(data)
        if picture is None or not (self._times or picture.entry):
            self.usable = False
            return
        self._times.append(time)
        self._entries.append(picture.entry)
        self._reads.append(picture.reads)
        self._fills.append(picture.fills)

    def times(self) -> list[int]:
        """The times of the frames in the order in which they are shown."""
        return sorted(self._times)

    def plan(self, choose: Callable[[int], list[int]]) -> Plan | None:
        """For the frames chosen of so many. None where the packets do not tell (``runs``)."""
        times = self.times()
        wanted = [times[number] for number in choose(len(times))]
        runs = self.runs(wanted)
        return None if runs is None else Plan(len(times), wanted, runs, times[-1])

    def runs(self, wanted: Sequence[int]) -> list[Run] | None:
        """What to decode for the frames at these times, in decoding order. None where the packets do not tell: two share a time, one is
        shown before the closed entry that it follows, or needs what is before the first."""
        if len(set(self._times)) < len(self._times):
            return None
        leading = self._leading()
        if leading is None:
            return None
        sought = set(wanted)
        runs: list[Run] = []
        times: list[int] = []
        # Slots that are needed from further back: by pictures that the last entry serves, and by those shown before it. What is shown
        # before an entry and not wanted is decoded only for its place among the references (H.264): nothing right has to come of it.
        live = through = 0
        for place in range(len(self._times) - 1, -1, -1):
            time, entry, fills = self._times[place], self._entries[place], self._fills[place]
            if time not in sought and not fills & (live | through):
                continue
            times.append(time)
            if not leading[place]:
                live = live & ~fills | self._reads[place]
            elif time in sought or fills & through:
                through = through & ~fills | self._reads[place]
            if entry == OPEN:
                live, through = through, 0
            if entry != INSIDE and not live:
                runs.append(Run(time, set(times), times[0]))
                times = []
        return None if times else runs[::-1]

    def _leading(self) -> bytearray | None:
        """Of each packet whether it is shown before the open entry that it follows; None where one is before a closed entry."""
        leading = bytearray(len(self._times))
        start, closed, latest = 0, True, -(2**63)
        for place, (time, entry) in enumerate(zip(self._times, self._entries)):
            if entry != INSIDE:
                start, closed = time, entry == CLOSED
                if closed and time <= latest:
                    return None
            elif time < start:
                if closed:
                    return None
                leading[place] = 1
            latest = max(latest, time)
        return leading

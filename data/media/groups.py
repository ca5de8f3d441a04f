"""Which packets have to be decoded for the frames that are wanted, where the file's own tables list its packets: only the groups of
pictures that hold such frames are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from omnivast.data.media.packets import PacketTable, Plan, Run
from omnivast.data.media.parts import Source, span
from omnivast.data.media.pictures import CLOSED, INSIDE, PictureReader
from omnivast.data.media.sample_tables import Samples

MakeReader = Callable[[], PictureReader | None]
"""Makes one that has read nothing."""
SMALLEST = 32
"""So many of the smallest packets of a video are looked at."""
MOST = 128
"""So many groups at most, evenly spread, are looked at for what they may have in common."""


def plan_by_tables(source: Source, samples: Samples | None, first: Any, choose: Callable[[int], list[int]], reader: MakeReader
                   ) -> Plan | None:
    """What to decode of a file with these packets. ``first``: the first of them, by which the tables' times are those of the demuxer. None
    where there are no tables, or packets do not tell, or contradict them: looked at are the packets that may be needed, the first and the
    last of up to ``MOST`` groups, and the smallest of all. Raises OSError and CutError."""
    if samples is None:
        return None
    times = samples.times + (first.pts - samples.times[0])
    numbers = choose(len(times))
    path, start, _ = span(source)
    runs: list[Run] = []
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()

        def content(place: int) -> bytes:
            return os.pread(descriptor, int(samples.sizes[place]), start + int(samples.offsets[place]))

        if content(0) != bytes(first) or not _is_grouped(samples, content, reader):
            return None
        for begin, end, wanted in _stretches(samples, numbers):
            table = PacketTable(reader())
            for place in range(begin, end + 1):
                table.append(int(times[place]), content(place))
            found = table.runs(times[wanted].tolist()) if table.usable else None
            if found is None:
                return None
            runs += found
    return Plan(len(times), times[samples.order[numbers]].tolist(), runs, int(times[samples.order[-1]]))


def _is_grouped(samples: Samples, content: Callable[[int], bytes], reader: MakeReader) -> bool:
    """Whether groups begin with a picture at which decoding may begin, are shown as such groups are, and end with a packet that is
    understood, and so are the smallest packets, which are the likeliest to hold no picture."""
    entries, times = samples.entries, samples.times
    if (np.maximum.accumulate(times)[entries[1:] - 1] >= times[entries[1:]]).any():
        return False
    seen = np.unique(np.linspace(0, len(entries) - 1, MOST).round().astype(np.int64))
    ends = (np.append(entries[1:], len(times)) - 1)[seen]
    closed = dict(zip(entries[seen].tolist(), (np.minimum.reduceat(times, entries) == times[entries])[seen]))
    smallest = samples.sizes.argpartition(min(SMALLEST, len(times)) - 1)[:SMALLEST]
    for place in {*closed, *ends.tolist(), *smallest.tolist()}:
        read = reader()
        picture = read(content(place)) if read is not None else None
        if picture is None or (place in closed and (picture.entry == INSIDE or (picture.entry == CLOSED and not closed[place]))):
            return False
    return True


def _stretches(samples: Samples, numbers: Sequence[int]) -> list[tuple[int, int, list[int]]]:
    """(first packet, last packet, wanted packets): from the key frame before a wanted frame up to it. What is shown before its key frame
    may need the group before, too."""
    stretches: list[tuple[int, int, list[int]]] = []
    for place in np.unique(samples.order[numbers]).tolist():
        group = int(np.searchsorted(samples.entries, place, "right")) - 1
        if samples.times[place] < samples.times[samples.entries[group]]:
            group -= 1
        begin, wanted = int(samples.entries[max(group, 0)]), [place]
        while stretches and begin <= stretches[-1][1]:
            earlier, _, before = stretches.pop()
            begin, wanted = min(begin, earlier), before + wanted
        stretches.append((begin, place, wanted))
    return stretches

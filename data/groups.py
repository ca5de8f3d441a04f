"""Which packets have to be decoded for the frames that are wanted, where the file's own tables list its packets: only the groups of
pictures that hold such frames are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.packets import PacketTable, Plan, Run
from data.parts import Source, span
from data.pictures import INSIDE, PictureReader
from data.sample_tables import Samples, read_samples

MakeReader = Callable[[], PictureReader | None]
"""Makes one that has read nothing."""


def plan_by_tables(source: Source, track: int, first: Any, choose: Callable[[int], list[int]], reader: MakeReader) -> Plan | None:
    """What to decode of an MP4 or QuickTime file. ``first``: the first packet of the video, by which the tables' times are those of the
    demuxer. None where tables or packets do not tell, or contradict each other: looked at are the packets that may be needed, and of every
    group the first and the last. Raises OSError and CutError."""
    samples = read_samples(source, track)
    if samples is None or (first.pos, first.size) != (samples.offsets[0], samples.sizes[0]):
        return None
    times = samples.times + (first.pts - samples.times[0])
    numbers = choose(len(times))
    path, start, _ = span(source)
    runs: list[Run] = []
    with open(path, "rb") as file:
        def content(place: int) -> bytes:
            file.seek(start + int(samples.offsets[place]))
            return file.read(int(samples.sizes[place]))

        if not _is_grouped(samples, content, reader):
            return None
        for begin, end, wanted in _stretches(samples, numbers):
            table = PacketTable(reader())
            for place in range(begin, end + 1):
                table.append(int(times[place]), content(place))
            found = table.runs(times[wanted].tolist()) if table.usable else None
            if found is None:
                return None
            runs += found
    return Plan(len(times), times[samples.order[numbers]].tolist(), runs)


def _is_grouped(samples: Samples, content: Callable[[int], bytes], reader: MakeReader) -> bool:
    """Whether each group begins with a picture at which decoding may begin, and ends with one that is understood."""
    ends = np.append(samples.entries[1:], len(samples.times)) - 1
    for begin, end in zip(samples.entries.tolist(), ends.tolist()):
        for place in {begin, end}:
            read = reader()
            picture = read(content(place)) if read is not None else None
            if picture is None or (place == begin and picture.entry == INSIDE):
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

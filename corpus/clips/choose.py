"""Clips of many sources → those that a corpus takes, spread evenly over the sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from omnivast.utils.random import stable_seed


def spread(sources: Sequence[Hashable], count: int, seed: int = 0) -> list[int]:
    """Numbers of ``count`` clips, in order: from each source as many as from any other, as far as it has them. ``sources`` names the source
    of each clip. Which ones is drawn from (seed, source, place), so that it depends neither on the order nor on the number of workers."""
    own: dict[Hashable, list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        own[source].append(number)
    for source, numbers in own.items():
        order = sorted(range(len(numbers)), key=lambda place: stable_seed(seed, source, place))
        own[source] = [numbers[place] for place in order]
    chosen: list[int] = []
    for turn in range(max(map(len, own.values()), default=0)):
        having = sorted((source for source in own if len(own[source]) > turn), key=lambda source: stable_seed(seed, source, "turn", turn))
        chosen += [own[source][turn] for source in having[: count - len(chosen)]]
        if len(chosen) >= count:
            break
    return sorted(chosen)

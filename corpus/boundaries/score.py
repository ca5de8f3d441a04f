"""Transitions found beside those that are there: precision, recall, F1, how well their extents agree, what distractors set off.

Convention: one to one, the nearest first; a transition is found by one that touches its frames widened by ``tolerance`` on both sides.
Whatever else is found, also a second time inside the same transition, is false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


class Span(Protocol):
    """Frames ``first`` to ``last``."""

    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...

    @property
    def kind(self) -> str: ...


@dataclass
class Tally:
    """Counts of one video; those of several are added."""

    there: Counter[str] = field(default_factory=Counter)
    """Transitions by kind."""
    found: Counter[str] = field(default_factory=Counter)
    false: int = 0
    claimed: Counter[str] = field(default_factory=Counter)
    """What was found, right or false, by the kind that the detector gave it."""
    right: Counter[str] = field(default_factory=Counter)
    overlap: list[float] = field(default_factory=list)
    """Intersection over union with each transition that lasts; 0 where it was missed."""
    distractors: int = 0
    alarms: Counter[str] = field(default_factory=Counter)
    """Distractors with something false within them, by kind."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.there + other.there, self.found + other.found, self.false + other.false, self.claimed + other.claimed,
                     self.right + other.right, self.overlap + other.overlap, self.distractors + other.distractors,
                     self.alarms + other.alarms)


def matched(truth: Sequence[Span], found: Sequence[Span], tolerance: int) -> list[tuple[int, int]]:
    """(number in ``truth``, number in ``found``) of the pairs."""
    pairs = []
    for n, real in enumerate(truth):
        for m, one in enumerate(found):
            if one.first <= real.last + tolerance and one.last >= real.first - tolerance:
                pairs.append((abs(one.first - real.first) + abs(one.last - real.last), n, m))
    taken: list[tuple[int, int]] = []
    for _, n, m in sorted(pairs):
        if all(n != other and m != another for other, another in taken):
            taken.append((n, m))
    return sorted(taken)


def tally(truth: Sequence[Span], found: Sequence[Span], distractors: Sequence[Span] = (), tolerance: int = 2) -> Tally:
    """Of one video."""
    pairs = dict(matched(truth, found, tolerance))
    result = Tally(Counter(one.kind for one in truth), Counter(truth[n].kind for n in pairs), len(found) - len(pairs),
                   Counter(one.kind for one in found), Counter(found[m].kind for m in pairs.values()), distractors=len(distractors))
    for n, real in enumerate(truth):
        if real.last > real.first:
            result.overlap.append(overlap(real, found[pairs[n]]) if n in pairs else 0.0)
    false = [one for m, one in enumerate(found) if m not in pairs.values()]
    for distractor in distractors:
        if any(one.first <= distractor.last + tolerance and one.last >= distractor.first - tolerance for one in false):
            result.alarms[distractor.kind] += 1
    return result


def overlap(one: Span, other: Span) -> float:
    """Intersection over union, in frames."""
    shared = min(one.last, other.last) - max(one.first, other.first) + 1
    return max(0, shared) / (max(one.last, other.last) - min(one.first, other.first) + 1)


def rates(counts: Tally) -> dict[str, float]:
    """Shares from 0 to 1; ``nan`` of what there was none of. ``precision_KIND`` is of what the detector calls so."""
    there, found = sum(counts.there.values()), sum(counts.found.values())
    precision, recall = _share(found, found + counts.false), _share(found, there)
    result = {"precision": precision, "recall": recall, "f1": _share(2 * found, found + counts.false + there)}
    result |= {f"recall_{kind}": _share(counts.found[kind], counts.there[kind]) for kind in sorted(counts.there)}
    result |= {f"precision_{kind}": _share(counts.right[kind], counts.claimed[kind]) for kind in sorted(counts.claimed)}
    seen = [value for value in counts.overlap if value > 0]
    result["iou"] = float(np.mean(counts.overlap)) if counts.overlap else float("nan")
    result["iou_of_found"] = float(np.mean(seen)) if seen else float("nan")
    result["alarms_per_100"] = 100 * _share(sum(counts.alarms.values()), counts.distractors)
    return result


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def intervals(tallies: Sequence[Tally], names: Sequence[str], draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Name → the 95 % bootstrap interval of this one of the rates, over videos."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        chosen = [tallies[int(n)] for n in rng.integers(len(tallies), size=len(tallies))]
        own = rates(sum(chosen[1:], chosen[0]))
        values.append([own.get(name, float("nan")) for name in names])
    low, high = np.nanpercentile(np.array(values), (2.5, 97.5), axis=0)
    return {name: (float(low[n]), float(high[n])) for n, name in enumerate(names)}

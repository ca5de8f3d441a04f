"""What the evaluators share: their result, and the joining of what several processes found into annotation order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omnivast.utils import distributed

Item = TypeVar("Item")


@dataclass
class Outcome:
    """Result of one objective on one dataset."""

    metrics: dict[str, Any]
    """By group (``"tvas"``), then by name; leaves are numbers. The first leaf is the one that model selection looks at."""
    predictions: list[dict[str, Any]]
    """One entry per text (retrieval), clip (captions) or question, in annotation order; the same on every process."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts and settings for the protocol."""
    intervals: dict[str, list[float]] = field(default_factory=dict)
    """Flat metric name → [low, high], see :mod:`evaluation.metrics.bootstrap`."""


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """``{"tvas": {"itc": {"r1": 5.0}}}`` → ``("tvas.itc.r1", 5.0)``, …, in order."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", float(value)


def in_annotation_order(own: Sequence[tuple[int, Item]]) -> list[tuple[int, Item]]:
    """(annotation row, item) pairs of every process, sorted by row; items of one row keep their order.

    Raises:
        ValueError: two processes hold the same row, so that a clip would count twice.
    """
    owner: dict[int, int] = {}
    joined: list[tuple[int, Item]] = []
    for rank, pairs in enumerate(distributed.all_gather_objects(list(own))):
        for row, _ in pairs:
            if owner.setdefault(row, rank) != rank:
                raise ValueError(f"the clip in annotation row {row} was evaluated by processes {owner[row]} and {rank}")
        joined.extend(pairs)
    return sorted(joined, key=lambda pair: pair[0])


def computed_once(compute: Callable[[], Item]) -> Item:
    """The result of ``compute`` on the main process, on every process."""
    return distributed.all_gather_objects(compute() if distributed.is_main() else None)[0]

"""What the evaluators share: the registry and the interface through which they are driven, their result, and the joining of several
processes' results in annotation order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from omnivast.config.registry import Registry
from omnivast.model.interface import Model
from omnivast.utils import distributed

if TYPE_CHECKING:
    from omnivast.data.batch import Batch

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


@dataclass
class Encoded:
    """A batch's clips, encoded once for all evaluators."""

    model: Model
    features: Any
    """See ``Model.encode``."""
    seconds: float = 0.0
    """How long it took to read and encode them."""

    @cached_property
    def memory(self) -> Any:
        """What texts attend to: made when it is first asked for, and common to all that generate."""
        return self.model.memory(self.features)


class Entries:
    """What an evaluator of answers has found: (row of the annotation file, entry), of this process."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, dict[str, Any]]] = []

    def take(self, found: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """What ``add`` returned in an earlier run."""
        self._entries.extend((row, entry) for row, entry in found)

    def predictions(self) -> list[dict[str, Any]]:
        """Those of all processes in the order of the annotation file, on each of them. Raises ValueError, on each, where there are none:
        one that failed alone would keep the others waiting."""
        found = [entry for _, entry in in_annotation_order(self._entries)]
        if not found:
            raise ValueError("no answer to score")
        return found


class Evaluator(Protocol):
    """Tests one objective on one dataset; on every process."""

    def add(self, batch: Batch, encoded: Encoded) -> Any:
        """Test one batch, which is on the model's device. Returns its results for :meth:`take`, ready for JSON except for float32
        tensors."""
        ...

    def take(self, found: Any) -> None:
        """Take over what :meth:`add` returned in an earlier run that broke off; called after all batches of this run."""
        ...

    def finish(self) -> Outcome:
        """The result of all processes' clips."""
        ...


EVALUATORS: Registry[Callable[..., Evaluator]] = Registry("task", "objective")
"""Objective (as a task writes it) → the function that makes its evaluator from (Model, EvalLoader, Config, Journal): the model, a dataset
with that objective, the run's settings, and the journal in which an evaluator may keep what its ``finish`` has computed so far."""


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """``{"tvas": {"itc": {"r1": 5.0}}}`` → ``("tvas.itc.r1", 5.0)``, …, in order."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", float(value)


def in_annotation_order(items: Sequence[tuple[int, Item]]) -> list[tuple[int, Item]]:
    """(annotation row, item) pairs of every process, sorted by row; items of one row keep their order.

    Raises:
        ValueError: two processes hold the same row, so that a clip would count twice.
    """
    owner: dict[int, int] = {}
    joined: list[tuple[int, Item]] = []
    for rank, pairs in enumerate(distributed.all_gather_objects(list(items))):
        for row, _ in pairs:
            if owner.setdefault(row, rank) != rank:
                raise ValueError(f"the clip in annotation row {row} was evaluated by processes {owner[row]} and {rank}")
        joined.extend(pairs)
    return sorted(joined, key=lambda pair: pair[0])

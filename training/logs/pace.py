"""How long a training will take: what a step of each corpus costs, times the steps of it that are still to come.

Steps of different corpora differ manyfold in cost, and the first ones may be all of one: the mean over all steps so far is no estimate.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from omnivast.utils.log import duration

logger = logging.getLogger("omnivast")
LONG = 30 * 60.0
"""A training on a CPU that will take longer than this many seconds is announced by a warning."""
ENOUGH_STEPS, ENOUGH_SECONDS = 4, 20.0
"""Steps and seconds after which the first estimate is reliable enough for that warning."""
SMALLER = "OMNIVAST_SMALLER"
"""Environment variable in which a script that starts trainings says how to make them shorter."""
OWN = ("--num_train_steps N, --train_batch_size N, --train_vision_sample_num N and --vision_resolution N make it shorter; a GPU would be "
       "taken where torch finds one")


@dataclass
class _Cost:
    """How many steps of one kind were measured, and their seconds."""

    first: float | None = None
    """Seconds of the first step. It is used only until another one is known, since it also reserves memory, compiles and waits for the
    first data."""
    steps: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        if self.first is None:
            self.first = seconds
        else:
            self.steps, self.seconds = self.steps + 1, self.seconds + seconds

    def mean(self) -> float | None:
        return self.seconds / self.steps if self.steps else self.first


class Pace:
    """Measures the steps and pauses of one training, and estimates the time left."""

    def __init__(self, left: Mapping[str, int]) -> None:
        """``left``: steps still to come by what they read, see :func:`kind`."""
        self.left = Counter(left)
        self.costs: dict[str, _Cost] = {}
        self.elapsed, self.steps = 0.0, 0
        self.pauses: list[float] = []
        self.said = False

    def step(self, corpus: str, seconds: float) -> None:
        """A step that read ``corpus`` (several joined by a plus) is done."""
        self.left[kind(corpus)] -= 1
        self.costs.setdefault(kind(corpus), _Cost()).add(seconds)
        self.elapsed, self.steps = self.elapsed + seconds, self.steps + 1

    def pause(self, seconds: float) -> None:
        """An evaluation, with what was saved before it, is done."""
        self.pauses.append(seconds)

    def seconds_left(self, evaluations: int) -> float:
        """Seconds for the steps still to come, and for as many ``evaluations``, once the cost of one is known. A kind of step that was
        not seen yet is taken to cost the mean of those seen."""
        known = {name: mean for name, cost in self.costs.items() if (mean := cost.mean()) is not None}
        unseen = sum(known.values()) / len(known) if known else 0.0
        steps = sum(number * known.get(name, unseen) for name, number in self.left.items())
        return steps + (evaluations * sum(self.pauses) / len(self.pauses) if self.pauses else 0.0)

    def words(self, evaluations: int) -> str:
        """For the progress line: ``6:10 left``."""
        also = f" and {evaluations} evaluation(s)" if evaluations and not self.pauses else ""
        return f"{duration(self.seconds_left(evaluations))}{also} left"

    def warn(self, evaluations: int) -> None:
        """Say once, after a few steps, when the whole will take long; for trainings on a CPU."""
        total = self.elapsed + self.seconds_left(evaluations)
        if self.said or self.steps < ENOUGH_STEPS or self.elapsed < ENOUGH_SECONDS or total <= LONG:
            return
        self.said = True
        smaller, steps = os.environ.get(SMALLER) or OWN, self.steps + self.left.total()
        logger.warning("this training will take about %s on this CPU (%d steps, %.3g s each on average). %s. It can be stopped at any time "
                       "and continued later with --resume true", duration(total), steps, total / steps, smaller)


def kind(corpus: str) -> str:
    """The kind of a step: the corpora that it reads, sorted; several are joined by a plus."""
    return "+".join(sorted(corpus.split("+")))

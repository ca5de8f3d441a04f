"""One view of all stages of a build: which are done, how far the present one is, at what rate, how long it takes yet, and what follows.

On a terminal a bar for each stage, those that are done above; elsewhere lines in the log, few and far between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omnivast.utils.log import Progress


class View:
    """``names``: the stages that are planned, in order; one that is not among them is shown all the same."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = list(names)

    def bar(self, name: str, total: int, unit: str, done: int = 0) -> Progress[Any]:
        """That of a stage which begins now, of which ``done`` was done before."""
        if name not in self._names:
            return Progress(total, name, initial=done, unit=unit)
        place = self._names.index(name)
        bar: Progress[Any] = Progress(total, f"{name} ({place + 1} of {len(self._names)})", initial=done, unit=unit)
        if place + 1 < len(self._names):
            bar.set_postfix(then=", ".join(self._names[place + 1 :]))
        return bar

"""Things that a config finds by name: model families, towers, losses, evaluators. Each kind has one registry, and each thing is
entered in it where it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from omnivast.config.words import did_you_mean

Item = TypeVar("Item")


class Registry(Generic[Item]):
    """Name → thing. A name that ends with a colon, such as ``timm:``, stands for all that begin with it.

    Args:
        key: the setting that holds the name, for messages: ``model_cfg.model_type``.
        what: what is named, in a word: ``model``.
        patterns: how names after a colon are written, for messages: ``timm:<name>``.
        error: what is raised for an unknown name.
    """

    def __init__(self, key: str, what: str, *patterns: str, error: type[ValueError] = ValueError) -> None:
        self.key, self.what, self.patterns, self.error = key, what, patterns, error
        self._items: dict[str, Item] = {}

    def register(self, name: str) -> Callable[[Item], Item]:
        """Decorator: ``name`` in the config means this. Raises ValueError when the name is taken."""
        if name in self._items:
            raise ValueError(f"{self.key}: there are two of the name '{name}'")

        def enter(item: Item) -> Item:
            self._items[name] = item
            return item

        return enter

    def find(self, name: str | None) -> Item:
        """What ``name`` means. Raises ``error`` that lists the valid names and the nearest of them."""
        for known in (f"{name}", f"{name}".split(":", 1)[0] + ":"):
            if name is not None and known in self._items:
                return self._items[known]
        valid = ", ".join([*(own for own in sorted(self._items) if not own.endswith(":")), *self.patterns])
        raise self.error(f"{self.key}: unknown {self.what} '{name}'; valid are {valid}.{did_you_mean(str(name), self._items)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

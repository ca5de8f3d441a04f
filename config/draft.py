"""The settings gathered so far, each with the place that set it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivast.config.fields import LISTS

# Strength of a setting's place. The n-th default file behind a section counts OWN - n; the pretrained run stands before the first, or, for
# configs of the released VALOR, over the config itself.
OWN, INHERITED, INHERITED_OVER, FLAG = 0.0, -0.5, 0.5, 1.0


@dataclass(frozen=True)
class Value:
    """A checked value, the file or flag that set it, and that place's strength."""

    value: Any
    source: str
    level: float


Section = dict[str, Value]


@dataclass
class Draft:
    """The settings gathered so far. ``flat``: they are of a config of the released VALOR."""

    file: Path
    sections: dict[str, Section]
    datasets: dict[str, list[Section]] = field(default_factory=lambda: {name: [] for name in LISTS})
    flat: bool = False

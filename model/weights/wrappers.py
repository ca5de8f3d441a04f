"""What other programs put before and between the names of a checkpoint's tensors, and the names without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

BETWEEN = frozenset(["_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
"""Parts of names that torch.compile, Lightning's Fabric, FSDP and activation checkpointing add, anywhere."""
BEFORE = ("module.", "model.")
"""Starts that DDP and Lightning add, to all names."""


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Name → the name without what those programs add."""
    plain = {name: ".".join(part for part in name.split(".") if part not in BETWEEN).removeprefix(BEFORE[0]) for name in names}
    while start := next((start for start in BEFORE if plain and all(name.startswith(start) for name in plain.values())), ""):
        plain = {name: short.removeprefix(start) for name, short in plain.items()}
    return plain


def foreign_start(names: Iterable[str], wanted: Collection[str], current_name: Callable[[str], str]) -> str:
    """The prefix, such as ``student.``, that most names have before a ``wanted`` name, as ``current_name`` reads them. "" where some
    names are wanted as they are, or none is with any prefix."""
    starts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        if current_name(name) in wanted:
            return ""
        starts.update([".".join(parts[:n]) + "." for n in range(1, len(parts)) if current_name(".".join(parts[n:])) in wanted])
    return starts.most_common(1)[0][0] if starts else ""

"""How clips are made, by name: the numbers of Panda-70M's paper and code, of VAST's paper, and the plainest way.

Distances are between unit vectors of frames, as Panda-70M measures them with ImageBind. With other vectors the numbers mean nothing, so
they are kept as shares of ``join``, and ``join`` is found anew on each run's own cuts (:mod:`omnivast.corpus.clips.calibrate`).
"""

from __future__ import annotations

from dataclasses import dataclass

from omnivast.config.words import did_you_mean


@dataclass(frozen=True)
class Recipe:
    """Seconds, shares of a piece, and distances; 0 switches off what a step would do."""

    name: str
    detector: str
    cautious: bool = False
    """What may be a transition ends a shot too."""
    take: float = 0.0
    """Longer shots are cut into pieces of so many seconds …"""
    slack: float = 0.0
    """… where they are longer by more than this."""
    even: bool = False
    """Cut into equal pieces instead, each of ``take`` at most."""
    at: tuple[float, float] = (0.1, 0.9)
    """Where in a piece its first and its last frame are looked at."""
    apart: float = 0.0
    """A piece whose two frames are further apart is dropped: it holds a fade, a dissolve or a change that was not found."""
    join: float = 0.0
    """Neighbours whose frames are so near are joined."""
    least: float = 0.0
    still: float = 0.0
    """A clip whose first and last frames are nearer than this is dropped: nothing happens in it."""
    redundant: float = 0.0
    """A clip so near to one before it is dropped."""
    most: float = float("inf")
    cut_to_most: bool = True
    """Longer clips are cut off there; false: dropped."""
    trim: float = 0.0
    """Share that is taken off each end, last of all."""
    modalities: str = ""
    """Letters of v, a, s that a clip must have."""

    @property
    def by_shots(self) -> bool:
        """Whether transitions end clips, whoever finds them."""
        return self.detector != "none"


IMAGEBIND_JOIN = 0.6
"""The distance to which a calibrated ``join`` corresponds."""
RECIPES = {recipe.name: recipe for recipe in (
    Recipe("vast", "ours", take=30, even=True, join=0.6, least=5, most=30, cut_to_most=False, modalities="vas"),
    Recipe("vast_long", "ours", take=30, even=True, join=0.9, least=5, most=30, cut_to_most=False, modalities="vas"),
    Recipe("vast_clean", "ours", cautious=True, take=30, even=True, least=5, most=30, cut_to_most=False, modalities="vas"),
    Recipe("panda_paper", "content25", take=5, at=(0.1, 0.9), apart=1.0, join=0.6, least=2, still=0.15, redundant=0.3, most=60, trim=0.1),
    Recipe("panda_code", "content25", take=5, slack=2, at=(0.05, 0.95), apart=1.0, join=0.6, least=2, still=0.15, most=1200),
    Recipe("panda_collected", "content25", take=5, slack=2, at=(0.05, 0.95), apart=1.0, join=0.6, least=2.5, still=0.15, redundant=0.3,
           most=60, trim=0.1),
    Recipe("shots", "ours", least=1),
    Recipe("fixed", "none", take=5, least=1),
)}
"""``vast_long`` joins what looks less alike, ``vast_clean`` nothing: its clips hold no boundary as far as can be. ``panda_code`` has the
numbers that are active in the released code, ``panda_collected`` those that its comments give for the dataset."""


class RecipeError(ValueError):
    """A name that is no recipe."""


def recipe_named(name: str) -> Recipe:
    try:
        return RECIPES[name]
    except KeyError:
        raise RecipeError(f"there is no recipe '{name}'; there are {', '.join(RECIPES)}.{did_you_mean(name, RECIPES)}") from None

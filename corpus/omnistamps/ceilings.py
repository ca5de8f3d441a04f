"""The best text-to-video recall that any model could reach when it is given only some of the tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from omnivast.corpus.omnistamps.facts import Clip
from omnivast.corpus.omnistamps.picks import SAME_RECORDING

GROUPS = ("v", "a", "s", "va", "vs", "as", "vas")
RANKS = (1, 5, 10)
FACT_OF = {"v": "seen", "a": "heard", "s": "said"}
"""The fact that each track carries."""
_RECORDING = {other: first for first, *others in SAME_RECORDING for other in others}


def ceilings(clips: Sequence[Clip]) -> dict:
    """``{"clips": n, "chance": {"r1", "r5", "r10"}, "v": {...}, ..., "vas": {...}}``, in percent.

    Each clip is looked for by a text that names its three facts. Who is given only some of the tracks cannot tell apart the clips
    that agree with the text in those tracks, say c of them: the expected R@k is the mean of min(1, k / c).
    """
    result: dict = {"clips": len(clips), "chance": _recalls([len(clips)] * len(clips))}
    for group in GROUPS:
        keys = [told(vars(clip), group) for clip in clips]
        sharing = Counter(keys)
        result[group] = _recalls(sharing[key] for key in keys)
    return result


def told(stamps: Mapping[str, str], group: str) -> tuple[str, ...]:
    """What the tracks of a group (``"va"``) tell of a clip, from its stamps by fact. Clips of which it is equal nobody can tell apart."""
    names = {letter: stamps[FACT_OF[letter]] for letter in group}
    return tuple(_RECORDING.get(name, name) if letter == "a" else name for letter, name in names.items())


def _recalls(candidates: Iterable[int]) -> dict[str, float]:
    candidates = list(candidates)
    return {f"r{k}": round(100 * sum(min(1.0, k / c) for c in candidates) / len(candidates), 3) for k in RANKS}

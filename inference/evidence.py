"""What an answer depends on: the frames and slices of sound without which the model gives another one.

Greedy: of all that is left, what the answer's log-probability falls by most goes next. This ends when the model gives another answer and
holds the first one for unlikely; before that, frames that say the same as those named would still stand in for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from omnivast.config.tasks import Group, Modality
from omnivast.data import audio
from omnivast.data.batch import Sample
from omnivast.inference.clips import Clip
from omnivast.inference.loading import Loaded, in_float32
from omnivast.inference.moments import seconds_of
from omnivast.inference.reading import Sampling
from omnivast.inference.results import Evidence

UNLIKELY = 0.05
"""The share of its probability that is left of an answer when all that it depends on is gone."""
AT_ONCE = 32
"""Of a clip so many versions, each without one more part, are encoded at once."""
SEEN, HEARD = "seen", "heard"

Part = tuple[str, int]
"""("seen", number of a frame) or ("heard", number of a slice of sound), from 0."""
Ask = Callable[[Any, int], list[str]]
"""(features of n versions of a clip, n) → the answer to each."""
Score = Callable[[Any, int], Sequence[float]]
"""(features of n versions of a clip, n) → the log-probability of the answer that is explained, given each."""


def parts_of(sample: Sample) -> list[Part]:
    """The frames and slices that a clip has."""
    seen = 0 if sample.frames is None else len(sample.frames)
    heard = len(sample.spectrogram) if sample.spectrogram is not None and sample.present.get(Modality.AUDIO) else 0
    return [*((SEEN, number) for number in range(seen)), *((HEARD, number) for number in range(heard))]


def leave_out(sampling: Sampling, sample: Sample, gone: Collection[Part]) -> Sample:
    """The clip without these frames and slices; without the last slice it is one without sound. Raises ValueError for a part that it has
    not, and where no frame would be left: pictures cannot be made up."""
    known = parts_of(sample)
    for part in gone:
        if part not in known:
            raise ValueError(f"{sample.clip_id}: there is no {part} to leave out; it has {', '.join(map(str, known)) or 'nothing'}")
    left = {track: [number for own, number in known if own == track and (own, number) not in gone] for track in (SEEN, HEARD)}
    made = replace(sample, present=dict(sample.present))
    if sample.frames is not None:
        if not left[SEEN]:
            raise ValueError(f"{sample.clip_id}: one frame at least must stay")
        made.frames = sample.frames[left[SEEN]]
    if any(track == HEARD for track, _ in gone):
        assert sample.spectrogram is not None
        made.spectrogram = sample.spectrogram[left[HEARD]]
        if not left[HEARD]:
            spec = sampling.spec
            made.spectrogram = audio.silent_slices(spec.mel_bins, 1, spec.target_length, sampling.frontend)
            made.present[Modality.AUDIO] = False
    return made


def evidence_of(parts: Loaded, sample: Sample, group: Group, clip: Clip, answer: str, ask: Ask, score: Score) -> tuple[Evidence, ...]:
    """The frames and slices that an answer depends on, what counts most first; empty where it stays the same without any of them.

    Args:
        sample: the clip as the model was shown it. clip: its file, for times.
    """
    everything = parts_of(sample)
    gone: list[Part] = []
    drops: list[float] = []
    withouts: list[str] = []
    with in_float32(parts.model):  # what a frame changes can be less than bf16 tells apart
        (first,) = _each(parts, sample, group, [[]], score)
        before = first
        while left := _removable(everything, gone):
            scores = _each(parts, sample, group, [[*gone, part] for part in left], score)
            least = min(range(len(left)), key=lambda number: scores[number])
            if scores[least] >= before:  # nothing that is left speaks for the answer
                break
            gone.append(left[least])
            drops.append(before - scores[least])
            before = scores[least]
            withouts += _each(parts, sample, group, [gone], ask)
            if withouts[-1] != answer and before < first + math.log(UNLIKELY):
                break
    if not withouts or withouts[-1] == answer:
        return ()
    length = seconds_of(clip)
    found = []
    for (track, number), drop, without in zip(gone, drops, withouts):
        share = None if length is None else length / sum(own == track for own, _ in everything)
        found.append(Evidence(track, number, drop, without, *((None, None) if share is None else (number * share, (number + 1) * share))))
    return tuple(found)


def _removable(everything: Sequence[Part], gone: Collection[Part]) -> list[Part]:
    """What can go beside what is gone: all but the last frame."""
    left = [part for part in everything if part not in gone]
    frames = sum(track == SEEN for track, _ in left)
    return [(track, number) for track, number in left if track == HEARD or frames > 1]


def _each(parts: Loaded, sample: Sample, group: Group, without: Sequence[Sequence[Part]], use: Callable[[Any, int], Sequence[Any]]
          ) -> list[Any]:
    """``use`` of the clip without each of these sets of parts."""
    versions = [leave_out(parts.sampling, sample, gone) for gone in without]
    sizes: dict[Any, list[int]] = {}
    for number, version in enumerate(versions):
        shapes = tuple(None if x is None else len(x) for x in (version.frames, version.spectrogram))
        sizes.setdefault((shapes, tuple(version.present.items())), []).append(number)
    found: list[Any] = [None] * len(without)
    for numbers in (same[n : n + AT_ONCE] for same in sizes.values() for n in range(0, len(same), AT_ONCE)):
        features = parts.encode([group], [versions[number] for number in numbers])
        for number, result in zip(numbers, use(features, len(numbers)), strict=True):
            found[number] = result
    return found

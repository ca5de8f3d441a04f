"""Long files as moments: windows of a few seconds that overlap, each read as a clip of its own, many from one pass over the file."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnivast.config.tasks import Modality
from omnivast.data import vision
from omnivast.data.annotations.sidecars import joined
from omnivast.data.batch import Sample
from omnivast.data.media import decode
from omnivast.inference.clips import Clip
from omnivast.inference.reading import Sampling

WINDOW, STRIDE = 5.0, 2.5
"""Seconds of a window, and from the start of one to that of the next."""
AT_ONCE = 64
"""Windows whose frames are held at once."""


@dataclass(frozen=True)
class Moment:
    """A part of a clip, in seconds. ``whole``: all of it, read as a clip that is given by itself."""

    start: float
    end: float
    said: str = ""
    whole: bool = False


def seconds_of(clip: Clip) -> float | None:
    """How long a file plays, as its container says; None for a picture and for what says nothing."""
    source = clip.seen if isinstance(clip.seen, str) else clip.heard
    if source is None or clip.picture or isinstance(clip.seen, Tensor):
        return None
    return decode.seconds_of(source, sound=clip.seen is None)


def moments_of(clip: Clip, window: float = WINDOW, stride: float = STRIDE) -> list[Moment]:
    """The moments of a clip. One that is hardly longer than a window is one moment. The last window ends with the file."""
    seconds = seconds_of(clip)
    if seconds is None or seconds <= window + stride / 2:
        return [Moment(0.0, seconds or 0.0, clip.said, whole=True)]
    count = max(2, math.ceil((seconds - window) / stride - 1e-6) + 1)
    starts = [min(n * stride, seconds - window) for n in range(count)]
    return [Moment(start, start + window, words_within(clip, start, start + window)) for start in starts]


def words_within(clip: Clip, start: float, end: float) -> str:
    """What is said within a window: the lines shown then or, of words without times, all."""
    if clip.cues is None:
        return clip.said
    return joined(line for cue in clip.cues if cue.start < end and cue.end > start for line in cue.lines)


def as_clip(clip: Clip, moment: Moment) -> Clip:
    """The clip with the words of a moment; for what it has to see, hear and read."""
    return replace(clip, said=moment.said)


def read_moments(sampling: Sampling, clip: Clip, moments: Sequence[Moment], modalities: Collection[Modality]) -> Iterator[Sample]:
    """A Sample of each moment, in order. The file's sound is decoded once, its frames once for every ``AT_ONCE`` moments: only those
    that some moment is shown. Raises MediaError."""
    if len(moments) == 1 and moments[0].whole:
        yield sampling.read(clip, modalities)
        return
    seconds = seconds_of(clip)
    sound = sampling.hear(clip.heard) if Modality.AUDIO in modalities and clip.heard else None
    for first in range(0, len(moments), AT_ONCE):
        part = moments[first : first + AT_ONCE]
        frames = _frames(sampling, clip, part, seconds) if Modality.VISION in modalities else [None] * len(part)
        for moment, seen in zip(part, frames):
            sample = Sample(clip.name, 0, frames=seen, subtitle=moment.said if Modality.SUBTITLE in modalities else None)
            sample.present = {m: m in as_clip(clip, moment).present for m in modalities}
            if Modality.AUDIO in modalities:
                sample.spectrogram, sample.present[Modality.AUDIO] = sampling.slices_of(sound, moment.start, moment.end)
            yield sample


def _frames(sampling: Sampling, clip: Clip, moments: Sequence[Moment], seconds: float | None) -> list[Tensor]:
    """(F, 3, R, R) uint8 of each moment. Times are turned into numbers of frames as if these were evenly spaced."""
    if not isinstance(clip.seen, str) or seconds is None:
        raise ValueError(f"{clip.name}: has no frames with times")

    def numbers(count: int) -> list[list[int]]:
        found = []
        for moment in moments:
            start = min(int(moment.start / seconds * count), count - 1)
            stop = max(start + 1, min(math.ceil(moment.end / seconds * count), count))
            found.append([start + place for place in vision.frame_indices(stop - start, sampling.frames, training=False)])
        return found

    def choose(count: int) -> list[int]:
        return sorted({number for own in numbers(count) for number in own})

    read = decode.read_clip(clip.seen, choose, transform=sampling.frame_transform)
    assert read.frames is not None
    place = {number: place for place, number in enumerate(choose(read.frame_count))}
    return [read.frames[torch.tensor([place[number] for number in own])] for own in numbers(read.frame_count)]

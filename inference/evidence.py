"""What an answer depends on: the frames and slices of sound without which the model gives another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.data import audio
from omnivast.data.batch import Batch
from omnivast.inference.clips import Clip
from omnivast.inference.loading import Loaded
from omnivast.inference.moments import seconds_of
from omnivast.inference.results import Evidence


def evidence_of(parts: Loaded, batch: Batch, group: Group, clips: Sequence[Clip], answers: Sequence[str], ask: Callable[[Any], list[str]]
                ) -> list[tuple[Evidence, ...]]:
    """Of each answer all that it depends on, one at a time: the clips are encoded and asked again without each frame and each slice.

    A frame or slice that is one of several is left out; of a single slice silence takes the place, while a single frame stays.

    Args:
        batch: the clips as they were encoded. clips, answers: of each question. ask: features → an answer to each question.
    """
    modalities = Task(((Objective.QA, (group,)),)).modalities
    found: list[list[Evidence]] = [[] for _ in answers]
    seconds: dict[str, float | None] = {}
    for track, number, count, without in _without_one(parts, batch, group):
        for place, answer in enumerate(ask(parts.model.encode(without.to(parts.model.device), modalities))):
            if answer == answers[place]:
                continue
            clip = clips[place]
            if clip.name not in seconds:
                seconds[clip.name] = seconds_of(clip)
            length = seconds[clip.name]
            span = (None, None) if length is None else (length * number / count, length * (number + 1) / count)
            found[place].append(Evidence(track, number, answer, *span))
    return [tuple(own) for own in found]


def _without_one(parts: Loaded, batch: Batch, group: Group) -> Iterator[tuple[str, int, int, Batch]]:
    """(track, number of what is left out, of how many, the batch without it)."""
    frames, slices = batch.frames, batch.spectrograms
    if Modality.VISION in group and frames is not None and frames.shape[1] > 1:
        for number in range(frames.shape[1]):
            yield "seen", number, frames.shape[1], replace(batch, frames=_but(frames, number))
    if Modality.AUDIO in group and slices is not None:
        if slices.shape[1] == 1:
            sampling = parts.sampling
            silence = audio.silent_slices(sampling.spec.mel_bins, 1, sampling.spec.target_length, sampling.frontend)
            yield "heard", 0, 1, replace(batch, spectrograms=silence.to(slices)[None].expand_as(slices))
        else:
            for number in range(slices.shape[1]):
                yield "heard", number, slices.shape[1], replace(batch, spectrograms=_but(slices, number))


def _but(x: torch.Tensor, number: int) -> torch.Tensor:
    """(B, N, …) → (B, N − 1, …)."""
    return torch.cat([x[:, :number], x[:, number + 1 :]], 1)

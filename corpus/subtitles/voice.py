"""Where somebody speaks in a sound: what is recognised is never more than that, since recognisers invent words for silence and music."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.extras import import_extra
from omnivast.data.media.decode import hear, seconds_of
from omnivast.data.media.soundtrack import Hearing

RATE = 16000
WINDOW = 600.0
"""Seconds of sound that are in memory at once."""
LONGEST = 28.0
"""Seconds that are recognised at once at most: Whisper hears 30."""
PAUSE = 1.5
"""Seconds without speech that do not part what is recognised at once."""
SILENCE, PAD, SHORTEST = 0.5, 0.2, 0.25
"""Seconds: of silence that end a span of speech, that are added at both its ends, and of speech that count at all."""
THRESHOLD = 0.5
"""Of the detector's probability."""


@dataclass(frozen=True)
class Stretch:
    """A part of a sound in which somebody speaks, perhaps with short pauses."""

    start: float
    """Seconds of the whole sound."""
    wave: Tensor
    """(samples,) float32 at 16 kHz."""
    spans: tuple[tuple[float, float], ...]
    """When somebody speaks, in seconds of the whole sound."""

    @property
    def end(self) -> float:
        return self.start + len(self.wave) / RATE


class Voice:
    """Silero VAD, whose weights are in its wheel. Raises ImportError without it."""

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit.load is deprecated
            self._silero: Any = import_extra("silero_vad")
            self._model = self._silero.load_silero_vad()
        torch.set_num_threads(threads)  # which importing it sets to 1

    def spans(self, wave: Tensor) -> list[tuple[float, float]]:
        """(start, end) in seconds of each span of speech, none longer than ``LONGEST``."""
        found = self._silero.get_speech_timestamps(
            wave, self._model, threshold=THRESHOLD, sampling_rate=RATE, min_speech_duration_ms=round(SHORTEST * 1000),
            min_silence_duration_ms=round(SILENCE * 1000), speech_pad_ms=round(PAD * 1000), max_speech_duration_s=LONGEST - 2 * PAD)
        return [(span["start"] / RATE, span["end"] / RATE) for span in found]

    def stretches(self, path: Path) -> Iterator[Stretch]:
        """The parts of a file's sound in which somebody speaks. Raises MediaError."""
        length = seconds_of(path, sound=True)
        start = 0.0
        while length is None or start < length:
            wave = hear(path, Hearing(RATE, span=(start, start + WINDOW))).waveform
            if wave is None or not len(wave):
                if length is None:
                    return
                start += WINDOW
                continue
            own = self.spans(wave)
            last = len(wave) >= RATE * WINDOW - 1 and bool(own) and own[-1][1] > WINDOW - SILENCE and own[-1][0] > LONGEST
            for spans in together(own[:-1] if last else own):
                first, end = spans[0][0], spans[-1][1]
                yield Stretch(start + first, wave[int(first * RATE) : int(end * RATE)], tuple((start + a, start + b) for a, b in spans))
            # Speech at the end of a window is heard whole, in the next.
            start += own[-1][0] if last else WINDOW


def together(spans: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Spans in groups to recognise at once: with short pauses between them, and not too long in all."""
    groups: list[list[tuple[float, float]]] = []
    for span in spans:
        if groups and span[0] - groups[-1][-1][1] <= PAUSE and span[1] - groups[-1][0][0] <= LONGEST:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups

"""The sound of a long video in 20 bytes a second: how loud it is, and how much of it is a voice or a note, ten times a second.

The waveform itself is not kept. At 16 kHz it would be 115 MB an hour, as much as a video of 360 lines, while the few stretches of which a
later stage needs it are quicker decoded again. What it needs to know which these are is here: silence, and sound without any pitch, hold no
speech. It is no voice detector: a melody has pitch too.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy import ndarray

from omnivast.data.media.soundtrack import Hearing, SoundTrack

RATE = 8000
"""Hz: voices have their pitch, and most of their power, below 4 kHz."""
STEP = 0.1
"""Seconds of which one level and one pitch are kept."""
SAMPLES = round(RATE * STEP)
FLOOR = -100.0
"""dBFS of silence; a level is kept as whole dB above it."""
QUIET = -60.0
"""dBFS below which nothing is heard: the noise of 10 bits."""
PITCHES = (70.0, 400.0)
"""Hz of voices."""
VOICED = 0.5
"""Of 1, how alike a tenth of a second must be to itself one period later to have a pitch."""
MARGIN = 1.0
"""Seconds around what has a pitch that may be speech too: consonants, whispered ends, pauses between words."""
LONGEST_GAP = 3600.0
"""Seconds between two parts of a sound beyond which their times are not believed."""
GAP = 0.1
"""Seconds between two parts of a sound that are taken for silence, and not for rounded times."""


@dataclass(frozen=True)
class Sound:
    """What is kept."""

    start: float
    """Seconds at which the first step begins."""
    levels: ndarray
    """(N,) uint8: dB above FLOOR of each step."""
    pitched: ndarray
    """(N,) uint8: 255 times how alike the step is to itself one period later."""

    def level(self, start: float, end: float) -> float:
        """dBFS of what is heard between two seconds, FLOOR where nothing is."""
        power = 10 ** ((self.levels[self._steps(start, end)].astype(np.float64) + FLOOR) / 10)
        return round(float(10 * np.log10(max(power.mean(), 10 ** (FLOOR / 10)))), 1) if len(power) else FLOOR

    def is_heard(self, start: float, end: float) -> bool:
        """Whether anything is."""
        return bool((self.levels[self._steps(start, end)] > QUIET - FLOOR).any())

    def maybe_speech(self) -> ndarray:
        """(N,) bool: steps that may hold speech; all others need not be listened to."""
        voiced = (self.pitched >= 255 * VOICED) & (self.levels > QUIET - FLOOR)
        margin = round(MARGIN / STEP)
        if len(voiced) <= 2 * margin:
            return np.full(len(voiced), voiced.any())
        return np.convolve(voiced, np.ones(2 * margin + 1, np.int64), "same") > 0

    def speech_share(self, start: float, end: float) -> float:
        """Share of the steps between two seconds that may hold speech."""
        steps = self.maybe_speech()[self._steps(start, end)]
        return round(float(steps.mean()), 3) if len(steps) else 0.0

    def _steps(self, start: float, end: float) -> slice:
        first, last = (round((second - self.start) / STEP) for second in (start, end))
        return slice(max(first, 0), max(first + 1, last, 0))

    def to_json(self) -> dict[str, Any]:
        return {"start": self.start, **{key: base64.b64encode(getattr(self, key).tobytes()).decode() for key in ("levels", "pitched")}}

    @staticmethod
    def from_json(row: dict[str, Any]) -> Sound:
        levels, pitched = (np.frombuffer(base64.b64decode(row[key]), np.uint8) for key in ("levels", "pitched"))
        return Sound(row["start"], levels, pitched)


class Listener:
    """Is given decoded sound, and asked once; holds a second of it or so."""

    def __init__(self) -> None:
        self._track = SoundTrack(Hearing(RATE))
        self._start: float | None = None
        self._silence = 0.0
        self._rest = np.empty(0, np.float32)
        self._levels: list[ndarray] = []
        self._pitched: list[ndarray] = []

    def __call__(self, frame: av.AudioFrame) -> None:
        """The next part. What is damaged or has times that make no sense is heard as it comes."""
        if self._start is None:
            self._start = frame.time or 0.0
        elif frame.time is not None:
            gap = frame.time - (self._start + self._track.seconds + self._silence)
            if GAP < gap < LONGEST_GAP:
                self._add(self._track.drain(whole=True).numpy())
                for second in range(int(gap) + 1):
                    self._add(np.zeros(round(min(1.0, gap - second) * RATE), np.float32))
                self._silence += gap
        self._track.add(frame)
        self._add(self._track.drain().numpy())

    def end(self) -> Sound | None:
        """None where nothing was heard that could be decoded."""
        if self._start is None:
            return None
        self._add(self._track.drain(whole=True).numpy())
        if len(self._rest):
            self._add(np.zeros(SAMPLES - len(self._rest), np.float32))
        levels, pitched = (np.concatenate([np.empty(0, np.uint8), *parts]) for parts in (self._levels, self._pitched))
        return Sound(round(self._start, 6), levels, pitched)

    def _add(self, samples: ndarray) -> None:
        self._rest = np.concatenate([self._rest, samples])
        count = len(self._rest) // SAMPLES
        if count:
            steps = self._rest[: count * SAMPLES].reshape(count, SAMPLES)
            self._rest = self._rest[count * SAMPLES :]
            self._levels.append(_levels(steps))
            self._pitched.append(_pitched(steps))


def _levels(steps: ndarray) -> ndarray:
    """(N, SAMPLES) → (N,) uint8."""
    power = np.square(steps, dtype=np.float64).mean(1)
    return np.clip(np.round(10 * np.log10(power + 1e-12) - FLOOR), 0, 255).astype(np.uint8)


def _pitched(steps: ndarray) -> ndarray:
    """(N, SAMPLES) → (N,) uint8: the highest autocorrelation at a period of PITCHES, of the most that a window of this form can have."""
    window = np.hanning(SAMPLES)
    spectrum = np.fft.rfft((steps - steps.mean(1, keepdims=True)) * window, 2 * SAMPLES)
    own = np.fft.irfft(np.abs(spectrum) ** 2)
    most = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * SAMPLES)) ** 2)
    shortest, longest = (round(RATE / hertz) for hertz in reversed(PITCHES))
    alike = own[:, shortest:longest] / most[shortest:longest] * most[0] / (own[:, :1] + 1e-9)
    return (255 * np.clip(alike.max(1), 0, 1)).astype(np.uint8)

"""Decoded sound → one waveform."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
import torch
from av.audio.fifo import AudioFifo
from torch import Tensor

from omnivast.data.audio import HIGHEST_RATE, LOWEST_RATE, SAMPLE_RATE

MAX_SECONDS = 6 * 3600
"""Sound longer than this is refused: a small file of packed silence must not fill the memory."""

_READY = ("s16", "s16p", "flt", "fltp")
"""Formats in which sound, mono and at the rate wanted, needs no resampling."""
_PART = 16_384
"""Samples that the resampler takes and gives out at once: each part costs some time of its own."""


@dataclass(frozen=True)
class Hearing:
    """How sound is heard. rate: what it is brought to, Hz; None: that of its first part. first_channel: of several channels the first
    alone; else their mean. span: from when to when, in seconds; None: all of it."""

    rate: int | None = SAMPLE_RATE
    first_channel: bool = False
    span: tuple[float, float] | None = None


class SoundTrack:
    """Collects decoded sound as one channel at one rate.

    Resampled in 16 bits, so that down-mixing scales as it does when a .wav is extracted.
    """

    def __init__(self, how: Hearing) -> None:
        self._rate, self._first = how.rate, how.first_channel
        self._resampler: av.AudioResampler | None = None
        self._waiting = AudioFifo()
        self._layout: tuple[object, ...] | None = None
        self._parts: list[np.ndarray] = []
        self._samples = 0
        self._held = 0.0
        self.seconds = 0.0
        """Length of the sound so far."""

    def add(self, frame: av.AudioFrame) -> None:
        """The next part of the sound. Raises ValueError past ``MAX_SECONDS``, and for a rate at which nothing is heard."""
        self._rate = self._rate or sensible(frame.sample_rate)
        seconds = frame.samples / max(frame.sample_rate, 1)
        self.seconds, self._held = self.seconds + seconds, self._held + seconds
        if self._held > MAX_SECONDS:
            raise ValueError(f"its sound is longer than {MAX_SECONDS / 3600:g} hours")
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        if layout != self._layout:
            self._flush()
            self._layout = layout
            ready = {(name, frame.layout.name if self._first else "mono", self._rate) for name in _READY}
            if layout not in ready:
                kept, channels = ("s16p", frame.layout.name) if self._first else ("s16", "mono")
                self._resampler = av.AudioResampler(format=kept, layout=channels, rate=self._rate, frame_size=_PART)
        if self._resampler is None:
            self._keep([frame])
        else:
            frame.pts = None
            self._waiting.write(frame)
            if self._waiting.samples >= _PART:
                self._resample()

    @property
    def rate(self) -> int | None:
        """Samples a second; None where none was asked for and no part has come yet."""
        return self._rate

    def waveform(self) -> Tensor | None:
        """(samples,) float32 in [-1, 1]; None where there was no sound."""
        self._flush()
        return self._joined() if self._samples else None

    def _joined(self) -> Tensor:
        waveform = np.empty(self._samples, np.float32)
        start = 0
        for part in self._parts:
            place = waveform[start : start + len(part)]
            if part.dtype == np.int16:
                np.divide(part, np.float32(2**15), out=place)
            else:
                np.clip(np.nan_to_num(part), -1.0, 1.0, out=place)
            start += len(part)
        return torch.from_numpy(waveform)

    def drain(self, whole: bool = False) -> Tensor:
        """(samples,) float32: what came since the last call, which is held no longer; ``whole``: with the last that the resampler holds."""
        if whole:
            self._flush()
            self._layout = None
        waveform = self._joined()
        self._parts, self._samples, self._held = [], 0, 0.0
        return waveform

    def _flush(self) -> None:
        if self._resampler is not None:
            self._resample()
            self._keep(self._resampler.resample(None))
            self._resampler, self._waiting = None, AudioFifo()

    def _resample(self) -> None:
        frame = self._waiting.read(0, True)
        if frame is not None and self._resampler is not None:
            frame.pts = None
            self._keep(self._resampler.resample(frame))

    def _keep(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            samples = frame.to_ndarray()[0]
            if self._first and not frame.format.is_planar:  # else the first row is the first channel
                samples = samples[:: frame.layout.nb_channels]
            self._parts.append(samples)
            self._samples += len(samples)


def sensible(rate: int) -> int:
    """A rate that a file declares. Raises ValueError for one that no sound for people has."""
    if LOWEST_RATE <= rate <= HIGHEST_RATE:
        return rate
    raise ValueError(f"its sound has {rate:,} samples a second; expected {LOWEST_RATE:,} to {HIGHEST_RATE:,}")

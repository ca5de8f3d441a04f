"""Decoded sound → one waveform."""

from __future__ import annotations

import av
import numpy as np
import torch
from av.audio.fifo import AudioFifo
from torch import Tensor

MAX_SECONDS = 6 * 3600
"""Sound longer than this is refused: a small file of packed silence must not fill the memory."""

_READY = ("s16", "s16p", "flt", "fltp")
"""Formats in which sound, mono and at the rate wanted, needs no resampling."""
_PART = 16_384
"""Samples that the resampler takes and gives out at once: each part costs some time of its own."""


class SoundTrack:
    """Collects decoded sound as mono at one rate, in Hz; None: the rate of its first part.

    Resampled in 16 bits, so that down-mixing scales as it does when a .wav is extracted.
    """

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._resampler: av.AudioResampler | None = None
        self._waiting = AudioFifo()
        self._layout: tuple[object, ...] | None = None
        self._parts: list[np.ndarray] = []
        self._samples = 0
        self.seconds = 0.0
        """Length of the sound so far."""

    def add(self, frame: av.AudioFrame) -> None:
        """The next part of the sound. Raises ValueError past ``MAX_SECONDS``."""
        self._rate = self._rate or frame.sample_rate
        self.seconds += frame.samples / max(frame.sample_rate, 1)
        if self.seconds > MAX_SECONDS:
            raise ValueError(f"its sound is longer than {MAX_SECONDS / 3600:g} hours")
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        if layout != self._layout:
            self._flush()
            self._layout = layout
            if layout not in {(name, "mono", self._rate) for name in _READY}:
                self._resampler = av.AudioResampler(format="s16", layout="mono", rate=self._rate, frame_size=_PART)
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
        if not self._samples:
            return None
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
            self._parts.append(samples)
            self._samples += len(samples)

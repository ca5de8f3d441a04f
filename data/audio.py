"""Waveform → log-mel slices, as BEATs and AST take them.

The filterbank is Kaldi's, in plain torch: 25 ms windows every 10 ms at 16 kHz (windows that would reach past the end are
dropped), each centred, pre-emphasised by 0.97 and windowed, power spectrum of 512 points, triangles on the mel scale between
20 Hz and 8 kHz, natural logarithm.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from data.vision import frame_indices

SAMPLE_RATE = 16_000
WINDOW = 400
SHIFT = 160
FFT = 512
PRE_EMPHASIS = 0.97
LOWEST_HZ = 20.0

# (mean, twice the standard deviation) of the log-mel values that each front end was trained on.
STATISTICS = {"beats": (15.41663, 2 * 6.55582), "ast": (-4.2677393, 2 * 4.5689974)}

Frontend = Literal["beats", "ast"]


class SupportsRows(Protocol):
    """A tensor, or a part of a file that reads like one."""

    def __getitem__(self, rows: slice, /) -> Tensor: ...


def mel_frames(samples: int) -> int:
    """Number of mel frames of a waveform of ``samples`` at 16 kHz."""
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // SHIFT


def log_mel(waveform: Tensor, mel_bins: int, frontend: Frontend = "beats") -> Tensor:
    """(samples,) float32 in [-1, 1] at 16 kHz → (frames, mel_bins) float32, normalised. No frame where it is shorter than 25 ms."""
    frames = mel_frames(len(waveform))
    if frames == 0:
        return torch.zeros(0, mel_bins)
    signal = waveform - waveform.mean() if frontend == "ast" else waveform * 2**15
    windows = signal[: WINDOW + (frames - 1) * SHIFT].unfold(0, WINDOW, SHIFT)
    windows = windows - windows.mean(dim=1, keepdim=True)
    previous = torch.cat([windows[:, :1], windows[:, :-1]], dim=1)
    windows = (windows - PRE_EMPHASIS * previous) * _window(frontend)
    spectrum = torch.view_as_real(torch.fft.rfft(windows, n=FFT))
    power = spectrum.square().sum(dim=-1)
    energies = power[:, : FFT // 2] @ _filters(mel_bins)
    mean, scale = STATISTICS[frontend]
    return energies.clamp_(min=torch.finfo(torch.float32).eps).log_().sub_(mean).div_(scale)


def slice_plan(frames: int, length: int, number: int, training: bool, generator: torch.Generator | None = None) -> list[int]:
    """Which slices of ``length`` mel frames are taken: ``number`` indices.

    The spectrogram is thought of as zero-padded to at least ``number`` slices and to whole slices, a length already whole
    gaining one slice of zeros; then one slice is chosen from each of ``number`` equal parts, as for frames.
    """
    padding = max(number * length - frames, length - frames % length)
    return frame_indices((frames + padding) // length, number, training, generator)


def take_slices(mel: SupportsRows, frames: int, mel_bins: int, indices: list[int], length: int) -> Tensor:
    """(frames, mel_bins), in memory or on disk, → (len(indices), length, mel_bins): the slices of ``slice_plan``, zero where
    they reach past the end."""
    slices = torch.zeros(len(indices), length, mel_bins)
    for row, index in enumerate(indices):
        start, end = index * length, min((index + 1) * length, frames)
        if start < end:
            slices[row, : end - start] = mel[start:end]
    return slices


@functools.cache
def _window(frontend: Frontend) -> Tensor:
    """Povey's window (a Hann window to the power 0.85) for BEATs, Hann's for AST."""
    hann = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64)
    return (hann if frontend == "ast" else hann.pow(0.85)).float()


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


@functools.cache
def _filters(mel_bins: int) -> Tensor:
    """(256, mel_bins): triangles whose corners lie equally spaced on the mel scale."""
    low, high = _mel(LOWEST_HZ), _mel(SAMPLE_RATE / 2)
    step = (high - low) / (mel_bins + 1)
    left = low + step * torch.arange(mel_bins, dtype=torch.float64)
    points = torch.tensor([_mel(k * SAMPLE_RATE / FFT) for k in range(FFT // 2)], dtype=torch.float64)
    rising = (points[:, None] - left) / step
    falling = (left + 2 * step - points[:, None]) / step
    return torch.minimum(rising, falling).clamp_(min=0).float()

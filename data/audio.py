"""Waveform → log-mel slices, as each audio encoder takes them: mel frames of 10 ms, so many to a slice.

A ``Frontend`` is what an encoder was trained on. Those of BEATs and AST are Kaldi's filterbank, in plain torch: 25 ms windows every
10 ms at 16 kHz (windows that would reach past the end are dropped), each centred, pre-emphasised by 0.97 and windowed, power spectrum
of 512 points, triangles on the mel scale between 20 Hz and 8 kHz, natural logarithm. Those of Whisper and CLAP are short-time Fourier
transforms around every 10th millisecond, with the numbers that the transformers library's feature extractors state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from omnivast.config.words import did_you_mean
from omnivast.data.vision import frame_indices

SAMPLE_RATE = 16_000
WINDOW = 400
SHIFT = 160
FFT = 512
PRE_EMPHASIS = 0.97
BLOCK = 4096
"""Mel frames that are computed at once, so that an hour of sound needs no more memory than its mel frames."""
LOWEST_HZ = 20.0

# (mean, twice the standard deviation) of the log-mel values that each front end was trained on.
BEATS_STATISTICS = (15.41663, 2 * 6.55582)
AST_STATISTICS = (-4.2677393, 2 * 4.5689974)


class SupportsRows(Protocol):
    """A tensor, or a part of a file that reads like one."""

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class Frontend:
    """How sound becomes mel frames.

    log_mel: (samples,) float32 in [-1, 1] at ``rate`` Hz and a number of bins → (frames, bins) float32, no frame where there is too
    little sound for one. silence: the value of what is past the sound's end. repeat: a sound shorter than a slice is repeated as often
    as it fits before it is padded. finish: what is done last to each slice.
    """

    log_mel: Callable[[Tensor, int], Tensor]
    rate: int = SAMPLE_RATE
    silence: float = 0.0
    repeat: bool = False
    finish: Callable[[Tensor], Tensor] | None = None


def find_frontend(name: str) -> Frontend:
    """The front end that an audio encoder states. Raises ValueError naming the nearest for one that is not known."""
    if name not in FRONTENDS:
        raise ValueError(f"unknown audio front end '{name}'; data/audio.py has {', '.join(FRONTENDS)}.{did_you_mean(name, FRONTENDS)}")
    return FRONTENDS[name]


def slice_plan(frames: int, length: int, number: int, training: bool, generator: torch.Generator | None = None) -> list[int]:
    """Which slices of ``length`` mel frames are taken: ``number`` indices.

    The spectrogram is thought of as padded to at least ``number`` slices and to whole slices, a length already whole
    gaining one slice of padding; then one slice is chosen from each of ``number`` equal parts, as for frames.
    """
    padding = max(number * length - frames, length - frames % length)
    return frame_indices((frames + padding) // length, number, training, generator)


def take_slices(mel: SupportsRows, frames: int, mel_bins: int, indices: list[int], length: int, frontend: Frontend) -> Tensor:
    """(frames, mel_bins), in memory or on disk, → (len(indices), length, mel_bins): the slices of ``slice_plan``, silent where
    they reach past the end."""
    slices = torch.full((len(indices), length, mel_bins), frontend.silence)
    for row, index in enumerate(indices):
        start, end = index * length, min((index + 1) * length, frames)
        if start < end:
            times = max(1, length // frames) if frontend.repeat else 1
            slices[row, : times * (end - start)] = mel[start:end].repeat(times, 1)
    return slices if frontend.finish is None else torch.stack([frontend.finish(part) for part in slices])


# ------------------------------------------------------------------------------------------------------------ BEATs and AST


def mel_frames(samples: int) -> int:
    """Number of Kaldi's mel frames of a waveform of ``samples`` at 16 kHz."""
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // SHIFT


def _kaldi(waveform: Tensor, mel_bins: int, *, window: Callable[[], Tensor], scale: float, statistics: tuple[float, float]) -> Tensor:
    frames = mel_frames(len(waveform))
    mel = torch.empty(frames, mel_bins)
    mean, spread = statistics
    for start in range(0, frames, BLOCK):
        count = min(BLOCK, frames - start)
        heard = waveform[start * SHIFT : WINDOW + (start + count - 1) * SHIFT] * scale
        windows = heard.unfold(0, WINDOW, SHIFT)
        windows = windows - windows.mean(dim=1, keepdim=True)
        padded = torch.zeros(count, FFT)
        sharpened = padded[:, :WINDOW]
        sharpened[:, 0], sharpened[:, 1:] = windows[:, 0], windows[:, :-1]
        torch.sub(windows, sharpened.mul_(PRE_EMPHASIS), out=sharpened).mul_(window())
        energies = _power(padded)[:, : FFT // 2] @ _kaldi_filters(mel_bins)
        mel[start : start + count] = energies.clamp_(min=torch.finfo(torch.float32).eps).log_().sub_(mean).div_(spread)
    return mel


def _power(windows: Tensor) -> Tensor:
    """(n, samples) → (n, samples / 2 + 1), the squared magnitudes of their Fourier transforms."""
    spectrum = torch.fft.rfft(windows)
    return spectrum.real.square() + spectrum.imag.square()


@functools.cache
def _hann() -> Tensor:
    return torch.hann_window(WINDOW, periodic=False, dtype=torch.float64).float()


@functools.cache
def _povey() -> Tensor:
    """A Hann window to the power 0.85."""
    return torch.hann_window(WINDOW, periodic=False, dtype=torch.float64).pow(0.85).float()


def _kaldi_mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


@functools.cache
def _kaldi_filters(mel_bins: int) -> Tensor:
    """(256, mel_bins): triangles whose corners lie equally spaced on the mel scale, straight on that scale."""
    low, high = _kaldi_mel(LOWEST_HZ), _kaldi_mel(SAMPLE_RATE / 2)
    step = (high - low) / (mel_bins + 1)
    left = low + step * torch.arange(mel_bins, dtype=torch.float64)
    points = torch.tensor([_kaldi_mel(k * SAMPLE_RATE / FFT) for k in range(FFT // 2)], dtype=torch.float64)
    rising = (points[:, None] - left) / step
    falling = (left + 2 * step - points[:, None]) / step
    return torch.minimum(rising, falling).clamp_(min=0).float()


# --------------------------------------------------------------------------------------------------------- Whisper and CLAP


def _stft(waveform: Tensor, mel_bins: int, *, rate: int, window: int, low: float, high: float, slaney: bool, scale: float) -> Tensor:
    """``scale`` times the decimal logarithm of mel energies, at least 1e-10. Frame t is centred on t · 10 ms; the sound is mirrored
    before its beginning and followed by silence; the last frame is the last that hears some of it."""
    shift, samples = rate // 100, len(waveform)
    frames = -(-(samples + window // 2) // shift) if samples else 0
    if not frames:
        return torch.zeros(0, mel_bins)
    padded = torch.nn.functional.pad(waveform, (0, window))
    padded = torch.cat([padded[1 : window // 2 + 1].flip(0), padded])
    windows = padded.unfold(0, window, shift)[:frames] * torch.hann_window(window)
    return (_power(windows) @ _filters(mel_bins, window, rate, low, high, slaney)).clamp_(min=1e-10).log10_().mul_(scale)


@functools.cache
def _filters(mel_bins: int, window: int, rate: int, low: float, high: float, slaney: bool) -> Tensor:
    """(window / 2 + 1, mel_bins): triangles whose corners lie equally spaced on a mel scale, straight in Hz. Slaney's scale is linear
    up to 1 kHz and its triangles have equal areas; HTK's is logarithmic throughout and its triangles have equal heights."""
    to_mel, to_hertz = (_slaney_mel, _slaney_hertz) if slaney else (_htk_mel, _htk_hertz)
    first, last = (to_mel(torch.tensor(hertz, dtype=torch.float64)) for hertz in (low, high))
    corners = to_hertz(torch.linspace(first.item(), last.item(), mel_bins + 2, dtype=torch.float64))
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    points = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)[:, None]
    filters = torch.minimum((points - left) / (middle - left), (right - points) / (right - middle)).clamp_(min=0)
    return (filters * 2 / (right - left) if slaney else filters).float()


def _htk_mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)


def _htk_hertz(mel: Tensor) -> Tensor:
    return 700 * (10 ** (mel / 2595) - 1)


def _slaney_mel(hertz: Tensor) -> Tensor:
    return torch.where(hertz < 1000, 3 * hertz / 200, 15 + torch.log(hertz / 1000) * 27 / math.log(6.4))


def _slaney_hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


def _whisper_finish(part: Tensor) -> Tensor:
    """A slice's values more than 80 dB below its loudest are raised to that; then brought to about [-1, 1]."""
    return (part.clamp(min=part.max() - 8.0) + 4.0) / 4.0


_ast = partial(_kaldi, window=_hann, scale=1.0, statistics=AST_STATISTICS)
_clap = partial(_stft, rate=48_000, window=1024, low=50.0, high=14_000.0, scale=10.0)

FRONTENDS = {
    "beats": Frontend(partial(_kaldi, window=_povey, scale=2.0**15, statistics=BEATS_STATISTICS)),
    "ast": Frontend(_ast),
    # transformers pads AST's spectrograms with zeros before it normalises them, the release afterwards.
    "hf_ast": Frontend(_ast, silence=-AST_STATISTICS[0] / AST_STATISTICS[1]),
    "hf_whisper": Frontend(partial(_stft, rate=SAMPLE_RATE, window=400, low=0.0, high=8000.0, slaney=True, scale=1.0), silence=-10.0,
                           finish=_whisper_finish),
    "hf_clap": Frontend(partial(_clap, slaney=True), rate=48_000, silence=-100.0, repeat=True),
    "hf_clap_fused": Frontend(partial(_clap, slaney=False), rate=48_000, silence=-100.0, repeat=True),
}
"""By the name that encoders state."""

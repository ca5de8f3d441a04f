"""Waveform → log-mel slices, as each audio encoder takes them: mel frames of 10 ms, so many to a slice.

A ``Frontend`` is what an encoder was trained on. Those of BEATs and AST are Kaldi's filterbank, in plain torch: 25 ms windows every
10 ms (windows that would reach past the end are dropped), each centred, pre-emphasised by 0.97 and windowed, power spectrum of the next
power of two points, triangles on the mel scale between 20 Hz and half the rate, natural logarithm. They take sound at 16 kHz; VALOR's AST
takes each file at its own rate, as released. Those of Whisper and CLAP are short-time Fourier transforms around every 10th millisecond,
with the numbers that the transformers library's feature extractors state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from omnivast.config.words import did_you_mean
from omnivast.data.vision import frame_indices

SAMPLE_RATE = 16_000
PRE_EMPHASIS = 0.97
BLOCK = 4096
"""Mel frames that are computed at once, so that an hour of sound needs no more memory than its mel frames."""
LOWEST_HZ = 20.0

# (mean, twice the standard deviation) of the log-mel values that each front end was trained on.
BEATS_STATISTICS = (15.41663, 2 * 6.55582)
AST_STATISTICS = (-4.2677393, 2 * 4.5689974)

LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000
"""Hz. A file that declares another rate is damaged, or its sound nothing that a model of speech, music and noises was trained on."""


class SupportsRows(Protocol):
    """A tensor, or a part of a file that reads like one."""

    def __getitem__(self, rows: slice, /) -> Tensor: ...


class LogMel(Protocol):
    """(samples,) float32 in [-1, 1] at ``rate`` Hz and a number of bins → (frames, bins) float32, no frame where there is too little
    sound for one."""

    def __call__(self, waveform: Tensor, mel_bins: int, *, rate: int = SAMPLE_RATE) -> Tensor: ...


@dataclass(frozen=True)
class Frontend:
    """How sound becomes mel frames."""

    log_mel: LogMel
    rate: int | None = SAMPLE_RATE
    """Hz, to which sound is brought; None: each file's own is kept."""
    trained_at: int | None = None
    """Where ``rate`` is None: the rate of the files that the encoder was trained on."""
    first_channel: bool = False
    """The first channel alone is heard; else the mean of all."""
    silence: float = 0.0
    """The value of what is past the sound's end."""
    absent: float | None = None
    """The value of a clip without sound; None: what ``silence`` gives."""
    last_repeats: bool = False
    """Of a sound with too few slices the last repeats; else silent ones follow."""
    repeat: bool = False
    """A sound shorter than a slice is repeated as often as it fits before it is padded."""
    finish: Callable[[Tensor], Tensor] | None = None
    """What is done last to each slice."""


def find_frontend(name: str) -> Frontend:
    """The front end that an audio encoder states. Raises ValueError naming the nearest for one that is not known."""
    if name not in FRONTENDS:
        raise ValueError(f"unknown audio front end '{name}'; data/audio.py has {', '.join(FRONTENDS)}.{did_you_mean(name, FRONTENDS)}")
    return FRONTENDS[name]


def slice_plan(frames: int, length: int, number: int, training: bool, generator: torch.Generator | None = None,
               last_repeats: bool = False) -> list[int]:
    """Which slices of ``length`` mel frames are taken: ``number`` indices.

    The spectrogram is thought of as padded to at least ``number`` slices, unless ``last_repeats``, and to whole slices, a length already
    whole gaining one slice of padding; then one slice is chosen from each of ``number`` equal parts, as for frames: of too few the last
    repeats.
    """
    padding = length - frames % length
    if not last_repeats:
        padding = max(number * length - frames, padding)
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


def silent_slices(mel_bins: int, number: int, length: int, frontend: Frontend) -> Tensor:
    """(number, length, mel_bins): the slices of a clip without sound."""
    if frontend.absent is not None:
        return torch.full((number, length, mel_bins), frontend.absent)
    return take_slices(torch.zeros(0, mel_bins), 0, mel_bins, [0] * number, length, frontend)


# ------------------------------------------------------------------------------------------------------------ BEATs and AST


def kaldi_sizes(rate: int) -> tuple[int, int, int]:
    """Samples of a window and from one window to the next, and points of the power spectrum."""
    window = int(rate * 25 * 0.001)
    return window, int(rate * 10 * 0.001), 2 ** math.ceil(math.log2(window))


def mel_frames(samples: int, rate: int = SAMPLE_RATE) -> int:
    """Number of Kaldi's mel frames of a waveform of ``samples``."""
    window, shift, _ = kaldi_sizes(rate)
    return 0 if samples < window else 1 + (samples - window) // shift


def kaldi_blocks(samples: int, rate: int) -> Iterator[tuple[slice, slice]]:
    """(which mel frames, which samples they hear) of each ``BLOCK`` of mel frames of a waveform."""
    window, shift, _ = kaldi_sizes(rate)
    frames = mel_frames(samples, rate)
    for start in range(0, frames, BLOCK):
        end = min(start + BLOCK, frames)
        yield slice(start, end), slice(start * shift, window + (end - 1) * shift)


def _kaldi(waveform: Tensor, mel_bins: int, *, window: Callable[[int], Tensor], scale: float, statistics: tuple[float, float],
           rate: int = SAMPLE_RATE) -> Tensor:
    length, shift, points = kaldi_sizes(rate)
    mel = torch.empty(mel_frames(len(waveform), rate), mel_bins)
    mean, spread = statistics
    for block, samples in kaldi_blocks(len(waveform), rate):
        heard = waveform[samples] * scale
        windows = heard.unfold(0, length, shift)
        windows = windows - windows.mean(dim=1, keepdim=True)
        padded = torch.zeros(len(windows), points)
        sharpened = padded[:, :length]
        sharpened[:, 0], sharpened[:, 1:] = windows[:, 0], windows[:, :-1]
        torch.sub(windows, sharpened.mul_(PRE_EMPHASIS), out=sharpened).mul_(window(length))
        energies = _power(padded)[:, : points // 2] @ _kaldi_filters(mel_bins, rate)
        mel[block] = energies.clamp_(min=torch.finfo(torch.float32).eps).log_().sub_(mean).div_(spread)
    return mel


def _power(windows: Tensor) -> Tensor:
    """(n, samples) → (n, samples / 2 + 1), the squared magnitudes of their Fourier transforms."""
    spectrum = torch.fft.rfft(windows)
    return spectrum.real.square() + spectrum.imag.square()


@functools.cache
def _hann(length: int) -> Tensor:
    return torch.hann_window(length, periodic=False, dtype=torch.float64).float()


@functools.cache
def _povey(length: int) -> Tensor:
    """A Hann window to the power 0.85."""
    return torch.hann_window(length, periodic=False, dtype=torch.float64).pow(0.85).float()


def _kaldi_mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


@functools.cache
def _kaldi_filters(mel_bins: int, rate: int) -> Tensor:
    """(points / 2, mel_bins): triangles whose corners lie equally spaced on the mel scale, straight on that scale."""
    points = kaldi_sizes(rate)[2]
    low, high = _kaldi_mel(LOWEST_HZ), _kaldi_mel(rate / 2)
    step = (high - low) / (mel_bins + 1)
    left = low + step * torch.arange(mel_bins, dtype=torch.float64)
    heard = torch.tensor([_kaldi_mel(k * rate / points) for k in range(points // 2)], dtype=torch.float64)
    rising = (heard[:, None] - left) / step
    falling = (left + 2 * step - heard[:, None]) / step
    return torch.minimum(rising, falling).clamp_(min=0).float()


# --------------------------------------------------------------------------------------------------------- Whisper and CLAP


def _stft(waveform: Tensor, mel_bins: int, *, window: int, low: float, high: float, slaney: bool, scale: float,
          rate: int = SAMPLE_RATE) -> Tensor:
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


_AST_ZERO = -AST_STATISTICS[0] / AST_STATISTICS[1]
_ast = partial(_kaldi, window=_hann, scale=1.0, statistics=AST_STATISTICS)
_clap = partial(_stft, rate=48_000, window=1024, low=50.0, high=14_000.0, scale=10.0)

FRONTENDS = {
    "beats": Frontend(partial(_kaldi, window=_povey, scale=2.0**15, statistics=BEATS_STATISTICS)),
    "ast": Frontend(_ast),
    # transformers, and VALOR, pad AST's spectrograms with zeros before they normalise them, VAST's release afterwards.
    "hf_ast": Frontend(_ast, silence=_AST_ZERO),
    # Released VALOR takes the mean off the whole waveform too, which changes nothing: each window is centred.
    "valor_ast": Frontend(_ast, rate=None, trained_at=22_050, first_channel=True, silence=_AST_ZERO, absent=0.0,
                          last_repeats=True),
    "hf_whisper": Frontend(partial(_stft, window=400, low=0.0, high=8000.0, slaney=True, scale=1.0), silence=-10.0,
                           finish=_whisper_finish),
    "hf_clap": Frontend(partial(_clap, slaney=True), rate=48_000, silence=-100.0, repeat=True),
    "hf_clap_fused": Frontend(partial(_clap, slaney=False), rate=48_000, silence=-100.0, repeat=True),
}
"""By the name that encoders state."""

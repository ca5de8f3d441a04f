"""Other libraries than FFmpeg and data/audio.py for sound: what a dataset's ``audio_backend`` names, in place of "native".

torchaudio resamples (Hann-windowed sinc) and computes Kaldi's filterbank for the front ends that take it, BEATs' and AST's. librosa
resamples (soxr, high quality). Both are given sound that PyAV has decoded: torchaudio decodes nothing any more (it asks torchcodec, which
needs FFmpeg on the machine), and librosa reads no AAC and no videos. A mel spectrogram of librosa is not Kaldi's: ours is used with it.

How far from ours, in the normalised units of log-mel values: torchaudio's filterbank less than ``TOLERANCE`` anywhere. Of sound that has to
be resampled, less than ``RESAMPLED_TOLERANCE`` on average, over the bins that it has anything for: the low-pass filters differ in the
highest bins, and FFmpeg's rounding to 16 bits in those that hold next to nothing. Sound that is at the front end's rate already is not
touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from omnivast.config.extras import import_extra
from omnivast.data.audio import (
    AST_STATISTICS,
    BEATS_STATISTICS,
    SAMPLE_RATE,
    Frontend,
    find_frontend,
    kaldi_blocks,
    mel_frames,
)

TOLERANCE = 2e-4
RESAMPLED_TOLERANCE = 0.02

# Windows that differ by front end, the factor before them, and (mean, twice the standard deviation) of the values.
_KALDI = {"beats": ("povey", 2.0**15, BEATS_STATISTICS), "ast": ("hanning", 1.0, AST_STATISTICS),
          "hf_ast": ("hanning", 1.0, AST_STATISTICS), "valor_ast": ("hanning", 1.0, AST_STATISTICS)}


@dataclass(frozen=True)
class AudioBackend:
    """How sound becomes mel frames. resample: as ``read_sound`` takes it; None: FFmpeg, while decoding. frontend: log-mel."""

    resample: Callable[[Tensor, int, int], Tensor] | None
    frontend: Frontend


def load_backend(name: str, frontend: str, rate: int | None = None) -> AudioBackend:
    """The backend of an ``audio_backend`` setting for a front end by its name in data/audio.py. ``rate``: what sound is brought to for a
    front end that would take each file's own.

    Raises ValueError for one that is not known or cannot be imported, with what to install, and for a ``rate`` that is asked of a front
    end which has one of its own.
    """
    own = find_frontend(frontend)
    if rate is not None:
        if own.rate is not None:
            raise ValueError(f"audio_sample_rate {rate}: the audio encoder's front end '{frontend}' takes sound at {own.rate} Hz and no "
                             "other; leave the key out")
        own = replace(own, rate=rate)
    if name == "native":
        return AudioBackend(None, own)
    if name not in ("torchaudio", "librosa"):
        raise ValueError(f"unknown audio_backend '{name}'; valid are native, torchaudio, librosa")
    try:
        import_extra(name)
    except ImportError as error:
        raise ValueError(f"audio_backend '{name}': {error}. \"audio_backend\": \"native\" needs no package") from error
    if name == "librosa":
        return AudioBackend(_resample_librosa, own)
    if frontend in _KALDI:
        own = replace(own, log_mel=partial(_kaldi_torchaudio, kind=frontend))
    return AudioBackend(_resample_torchaudio, own)


def _resample_librosa(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    import librosa

    if rate == wanted:
        return waveform
    return torch.from_numpy(librosa.resample(waveform.numpy(), orig_sr=rate, target_sr=wanted)).clamp_(-1, 1)


def _resample_torchaudio(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    import torchaudio

    return waveform if rate == wanted else torchaudio.functional.resample(waveform, rate, wanted).clamp_(-1, 1)


def _kaldi_torchaudio(waveform: Tensor, mel_bins: int, *, kind: str, rate: int = SAMPLE_RATE) -> Tensor:
    """As ``Frontend.log_mel``; in blocks, so that an hour of sound needs no more memory than its mel frames."""
    from torchaudio.compliance.kaldi import fbank

    window, scale, (mean, spread) = _KALDI[kind]
    mel = torch.empty(mel_frames(len(waveform), rate), mel_bins)
    for block, samples in kaldi_blocks(len(waveform), rate):
        mel[block] = fbank((waveform[samples] * scale)[None], num_mel_bins=mel_bins, sample_frequency=rate, frame_length=25,
                           frame_shift=10, window_type=window, dither=0.0)
    return mel.sub_(mean).div_(spread)

"""A Clip's tracks → tensors, exactly as a test of the model reads them: the same frames, transform, slices of sound and numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omnivast.config.tasks import Modality
from omnivast.data import audio, vision
from omnivast.data.audio import find_frontend
from omnivast.data.batch import Sample
from omnivast.data.media import decode, images
from omnivast.data.spec import InputSpec
from omnivast.inference.clips import Clip


@dataclass(frozen=True)
class Sampling:
    """How a model is shown clips."""

    spec: InputSpec
    frames: int = 8
    """Frames of a video, one from each of as many equal parts."""
    slices: int = 1
    """Slices of sound, chosen likewise."""
    transform: Literal["none", "crop_flip"] = "none"
    """``vision_transforms`` of the dataset that the model was tested or trained on."""

    def read(self, clip: Clip, modalities: Collection[Modality]) -> Sample:
        """The clip as a model takes it. A modality that is asked for and not there is silence or an empty subtitle, and ``present`` says
        so; frames can only be asked for where there are some. Raises MediaError for what cannot be decoded."""
        sample = Sample(clip.name, 0, present={modality: modality in clip.present for modality in modalities})
        if Modality.SUBTITLE in modalities:
            sample.subtitle = clip.said
        waveform = None
        if Modality.VISION in modalities:
            sample.frames, waveform = self._seen(clip, with_sound=Modality.AUDIO in modalities and clip.heard == clip.seen)
        if Modality.AUDIO in modalities:
            if waveform is None and clip.heard is not None and clip.heard != clip.seen or sample.frames is None and clip.heard:
                waveform = decode.read_sound(clip.heard, find_frontend(self.spec.audio_frontend).rate)
            sample.spectrogram, sample.present[Modality.AUDIO] = self.heard(waveform)
        return sample

    def _seen(self, clip: Clip, with_sound: bool) -> tuple[Tensor, Tensor | None]:
        """(F, 3, R, R) uint8 of what is seen, and the (samples,) of its own sound if that is asked for."""
        transform = vision.frame_transform(self.transform, self.spec.resolution, training=False)
        if isinstance(clip.seen, Tensor):
            chosen = clip.seen[vision.frame_indices(len(clip.seen), self.frames_of(clip), training=False)]
            return torch.stack([transform(frame) for frame in chosen]), None
        if clip.seen is None:
            raise ValueError(f"{clip.name}: has nothing to see")
        if clip.picture:
            return images.read_image(clip.seen, transform)[None], None
        read = decode.read_clip(clip.seen, lambda count: vision.frame_indices(count, self.frames, training=False), transform=transform,
                                sound=with_sound, rate=find_frontend(self.spec.audio_frontend).rate)
        assert read.frames is not None
        return read.frames, read.waveform

    def heard(self, waveform: Tensor | None) -> tuple[Tensor, bool]:
        """(A, T, mel) of a waveform, and whether it holds sound enough for one mel frame."""
        frontend, bins, length = find_frontend(self.spec.audio_frontend), self.spec.mel_bins, self.spec.target_length
        mel = torch.zeros(0, bins) if waveform is None else frontend.log_mel(waveform, bins)
        indices = audio.slice_plan(len(mel), length, self.slices, training=False) if len(mel) else [0] * self.slices
        return audio.take_slices(mel, len(mel), bins, indices, length, frontend), bool(len(mel))

    def frames_of(self, clip: Clip) -> int:
        """How many frames the model is shown of this clip; clips that are encoded together need the same number."""
        single = clip.picture or isinstance(clip.seen, Tensor) and len(clip.seen) == 1
        return 1 if single else self.frames

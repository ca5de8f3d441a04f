"""A Clip's tracks → tensors, exactly as a test of the model reads them: the same frames, transform, slices of sound and numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omnivast.config.tasks import Modality
from omnivast.data import audio, vision
from omnivast.data.audio import Frontend, find_frontend
from omnivast.data.batch import Sample, told
from omnivast.data.media import decode, images
from omnivast.data.media.soundtrack import Hearing
from omnivast.data.spec import InputSpec, TextLengths
from omnivast.data.vision import FrameTransform
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

    @property
    def lengths(self) -> TextLengths:
        """The most tokens of each kind of text: those of a test whose clips have captions of one kind."""
        return self.spec.lengths(several_kinds=False)

    def read(self, clip: Clip, modalities: Collection[Modality]) -> Sample:
        """The clip as a model takes it. A modality that is asked for and not there is silence or an empty subtitle, and ``present`` says
        so; frames can only be asked for where there are some. Raises MediaError for what cannot be decoded."""
        sample = Sample(clip.name, 0, present={modality: modality in clip.present for modality in modalities})
        if Modality.SUBTITLE in modalities:
            sample.subtitle = clip.said
        if self.spec.told_len:
            sample.told = told("", "", clip.said)
        sound: decode.Clip | None = None
        if Modality.VISION in modalities:
            own = Modality.AUDIO in modalities and clip.heard == clip.seen
            sample.frames, sound = self._seen(clip, with_sound=own)
        if Modality.AUDIO in modalities:
            if sound is None and clip.heard is not None:
                sound = self.hear(clip.heard)
            sample.spectrogram, sample.present[Modality.AUDIO] = self.slices_of(sound)
        return sample

    @property
    def frontend(self) -> Frontend:
        """How the model's audio tower takes sound."""
        return find_frontend(self.spec.audio_frontend)

    @property
    def frame_transform(self) -> FrameTransform:
        """How frames are brought to the model's square."""
        return vision.frame_transform(self.transform, self.spec.resolution, training=False, resize=self.spec.resize)

    def _seen(self, clip: Clip, with_sound: bool) -> tuple[Tensor, decode.Clip | None]:
        """(F, 3, R, R) uint8 of what is seen, and its own sound if that is asked for."""
        if isinstance(clip.seen, Tensor):
            chosen = clip.seen[vision.frame_indices(len(clip.seen), self.frames_of(clip), training=False)]
            return torch.stack([self.frame_transform(frame) for frame in chosen]), None
        if clip.seen is None:
            raise ValueError(f"{clip.name}: has nothing to see")
        if clip.picture:
            return images.read_image(clip.seen, self.frame_transform)[None], None
        read = decode.read_clip(clip.seen, lambda count: vision.frame_indices(count, self.frames, training=False),
                                transform=self.frame_transform, sound=with_sound, hearing=self._hearing)
        assert read.frames is not None
        return read.frames, read if with_sound else None

    @property
    def _hearing(self) -> Hearing:
        return Hearing(self.frontend.rate, self.frontend.first_channel)

    def hear(self, path: str) -> decode.Clip:
        """The sound of a file, as the model hears it: ``waveform`` (samples,) at ``rate``."""
        return decode.hear(path, self._hearing)

    def slices_of(self, sound: decode.Clip | None, start: float = 0.0, end: float | None = None) -> tuple[Tensor, bool]:
        """(A, T, mel) of a sound, or of what is heard from ``start`` to ``end`` (s), and whether that is enough for one mel frame."""
        frontend, bins, length = self.frontend, self.spec.mel_bins, self.spec.target_length
        mel = torch.zeros(0, bins)
        if sound is not None and sound.waveform is not None:
            part = slice(int(start * sound.rate), None if end is None else int(end * sound.rate))
            mel = frontend.log_mel(sound.waveform[part], bins, rate=sound.rate)
        if not len(mel):
            return audio.silent_slices(bins, self.slices, length, frontend), False
        indices = audio.slice_plan(len(mel), length, self.slices, training=False, last_repeats=frontend.last_repeats)
        return audio.take_slices(mel, len(mel), bins, indices, length, frontend), True

    def frames_of(self, clip: Clip) -> int:
        """How many frames the model is shown of this clip; clips that are encoded together need the same number."""
        single = clip.picture or isinstance(clip.seen, Tensor) and len(clip.seen) == 1
        return 1 if single else self.frames

"""The media of one clip, wherever it lies: a video with its own sound, a folder of frames, an image, a sound file, or the cache."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from config.schema import DatasetConfig
from config.tasks import Modality, Task
from data import audio, media, vision
from data.cache import MAX_FRAMES, MAX_MEL, ClipCache
from data.decoders import load_decoder
from data.media import Clip, MediaError, MediaFolder
from data.spec import DataError, InputSpec
from utils.random import generator

FIRST_CLIPS_CHECKED = 8

logger = logging.getLogger("omnivast")


@dataclass
class ClipMedia:
    """What a task needs of a clip's media."""

    frames: Tensor | None = None
    """(F, 3, R, R) uint8."""
    spectrogram: Tensor | None = None
    """(A, T, mel) float32, normalised; silence where there is no sound: zeros for BEATs and AST, as in the release."""
    has_sound: bool = False
    frame_count: int = 0
    """Frames of the whole clip, of which ``frames`` were chosen."""


class ClipReader:
    """Reads clips of one corpus by id."""

    def __init__(self, config: DatasetConfig, task: Task, spec: InputSpec, *, training: bool) -> None:
        """Checks settings and folders. Raises DataError."""
        self.config, self.spec, self.training = config, spec, training
        self.needs_vision, self.needs_audio = (modality in task.modalities for modality in (Modality.VISION, Modality.AUDIO))
        self._where = f"dataset '{config.name}'"
        self._check_settings(task)
        own_sound = self.needs_audio and not config.audio
        self._vision = self._folder("vision") if self.needs_vision or own_sound else None
        self._audio = self._folder("audio") if self.needs_audio and not own_sound else None
        try:
            self._decoder = load_decoder(config.video_decoder)
        except ValueError as error:
            raise DataError(f"{self._where}: {error}") from None
        self._cache = ClipCache(config.cache_dir) if config.cache_dir and (self._vision or self._audio) else None
        self._frontend = audio.find_frontend(spec.audio_frontend)
        self._settings = (spec.resolution, spec.mel_bins, spec.audio_frontend, config.video_decoder, self.needs_vision, self.needs_audio)

    def read(self, clip_id: str, key: tuple[object, ...]) -> ClipMedia:
        """The clip's frames and sound; in training with the draws of ``key``. Raises MediaError."""
        if not (self._vision or self._audio):
            return ClipMedia()
        seen = self._vision.find(clip_id) if self._vision else None
        heard = self._sound_of(clip_id, seen) if self.needs_audio else None

        frame_count = 0

        def choose(count: int) -> list[int]:
            nonlocal frame_count
            frame_count = count
            return vision.frame_indices(count, self.config.vision_sample_num or 1, self.training, self._draws(key, "frames"))

        def plan(count: int) -> list[int]:
            number = self.config.audio_sample_num or 1
            return audio.slice_plan(count, self.spec.target_length, number, self.training, self._draws(key, "slices"))

        entry = self._cache.entry([file for file in (seen, heard) if file], self._settings) if self._cache else None
        found = None
        if self._cache and entry:
            found = self._cache.read(entry, choose if self.needs_vision else None, plan if self.needs_audio else None,
                                     self.spec.target_length, self._frontend)
        frames, slices = found if found is not None else self._decode(seen, heard, choose, plan, entry, key)
        silent = self.needs_audio and slices is None
        if silent:
            slices = self._slices(torch.zeros(0, self.spec.mel_bins), [0] * (self.config.audio_sample_num or 1))
        return ClipMedia(frames, slices, has_sound=self.needs_audio and not silent, frame_count=frame_count)

    def files(self, clip_id: str) -> list[str]:
        """The clip's files or folders that are there: what is seen, then what is heard where that is another."""
        found = []
        for folder in (self._vision, self._audio):
            with suppress(MediaError):
                found += [folder.find(clip_id)] if folder else []
        return found

    def _sound_of(self, clip_id: str, seen: str | None) -> str | None:
        """The file with the clip's sound. None where the task also sees the clip and the sound folder has no file for it: extracting the
        sound of a silent video gives none, and such a clip is silent, as in the release. Raises MediaError where sound is all there is."""
        if self._audio is None:
            return seen
        try:
            return self._audio.find(clip_id)
        except MediaError:
            if self.needs_vision:
                return None
            raise

    def say_what_is_silent(self, clip_ids: Sequence[str]) -> None:
        """Log how many of the clips have no file in the sound folder and count as silent."""
        if self._audio is None or not self.needs_vision:
            return
        silent = [clip_id for clip_id in clip_ids if self._sound_of(clip_id, None) is None]
        if silent:
            logger.warning("%s: %d of %d clips have no file in the audio folder '%s' and count as silent, '%s' first", self._where,
                           len(silent), len(clip_ids), self._audio.folder, silent[0])

    def check_exists(self, clip_ids: Sequence[str]) -> None:
        """Raises DataError when none of the first clips has a file: the folder is then the wrong one."""
        for key, folder in (("vision", self._vision), ("audio", self._audio)):
            if folder is None:
                continue
            missing = []
            for clip_id in itertools.islice(clip_ids, FIRST_CLIPS_CHECKED):
                try:
                    folder.find(clip_id)
                    break
                except MediaError as error:
                    missing.append(error.path)
            else:
                raise DataError(
                    f"{self._where}: none of its first {len(missing)} clips is in the {key} folder '{folder.folder}'; looked for "
                    f"{', '.join(missing[:3])} with the extensions {', '.join(media.EXTENSIONS)}"
                )

    # ------------------------------------------------------------------------------------------------------- decoding

    def _decode(
        self, seen: str | None, heard: str | None, choose: media.Choice, plan: media.Choice, entry: Path | None, key: tuple[object, ...]
    ) -> tuple[Tensor | None, Tensor | None]:
        """(frames, spectrogram slices); None for what the task does not need or the clip does not have. Fills the cache."""

        def all_or_chosen(count: int) -> list[int]:
            return list(range(count)) if count <= MAX_FRAMES else choose(count)

        clip = self._decode_files(seen, heard, all_or_chosen if entry else choose, key)
        mel = None
        if clip.waveform is not None:
            mel = self._frontend.log_mel(clip.waveform, self.spec.mel_bins)
            mel = mel if len(mel) else None
        frames = clip.frames
        if self._cache and entry and clip.frame_count <= MAX_FRAMES:
            if mel is None or len(mel) <= MAX_MEL:
                self._cache.write(entry, frames, mel)
            frames = frames[choose(clip.frame_count)] if frames is not None else None
        slices = None
        if mel is not None:
            slices = self._slices(mel, plan(len(mel)))
        return frames, slices

    def _slices(self, mel: Tensor, indices: list[int]) -> Tensor:
        return audio.take_slices(mel, len(mel), self.spec.mel_bins, indices, self.spec.target_length, self._frontend)

    def _decode_files(self, seen: str | None, heard: str | None, choose: media.Choice, key: tuple[object, ...]) -> Clip:
        """Frames and sound of the files, in one pass where they are one file."""
        transform = vision.frame_transform(self.config.vision_transforms, self.spec.resolution, self.training, (*key, "crop"))
        clip = Clip()
        if self.needs_vision and seen:
            if self.config.vision_format == "video_rawvideo":
                clip = media.read_clip(seen, choose, transform=transform, sound=heard == seen, decoder=self._decoder,
                                       rate=self._frontend.rate)
            elif self.config.vision_format == "video_frame":
                clip = media.read_frame_folder(seen, choose, transform)
            else:
                image = media.read_image(seen, transform)
                clip = Clip(frames=image.expand(len(choose(1)), -1, -1, -1), frame_count=1)
        if heard and not (self.needs_vision and heard == seen):
            clip.waveform = media.read_sound(heard, self._frontend.rate)
        return clip

    def _draws(self, key: tuple[object, ...], purpose: str) -> torch.Generator | None:
        """The same numbers each time it is called with the same key: a choice may have to be made again."""
        return generator(*key, purpose) if self.training else None

    # ------------------------------------------------------------------------------------------------------- settings

    def _check_settings(self, task: Task) -> None:
        config, where = self.config, self._where
        lacks = f"{where}: dataset without the modality that its task needs: task '{task}' has a group with"
        if self.needs_vision and not config.vision:
            raise DataError(f"{lacks} v (vision); give the folder of videos, frames or images as 'vision'")
        if self.needs_audio and not config.audio and (config.vision_format != "video_rawvideo" or not config.vision):
            raise DataError(f"{lacks} a (audio); give the folder of sound files as 'audio', or videos with sound as 'vision'")
        if self.needs_vision and config.vision_sample_num is None:
            raise DataError(f"{where}: its task needs vision; give 'vision_sample_num', the frames per clip")
        if self.needs_audio and config.audio_sample_num is None:
            raise DataError(f"{where}: its task needs audio; give 'audio_sample_num', the sound slices per clip")
        if config.cache_dir and self.needs_vision:
            if config.vision_transforms != "none":
                raise DataError(f'{where}: cache_dir keeps resized frames, so it needs "vision_transforms": "none", not \'crop_flip\'')
            if config.vision_format == "video_frame":
                raise DataError(f'{where}: cache_dir is for videos and images; "vision_format": "video_frame" is decoded already')

    def _folder(self, key: str) -> MediaFolder:
        """The folder under ``key``, checked. Raises DataError."""
        folder = getattr(self.config, key)
        if not Path(folder).is_dir():
            raise DataError(f"{self._where}: its {key} folder '{folder}' does not exist or is not a folder")
        if key == "audio":
            return MediaFolder(folder, media.SOUND_EXTENSIONS)
        if self.config.vision_format == "video_frame":
            return MediaFolder(folder, directories=True)
        return MediaFolder(folder, media.IMAGE_EXTENSIONS if self.config.vision_format == "image_rawimage" else media.VIDEO_EXTENSIONS)

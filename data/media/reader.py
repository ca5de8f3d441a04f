"""The media of one clip, wherever it lies: a video with its own sound, a folder of frames, an image, a sound file, or the cache."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from omnivast.config.needs import lacks
from omnivast.config.paths import looked_up
from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Modality, Task
from omnivast.data import audio, vision
from omnivast.data.audio_backends import load_backend
from omnivast.data.media import decode, images
from omnivast.data.media.cache import MAX_FRAMES, ClipCache
from omnivast.data.media.containers import EXTENSIONS, IMAGE_EXTENSIONS, SOUND_EXTENSIONS, VIDEO_EXTENSIONS
from omnivast.data.media.decode import Clip
from omnivast.data.media.decoders import load_decoder
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import MediaFolder, vision_folder
from omnivast.data.media.parts import Source, identity
from omnivast.data.media.regions import Region, region_of
from omnivast.data.media.soundtrack import Hearing
from omnivast.data.shards.shard_set import ShardFolder, Shards
from omnivast.data.spec import DataError, InputSpec
from omnivast.utils.random import generator

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

    def __init__(self, config: DatasetConfig, task: Task, spec: InputSpec, *, training: bool, shards: Shards | None = None) -> None:
        """Checks settings and folders; ``shards`` stand in place of folders. Raises DataError."""
        self.config, self.spec, self.training, self._shards = config, spec, training, shards
        self.needs_vision, self.needs_audio = (modality in task.modalities for modality in (Modality.VISION, Modality.AUDIO))
        self.tracks: frozenset[Modality] = frozenset(m for m in (Modality.VISION, Modality.AUDIO) if m in task.modalities)
        self._where = f"dataset '{config.name}'"
        sounds_in_shards = None if shards is None else shards.holds(SOUND_EXTENSIONS)
        if lacking := next(lacks(config, task, sounds_in_shards), None):
            raise DataError(f"{self._where}: {lacking}")
        apart = bool(config.audio) if sounds_in_shards is None else sounds_in_shards
        own_sound = self.needs_audio and not apart
        self._vision = self._folder("vision") if self.needs_vision or own_sound else None
        self._audio = self._folder("audio") if self.needs_audio and not own_sound else None
        try:
            self._decoder = load_decoder(config.video_decoder)
            self._backend = load_backend(config.audio_backend, spec.audio_frontend, config.audio_sample_rate)
        except ValueError as error:
            raise DataError(f"{self._where}: {error}") from None
        self._cache = ClipCache(config.cache_dir) if config.cache_dir and (self._vision or self._audio) else None
        self._frontend = self._backend.frontend

    def read(self, clip_id: str, key: tuple[object, ...]) -> ClipMedia:
        """The clip's frames and sound; in training with the draws of ``key``. Raises MediaError."""
        if not (self._vision or self._audio):
            return ClipMedia()
        seen, heard = self.find(clip_id)
        frame_count = 0

        def choose(count: int) -> list[int]:
            nonlocal frame_count
            frame_count = count
            return vision.frame_indices(count, self.config.vision_sample_num or 1, self.training, self._draws(key, "frames"))

        def plan(count: int) -> list[int]:
            number = self.config.audio_sample_num or 1
            return audio.slice_plan(count, self.spec.target_length, number, self.training, self._draws(key, "slices"),
                                    self._frontend.last_repeats)

        region = region_of(clip_id)[1] if self.config.vision_format == "image_rawimage" else None
        frames, slices = self._kept(seen, heard, choose, plan, region)
        to_see, to_hear = self.needs_vision and frames is None, heard is not None and slices is None
        if to_see or to_hear:
            decoded = self._decode(seen if to_see else None, heard if to_hear else None, choose, plan, key, region)
            frames = decoded[0] if to_see else frames
            slices = decoded[1] if to_hear else slices
        if isinstance(slices, str):
            slices = None
        silent = self.needs_audio and slices is None
        if silent:
            slices = audio.silent_slices(self.spec.mel_bins, self.config.audio_sample_num or 1, self.spec.target_length, self._frontend)
        return ClipMedia(frames, slices, has_sound=self.needs_audio and not silent, frame_count=frame_count)

    def find(self, clip_id: str) -> tuple[Source | None, Source | None]:
        """Where a clip is seen and where it is heard; None where it need not be. Raises MediaError for what must be there and is not."""
        seen = self._vision.find(clip_id) if self._vision else None
        return seen, self._sound_of(clip_id, seen) if self.needs_audio else None

    def _is_frames(self, seen: Source | None) -> bool:
        """Whether a clip is a folder of frames where it might be a video."""
        return self.config.vision_format == "video" and isinstance(seen, str) and os.path.isdir(seen)

    def read_as(self, clip_id: str) -> dict[Modality, tuple[object, ...]]:
        """For each track that is read, unless there is no file for it: the file, and how what a test has of it is read. Raises
        MediaError."""
        seen, heard = self.find(clip_id)
        config, spec = self.config, self.spec
        found: dict[Modality, tuple[object, ...]] = {}
        if self.needs_vision and seen is not None:
            region = region_of(clip_id)[1] if config.vision_format == "image_rawimage" else None
            found[Modality.VISION] = (identity(seen), config.vision_format, config.video_decoder, config.vision_sample_num,
                                      spec.resolution, spec.resize.mode, spec.resize.antialias, str(region))
        if self.needs_audio and heard is not None:
            found[Modality.AUDIO] = (identity(heard), config.audio_sample_num, config.audio_backend, config.audio_sample_rate,
                                     spec.audio_frontend, spec.mel_bins, spec.target_length)
        return found

    def files(self, clip_id: str) -> list[Source]:
        """The clip's files or folders that are there: what is seen, then what is heard where that is another."""
        found: list[Source] = []
        for folder in (self._vision, self._audio):
            with suppress(MediaError):
                found += [folder.find(clip_id)] if folder else []
        return found

    def _sound_of(self, clip_id: str, seen: Source | None) -> Source | None:
        """The file with the clip's sound. None where the task also sees the clip and the sound folder has no file for it: extracting the
        sound of a silent video gives none, and such a clip is silent, as in the release; so is a folder of frames, where no sound folder is
        named. Raises MediaError where sound is all there is."""
        if self._audio is None:
            if not self._is_frames(seen):
                return seen
            if self.needs_vision:
                return None
            raise MediaError(str(seen), "a folder of frames has no sound; 'audio' names a folder of sound files")
        try:
            return self._audio.find(clip_id)
        except MediaError:
            if self.needs_vision:
                return None
            raise

    def say_what_is_silent(self, clip_ids: Sequence[str]) -> None:
        """Log how many of the clips have no file in the sound folder and count as silent, and what was looked for."""
        if self._audio is None or not self.needs_vision:
            return
        silent = []
        for clip_id in clip_ids:
            try:
                self._audio.find(clip_id)
            except MediaError as error:
                silent.append((clip_id, str(error)))
        where = f"file in the audio folder '{self._audio.folder}'" if self._shards is None else f"sound member in {self._shards}"
        if silent:
            logger.warning("%s: %d of %d clips have no %s and count as silent, '%s' first: %s", self._where, len(silent), len(clip_ids),
                           where, *silent[0])
        else:
            logger.info("%s: each of %d clips has a %s", self._where, len(clip_ids), where)

    def say_what_rate(self, clip_ids: Sequence[str]) -> None:
        """Where each file is heard at its own rate: log that one of the first clips has another than the audio encoder was trained at.
        Raises DataError where all of them have one at which no sound is recorded."""
        trained = self._frontend.trained_at
        if not self.needs_audio or self._frontend.rate is not None or trained is None:
            return
        rates: dict[str, int] = {}
        for clip_id in itertools.islice(clip_ids, FIRST_CLIPS_CHECKED):
            with suppress(MediaError):
                heard = self.find(clip_id)[1]
                rate = decode.sound_rate(heard) if heard else None
                if rate is not None:
                    rates[clip_id] = rate
        odd = {clip_id: rate for clip_id, rate in rates.items() if not audio.LOWEST_RATE <= rate <= audio.HIGHEST_RATE}
        others = [(clip_id, rate) for clip_id, rate in rates.items() if rate != trained and clip_id not in odd]
        if rates and len(odd) == len(rates):
            clip_id, rate = next(iter(odd.items()))
            raise DataError(f"{self._where}: the sound of its first clips cannot be right: {rate:,} samples a second in '{clip_id}'; "
                            f"expected {audio.LOWEST_RATE:,} to {audio.HIGHEST_RATE:,}")
        if others:
            logger.warning("%s: the sound of %d of its first %d clips has another rate than the %d samples a second that the audio encoder "
                           "was trained at, '%s' first: %d. Each file is heard at its own rate, as released; \"audio_sample_rate\": %d "
                           "brings all to one", self._where, len(others), len(rates), trained, *others[0], trained)

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
                where = f"is in the {key} folder '{folder.folder}'" if self._shards is None else f"has a {key} member in {self._shards}"
                raise DataError(
                    f"{self._where}: none of its first {len(missing)} clips {where}; looked for {', '.join(missing[:3])} with the "
                    f"extensions {', '.join(EXTENSIONS)}"
                )

    # ------------------------------------------------------------------------------------------------------- decoding

    def _decode(
        self, seen: Source | None, heard: Source | None, choose: decode.Choice, plan: decode.Choice, key: tuple[object, ...],
        region: Region | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """(frames of ``seen``, spectrogram slices of ``heard``); None where the clip has none, or none is asked for. Fills the cache."""

        def all_or_chosen(count: int) -> list[int]:
            return list(range(count)) if count <= MAX_FRAMES else choose(count)

        clip = self._decode_files(seen, heard, all_or_chosen if self._cache else choose, key, region)
        frames, mel = clip.frames, None
        if clip.waveform is not None:
            mel = self._frontend.log_mel(clip.waveform, self.spec.mel_bins, rate=clip.rate)
            mel = mel if len(mel) else None
        if self._cache and seen and frames is not None and clip.frame_count <= MAX_FRAMES:
            self._cache.write_frames(self._frames_entry(self._cache, seen, region), frames)
            frames = frames[choose(clip.frame_count)]
        if self._cache and heard:
            self._cache.write_mel(self._mel_entry(self._cache, heard), mel)
        if mel is None:
            return frames, None
        return frames, audio.take_slices(mel, len(mel), self.spec.mel_bins, plan(len(mel)), self.spec.target_length, self._frontend)

    def _kept(self, seen: Source | None, heard: Source | None, choose: decode.Choice, plan: decode.Choice, region: Region | None,
              ) -> tuple[Tensor | None, Tensor | Literal["silent"] | None]:
        """What the cache has of the frames and slices that the task needs."""
        frames, slices = None, None
        if self._cache and self.needs_vision and seen:
            frames = self._cache.frames(self._frames_entry(self._cache, seen, region), choose)
        if self._cache and self.needs_audio and heard:
            slices = self._cache.slices(self._mel_entry(self._cache, heard), plan, self.spec.target_length, self._frontend)
        return frames, slices

    def _frames_entry(self, cache: ClipCache, seen: Source, region: Region | None) -> Path:
        resize = self.spec.resize
        other: tuple[object, ...] = () if resize == vision.RESIZES["bicubic"] else (resize.mode, resize.antialias)
        other += () if region is None else (str(region),)
        return cache.entry(seen, "frames", self.spec.resolution, self.config.vision_format, self.config.video_decoder, *other)

    def _mel_entry(self, cache: ClipCache, heard: Source) -> Path:
        other: tuple[object, ...] = () if self.config.audio_backend == "native" else (self.config.audio_backend,)
        other += (self.config.audio_sample_rate,) if self.config.audio_sample_rate else ()
        return cache.entry(heard, "mel", self.spec.mel_bins, self.spec.audio_frontend, *other)

    def _decode_files(self, seen: Source | None, heard: Source | None, choose: decode.Choice, key: tuple[object, ...],
                      region: Region | None) -> Clip:
        """Frames and sound of the files, in one pass where they are one file and FFmpeg resamples."""
        transform = vision.frame_transform(self.config.vision_transforms, self.spec.resolution, self.training, (*key, "crop"),
                                           self.spec.resize)
        hearing = Hearing(self._frontend.rate, self._frontend.first_channel)
        together = heard == seen and not self._backend.resample
        clip = Clip()
        if seen:
            if self.config.vision_format in ("video_rawvideo", "video") and not self._is_frames(seen):
                clip = decode.read_clip(seen, choose, transform=transform, sound=together, decoder=self._decoder,
                                       hearing=hearing)
            elif self.config.vision_format != "image_rawimage":
                clip = decode.read_frame_folder(str(seen), choose, transform)
            else:
                image = images.read_image(seen, _cut_first(region, seen, transform))
                clip = Clip(frames=image.expand(len(choose(1)), -1, -1, -1), frame_count=1)
        if heard and not together:
            sound = decode.hear(heard, hearing, self._backend.resample)
            clip.waveform, clip.rate = sound.waveform, sound.rate
        return clip

    def _draws(self, key: tuple[object, ...], purpose: str) -> torch.Generator | None:
        """The same numbers each time it is called with the same key: a choice may have to be made again."""
        return generator(*key, purpose) if self.training else None

    # ------------------------------------------------------------------------------------------------------- settings

    def _folder(self, key: str) -> MediaFolder | ShardFolder:
        """The folder under ``key``, checked. Raises DataError."""
        if self._shards is not None:
            kind = "sound" if key == "audio" else "image" if self.config.vision_format == "image_rawimage" else "video"
            endings = {"sound": SOUND_EXTENSIONS, "image": IMAGE_EXTENSIONS, "video": VIDEO_EXTENSIONS}[kind]
            return ShardFolder(self._shards, kind, endings)
        folder = getattr(self.config, key)
        if not Path(folder).is_dir():
            raise DataError(f"{self._where}: its {key} folder '{folder}' does not exist or is not a folder{looked_up(folder)}")
        return MediaFolder(folder, SOUND_EXTENSIONS) if key == "audio" else vision_folder(folder, self.config.vision_format)


def _cut_first(region: Region | None, path: Source, transform: vision.FrameTransform) -> vision.FrameTransform:
    """The transform of the region of a picture."""
    return transform if region is None else lambda picture: transform(region.cut(picture, path))

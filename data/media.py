"""Files → frames and sound. A container is opened once; what a file is, its content says, not its name.

Media are never trusted: only the container formats listed here are opened (no playlists, no network), sizes are bounded, and
whatever goes wrong in a file is a ``MediaError`` that names it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import av
import numpy as np
import torch
from av.container import InputContainer
from PIL import Image, ImageOps
from torch import Tensor

from data.audio import SAMPLE_RATE
from data.boxes import cut_in_index
from data.decoders import Decoder
from data.packets import PacketTable, Run
from data.parts import CutError, Part, Source, as_source, content, span, url
from data.pictures import picture_reader
from data.pixels import ToPixels
from data.soundtrack import SoundTrack
from data.vision import FrameTransform

VIDEO_EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif")
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
SOUND_EXTENSIONS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")
EXTENSIONS = VIDEO_EXTENSIONS + IMAGE_EXTENSIONS + SOUND_EXTENSIONS

FORMATS = "mov,matroska,webm,avi,asf,flv,mpeg,mpegts,gif,wav,w64,aiff,caf,mp3,flac,ogg,aac,amr"
MAX_PIXELS = 16_384 * 8_192

Choice = Callable[[int], list[int]]
"""Number of frames → which to take, in ascending order (repeats allowed). Called again when the number was declared wrongly,
so it must be a function of the number alone."""


class MediaError(ValueError):
    """A media file that cannot be read: ``path`` and ``reason``."""

    def __init__(self, path: str | Path | Part, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Clip:
    """What was read of one container."""

    frames: Tensor | None = None
    """(F, 3, H, W) uint8 RGB, the chosen ones, transformed."""
    frame_count: int = 0
    """Frames of the whole video."""
    decoded: int = 0
    """Frames that were decoded for those chosen; 0 where another decoder than PyAV was used."""
    waveform: Tensor | None = None
    """(samples,) float32, mono, at the rate asked for; None when the file has no sound."""


# ---------------------------------------------------------------------------------------------------------------- finding


class MediaFolder:
    """Looks up ``<folder>/<id>`` with or without a known extension, at the cost of one ``stat`` per clip in the usual case."""

    def __init__(self, folder: str | Path, extensions: tuple[str, ...] = EXTENSIONS, directories: bool = False) -> None:
        """``extensions``: those preferred, others come after. ``directories``: the entries are folders of frames."""
        self.folder = str(folder)
        self._directories = directories
        self._extensions = list(dict.fromkeys(extensions + EXTENSIONS))
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, clip_id: str) -> str:
        """The path of a clip's file or folder. Raises MediaError when there is none or the id leaves the folder."""
        check_id(clip_id)
        path = os.path.join(self.folder, clip_id)
        exists = os.path.isdir if self._directories else os.path.isfile
        if exists(path):
            return path
        if not self._directories:
            found = self._with_extension(path)
            if found is not None:
                return found
        kind = "folder of frames" if self._directories else f"file (extensions {', '.join(self._extensions)})"
        raise MediaError(path, f"no such {kind}")

    def _with_extension(self, path: str) -> str | None:
        usual = path + self._extensions[0]
        if os.path.isfile(usual):
            return usual
        parent, name = os.path.split(path)
        stem, ending = os.path.splitext(name)
        entries = self._list(parent)
        named = entries.get(name, []) + (entries.get(stem, []) if ending.lower() in EXTENSIONS else [])
        candidates = [entry for entry in named if os.path.isfile(os.path.join(parent, entry))]
        if not candidates:
            return None
        best = min(candidates, key=lambda c: self._extensions.index(os.path.splitext(c)[1].lower()))
        ending = os.path.splitext(best)[1]
        if ending in self._extensions and len(candidates) == 1:
            self._extensions.remove(ending)
            self._extensions.insert(0, ending)
        return os.path.join(parent, best)

    def _list(self, folder: str) -> dict[str, list[str]]:
        """Stem → file names with a known extension; read once per folder."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            if os.path.isdir(folder):
                for name in sorted(os.listdir(folder)):
                    stem, ending = os.path.splitext(name)
                    if ending.lower() in EXTENSIONS:
                        listing.setdefault(stem, []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]


def check_id(clip_id: str) -> None:
    """Raises MediaError for an id that would leave the media folder: ``../x``, an absolute path, an empty one."""
    parts = PurePosixPath(clip_id.replace("\\", "/"))
    if not clip_id or "\0" in clip_id or parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise MediaError(clip_id, "this id does not name a file inside the media folder")


# ------------------------------------------------------------------------------------------------------- videos and sounds


def read_clip(
    path: str | Path | Part,
    choose: Choice | None,
    *,
    transform: FrameTransform | None = None,
    sound: bool = False,
    decoder: Decoder | None = None,
    rate: int = SAMPLE_RATE,
) -> Clip:
    """Frames of a video and its sound.

    ``choose`` picks the frames by their index in presentation order (None: no frames). The count declared by the container is
    only a guess; should decoding find another, the choice is made anew with the right one. Of H.264, HEVC, VP9, AV1 and MPEG-4 in mp4,
    mov, mkv or webm only the frames that the chosen ones need are decoded, so that damage in others passes unseen; of all else every
    frame. ``transform`` is applied to each chosen frame as it comes, so that large frames are never all held. ``decoder`` replaces PyAV
    for the frames alone. ``rate``: of the sound, Hz.

    Raises MediaError: no such file, empty, not a video, truncated, damaged, no video stream, too large.
    """
    path = as_source(path)
    if choose is None or decoder is not None:
        clip = Clip(waveform=read_sound(path, rate) if sound else None)
        if choose is not None and decoder is not None:
            with _named(path):
                chosen, clip.frame_count = decoder.frames(str(path), choose)
                clip.frames = torch.stack([transform(frame) if transform else frame for frame in chosen])
        return clip
    with _open(path) as container:
        stream = _video_stream(container, path)
        if picture_reader(stream.codec_context.name, stream.codec_context.extradata):
            found = _decode_chosen(container, path, choose, transform, sound, rate)
            if found is not None:
                return found
    with _named(path):
        return _decode_whole(path, choose, transform, sound, rate)


def _decode_whole(path: Source, choose: Choice, transform: FrameTransform | None, sound: bool, rate: int) -> Clip:
    """Every frame is decoded, once where the container declares their number rightly."""
    with _open(path) as container:
        stream = _video_stream(container, path)
        declared = stream.frames
        if declared:
            clip, kept = _decode(container, path, set(choose(declared)), transform, sound, rate)
        else:
            counted = sum(1 for packet in container.demux(stream) if packet.size)
    if not declared:
        with _open(path) as container:
            clip, kept = _decode(container, path, set(choose(max(counted, 1))), transform, sound, rate)
    indices = choose(clip.frame_count)
    if not set(indices) <= kept.keys():
        with _open(path) as container:
            again, kept = _decode(container, path, set(indices), transform, False, rate)
        clip.decoded += again.decoded
    clip.frames = torch.stack([kept[index] for index in indices])
    return clip


def read_sound(path: str | Path | Part, rate: int = SAMPLE_RATE) -> Tensor | None:
    """(samples,) float32 in [-1, 1], mono, at ``rate`` Hz, of a sound file or of a video's track; None when it has no sound."""
    path = as_source(path)
    with _open(path) as container:
        audio = container.streams.best("audio")
        if audio is None:
            if container.streams.best("video") is None:
                raise MediaError(path, "it has neither a sound nor a video stream")
            return None
        audio.codec_context.thread_count = 1
        track = SoundTrack(rate)
        for frame in cast(Iterator[Any], container.decode(audio)):
            track.add(frame)
        return track.waveform()


def _decode_chosen(container: InputContainer, path: Source, choose: Choice, transform: FrameTransform | None, sound: bool, rate: int
                   ) -> Clip | None:
    """One pass over the packets for the sound and the frames' times, then only what the chosen frames need is decoded, from key frame to
    key frame. None where the packets do not tell what that is, or decoding did not give the frames that they promise."""
    video, audio = _video_stream(container, path), container.streams.best("audio") if sound else None
    streams = [stream for stream in (video, audio) if stream is not None]
    for stream in streams:
        stream.codec_context.thread_count = 1
    table = PacketTable(picture_reader(video.codec_context.name, video.codec_context.extradata))
    track, to_pixels = SoundTrack(rate), ToPixels(transform)
    for packet in container.demux(streams):
        if packet.stream is audio:
            for frame in cast(list[Any], packet.decode()):
                track.add(frame)
        else:
            table.add(packet)
        if not table.usable:
            return None
    times = table.times()
    _check_whole(path, container, len(times), max(float(times[-1] * video.time_base) if times else 0.0, track.seconds), audio is not None)
    indices = choose(len(times))
    numbers = {times[index]: index for index in indices}
    runs = table.runs(list(numbers))
    size = (video.codec_context.width, video.codec_context.height)
    kept: dict[int, Tensor] = {}
    decoded = promised = 0
    for run in runs or ():
        promised += sum(time >= run.start for time in run.times)
        for frame in _decode_run(container, video, run):
            if frame.pts is None or frame.pts < run.start:
                continue
            decoded += 1
            if frame.pts in numbers:
                kept[numbers[frame.pts]] = to_pixels(frame, size)
    if runs is None or decoded != promised or kept.keys() != set(indices):
        return None
    return Clip(torch.stack([kept[index] for index in indices]), len(times), decoded, track.waveform())


def _decode_run(container: InputContainer, video: Any, run: Run) -> Iterator[Any]:
    """The frames of a run's packets; fewer where seeking does not lead to its IDR picture."""
    with suppress(av.FFmpegError):
        container.seek(run.start, stream=video)
    left = set(run.times)
    for packet in container.demux(video):
        if packet.pts in left:
            left.remove(packet.pts)
            yield from packet.decode()
            if packet.pts == run.last:
                break
    yield from video.codec_context.decode(None)


def _decode(
    container: InputContainer, path: Source, wanted: set[int], transform: FrameTransform | None, sound: bool, rate: int
) -> tuple[Clip, dict[int, Tensor]]:
    """One pass: the clip without its frames, and the wanted frames by index."""
    video, audio = _video_stream(container, path), container.streams.best("audio") if sound else None
    streams = [stream for stream in (video, audio) if stream is not None]
    for stream in streams:
        stream.codec_context.thread_count = 1
    kept: dict[int, Tensor] = {}
    track, to_pixels = SoundTrack(rate), ToPixels(transform)
    count, end, size = 0, 0.0, (0, 0)
    for packet in container.demux(streams):
        if packet.stream is audio:
            for frame in cast(list[Any], packet.decode()):
                track.add(frame)
            continue
        for frame in cast(list[Any], packet.decode()):
            if count == 0:
                size = (frame.width, frame.height)
            if count in wanted:
                kept[count] = to_pixels(frame, size)
            count += 1
            end = max(end, frame.time or 0.0)
    _check_whole(path, container, count, max(end, track.seconds), audio is not None)
    return Clip(frame_count=count, decoded=count, waveform=track.waveform()), kept


def _video_stream(container: InputContainer, path: Source) -> Any:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise MediaError(path, "it has no video stream")
    context: Any = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise MediaError(path, f"its frames of {context.width}x{context.height} are larger than {MAX_PIXELS} pixels")
    return stream


def _check_whole(path: Source, container: InputContainer, count: int, end: float, heard: bool) -> None:
    """mp4 and mov say themselves where they were cut; the others just end, earlier than their header declares.

    ``count`` frames were decoded, the last stream decoded ends at ``end`` seconds; ``heard``: sound was decoded too.
    """
    if count == 0:
        raise MediaError(path, "no frame could be decoded")
    video = _video_stream(container, path)
    if container.format.name == "avi" and count < 0.9 * video.frames - 1:
        raise MediaError(path, f"truncated: {count} of {video.frames} frames could be decoded")
    if "matroska" in container.format.name:
        declared = _tagged_seconds(video.metadata.get("DURATION", ""))
        if declared is None and (heard or not container.streams.audio):
            declared = (container.duration or 0) / av.time_base
        if declared and end < 0.9 * declared - 0.5:
            raise MediaError(path, f"truncated: {end:.1f} of {declared:.1f} seconds could be decoded")


def _tagged_seconds(tag: str) -> float | None:
    """``00:01:02.500000000`` → 62.5."""
    match = re.fullmatch(r"([0-9]+):([0-9]+):([0-9.]+)", tag)
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


@contextmanager
def _open(path: Source) -> Iterator[InputContainer]:
    """The container, closed at the end; every failure in between becomes a MediaError."""
    with _named(path):
        if span(path)[2] == 0:
            raise MediaError(path, "the file is empty")
        try:
            container = av.open(url(path), metadata_errors="ignore", options={"format_whitelist": FORMATS})
        except av.InvalidDataError:
            raise MediaError(path, "not a video or sound file, or truncated") from None
        with container:
            if container.format.name.startswith("mov") and cut_in_index(path):
                raise MediaError(path, "truncated: a part of its index is missing")
            yield container


@contextmanager
def _named(path: Source) -> Iterator[None]:
    """Whatever a decoder raises on a file, and they raise almost anything, becomes a MediaError that names the file."""
    try:
        yield
    except MediaError:
        raise
    except FileNotFoundError:
        raise MediaError(path, "no such file") from None
    except CutError as error:
        raise MediaError(path, f"truncated: {error}") from None
    except av.InvalidDataError:
        raise MediaError(path, "truncated or damaged: a part of it cannot be decoded") from None
    except Exception as error:
        raise MediaError(path, f"cannot be read ({type(error).__name__}: {error})") from error


# ------------------------------------------------------------------------------------------------------------------ images


def read_image(path: str | Path | Part, transform: FrameTransform | None = None) -> Tensor:
    """(3, H, W) uint8 RGB, upright by its EXIF orientation. Raises MediaError."""
    path = as_source(path)
    with _named(path):
        if span(path)[2] == 0:
            raise MediaError(path, "the file is empty")
        try:
            with Image.open(io.BytesIO(content(path)) if isinstance(path, Part) else path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise MediaError(path, f"{image.width}x{image.height} is larger than {MAX_PIXELS} pixels")
                pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Image.UnidentifiedImageError:
            raise MediaError(path, "not an image") from None
    frame = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return (transform(frame) if transform else frame).contiguous()


def read_frame_folder(folder: str | Path, choose: Choice, transform: FrameTransform | None = None) -> Clip:
    """Frames of a folder of images in natural order (frame2 before frame10). Only the chosen ones are read."""
    with _named(str(folder)):
        names = sorted((n for n in os.listdir(folder) if n.lower().endswith(IMAGE_EXTENSIONS)), key=_natural)
    if not names:
        raise MediaError(folder, f"no frame in this folder (extensions {', '.join(IMAGE_EXTENSIONS)})")
    indices = choose(len(names))
    kept = {i: read_image(os.path.join(folder, names[i]), transform) for i in sorted(set(indices))}
    try:
        frames = torch.stack([kept[i] for i in indices])
    except RuntimeError:
        raise MediaError(folder, "its frames have different sizes") from None
    return Clip(frames=frames, frame_count=len(names))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(True, int(part), "") if part.isdigit() else (False, 0, part) for part in re.split(r"([0-9]+)", name)]

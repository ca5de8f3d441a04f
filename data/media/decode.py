"""Files → frames and sound. A container is opened once; what a file is, its content says, not its name.

Media are never trusted: only the formats of ``containers.py`` are opened (no playlists, no network), sizes are bounded, and
whatever goes wrong in a file is a ``MediaError`` that names it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import torch
from av.codec import codecs_available
from av.container import InputContainer
from torch import Tensor

from omnivast.data.audio import SAMPLE_RATE
from omnivast.data.media.boxes import cut_in_index, describes_itself, share_of_riff
from omnivast.data.media.containers import FORMATS
from omnivast.data.media.decoders import Decoder
from omnivast.data.media.errors import MediaError, named
from omnivast.data.media.groups import plan_by_tables
from omnivast.data.media.images import MAX_PIXELS, is_animation, read_animation, read_frames
from omnivast.data.media.matroska import read_blocks
from omnivast.data.media.packets import PacketTable, Plan, Run
from omnivast.data.media.parts import Part, Source, as_source, span, url
from omnivast.data.media.pictures import picture_reader
from omnivast.data.media.pixels import ToPixels
from omnivast.data.media.sample_tables import Samples, read_samples
from omnivast.data.media.soundtrack import Hearing, SoundTrack
from omnivast.data.vision import FrameTransform

Choice = Callable[[int], list[int]]
"""Number of frames → which to take, in ascending order (repeats allowed). Called again when the number was declared wrongly,
so it must be a function of the number alone."""

ORDINARY = Hearing()
"""Mono at 16 kHz."""

PREROLL = 0.5
"""Seconds that are decoded before a part of a sound: what a decoder first gives after a jump may be wrong."""

Resample = Callable[[Tensor, int, int], Tensor]
"""((samples,) float32, its rate, the rate wanted) → (samples,) at that rate."""


class _NotAsDescribedError(Exception):
    """Frames are not as large as their container says, or fewer come than its packets promise."""


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
    """(samples,) float32, one channel; None when the file has no sound."""
    rate: int = SAMPLE_RATE
    """Of the waveform, Hz."""


# ------------------------------------------------------------------------------------------------------- videos and sounds


def read_clip(
    path: str | Path | Part,
    choose: Choice | None,
    *,
    transform: FrameTransform | None = None,
    sound: bool = False,
    decoder: Decoder | None = None,
    hearing: Hearing = ORDINARY,
) -> Clip:
    """Frames of a video and its sound.

    ``choose`` picks the frames by their index in presentation order (None: no frames). The count declared by the container is
    only a guess; should decoding find another, the choice is made anew with the right one. Of H.264, HEVC, VP9, AV1 and MPEG-4 in mp4,
    mov, mkv or webm only the frames that the chosen ones need are decoded, so that damage in others passes unseen; of all else every
    frame. ``transform`` is applied to each chosen frame as it comes, so that large frames are never all held. ``decoder`` replaces PyAV
    for the frames alone. ``hearing``: of the sound.

    Raises MediaError: no such file, empty, not a video, truncated, damaged, no video stream, too large.
    """
    path = as_source(path)
    if choose is None or decoder is not None:
        clip = hear(path, hearing) if sound else Clip()
        if choose is not None and decoder is not None:
            with named(path):
                chosen, clip.frame_count = decoder.frames(str(path), choose)
                clip.frames = torch.stack([transform(frame) if transform else frame for frame in chosen])
        return clip
    with named(path):
        moving = is_animation(path)
    if moving:
        frames, count = read_animation(path, choose, transform)
        return Clip(frames, count, count)
    with named(path):
        described = describes_itself(path)
    found = _read_chosen(path, choose, transform, sound, hearing, described)
    if found is not None:
        return found
    with named(path):
        return _decode_whole(path, choose, transform, sound, hearing)


def _decode_whole(path: Source, choose: Choice, transform: FrameTransform | None, sound: bool, hearing: Hearing) -> Clip:
    """Every frame is decoded, once where the container declares their number rightly."""
    with _open(path) as container:
        stream = _video_stream(container, path)
        declared = stream.frames
        if declared:
            clip, kept = _decode(container, path, set(choose(declared)), transform, sound, hearing)
        else:
            counted = sum(1 for packet in container.demux(stream) if packet.size)
    if not declared:
        with _open(path) as container:
            clip, kept = _decode(container, path, set(choose(max(counted, 1))), transform, sound, hearing)
    indices = choose(clip.frame_count)
    if not set(indices) <= kept.keys():
        with _open(path) as container:
            again, kept = _decode(container, path, set(indices), transform, False, hearing)
        clip.decoded += again.decoded
    clip.frames = torch.stack([kept[index] for index in indices])
    return clip


def read_sound(path: str | Path | Part, rate: int = SAMPLE_RATE, resample: Resample | None = None) -> Tensor | None:
    """(samples,) float32 in [-1, 1], mono, at ``rate`` Hz, of a sound file or of a video's track; None when it has no sound.

    resample: brings the decoded sound to ``rate`` in place of FFmpeg.
    """
    return hear(path, Hearing(rate), resample).waveform


def hear(path: str | Path | Part, hearing: Hearing, resample: Resample | None = None) -> Clip:
    """The sound of a sound file or of a video's track; ``resample`` brings it to the rate wanted, in place of FFmpeg. Raises MediaError."""
    path = as_source(path)
    with named(path):
        if is_animation(path):
            return Clip()
    with _open(path) as container:
        audio = _sound_stream(container, path)
        if audio is None:
            return Clip()
        audio.codec_context.thread_count = 1
        track = SoundTrack(replace(hearing, rate=None) if resample else hearing)
        begins: float | None = None
        for frame in cast(Iterator[Any], _within(container, audio, hearing.span)):
            begins = frame.time if begins is None else begins
            track.add(frame)
        waveform, rate = track.waveform(), track.rate or SAMPLE_RATE
        if waveform is not None and hearing.span is not None:
            waveform = _cut(waveform, rate, begins or 0.0, *hearing.span)
        wanted = hearing.rate or rate
        if resample and waveform is not None:
            waveform, rate = resample(waveform, rate, wanted), wanted
        return Clip(waveform=waveform, rate=rate)


def _within(container: InputContainer, audio: Any, span: tuple[float, float] | None) -> Iterator[Any]:
    """The decoded sound; of a span no more than what touches it, found by seeking."""
    if span is None:
        yield from container.decode(audio)
        return
    container.seek(max(0, int((span[0] - PREROLL) * av.time_base)))
    for frame in cast(Iterator[Any], container.decode(audio)):
        if frame.time is not None and frame.time >= span[1]:
            return
        if frame.time is None or frame.time + frame.samples / frame.sample_rate > span[0]:
            yield frame


def _cut(waveform: Tensor, rate: int, begins: float, start: float, end: float) -> Tensor:
    """What is heard from ``start`` to ``end`` of a sound whose first sample is heard at ``begins``; silence where it begins later."""
    late = round((begins - start) * rate)
    waveform = torch.cat([waveform.new_zeros(late), waveform]) if late > 0 else waveform[-late:]
    return waveform[: round((end - start) * rate)]


def sound_rate(path: str | Path | Part) -> int | None:
    """Samples a second of a file's sound, as its header says; None where it has none. Raises MediaError."""
    path = as_source(path)
    with named(path):
        if is_animation(path):
            return None
    with _open(path) as container:
        audio = _sound_stream(container, path)
        return None if audio is None else audio.rate


def _sound_stream(container: InputContainer, path: Source) -> Any:
    """None where there is no sound beside a video."""
    audio = container.streams.best("audio")
    if audio is None and container.streams.best("video") is None:
        raise MediaError(path, "it has neither a sound nor a video stream")
    if audio is not None:
        _check_decoder(path, audio, "sound")
    return audio


def _read_chosen(path: Source, choose: Choice, transform: FrameTransform | None, sound: bool, hearing: Hearing,
                 described: bool) -> Clip | None:
    """What ``_decode_chosen`` gives, None for a codec whose packets are not understood. ``described``: what the container says of the
    video is believed at first. It may be too little: of some H.264 only decoding tells how far frames are shown out of order."""
    with _open(path, described) as container:
        context = _video_stream(container, path).codec_context
        if not picture_reader(context.name, context.extradata):
            return None
        with suppress(_NotAsDescribedError):
            return _decode_chosen(container, path, choose, transform, sound, hearing, described)
    return _read_chosen(path, choose, transform, sound, hearing, False)


def _streams(container: InputContainer, path: Source, sound: bool) -> tuple[Any, Any, list[Any]]:
    """The video, the sound where it is asked for and there is one, and both as a list; each decoded by one thread."""
    video, audio = _video_stream(container, path), container.streams.best("audio") if sound else None
    if audio is not None:
        _check_decoder(path, audio, "sound")
    streams = [stream for stream in (video, audio) if stream is not None]
    for stream in streams:
        stream.codec_context.thread_count = 1
    return video, audio, streams


def _decode_chosen(container: InputContainer, path: Source, choose: Choice, transform: FrameTransform | None, sound: bool,
                   hearing: Hearing, described: bool) -> Clip | None:
    """The sound, and of the video only what the chosen frames need, from key frame to key frame, as the file's own tables tell, or one pass
    over its packets. None where neither does, or decoding did not give the frames that they promise."""
    video, audio, streams = _streams(container, path, sound)
    reader = partial(picture_reader, video.codec_context.name, video.codec_context.extradata)
    table, track = PacketTable(reader()), SoundTrack(hearing)
    plan: Plan | None = None
    for packet in container.demux(streams):
        if packet.stream is audio:
            _hear(track, packet)
            continue
        table.add(packet)
        if not table.usable:
            return None
        if len(table) == 1 and packet.size:
            plan = plan_by_tables(path, _samples(container, path, video), packet, choose, reader)
            if plan is not None:
                break
    if plan is not None and audio is not None:
        for packet in container.demux(audio):
            _hear(track, packet)
    times = table.times()
    count, last = (plan.count, plan.last) if plan is not None else (len(times), times[-1] if times else 0)
    _check_whole(path, container, count, max(float(last * video.time_base), track.seconds), audio is not None)
    plan = plan or table.plan(choose)
    found = _decode_plan(container, video, plan, ToPixels(transform), described) if plan is not None else None
    if plan is None or found is None:
        return None
    kept, decoded = found
    return Clip(torch.stack([kept[time] for time in plan.wanted]), plan.count, decoded, track.waveform(), track.rate or SAMPLE_RATE)


def _samples(container: InputContainer, path: Source, video: Any) -> Samples | None:
    """The packets of the video as the file lists them; None where it does not, or not everything."""
    if container.format.name.startswith("mov"):
        return read_samples(path, video.id)
    return read_blocks(path) if container.format.name.startswith("matroska") else None


def _hear(track: SoundTrack, packet: Any) -> None:
    for frame in packet.decode():
        track.add(frame)


def _decode_plan(container: InputContainer, video: Any, plan: Plan, to_pixels: ToPixels, described: bool
                 ) -> tuple[dict[int, Tensor], int] | None:
    """(the wanted frames by their times, how many were decoded); None where decoding gives other frames than planned."""
    size = (video.codec_context.width, video.codec_context.height)
    wanted = set(plan.wanted)
    kept: dict[int, Tensor] = {}
    decoded = promised = 0
    for run in plan.runs:
        promised += sum(time >= run.start for time in run.times)
        for frame in _decode_run(container, video, run):
            if described and (frame.width, frame.height) != size:
                raise _NotAsDescribedError
            if frame.pts is None or frame.pts < run.start:
                continue
            decoded += 1
            if frame.pts in wanted:
                kept[frame.pts] = to_pixels(frame, size)
    if decoded == promised and kept.keys() == wanted:
        return kept, decoded
    if described:
        raise _NotAsDescribedError
    return None


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
    container: InputContainer, path: Source, wanted: set[int], transform: FrameTransform | None, sound: bool, hearing: Hearing
) -> tuple[Clip, dict[int, Tensor]]:
    """One pass: the clip without its frames, and the wanted frames by index."""
    video, audio, streams = _streams(container, path, sound)
    kept: dict[int, Tensor] = {}
    track, to_pixels = SoundTrack(hearing), ToPixels(transform)
    count, end, size = 0, 0.0, (0, 0)
    for packet in container.demux(streams):
        if packet.stream is audio:
            _hear(track, packet)
            continue
        for frame in cast(list[Any], packet.decode()):
            if count == 0:
                size = (frame.width, frame.height)
            if count in wanted:
                kept[count] = to_pixels(frame, size)
            count += 1
            end = max(end, frame.time or 0.0)
    _check_whole(path, container, count, max(end, track.seconds), audio is not None)
    return Clip(frame_count=count, decoded=count, waveform=track.waveform(), rate=track.rate or SAMPLE_RATE), kept


def _video_stream(container: InputContainer, path: Source) -> Any:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise MediaError(path, "it has no video stream")
    _check_decoder(path, stream, "video")
    context: Any = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise MediaError(path, f"its frames of {context.width}x{context.height} are larger than {MAX_PIXELS} pixels")
    return stream


def _check_decoder(path: Source, stream: Any, what: str) -> None:
    if stream.codec_context is None:
        raise MediaError(path, f"there is no decoder for the codec of its {what}; convert it, to H.264 and AAC for instance")


def _check_whole(path: Source, container: InputContainer, count: int, end: float, heard: bool) -> None:
    """mp4 and mov say themselves where they were cut; the others just end, earlier than their header declares.

    ``count`` frames were decoded, the last stream decoded ends at ``end`` seconds; ``heard``: sound was decoded too.
    """
    if count == 0:
        raise MediaError(path, "no frame could be decoded")
    video = _video_stream(container, path)
    if container.format.name == "avi" and count < 0.9 * video.frames - 1 and share_of_riff(path) < 0.9:  # empty chunks are no frames
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


@functools.cache
def _decoders() -> str:
    """The decoders by which FFmpeg may learn what is in a container that describes itself: all but those that would decode a picture for
    what its header says too."""
    return ",".join(sorted(codecs_available - {"h264", "vp9"}))


@contextmanager
def _open(path: Source, described: bool = False) -> Iterator[InputContainer]:
    """The container, closed at the end; every failure in between becomes a MediaError. ``described``: nothing of H.264 and VP9 is decoded
    to know more of the stream than the container says."""
    with named(path):
        if span(path)[2] == 0:
            raise MediaError(path, "the file is empty")
        options = {"format_whitelist": FORMATS} | ({"codec_whitelist": _decoders()} if described else {})
        try:
            container = av.open(url(path), metadata_errors="ignore", options=options)
        except av.InvalidDataError:
            raise MediaError(path, "not a video or sound file, or truncated") from None
        except av.ArgumentError:  # FFmpeg knows it, and the list of formats does not
            raise MediaError(path, "not a video or sound file of a format that is read (python -m omnivast formats lists them)") from None
        with container:
            if container.format.name.startswith("mov") and cut_in_index(path):
                raise MediaError(path, "truncated: a part of its index is missing")
            if container.format.name == "wav" and (share := share_of_riff(path)) < 0.9:
                raise MediaError(path, f"truncated: {100 * share:.0f} % of its sound is there")
            yield container


def seconds_of(path: str | Path | Part, sound: bool = False) -> float | None:
    """How long a video, or a sound, plays as its container says; None where it says nothing. Raises MediaError."""
    path = as_source(path)
    with _open(path) as container:
        stream = container.streams.best("audio" if sound else "video")
        if stream is not None and stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return container.duration / av.time_base if container.duration else None


@contextmanager
def opened_video(path: str | Path | Part) -> Iterator[tuple[InputContainer, Any]]:
    """A container and its video stream; whatever goes wrong while they are used becomes a MediaError."""
    path = as_source(path)
    with _open(path) as container:
        yield container, _video_stream(container, path)


def every_frame(path: str | Path | Part, hear: Callable[[av.AudioFrame], None] | None = None) -> Iterator[Any]:
    """The frames of a video as FFmpeg's, in the order shown, by one thread; none is kept. ``hear`` is given its sound in the same pass, as
    it comes; packets of sound that cannot be decoded are left out. Raises MediaError, at the end where the file is truncated."""
    path = as_source(path)
    count, end = 0, 0.0
    with opened_video(path) as (container, video):
        audio = container.streams.best("audio") if hear else None
        streams = [stream for stream in (video, audio) if stream is not None and stream.codec_context is not None]
        for stream in streams:
            stream.codec_context.thread_count = 1
        for packet in container.demux(streams):
            if packet.stream is video:
                for frame in cast(list[Any], packet.decode()):
                    count, end = count + 1, max(end, frame.time or 0.0)
                    yield frame
            elif hear is not None:
                with suppress(av.FFmpegError):
                    for heard in cast(list[av.AudioFrame], packet.decode()):
                        hear(heard)
        _check_whole(path, container, count, end, False)


def read_frame_folder(folder: str | Path, choose: Choice, transform: FrameTransform | None = None) -> Clip:
    """Frames of a folder of images in natural order (frame2 before frame10). Only the chosen ones are read. Raises MediaError."""
    frames, count = read_frames(folder, choose, transform)
    return Clip(frames=frames, frame_count=count)

"""Subtitle tracks inside a container: mov_text of MP4; SubRip, WebVTT and ASS of Matroska. Tracks of pictures are passed over."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from omnivast.corpus.subtitles.cues import Cue, Subtitles, clean, language_of
from omnivast.data.media.decode import opened_video

ASS_FIELDS = 8
"""Of a line of ASS before its text."""


def read_track(video: Path, language: str) -> Subtitles | None:
    """Of the tracks of text the one in ``language``, else the first; None where none has words. Raises MediaError."""
    with opened_video(video) as (container, _):
        tracks = [stream for stream in container.streams.subtitles if stream.codec_context and stream.codec_context.name in READERS]
        tracks.sort(key=lambda stream: (language_of(stream.language) != language, stream.index))
        for stream in tracks:
            read, base = READERS[stream.codec_context.name], stream.time_base or Fraction(1, av.time_base)
            container.seek(0)
            packets = [(packet.pts, packet.pts + (packet.duration or 0), bytes(packet)) for packet in container.demux(stream)
                       if packet.pts is not None and packet.size]
            cues = [Cue(float(start * base), float(end * base), read(content)) for start, end, content in packets]
            if found := clean(cues):
                return Subtitles(found, language_of(stream.language), "track", f"{stream.index} ({stream.codec_context.name})")
    return None


def _plain(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _mov_text(content: bytes) -> str:
    """Two bytes say how long the text is; its styles follow."""
    text = content[2 : 2 + int.from_bytes(content[:2], "big")]
    return text.decode("utf-16" if text.startswith((b"\xfe\xff", b"\xff\xfe")) else "utf-8", "replace")


def _ass(content: bytes) -> str:
    return _plain(content).split(",", ASS_FIELDS)[-1].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")


READERS: dict[str, Any] = {"mov_text": _mov_text, "subrip": _plain, "srt": _plain, "webvtt": _plain, "ass": _ass, "ssa": _ass}
"""FFmpeg's name of a codec → how its packets are read."""

"""Damaged and odd media, made in memory from a few small clips: what real folders of crawled files hold."""

from __future__ import annotations

import io
import os
import struct
import wave
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.media_factory import grey, tone, write_sound, write_video, write_wav

FRAMES = 16
SIZE = 32


@dataclass
class Case:
    """A file and what reading it must give."""

    name: str
    """Of the file; its clip id is the name without extension."""
    content: bytes
    frames: int | None = None
    """How many frames, each of its right grey; None: an error."""
    sound: float | None = None
    """Seconds of sound, 0 for none; None: of no interest, or an error."""
    error: str = "."
    """What the error says, as a pattern."""
    either: bool = False
    """Damaged where a decoder may or may not notice: any frames, or an error."""


def encoded(container: str, codec: str, pixels: str = "yuv420p", size: tuple[int, int] = (SIZE, SIZE), frames: int = 4,
            times: list[int] | None = None, options: dict[str, str] | None = None) -> bytes:
    """A video without sound; ``times``: presentation times of its frames in eighths of a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=8, options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = *size, pixels, 1
        stream.time_base = stream.codec_context.time_base = Fraction(1, 8)
        output.start_encoding()
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), grey(index, frames), np.uint8), format="rgb24")
            frame.pts, frame.time_base = times[index] if times else index, Fraction(1, 8)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def sound(rate: int, channels: int, seconds: float = 1.0) -> bytes:
    """A 16-bit .wav."""
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(channels)
        output.setsampwidth(2)
        output.setframerate(rate)
        samples = np.round(tone(seconds, rate=rate) * 2**15).astype("<i2")
        output.writeframes(np.repeat(samples[:, None], channels, axis=1).tobytes())
    return file.getvalue()


def patched(content: bytes, after: bytes, offset: int, value: bytes, every: bool = False) -> bytes:
    """``content`` with ``value`` written ``offset`` bytes after the first (or each) ``after``."""
    changed, start = bytearray(content), content.index(after)
    while start >= 0:
        changed[start + offset : start + offset + len(value)] = value
        start = content.find(after, start + 1) if every else -1
    return bytes(changed)


def cases(folder: Path) -> Iterator[Case]:
    """``folder`` is for the whole clips that the damaged ones are made from."""
    whole = write_video(folder / "whole.mp4", frames=FRAMES, size=SIZE).read_bytes()
    front = write_video(folder / "front.mp4", frames=FRAMES, size=SIZE, faststart=True).read_bytes()
    mkv = write_video(folder / "whole.mkv", frames=FRAMES, size=SIZE).read_bytes()
    webm = write_video(folder / "whole.webm", frames=FRAMES, size=SIZE).read_bytes()
    avi = write_video(folder / "whole.avi", frames=FRAMES, size=SIZE, codec="mpeg4", sound_codec="mp3").read_bytes()
    wav = write_wav(folder / "whole.wav").read_bytes()
    flac = write_sound(folder / "whole.flac").read_bytes()
    yield from _cut(whole, front, mkv, webm, avi)
    yield from _no_media(whole)
    yield from _changed(front, webm, avi)
    yield from _misnamed(whole, mkv, wav, flac)
    yield from _odd_videos(folder, front, mkv)
    yield from _odd_sounds(whole, front)
    names = ("two words", "it's", 'say "x"', "new\nline", "\U0001f3ac", "100% #1?a=b&c", "-rf", "a:b", "é" * 60, "$(id)`id`")
    for number, name in enumerate(names):
        yield Case(f"{name}.{'mp4' if number % 2 else 'mkv'}", whole, FRAMES, 2.0)


def _cut(whole: bytes, front: bytes, mkv: bytes, webm: bytes, avi: bytes) -> Iterator[Case]:
    for percent in (1, 5, 25, 50, 75, 95, 99):
        yield Case(f"cut {percent}.mp4", whole[: len(whole) * percent // 100], error="truncated|not a video")
    for percent in (5, 30, 50, 60, 75, 90):
        yield Case(f"cut front {percent}.mp4", front[: len(front) * percent // 100], error="truncated|not a video|no frame")
    for percent in (5, 25, 50, 75):
        late = percent == 75  # what is missing of a clip of 2 s is then within the tolerance on what a header declares
        yield Case(f"cut {percent}.mkv", mkv[: len(mkv) * percent // 100], either=late)
        yield Case(f"cut {percent}.webm", webm[: len(webm) * percent // 100], either=late)
        yield Case(f"cut {percent}.avi", avi[: len(avi) * percent // 100])
    yield Case("beheaded.mp4", whole[200:])
    yield Case("two in one.mp4", front + front, FRAMES, 2.0)


def _no_media(whole: bytes) -> Iterator[Case]:
    noise = np.random.default_rng(5)
    yield Case("empty.mp4", b"", error="empty")
    yield Case("one byte.mp4", b"\0")
    yield Case("zeros.mp4", bytes(4096))
    for ending in ("mp4", "mkv", "avi", "webm", "mov", "gif"):
        yield Case(f"noise {ending}.{ending}", noise.bytes(4096))
    yield Case("noise after a head.mp4", whole[:64] + noise.bytes(4096))
    yield Case("web page.mp4", b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 9, error="not a video")
    yield Case("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n", error="not a video")
    yield Case("concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", error="cannot be read|not a video")
    yield Case("program.mp4", b"\x7fELF\x02\x01\x01" + bytes(2000))


def _changed(front: bytes, webm: bytes, avi: bytes) -> Iterator[Case]:
    draws = np.random.default_rng(7)
    for name, content in (("mp4", front), ("webm", webm), ("avi", avi)):
        for number in range(5):
            flipped = bytearray(content)
            for place in draws.integers(0, len(content), 3 + 20 * number):
                flipped[place] ^= int(draws.integers(1, 256))
            yield Case(f"flipped {number}.{name}", bytes(flipped), either=True)
    hole = len(front) * 6 // 10
    yield Case("a hole.mp4", front[:hole] + bytes(500) + front[hole + 500 :], either=True)
    yield Case("huge declared.mp4", patched(front, b"avc1", 28, struct.pack(">HH", 65535, 65535)), either=True)
    yield Case("huge declared, no data.mp4", patched(front, b"avc1", 28, struct.pack(">HH", 65535, 65535))[: front.index(b"mdat") + 4])
    count = struct.pack(">I", 2**31 - 1)
    yield Case("endless table.mp4", patched(front, b"stsz", 12, count, every=True), either=True)
    yield Case("endless samples.mp4", patched(front, b"stts", 12, count, every=True), either=True)
    yield Case("endless box.mp4", patched(front, b"moov", -4, b"\xff\xff\xff\xff"), either=True)
    yield Case("boxes in boxes.mp4", b"".join(struct.pack(">I", 8 * (3000 - n)) + b"moov" for n in range(3000)))
    yield Case("declared length.mp4", patched(front, b"mvhd", 20, struct.pack(">I", 2**31 - 1)), FRAMES, 2.0)


def _misnamed(whole: bytes, mkv: bytes, wav: bytes, flac: bytes) -> Iterator[Case]:
    yield Case("really mp4.webm", whole, FRAMES, 2.0)
    yield Case("really mkv.mp4", mkv, FRAMES, 2.0)
    yield Case("really mp4.gif", whole, FRAMES, 2.0)
    yield Case("really wav.mp4", wav, error="no video stream")
    yield Case("really flac.mkv", flac, error="no video stream")


def _odd_videos(folder: Path, front: bytes, mkv: bytes) -> Iterator[Case]:
    yield Case("without sound.mp4", encoded("mp4", "libx264"), 4)
    yield Case("one frame.mp4", encoded("mp4", "libx264", frames=1), 1)
    yield Case("no frame.mp4", encoded("mp4", "libx264", frames=0))
    yield Case("no frame.mkv", encoded("matroska", "libx264", frames=0))
    yield Case("variable rate.mp4", encoded("mp4", "libx264", frames=4, times=[0, 1, 30, 31]), 4)
    yield Case("variable rate.mkv", encoded("matroska", "libx264", frames=4, times=[0, 7, 8, 90]), 4)
    yield Case("starts late.mp4", encoded("mp4", "libx264", frames=4, times=[80, 81, 82, 83]), 4)
    yield Case("before zero.mp4", encoded("mp4", "libx264", frames=4, times=[-3, -2, -1, 0]), 1)  # an edit list: shown from 0 on
    yield Case("before zero.mkv", encoded("matroska", "libx264", frames=4, times=[-3, -2, -1, 0]), 4)
    yield Case("wide.mp4", encoded("mp4", "mpeg4", size=(8000, 16), frames=1), 1)
    yield Case("wide.mkv", encoded("matroska", "ffv1", size=(10_000, 8), frames=2), 2)
    yield Case("tall.mkv", encoded("matroska", "ffv1", size=(8, 10_000), frames=2), 2)
    yield Case("tiny.mkv", encoded("matroska", "ffv1", pixels="yuv444p", size=(1, 1), frames=2), 2)
    yield Case("odd size.mkv", encoded("matroska", "ffv1", pixels="yuv444p", size=(33, 17)), 4)
    for pixels in ("yuv422p", "yuv444p", "yuv420p10le", "gray", "yuv444p16le", "bgra", "gbrp10le", "rgb48le"):
        yield Case(f"pixels {pixels}.mkv", encoded("matroska", "ffv1", pixels), 4)
    yield Case("interlaced.mp4", encoded("mp4", "mpeg4", options={"flags": "+ildct+ilme"}), 4)
    yield Case("animation.gif", encoded("gif", "gif", "rgb8"), 4)
    yield Case("stream.avi", encoded("mpegts", "mpeg2video", frames=6, options={"bf": "0"}), 6)
    turned = patched(front, b"tkhd", 44, struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30))
    yield Case("rotated.mp4", turned, FRAMES, 2.0)


def images() -> Iterator[Case]:
    """Image files; ``frames``: 1 where it is readable."""
    def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (SIZE, SIZE), **options: Any) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size, 0).save(file, kind, **options)
        return file.getvalue()

    png, jpeg = saved("png"), saved("jpeg")
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield Case(f"mode {mode.replace(';', ' ')}.png", saved("png", mode), 1)
    yield Case("cmyk.jpg", saved("jpeg", "CMYK"), 1)
    yield Case("really png.jpg", png, 1)
    yield Case("wide.png", saved("png", size=(10_000, 8)), 1)
    yield Case("cut.png", png[: len(png) // 2])
    yield Case("cut.jpg", jpeg[: len(jpeg) // 2])
    yield Case("empty.jpg", b"", error="empty")
    yield Case("noise.jpg", jpeg[:20] + np.random.default_rng(3).bytes(999))
    yield Case("text.jpg", b"404", error="not an image")
    header = struct.pack(">II", 60_000, 60_000)
    yield Case("huge.png", patched(png, b"IHDR", 4, header), error="not an image")
    ihdr = b"IHDR" + header + png[24:29]
    yield Case("huge with a right sum.png", png[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + png[33:], error="larger than|bomb")
    ihdr = b"IHDR" + struct.pack(">II", 0, 0) + png[24:29]
    yield Case("no pixel.png", png[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + png[33:])


def _odd_sounds(whole: bytes, front: bytes) -> Iterator[Case]:
    for rate, channels in ((8_000, 1), (11_025, 2), (48_000, 6), (192_000, 8)):
        yield Case(f"{rate} Hz, {channels}.wav", sound(rate, channels), sound=1.0)
    yield Case("no sample.wav", sound(16_000, 1, 0.0), sound=0.0)
    yield Case("cut.wav", sound(16_000, 1)[:20])
    yield Case("promises more.wav", patched(sound(16_000, 1), b"data", 4, b"\xff\xff\xff\x7f"), sound=1.0)
    yield Case("rate 0.wav", patched(sound(16_000, 1), b"fmt ", 12, bytes(4)), either=True)
    yield Case("rate 4 GHz.wav", patched(sound(16_000, 1), b"fmt ", 12, b"\xff\xff\xff\xff"), either=True)
    yield Case("65535 channels.wav", patched(sound(16_000, 1), b"fmt ", 10, b"\xff\xff"), either=True)
    yield Case("video as sound.wav", whole, sound=2.0)
    yield Case("cut video as sound.wav", front[: len(front) // 2], error="truncated")
    yield Case("text.wav", b"hello " * 100, error="not a video or sound")


def loops(folder: Path) -> list[str]:
    """Ids of symbolic links that lead nowhere, and of what is no file."""
    os.symlink(folder / "loop.mp4", folder / "loop.mp4")
    os.symlink(folder / "there.mp4", folder / "back.mp4")
    os.symlink(folder / "back.mp4", folder / "there.mp4")
    os.symlink(folder / "gone", folder / "dangling.mp4")
    (folder / "a folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    os.symlink("/dev/zero", folder / "device.mp4")
    return ["loop", "back", "dangling", "a folder", "pipe", "device", "loop.mp4/x", "name " + "x" * 300]


CLIMBING = ["../x", "../../etc/passwd", "/etc/passwd", "a/../../x", "..", ".", "", "a\0b", "..\\x", "sub/../../x"]

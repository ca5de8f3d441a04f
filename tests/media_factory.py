"""Writes tiny media files for tests. Frame ``i`` of a video is a flat grey of level ``grey(i, frames)``, so that a test can
read back which frame it got."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

SOUND_RATE = 16_000


def grey(index: int, frames: int) -> int:
    """Level of frame ``index`` of ``frames``: 20 to 230, evenly spread."""
    return 20 + round(210 * index / max(1, frames - 1))


def frame_of(level: float, frames: int) -> int:
    """The frame whose level is nearest: the inverse of ``grey``."""
    return min(range(frames), key=lambda i: abs(grey(i, frames) - level))


def tone(seconds: float, hertz: float = 440.0, rate: int = SOUND_RATE) -> np.ndarray:
    """(samples,) float32 sine of amplitude 0.3."""
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_video(
    path: str | Path,
    frames: int = 16,
    size: int | tuple[int, int] = 64,
    fps: int = 8,
    sound: bool = True,
    seconds: float | None = None,
    hertz: float = 440.0,
    codec: str | None = None,
    sound_codec: str | None = None,
    images: np.ndarray | None = None,
    faststart: bool = False,
) -> Path:
    """A video of flat grey frames (or of ``images``, (F, H, W, 3) uint8) with a sine as sound. ``size``: side or (width, height);
    ``seconds``: of sound, by default as long as the frames last. Codecs by the extension: H.264 and AAC, VP9 and Opus for webm."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    webm = path.suffix == ".webm"
    width, height = (size, size) if isinstance(size, int) else size
    if images is not None:
        frames, height, width = images.shape[:3]
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        video = container.add_stream(codec or ("libvpx-vp9" if webm else "libx264"), rate=fps)
        video.width, video.height, video.pix_fmt, video.codec_context.thread_count = width, height, "yuv420p", 1
        audio = None
        if sound:
            audio = container.add_stream(sound_codec or ("libopus" if webm else "aac"), rate=48_000 if webm else SOUND_RATE)
            audio.layout = "mono"
        for index in range(frames):
            pixels = images[index] if images is not None else np.full((height, width, 3), grey(index, frames), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            rate = audio.rate
            signal = tone(seconds if seconds is not None else frames / fps, hertz, rate)
            _encode_sound(container, audio, signal, rate)
    return path


def write_sound(
    path: str | Path, seconds: float = 2.0, hertz: float = 440.0, codec: str = "flac", container_format: str | None = None
) -> Path:
    """A sine in a compressed file (flac, mp3, aac …); ``container_format`` where the name's extension is to lie."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container_format) as container:
        audio = container.add_stream(codec, rate=SOUND_RATE)
        audio.layout = "mono"
        _encode_sound(container, audio, tone(seconds, hertz), SOUND_RATE)
    return path


def _encode_sound(container: Any, stream: Any, signal: np.ndarray, rate: int) -> None:
    resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size or 0)
    frame = av.AudioFrame.from_ndarray(signal[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def write_wav(path: str | Path, seconds: float = 2.0, hertz: float = 440.0, rate: int = SOUND_RATE, channels: int = 1) -> Path:
    """A 16-bit sine."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.round(tone(seconds, hertz, rate) * 2**15).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples[:, None], channels, axis=1).tobytes())
    return path


def write_image(path: str | Path, size: int | tuple[int, int] = 64, level: int = 128) -> Path:
    """A flat grey image; ``size``: side or (width, height)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size) if isinstance(size, int) else size, (level,) * 3).save(path)
    return path


def write_frames(folder: str | Path, frames: int = 12, size: int = 64) -> Path:
    """A folder ``frame0.png``, ``frame1.png`` … of flat greys, numbered without leading zeros."""
    for index in range(frames):
        write_image(Path(folder) / f"frame{index}.png", size, grey(index, frames))
    return Path(folder)


def write_json(path: str | Path, value: Any) -> Path:
    """An annotation file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path

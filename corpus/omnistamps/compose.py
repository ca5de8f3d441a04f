"""Facts -> a media file: a stamp that moves over a coloured background, and a sound, as MP4 with H.264 and AAC.

Imports neither torch nor the texts, so that worker processes start quickly.
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFilter

SIDE = 128
RATE = 8
FRAMES = 16
SOUND_RATE = 16000
SAMPLES = 2 * SOUND_RATE
_STAMP_SIDE = 96
_EDGE = 5
_AUDIO_BLOCK = 1024

COLOURS = {
    "red": (205, 30, 35),
    "orange": (245, 135, 20),
    "yellow": (245, 220, 40),
    "green": (35, 150, 50),
    "turquoise": (50, 205, 195),
    "blue": (35, 70, 205),
    "purple": (115, 40, 150),
    "pink": (250, 150, 190),
}


@dataclass(frozen=True)
class Job:
    """One clip to compose. Every random choice comes from ``seed``."""

    clip_id: str
    image: str
    motion: str
    background: str
    sound: str
    seed: int


def compose(job: Job, source: str, folder: str) -> str:
    """Write ``<folder>/<clip_id>.mp4`` and return the clip's id. The file appears whole or not at all."""
    rng = np.random.default_rng(job.seed)
    try:
        content = encode(frames_of(job, source, rng), sound_of(job, source, rng))
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise RuntimeError(f"clip {job.clip_id} (image {job.image}, sound {job.sound}) could not be composed: {error}") from error
    temporary = Path(folder) / f".{job.clip_id}.{os.getpid()}.tmp"
    # Not synced: a clip lost in a power cut is empty, and found to be so and made again by the next call.
    temporary.write_bytes(content)
    os.replace(temporary, Path(folder) / f"{job.clip_id}.mp4")
    return job.clip_id


def frames_of(job: Job, source: str, rng: np.random.Generator, count: int = FRAMES) -> np.ndarray:
    """(count, 128, 128, 3) uint8 RGB; the same movement, however many frames it takes."""
    stamp = _stamp(str(Path(source) / job.image))
    ground = _background(COLOURS[job.background], rng)
    frames = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for index, (x, y, size, angle) in enumerate(_path(job.motion, stamp.size, rng, count)):
        layer = stamp.transform((SIDE, SIDE), Image.Transform.AFFINE, _inverse(x, y, size, angle, stamp.size), Image.Resampling.BILINEAR)
        pixels = np.frombuffer(layer.tobytes(), np.uint8).reshape(SIDE, SIDE, 4).astype(np.uint16)
        frames[index] = np.minimum(pixels[..., :3] + (ground * (255 - pixels[..., 3:]) + 127) // 255, 255)
    return frames


def sound_of(job: Job, source: str, rng: np.random.Generator, samples: int = SAMPLES) -> np.ndarray:
    """(samples,) float32 in -1 to 1, at 16 kHz: the sound repeated with short pauses from a random place on, with faint noise."""
    sound = _sound(str(Path(source) / job.sound))
    pause = int(rng.uniform(0.05, 0.3) * SOUND_RATE)
    tile = np.concatenate([sound, np.zeros(pause, np.float32)])
    track = tile[(int(rng.integers(len(tile))) + np.arange(samples)) % len(tile)]
    noise = rng.normal(0, 10 ** rng.uniform(-3, -2.3), samples)
    return np.clip(track * rng.uniform(0.5, 1.0) + noise, -1, 1).astype(np.float32)


def encode(frames: np.ndarray, sound: np.ndarray, rate: int = RATE) -> bytes:
    """An MP4 file of (F, H, W, 3) uint8 frames at ``rate`` per second and (N,) float32 sound at 16 kHz; one thread, no time stamp."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=rate, options={"preset": "superfast", "crf": "18"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 64000
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        for start in range(0, len(sound), _AUDIO_BLOCK):
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, start:start + _AUDIO_BLOCK]), format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
            container.mux(audio.encode(block))
        container.mux(audio.encode())
    return buffer.getvalue()


@lru_cache(maxsize=512)
def _stamp(path: str) -> Image.Image:
    """The picture cut to its visible part, its longer side 96 pixels, with a white edge so that it stands out on any background.

    Premultiplied by its alpha and kept as RGBX, whose four channels the affine transform treats alike.
    """
    with Image.open(path) as file:
        picture = file.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 24)).getbbox())
    scale = _STAMP_SIDE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", [side + 2 * _EDGE for side in picture.size])
    canvas.paste(picture, (_EDGE, _EDGE))
    alpha = canvas.getchannel("A")
    edge = np.asarray(alpha.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.GaussianBlur(0.7)), np.float32)[..., None]
    own = np.asarray(alpha, np.float32)[..., None] / 255
    colour = np.asarray(canvas, np.float32)[..., :3] * own + 255 * np.maximum(edge / 255 - own, 0)
    pixels = np.concatenate([colour, np.maximum(edge, own * 255)], axis=-1).clip(0, 255).astype(np.uint8)
    return Image.frombytes("RGBX", canvas.size, pixels.tobytes())


@lru_cache(maxsize=512)
def _sound(path: str) -> np.ndarray:
    """(N,) float32 at 16 kHz, mono."""
    with av.open(path) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SOUND_RATE)
        decoded = [frame for packet in container.decode(audio=0) for frame in resampler.resample(packet)]
        decoded += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in decoded])


def _background(colour: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """(128, 128, 3) uint16: the colour, a little lighter or darker, with a soft gradient and a faint wave."""
    angle, turn, phase = rng.uniform(0, 2 * math.pi, 3)
    line = np.linspace(-1, 1, SIDE)
    slope = line[None] * math.cos(angle) + line[:, None] * math.sin(angle)
    wave = np.cos(rng.uniform(6, 14) * (line[None] * math.cos(turn) + line[:, None] * math.sin(turn)) + phase)
    light = rng.uniform(-12, 12) + 12 * slope + 5 * wave
    return (np.array(colour) + light[..., None]).clip(0, 255).astype(np.uint16)


def _path(motion: str, shape: tuple[int, int], rng: np.random.Generator, count: int) -> list[tuple[float, float, float, float]]:
    """Per frame: centre x and y and longer side, as shares of the frame, and the angle in radians. ``shape``: the stamp's (w, h).

    The stamp stays in view: what moves sideways or up and down travels no further than there is room. Slim stamps are made longer.
    """
    slim = min(1.2, (max(shape) / min(shape)) ** 0.2)
    zooming, turning = motion in ("growing", "shrinking"), motion == "turning"
    size = slim * (rng.uniform(0.58, 0.66) if zooming else rng.uniform(0.54, 0.66))
    x, y = rng.uniform(0.46, 0.54, 2)
    tilt, growth = rng.uniform(-0.17, 0.17), rng.uniform(1.6, 1.9)
    across, down = (size * side / max(shape) for side in shape)
    wish = rng.uniform(0.34, 0.44)
    dx = {"left": -1, "right": 1}.get(motion, 0) * min(wish, 1.02 - across)
    dy = {"up": -1, "down": 1}.get(motion, 0) * min(wish, 1.02 - down)
    x, y = (0.5 if dx else x), (0.5 if dy else y)
    spin = turning * rng.choice((-1, 1)) * rng.uniform(2.1, 4.2)
    power = {"growing": 1, "shrinking": -1}.get(motion, 0)
    return [(x + dx * t, y + dy * t, size * growth ** (power * t), tilt + spin * t) for t in np.linspace(-0.5, 0.5, count)]


def _inverse(x: float, y: float, size: float, angle: float, shape: tuple[int, int]) -> tuple[float, ...]:
    """The affine map from frame pixels to stamp pixels, as PIL wants it."""
    zoom = _STAMP_SIDE / (size * SIDE)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    centre_x, centre_y = x * SIDE, y * SIDE
    return cos, sin, shape[0] / 2 - cos * centre_x - sin * centre_y, -sin, cos, shape[1] / 2 + sin * centre_x - cos * centre_y

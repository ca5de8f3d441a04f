"""Small videos of plain colours, whose frames can be told apart by eye and by number."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np


def write(path, colours, *, rate=25, times=None, sound=True, size=(96, 64), codec="libx264", options=None):
    """One frame for each colour, with a texture of its own: encoders keep it, and the same picture in another colour would not be another
    shot. ``times`` in milliseconds in place of ``rate``. A tone: 200 Hz plus 100 times the second that is heard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "12", "g": "20"})
        (stream.width, stream.height), stream.pix_fmt, stream.codec_context.thread_count = size, "yuv420p", 1
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, colour in enumerate(colours):
            texture = np.random.default_rng(colour).integers(-20, 21, (size[1] // 8, size[0] // 8, 1)).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(np.clip(np.asarray(colour) + texture, 0, 255).astype(np.uint8), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            seconds = times[-1] / 1000 if times is not None else len(colours) / rate
            t = np.arange(int(seconds * 16000)) / 16000
            samples = 0.5 * np.sin(2 * np.pi * np.cumsum(200 + 100 * np.floor(t)) / 16000).astype(np.float32)
            for start in range(0, len(samples), 1024):
                piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None, start : start + 1024]), format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 16000, start, Fraction(1, 16000)
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


def hertz(samples, rate=16000):
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(np.asarray(samples) * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


RED, GREEN, BLUE, GREY = (190, 40, 40), (40, 170, 60), (40, 50, 190), (120, 120, 120)

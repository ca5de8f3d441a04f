"""Reading media: the plain way (every frame decoded and converted, float64 transforms at full size) beside data/media/reader.py.

    python benchmarks/media.py [--video a.mp4 …] [--threads 1] [--repeats 7] [--clock wall|cpu] [--json out.json]

Both give 8 frames of each video as a normalised (8, 3, 224, 224) float32 tensor, and its sound as Kaldi's log-mel frames. Without
``--video`` a clip of 10 s, 360×640, H.264 at 30 frames a second with AAC sound, is made for the occasion.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.data.audio import FRONTENDS, SAMPLE_RATE  # noqa: E402
from omnivast.data.media.decode import read_clip, read_sound  # noqa: E402
from omnivast.data.vision import frame_indices, frame_transform  # noqa: E402

log = logging.getLogger("omnivast")

FRAMES, RESOLUTION, MEL_BINS = 8, 224, 64
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MEL_TOLERANCE = 1e-2
"""Of log-mel values, whose standard deviation is 0.5: near silence float32 keeps few digits of an energy."""
MEAN_LEVELS = 0.5
"""Mean difference of pixels, in levels of 1/255, that the rounding to 8 bits explains."""


# ---------------------------------------------------------------------------------------------------------- the plain way


def plain_frames(path: Path, threads: int) -> np.ndarray:
    """(8, H, W, 3) uint8: every frame decoded and converted, then the choice."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return np.stack([frames[index] for index in frame_indices(len(frames), FRAMES, training=False)])


def plain_pixels(frames: np.ndarray) -> Tensor:
    """(8, 3, 224, 224) float32: divided, resized and normalised in float64."""
    pixels = torch.from_numpy(frames / 255.0).permute(0, 3, 1, 2)
    pixels = tv.resize(pixels, [RESOLUTION, RESOLUTION], interpolation=InterpolationMode.BICUBIC, antialias=True)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return ((pixels - mean) / std).float()


def plain_mel(path: Path) -> Tensor:
    """(frames, 64): the sound decoded as 16 bits at 16 kHz, then Kaldi's filterbank with everything made anew, as torchaudio does."""
    parts = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        for frame in container.decode(container.streams.audio[0]):
            parts += resampler.resample(frame)
        parts += resampler.resample(None)
    waveform = torch.from_numpy(np.concatenate([part.to_ndarray()[0] for part in parts])).float()
    windows = waveform.unfold(0, 400, 160)
    windows = windows - windows.mean(1, keepdim=True)
    before = torch.nn.functional.pad(windows[None], (1, 0), mode="replicate")[0, :, :-1]
    windows = (windows - 0.97 * before) * torch.hann_window(400, periodic=False).pow(0.85)
    power = torch.fft.rfft(torch.nn.functional.pad(windows, (0, 112))).abs().pow(2)
    low, high = (1127.0 * math.log(1 + hertz / 700) for hertz in (20.0, 8000.0))
    step = (high - low) / (MEL_BINS + 1)
    left = low + step * torch.arange(MEL_BINS)[:, None]
    points = 1127.0 * torch.log(1 + torch.arange(256) * (SAMPLE_RATE / 512) / 700)
    filters = torch.minimum((points - left) / step, (left + 2 * step - points) / step).clamp(min=0)
    filters = torch.nn.functional.pad(filters, (0, 1))
    mel = (power @ filters.T).clamp(min=torch.finfo(torch.float32).eps).log()
    return (mel - 15.41663) / (2 * 6.55582)


# ------------------------------------------------------------------------------------------------------------------- ours


def our_pixels(path: Path) -> Tensor:
    """The same tensor through data/media/reader.py. Frames travel as uint8 and are normalised at the end, as in training on the device."""
    clip = read_clip(path, _choose, transform=frame_transform("none", RESOLUTION, training=False))
    mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (PIXEL_MEAN, PIXEL_STD))
    assert clip.frames is not None
    return (clip.frames.float() - mean) / std


def our_mel(path: Path) -> Tensor:
    """The same log-mel frames through data/audio.py."""
    waveform = read_sound(path)
    assert waveform is not None
    return FRONTENDS["beats"].log_mel(waveform, MEL_BINS)


def _choose(count: int) -> list[int]:
    return frame_indices(count, FRAMES, training=False)


# -------------------------------------------------------------------------------------------------------------- measuring


Clock = Callable[[], float]


def measure(threads: int = 1, repeats: int = 7, videos: Sequence[Path] = (), clock: Clock = time.perf_counter) -> dict[str, dict[str, Any]]:
    """{"media": …, "mel": …} (the latter where there is sound), each with "plain_s" and "ours_s", median seconds for all ``videos``
    (default: the made one) in alternation, their "ratio", and whether the results are "equal".

    media: the same frames, bit by bit before they are resized, and afterwards no larger mean difference than 8 bits explain; also the
    frames there are, those that ours decodes, and the mean and largest difference in levels. mel: no value differs by more than
    ``MEL_TOLERANCE``. ``threads``: of torch and of the plain way's decoder; ours decodes on one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(video) for video in videos] or [make_video(Path(folder) / "made.mp4")]
            times = _times(lambda: [plain_pixels(plain_frames(path, threads)) for path in paths],
                           lambda: [our_pixels(path) for path in paths], repeats, clock)
            result = {"media": times | _compare_frames(paths, threads)}
            heard = [path for path in paths if read_sound(path) is not None]
            if heard:
                difference = max((plain_mel(path) - our_mel(path)).abs().max().item() for path in heard)
                times = _times(lambda: [plain_mel(path) for path in heard], lambda: [our_mel(path) for path in heard], repeats, clock)
                result["mel"] = times | {"equal": difference <= MEL_TOLERANCE, "difference": difference}
    finally:
        torch.set_num_threads(before)
    return result


def _compare_frames(paths: list[Path], threads: int) -> dict[str, Any]:
    same, decoded, total, mean, largest = True, 0, 0, 0.0, 0.0
    for path in paths:
        frames = plain_frames(path, threads)
        clip = read_clip(path, _choose)
        assert clip.frames is not None
        same &= torch.equal(clip.frames, torch.from_numpy(frames).permute(0, 3, 1, 2))
        decoded, total = decoded + clip.decoded, total + clip.frame_count
        levels = (our_pixels(path) - plain_pixels(frames)).abs() * torch.tensor(PIXEL_STD)[:, None, None] * 255
        mean, largest = max(mean, levels.mean().item()), max(largest, levels.max().item())
    return {"equal": same and mean <= MEAN_LEVELS, "frames": total, "decoded": decoded, "mean_levels": mean, "max_levels": largest}


def _times(plain: Callable[[], Any], ours: Callable[[], Any], repeats: int, clock: Clock) -> dict[str, float]:
    """Median seconds of both, run in turn, the first round not counted, and their ratio."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for run, own in zip((plain, ours), times):
            start = clock()
            run()
            own.append(clock() - start)
    first, second = (statistics.median(own[1:]) for own in times)
    return {"plain_s": first, "ours_s": second, "ratio": first / second}


def make_video(path: Path, seconds: float = 10.0, width: int = 360, height: int = 640, rate: int = 30, codec: str = "libx264",
               options: dict[str, str] | None = None) -> Path:
    """A texture that drifts and a disc that circles over it, with a tone: H.264 with x264's usual B-frames, and AAC (in webm Opus)."""
    sound_codec, sound_rate, part = ("libopus", 48_000, 960) if path.suffix == ".webm" else ("aac", 44_100, 1024)
    noise = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    texture = (torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=rate, options=options or {})
        video.width, video.height, video.pix_fmt, video.codec_context.thread_count = width, height, "yuv420p", 1
        audio: Any = container.add_stream(sound_codec, rate=sound_rate)
        for index in range(round(seconds * rate)):
            image = np.roll(texture, (index, 2 * index), (0, 1))
            centre = height / 2 + height / 4 * math.sin(index / 9), width / 2 + width / 4 * math.cos(index / 9)
            image[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (width / 8) ** 2] = (250, 40, 40)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        tone = np.sin(2 * math.pi * 440 * np.arange(round(seconds * sound_rate)) / sound_rate).astype(np.float32) * 0.3
        for start in range(0, len(tone), part):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + part], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = sound_rate, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, nargs="*", default=())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, where other work shares the core")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    result = measure(flags.threads, flags.repeats, flags.video, CLOCKS[flags.clock])
    for name, row in result.items():
        log.info("%-6s plain %6.1f ms  ours %6.1f ms  ratio %.2f  equal %s", name, 1e3 * row["plain_s"], 1e3 * row["ours_s"], row["ratio"],
                 row["equal"])
    media = result["media"]
    log.info("%d of %d frames decoded; pixels differ by %.2f levels of 255 on average, %.1f at most", media["decoded"], media["frames"],
             media["mean_levels"], media["max_levels"])
    if flags.json:
        flags.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()

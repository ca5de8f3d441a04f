"""Reading videos of every codec: data/media/reader.py beside decord and torchcodec, processor time of one thread.

    python benchmarks/peers.py [--video a.mp4 …] [--folder videos] [--seconds 10 600] [--repeats 5] [--json out.json]

Eight frames of each video as (8, 3, 224, 224) uint8, and a reader's whole work on an H.264 clip (frames, two slices of log-mel, a batch
of them) beside the same loop over torchcodec and torchaudio. A peer that is not installed, or cannot read a codec, is left out. That ours
are the frames of decoding everything is proved bit by bit; the peers' may differ as much as their FFmpeg's colour conversion does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.media import FRAMES, MEL_BINS, RESOLUTION, make_video  # noqa: E402
from omnivast.data.audio import FRONTENDS, slice_plan, take_slices  # noqa: E402
from omnivast.data.media.decode import read_clip  # noqa: E402
from omnivast.data.media.decoders import Decord, TorchCodec  # noqa: E402
from omnivast.data.media.pixels import ToPixels  # noqa: E402
from omnivast.data.vision import frame_indices, frame_transform  # noqa: E402

log = logging.getLogger("omnivast")

SLICE, SLICES, BATCH = 512, 2, 4
X265 = "log-level=none:keyint=250:open-gop="
VIDEOS: dict[str, tuple[str, str, dict[str, str]]] = {
    "H.264": ("libx264", "mp4", {"preset": "veryfast"}),
    "H.264 open": ("libx264", "mp4", {"preset": "veryfast", "x264-params": "open-gop=1:bframes=3"}),
    "HEVC": ("libx265", "mp4", {"preset": "superfast", "x265-params": f"{X265}0"}),
    "HEVC open": ("libx265", "mp4", {"preset": "superfast", "x265-params": f"{X265}1"}),
    "VP9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "AV1": ("libsvtav1", "mp4", {"preset": "12"}),
    "MPEG-4": ("mpeg4", "mp4", {"bf": "2"}),
}
"""Name → encoder, container, options."""
Way = Callable[[str], Tensor]


def ours(path: str) -> Tensor:
    """(8, 3, 224, 224) uint8"""
    frames = read_clip(path, _choose, transform=frame_transform("none", RESOLUTION, training=False)).frames
    assert frames is not None
    return frames


def decord(path: str) -> Tensor:
    """The same through decord."""
    return _resized(Decord().frames(path, _choose)[0])


def decord_scaled(path: str) -> Tensor:
    """Scaled by decord itself, bilinear."""
    import decord

    reader = decord.VideoReader(path, num_threads=1, width=RESOLUTION, height=RESOLUTION)
    return torch.from_numpy(reader.get_batch(_choose(len(reader))).asnumpy()).permute(0, 3, 1, 2)


def torchcodec(path: str) -> Tensor:
    """The same through torchcodec, which counts the frames first, as ours does."""
    return _resized(TorchCodec().frames(path, _choose)[0])


def torchcodec_approximate(path: str) -> Tensor:
    """torchcodec believing the container's number of frames and a constant rate: wrong frames where either is not so."""
    from torchcodec.decoders import VideoDecoder

    reader = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
    return _resized(list(reader.get_frames_at(indices=_choose(len(reader))).data))


def our_batch(path: str) -> Tensor:
    """Frames and two slices of log-mel of ``BATCH`` clips; the frames, stacked."""
    frames, slices = [], []
    for _ in range(BATCH):
        clip = read_clip(path, _choose, transform=frame_transform("none", RESOLUTION, training=False), sound=True)
        assert clip.frames is not None and clip.waveform is not None
        mel = FRONTENDS["beats"].log_mel(clip.waveform, MEL_BINS)
        frames.append(clip.frames)
        slices.append(_slices(mel))
    torch.stack(slices)
    return torch.stack(frames)


def torchcodec_batch(path: str) -> Tensor:
    """The same through torchcodec and torchaudio's Kaldi filterbank."""
    import torchaudio
    from torchcodec.decoders import AudioDecoder

    frames, slices = [], []
    for _ in range(BATCH):
        frames.append(torchcodec(path))
        waveform = AudioDecoder(path, sample_rate=16_000, num_channels=1).get_all_samples().data
        mel = torchaudio.compliance.kaldi.fbank(waveform * 2**15, num_mel_bins=MEL_BINS, sample_frequency=16_000, frame_length=25,
                                                frame_shift=10)
        slices.append(_slices((mel - 15.41663) / (2 * 6.55582)))
    torch.stack(slices)
    return torch.stack(frames)


def _slices(mel: Tensor) -> Tensor:
    indices = slice_plan(len(mel), SLICE, SLICES, training=False)
    return take_slices(mel, len(mel), MEL_BINS, indices, SLICE, FRONTENDS["beats"])


def _choose(count: int) -> list[int]:
    return frame_indices(count, FRAMES, training=False)


def _resized(frames: list[Tensor]) -> Tensor:
    resize = frame_transform("none", RESOLUTION, training=False)
    return torch.stack([resize(frame) for frame in frames])


def every_frame(path: str) -> Tensor:
    """The chosen frames after decoding all of them."""
    to_pixels, total = ToPixels(frame_transform("none", RESOLUTION, training=False)), 0
    with av.open(path) as container:
        total = sum(1 for _ in _frames(container))
    wanted, kept = _choose(total), {}
    with av.open(path) as container:
        for index, frame in enumerate(_frames(container)):
            if index in wanted:
                kept[index] = to_pixels(frame, (frame.width, frame.height))
    return torch.stack([kept[index] for index in wanted])


def _frames(container: Any) -> Any:
    container.streams.video[0].codec_context.thread_count = 1
    return container.decode(video=0)


def compare(path: str, ways: dict[str, Way], repeats: int) -> dict[str, Any]:
    """Median processor seconds of each way in alternation, the first round not counted; how far the peers' pixels are from ours on average,
    in levels of 255; "ratio": of the fastest peer's time to ours."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Tensor] = {}
    for turn in range(repeats + 1):
        for name in list(times):
            start = time.process_time()
            try:
                found[name] = ways[name](path)
            except Exception as error:  # each library raises its own
                log.info("%s cannot read %s: %s", name, Path(path).name, str(error).splitlines()[0][:80])
                del times[name]
                continue
            if turn:
                times[name].append(time.process_time() - start)
    seconds = {name: statistics.median(own) for name, own in times.items()}
    others = [value for name, value in seconds.items() if name != "ours"]
    levels = {name: (found[name].float() - found["ours"].float()).abs().mean().item() for name in times if name != "ours"}
    return {"seconds": seconds, "levels": levels, "ratio": min(others) / seconds["ours"] if others else None}


def made_videos(folder: Path, lengths: list[float], width: int = 640, height: int = 360) -> list[Path]:
    """Every codec at every length. Videos that the folder has are taken as they are."""
    paths = []
    for seconds in lengths:
        for name, (codec, ending, options) in VIDEOS.items():
            paths.append(folder / f"{name.replace(' ', '_')}_{width}x{height}_{seconds:g}s.{ending}")
            if not paths[-1].exists():
                make_video(paths[-1], seconds, width, height, codec=codec, options=options)
    return paths


def measure(paths: list[Path], repeats: int) -> dict[str, Any]:
    """Every video, then the reader on the first."""
    peers = {"decord": (decord, decord_scaled), "torchcodec": (torchcodec, torchcodec_approximate)}
    ways: dict[str, Way] = {"ours": ours}
    for package, own in peers.items():
        if importlib.util.find_spec(package):
            ways |= {way.__name__: way for way in own}
    result: dict[str, Any] = {}
    for path in paths:
        clip = read_clip(path, _choose)
        row = compare(str(path), ways, repeats)
        row |= {"equal": torch.equal(ours(str(path)), every_frame(str(path))), "frames": clip.frame_count, "decoded": clip.decoded}
        result[path.stem] = row
        _say(path.stem, row)
    if importlib.util.find_spec("torchaudio") and "torchcodec" in ways and read_clip(paths[0], _choose, sound=True).waveform is not None:
        row = compare(str(paths[0]), {"ours": our_batch, "torchcodec": torchcodec_batch}, repeats)
        result["reader"] = row | {"clips_per_s": {name: BATCH / seconds for name, seconds in row["seconds"].items()}}
        _say("reader", row)
    return result


def _say(name: str, row: dict[str, Any]) -> None:
    times = "  ".join(f"{way} {1e3 * seconds:.1f} ms" for way, seconds in row["seconds"].items())
    ratio = f"{row['ratio']:.2f}" if row["ratio"] else "no peer"
    log.info("%-22s %s  ratio %s  equal %s  %s of %s decoded", name, times, ratio, row.get("equal"), row.get("decoded"), row.get("frames"))


def main() -> None:
    """Print a line for each video, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, nargs="+", help="files to read in place of made ones")
    parser.add_argument("--folder", type=Path, help="where made videos are kept for the next time")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 600.0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 360), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = flags.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(flags.video or made_videos(folder, flags.seconds, *flags.size), flags.repeats)
    if flags.json:
        flags.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()

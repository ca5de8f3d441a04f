"""Clips as files of their own, without moving an edge.

- ``encode``: the clip's frames, decoded and encoded again (H.264, AAC): it begins and ends at exactly the clip's frames;
- ``keyframes``: packets as they are, from the last key frame at or before the clip's first frame on: nothing is lost, and what lies before
  the clip is left out by the time at which the file says that it begins; readers that overlook that show some frames more.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from omnivast.corpus.engine.results import Row
from omnivast.data.media.decode import opened_video
from omnivast.data.media.errors import MediaError
from omnivast.utils.files import sha256_file

H264 = {"preset": "superfast", "crf": "18", "x264-params": "weightp=0"}
"""Slower presets, which weigh frames and look ahead, have given other bytes for the same frames once in a hundred times."""
WAYS = ("references", "encode", "keyframes")


def cut_item(item: Row, settings: dict[str, Any]) -> Row:
    """The stage ``cut``: writes ``<output>/<id>.mp4``, which appears whole or not at all."""
    target = Path(settings["output"], f"{item['id']}.mp4")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp.mp4")
    try:
        (_encoded if settings["how"] == "encode" else _copied)(Path(settings["root"], item["source"]), item, temporary)
        os.replace(temporary, target)
    except MediaError as error:
        return {"id": item["id"], "failed": error.reason}
    finally:
        temporary.unlink(missing_ok=True)
    return {"id": item["id"], "file": f"{item['id']}.mp4", "bytes": target.stat().st_size, "sha256": sha256_file(target)}


def _encoded(path: Path, item: Row, target: Path) -> None:
    first, end = item["pts"]
    with opened_video(path) as (source, video), av.open(str(target), "w", options={"fflags": "+bitexact"}) as container:
        video.codec_context.thread_count = 1
        base: Fraction = video.time_base
        # Even sides: H.264's colours are sampled at every second pixel.
        out: Any = container.add_stream("libx264", rate=video.average_rate or 25, options=H264)
        out.width, out.height = video.codec_context.width // 2 * 2, video.codec_context.height // 2 * 2
        out.pix_fmt, out.time_base, out.thread_count = "yuv420p", base, 1
        out.codec_context.time_base = base
        heard: Any = source.streams.best("audio")
        sound: Any = container.add_stream("aac", rate=heard.rate, layout="mono" if heard.channels == 1 else "stereo") if heard else None
        source.seek(first, stream=video)
        for frame in source.decode(video):
            if frame.pts is None or frame.pts < first:
                continue
            if frame.pts >= end:
                break
            small = frame.reformat(out.width, out.height, "yuv420p")
            small.pts, small.time_base = frame.pts - first, base
            container.mux(out.encode(small))
        container.mux(out.encode())
        if sound is not None:
            _sound(source, heard, container, sound, float(first * base), float(end * base))


def _sound(source: Any, heard: Any, container: Any, sound: Any, start: float, end: float) -> None:
    """From the sample at ``start`` to the one at ``end``."""
    resampler = av.AudioResampler(format="fltp", layout=sound.layout.name, rate=heard.rate)
    source.seek(max(0, int((start - 0.5) * av.time_base)))
    written, wanted = 0, round((end - start) * heard.rate)
    for frame in source.decode(heard):
        if frame.time is None or frame.time >= end:
            break
        skip = max(0, round((start - frame.time) * frame.sample_rate))
        if skip >= frame.samples:
            continue
        for part in resampler.resample(frame):
            samples = part.to_ndarray()[:, skip:][:, : wanted - written]
            skip = 0
            if samples.shape[1]:
                piece = av.AudioFrame.from_ndarray(samples.copy(), format="fltp", layout=sound.layout.name)
                piece.sample_rate, piece.pts, piece.time_base = heard.rate, written, Fraction(1, heard.rate)
                written += samples.shape[1]
                container.mux(sound.encode(piece))
    container.mux(sound.encode())


def _copied(path: Path, item: Row, target: Path) -> None:
    first, end = item["pts"]
    with opened_video(path) as (source, video), av.open(str(target), "w", options={"fflags": "+bitexact"}) as container:
        base: Fraction = video.time_base
        heard = source.streams.best("audio")
        streams = {stream.index: container.add_stream_from_template(stream) for stream in (video, heard) if stream is not None}
        source.seek(first, stream=video)
        for packet in source.demux([stream for stream in (video, heard) if stream is not None]):
            if packet.dts is None or packet.pts is None:
                continue
            time = packet.pts * packet.time_base
            if packet.stream is video and packet.pts >= end and packet.dts >= end:
                break
            if time >= end * base or (packet.stream is not video and time < first * base):
                continue
            shift = int(first * base / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            container.mux(packet)

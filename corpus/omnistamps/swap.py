"""Clips with the pictures of one and the sound of another: both streams are copied, none is encoded again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import av


def swap(clips: Iterable[tuple[str, str, str]], source: Path, folder: Path) -> None:
    """Write ``<folder>/<name>.mp4`` for each (name, id of the clip that is seen, id of the one that is heard) that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seen, heard in clips:
        path = folder / f"{name}.mp4"
        if not path.is_file():
            temporary = folder / f".{name}.{os.getpid()}.mp4"
            _join(source / f"{seen}.mp4", source / f"{heard}.mp4", temporary)
            os.replace(temporary, path)


def _join(seen: Path, heard: Path, path: Path) -> None:
    with av.open(str(seen)) as pictures, av.open(str(heard)) as sound, av.open(str(path), "w", options={"fflags": "+bitexact"}) as joined:
        streams = (pictures.streams.video[0], sound.streams.audio[0])
        copies = [joined.add_stream_from_template(stream) for stream in streams]
        for container, stream, copy in zip((pictures, sound), streams, copies):
            for packet in container.demux(stream):
                if packet.dts is not None:  # the last one is empty
                    packet.stream = copy
                    joined.mux(packet)

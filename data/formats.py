"""The table of all that is read, in docs/data.md: ``python -m omnivast formats`` prints it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from omnivast.data.annotations.rows import CAPTION_KEYS, ID_KEYS
from omnivast.data.media.containers import IMAGES, SOUNDS, VIDEOS, Format

VIDEO_CODECS = {"H.264": "h264", "HEVC": "hevc", "VP8": "vp8", "VP9": "vp9", "AV1": "av1", "MPEG-1": "mpeg1video", "MPEG-2": "mpeg2video",
                "MPEG-4": "mpeg4", "H.263": "h263", "WMV": "wmv2", "VC-1": "vc1", "FLV": "flv1", "Theora": "theora", "Motion JPEG": "mjpeg"}
SOUND_CODECS = {"AAC": "aac", "MP3": "mp3", "MP2": "mp2", "Opus": "opus", "Vorbis": "vorbis", "FLAC": "flac", "PCM": "pcm_s16le",
                "ALAC": "alac", "AC-3": "ac3", "AMR": "amrnb", "WMA": "wmav2"}


def table() -> str:
    """The table of all that is read, in Markdown."""
    rows = [("videos", _named_endings(VIDEOS)), ("pictures", _named_endings(IMAGES)), ("sounds", _named_endings(SOUNDS)),
            ("folders of frames", "pictures in natural order of their names; hidden files are none"),
            ("video codecs", ", ".join(VIDEO_CODECS) + ", and what else the installed FFmpeg decodes"),
            ("sound codecs", ", ".join(SOUND_CODECS) + ", likewise"),
            ("annotations", "a JSON list of objects: an id (" + _ticked(ID_KEYS) + "), and captions (" + _ticked(CAPTION_KEYS)
             + "), or `question` and `answer`; `subtitle`; `negatives`, `title`, `description`")]
    return "\n".join(["| what | read |", "|---|---|", *(f"| {what} | {read} |" for what, read in rows)])


def _ticked(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _named_endings(formats: tuple[Format, ...]) -> str:
    return "; ".join(f"{entry.name} ({' '.join(entry.endings)})" for entry in formats)


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    argparse.ArgumentParser(prog="python -m omnivast formats", description=__doc__).parse_args(arguments)
    sys.stdout.write(table() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

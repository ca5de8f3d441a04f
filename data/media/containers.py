"""Which media files are read: the endings under which a clip is looked for, and the containers that are opened whatever they are called.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A container: how people call it, the endings of its files, and FFmpeg's names for it ("" where Pillow reads it)."""

    name: str
    endings: tuple[str, ...]
    demuxers: str = ""


VIDEOS = (
    Format("MP4, QuickTime, 3GP", (".mp4", ".mov", ".m4v", ".3gp", ".3g2", ".f4v"), "mov"),
    Format("WebM, Matroska", (".webm", ".mkv"), "matroska,webm"),
    Format("AVI", (".avi", ".divx"), "avi"),
    Format("GIF", (".gif",), "gif"),
    Format("MPEG programme and elementary streams", (".mpg", ".mpeg", ".mpe", ".m2v", ".vob"), "mpeg,mpegvideo"),
    Format("MPEG transport streams", (".ts", ".mts", ".m2ts"), "mpegts"),
    Format("Windows Media", (".wmv", ".asf"), "asf"),
    Format("Flash", (".flv",), "flv"),
    Format("Ogg", (".ogv",), "ogg"),
)
IMAGES = (
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif")),
    Format("PNG, animated too", (".png", ".apng")),
    Format("WebP, animated too", (".webp",)),
    Format("BMP", (".bmp",)),
    Format("TIFF", (".tif", ".tiff")),
    Format("AVIF, animated too", (".avif",)),
)
SOUNDS = (
    Format("WAV, Wave64", (".wav", ".w64"), "wav,w64"),
    Format("MP3, MP2", (".mp3", ".mp2"), "mp3"),
    Format("FLAC", (".flac",), "flac"),
    Format("Ogg (Vorbis, Opus)", (".ogg", ".opus", ".oga"), "ogg"),
    Format("MPEG-4 audio", (".m4a", ".m4b"), "mov"),
    Format("AAC", (".aac",), "aac"),
    Format("AIFF, AU, CAF, AMR, WavPack", (".aiff", ".aif", ".au", ".caf", ".amr", ".wv"), "aiff,au,caf,amr,wv"),
    Format("Matroska, WebM, Windows Media audio", (".mka", ".weba", ".wma"), "matroska,asf"),
)


def _endings(formats: tuple[Format, ...]) -> tuple[str, ...]:
    return tuple(ending for entry in formats for ending in entry.endings)


VIDEO_EXTENSIONS, IMAGE_EXTENSIONS, SOUND_EXTENSIONS = _endings(VIDEOS), _endings(IMAGES), _endings(SOUNDS)
EXTENSIONS = VIDEO_EXTENSIONS + IMAGE_EXTENSIONS + SOUND_EXTENSIONS
"""Endings under which a clip is looked for; an id may end in one of them where its file ends in another."""
OTHER_ENDINGS = (".npy", ".npz", ".pt", ".h5", ".pkl", ".json", ".txt", ".zip", ".tar", ".part", ".rm", ".rmvb")
"""Endings of files that are not read. They do not count in comparing names: the nearest file of an id may well be one."""
FORMATS = ",".join(dict.fromkeys(name for entry in VIDEOS + SOUNDS for name in entry.demuxers.split(",")))
"""What FFmpeg may open: containers alone, no playlists, no scripts."""

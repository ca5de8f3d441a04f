"""Where a clip's file lies in a folder, and where there is none, what the folder holds that is nearest."""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_left
from pathlib import Path, PurePosixPath

from omnivast.data.media.containers import EXTENSIONS, IMAGE_EXTENSIONS, OTHER_ENDINGS, VIDEO_EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.data.media.excerpts import excerpt_of
from omnivast.data.media.regions import region_of


class MediaFolder:
    """Looks up ``<folder>/<id>`` with or without a known extension, at the cost of one ``stat`` per clip in the usual case."""

    def __init__(self, folder: str | Path, extensions: tuple[str, ...] = EXTENSIONS, directories: bool | None = False) -> None:
        """``extensions``: those preferred, others come after. ``directories``: the entries are folders of frames; None: these or files."""
        self.folder = str(folder)
        self._directories = directories
        self._extensions = list(dict.fromkeys(extensions + EXTENSIONS))
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._names: dict[str, Names] = {}

    def find(self, clip_id: str) -> str:
        """The path of a clip's file or folder; of a part of a video, the video's. Raises MediaError when there is none or the id leaves the
        folder."""
        clip_id, _ = excerpt_of(clip_id)
        check_id(clip_id)
        path = os.path.join(self.folder, clip_id)
        if self._is_entry(path):
            return path
        if not self._directories:
            found = self._with_extension(path)
            if found is not None:
                return found
        file = "file, with or without an ending that is read (python -m omnivast formats)"
        kind = "folder of frames" if self._directories else f"{'folder of frames, and no ' * (self._directories is None)}{file}"
        raise MediaError(path, f"no such {kind}{self._nearest(clip_id)}")

    def _is_entry(self, path: str) -> bool:
        return (self._directories is not False and os.path.isdir(path)) or (not self._directories and os.path.isfile(path))

    def _with_extension(self, path: str) -> str | None:
        usual = path + self._extensions[0]
        if os.path.isfile(usual):
            return usual
        parent, name = os.path.split(path)
        stem, ending = os.path.splitext(name)
        entries = self._list(parent)
        named = entries.get(name, []) + (entries.get(stem, []) if ending.lower() in EXTENSIONS else [])
        candidates = [entry for entry in named if os.path.isfile(os.path.join(parent, entry))]
        if not candidates:
            return None
        best = min(candidates, key=lambda c: self._extensions.index(os.path.splitext(c)[1].lower()))
        ending = os.path.splitext(best)[1]
        if ending in self._extensions and len(candidates) == 1:
            self._extensions.remove(ending)
            self._extensions.insert(0, ending)
        return os.path.join(parent, best)

    def _list(self, folder: str) -> dict[str, list[str]]:
        """Stem → file names with a known extension; read once per folder."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            if os.path.isdir(folder):
                for name in sorted(os.listdir(folder)):
                    stem, ending = os.path.splitext(name)
                    if ending.lower() in EXTENSIONS:
                        listing.setdefault(stem, []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]

    def _nearest(self, clip_id: str) -> str:
        """What the folder holds in its place, as the end of a sentence. Each folder is read once, however many clips are missing."""
        *parents, name = clip_id.replace("\\", "/").rstrip("/").split("/")
        # An id may begin with folders that lead to this one: the first that is there counts, without those before it.
        inners = ["/".join(parents[start:]) for start in range(len(parents) + 1)]
        inner = next((inner for inner in inners if self._names_in(inner)), None)
        if inner is None:
            return f"; the folder {self.folder} is empty or missing"
        found = self._names_in(inner).nearest(name)
        if found is None:
            return "" if inner == inners[0] else f"; there is no folder {inners[0]!r} in it"
        path = os.path.join(self.folder, inner, found)
        other = "" if self._is_entry(path) else " (a folder of frames: vision_format video_frame)" if os.path.isdir(
            path) else " (a file: vision_format video_rawvideo)" if self._directories else ""
        special = " (not a regular file)" if not os.path.isdir(path) and not os.path.isfile(path) else ""
        return f"; nearest is {os.path.join(inner, found)!r}{special or other}"

    def _names_in(self, inner: str) -> Names:
        if inner not in self._names:
            self._names[inner] = Names(os.path.join(self.folder, inner))
        return self._names[inner]


class PictureFolder(MediaFolder):
    """A folder of pictures, of which ids may name a region."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, IMAGE_EXTENSIONS)

    def find(self, clip_id: str) -> str:
        return super().find(region_of(clip_id)[0])


def vision_folder(folder: str | Path, vision_format: str | None) -> MediaFolder:
    """The folder of a dataset's videos, pictures or frames."""
    if vision_format == "image_rawimage":
        return PictureFolder(folder)
    directories = {"video_frame": True, "video": None}.get(vision_format or "", False)
    return MediaFolder(folder, VIDEO_EXTENSIONS, directories)


class Names:
    """The names in a folder by what is left of them without ending, prefix ``v_``, spaces and ways of writing one letter."""

    def __init__(self, folder: str) -> None:
        names = [name for name in (sorted(os.listdir(folder)) if os.path.isdir(folder) else []) if not name.startswith(".")]
        self._by_key: dict[str, str] = {}
        for name in names:
            self._by_key.setdefault(plain_name(name), name)
        self._keys = sorted(self._by_key)

    def __len__(self) -> int:
        return len(self._keys)

    def nearest(self, name: str) -> str | None:
        """The name that differs least in writing, else a neighbour in the alphabet that begins alike; None where neither is there."""
        key = plain_name(name)
        if key in self._by_key:
            return self._by_key[key]
        place = bisect_left(self._keys, key)
        around = self._keys[max(place - 1, 0) : place + 1]
        best = max(around, key=lambda other: len(os.path.commonprefix([key, other])), default="")
        return self._by_key[best] if best and 2 * len(os.path.commonprefix([key, best])) >= len(key) else None


def plain_name(name: str) -> str:
    """What is left of a name when all is taken away in which an id and its file often differ."""
    name = unicodedata.normalize("NFC", name).casefold().strip()
    stem, ending = os.path.splitext(name)
    while stem and ending in EXTENSIONS + OTHER_ENDINGS:
        name, (stem, ending) = stem, os.path.splitext(stem)
    return name.strip().removeprefix("v_")


def check_id(clip_id: str) -> None:
    """Raises MediaError for an id that would leave the media folder: ``../x``, an absolute path, an empty one."""
    parts = PurePosixPath(clip_id.replace("\\", "/"))
    if not clip_id or "\0" in clip_id or parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise MediaError(clip_id, "this id does not name a file inside the media folder")

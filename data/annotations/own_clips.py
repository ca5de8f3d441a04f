"""One's own clips, however they are named: a folder, a pattern, a list of ids or paths. Videos, pictures and sounds are told apart by
what they hold, not by their names."""

from __future__ import annotations

import csv
import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av
from PIL import Image

from omnivast.config.files import parse_json
from omnivast.config.tasks import Modality
from omnivast.data.annotations.rows import ID_KEYS
from omnivast.data.annotations.sidecars import Sidecars, read_sidecar
from omnivast.data.media.containers import FORMATS, IMAGE_EXTENSIONS, SOUND_EXTENSIONS, VIDEO_EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import MediaFolder
from omnivast.data.spec import DataError
from omnivast.utils.log import Progress, progress

Kind = Literal["video", "image", "sound"]
PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""Formats that Pillow tells apart safely: it takes some videos for pictures too."""
LISTS = (".txt", ".csv", ".tsv", ".json")
NO_MEDIA = (*LISTS, ".srt", ".vtt", ".ass", ".jsonl", ".md", ".html", ".xml", ".yaml", ".yml", ".log", ".py", ".sh", ".npy", ".npz", ".pt",
            ".zip", ".tar", ".gz", ".pdf", ".part", ".db", ".ini", ".tmp")
"""Files of a folder that are not even opened."""
PATH_COLUMNS = (*ID_KEYS, "path", "file", "filename", "file_name", "video", "video_path", "audio", "name", "clip")
SUBTITLE_COLUMNS = ("subtitle", "subtitles", "transcript")

logger = logging.getLogger("omnivast")


@dataclass(frozen=True)
class OwnClip:
    """A file to be labelled."""

    clip_id: str
    """Its path below the root, with ``/``."""
    kind: Kind
    present: frozenset[Modality]
    """What there is to see, hear and read."""
    subtitle: str = ""


@dataclass
class Found:
    """The files that were named, in order, none twice."""

    root: Path
    """The folder that all of them are in."""
    subtitles: dict[str, str | None] = field(default_factory=dict)
    """Path below the root → its subtitle where a list gives one."""
    missing: dict[str, str] = field(default_factory=dict)
    """Entry of a list → why there is no file."""


def find_files(sources: Sequence[str], media: str | None = None) -> Found:
    """The files that the words of a command line name.

    Args:
        sources: folders (with all below them), patterns with ``*``, media files, or lists: .txt (one id or path a line), .csv and .tsv
            (a column of ids or paths, perhaps a subtitle), .json (a list of ids, or of objects with one).
        media: the folder that the entries of lists are looked up in; None: the working directory, then the list's own folder.

    Raises:
        DataError: nothing is there; the message says what was looked for and where.
    """
    files: dict[Path, str | None] = {}
    missing: dict[str, str] = {}
    roots: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            own = [file for file in _walk(path) if file.suffix.lower() not in NO_MEDIA]
            roots.append(path)
        elif path.is_file() and path.suffix.lower() in LISTS:
            named = _from_list(path, Path(media).expanduser() if media else None, missing)
            files.update((_absolute(file), subtitle) for file, subtitle in named.items())
            roots += [Path(media).expanduser()] if media else [file.parent for file in named]
            continue
        elif path.is_file():
            own = [path]
            roots.append(path.parent)
        else:
            own = _once(Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file())
            if not own:
                raise DataError(f"'{source}': no such file or folder, and as a pattern it fits none (looked for from {Path.cwd()})")
            roots.append(Path(os.path.commonpath([_absolute(file.parent) for file in own])))
        for file in own:
            files.setdefault(_absolute(file), None)
    if not files:
        example = next((f"; the first entry, '{name}': {why}" for name, why in missing.items()), "")
        raise DataError(f"{', '.join(sources)}: holds no video, picture or sound{example}")
    root = Path(os.path.commonpath([_absolute(folder) for folder in roots]))
    root = Path(os.path.commonpath([root, *(file.parent for file in files if root not in file.parents)]))
    return Found(root, {file.relative_to(root).as_posix(): subtitle for file, subtitle in files.items()}, missing)


def look_into(found: Found, names: Iterable[str], with_subtitles: bool) -> tuple[list[OwnClip], list[str]]:
    """Open these files (paths below the root) to see what they hold. Returns the clips, and the names of files that are no media.

    A file that cannot be opened is taken for what its ending says, so that reading it later tells what is wrong. ``with_subtitles``:
    also look up subtitles, in the list or else in a file beside the clip.
    """
    names, sidecars = list(names), Sidecars()
    clips, others = [], []
    bar: Progress[Any] = progress(len(names), "looking into the files", unit="files")
    with ThreadPoolExecutor(8) as threads, bar:
        for name, (kind, present) in zip(names, threads.map(lambda name: probe(found.root / name), names)):
            bar.update()
            if kind is None or not _is_unicode(name):
                others.append(name)
                continue
            subtitle = _subtitle(found, name, kind, sidecars) if with_subtitles else ""
            clips.append(OwnClip(name, kind, present | {Modality.SUBTITLE} if subtitle else present, subtitle))
    return clips, others


def probe(path: Path) -> tuple[Kind | None, frozenset[Modality]]:
    """What a file holds; None for no media."""
    try:
        with Image.open(path, formats=PICTURES) as image:
            if image.format != "GIF" or not getattr(image, "is_animated", False):
                return "image", frozenset([Modality.VISION])
    except Exception:  # whatever Pillow makes of a file that is no picture
        logger.debug("%s: no picture", path)
    try:
        with av.open(str(path), metadata_errors="ignore", options={"format_whitelist": FORMATS}) as container:
            seen = any(not stream.disposition & av.stream.Disposition.attached_pic for stream in container.streams.video)
            heard = [Modality.AUDIO] if container.streams.audio else []
            if seen:
                return "video", frozenset([Modality.VISION, *heard])
            if heard:
                return "sound", frozenset(heard)
    except Exception:  # and FFmpeg
        logger.debug("%s: neither video nor sound", path)
    ending = path.suffix.lower()
    if ending in IMAGE_EXTENSIONS:
        return "image", frozenset([Modality.VISION])
    if ending in SOUND_EXTENSIONS:
        return "sound", frozenset([Modality.AUDIO])
    return ("video", frozenset([Modality.VISION])) if ending in VIDEO_EXTENSIONS else (None, frozenset())


def _subtitle(found: Found, name: str, kind: Kind, sidecars: Sidecars) -> str:
    listed = found.subtitles.get(name)
    if listed is not None:
        return listed
    path = sidecars.find(found.root / name, transcripts=kind != "image")
    return read_sidecar(path) if path else ""


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder by name, without hidden ones (``._a.mp4``, ``.git/``); links to folders are followed, each folder once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(parent)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "@")))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _once(files: Iterable[Path]) -> list[Path]:
    """The files, each only once although a link to a folder may lead to it again."""
    return list({Path(os.path.realpath(file.parent), file.name): file for file in reversed(list(files))}.values())[::-1]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------------------ lists


def _from_list(path: Path, media: Path | None, missing: dict[str, str]) -> dict[Path, str | None]:
    """File → subtitle of each entry of a list; entries without a file go into ``missing``."""
    folders = [media] if media else [Path(), path.parent]
    lookups = [MediaFolder(folder) for folder in folders]
    found: dict[Path, str | None] = {}
    for entry, subtitle in _entries(path):
        file = _file_of(entry, lookups)
        if file is None:
            where = " and ".join(str(_absolute(folder)) for folder in dict.fromkeys(folders))
            missing[entry] = f"no such file, with or without an ending of a video, picture or sound; looked for in {where}"
        else:
            found.setdefault(file, subtitle)
    return found


def _file_of(entry: str, lookups: Sequence[MediaFolder]) -> Path | None:
    path = Path(entry).expanduser()
    if path.is_absolute():
        lookups, entry = [MediaFolder(path.parent)], path.name
    # Lists written on Windows have backslashes.
    for name in dict.fromkeys([entry, entry.replace("\\", "/")]):
        for lookup in lookups:
            # An entry may lead out of the folder (../clips/a.mp4): the list is the user's own.
            if (direct := Path(lookup.folder, name)).is_file():
                return direct
            with suppress(MediaError):
                return Path(lookup.find(name))
    return None


def _entries(path: Path) -> Iterator[tuple[str, str | None]]:
    """(id or path, subtitle or None) of each entry. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a list of clips: {error} (a list is UTF-8 text)") from None
    ending = path.suffix.lower()
    if ending == ".txt":
        yield from ((line.strip(), None) for line in text.splitlines() if line.strip())
    elif ending == ".json":
        yield from _json_entries(path, text)
    else:
        # Spreadsheets of many countries write semicolons.
        first = text.lstrip().split("\n", 1)[0]
        yield from _table_entries(path, text, "\t" if ending == ".tsv" else ";" if ";" in first and "," not in first else ",")


def _json_entries(path: Path, text: str) -> Iterator[tuple[str, str | None]]:
    items = parse_json(text, path, DataError, expected="a JSON list")
    if not isinstance(items, list):
        raise DataError(f"{path}: expected a JSON list of ids or paths, or of objects with one")
    for number, item in enumerate(items):
        row: dict[str, Any] = item if isinstance(item, dict) else {ID_KEYS[0]: item}
        key = next((key for key in PATH_COLUMNS if isinstance(row.get(key), (str, int))), None)
        if key is None:
            raise DataError(f"{path}: entry {number}: expected an id, a path, or an object with one of {', '.join(PATH_COLUMNS)}")
        subtitle = next((row[key] for key in SUBTITLE_COLUMNS if isinstance(row.get(key), str)), None)
        yield str(row[key]), subtitle


def _table_entries(path: Path, text: str, separator: str) -> Iterator[tuple[str, str | None]]:
    """A table with a header that names a column of ids or paths; without one, its only column."""
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if any(cell.strip() for cell in row)]
    if not rows:
        raise DataError(f"{path}: the list is empty")
    head = [cell.strip().lower() for cell in rows[0]]
    column = next((head.index(name) for name in PATH_COLUMNS if name in head), None)
    if column is None and len(head) > 1:
        raise DataError(f"{path}: its first line names no column of ids or paths; expected one of {', '.join(PATH_COLUMNS)}")
    said = next((head.index(name) for name in SUBTITLE_COLUMNS if name in head), None)
    for row in rows if column is None else rows[1:]:
        cells = [*row, *[""] * (len(head) - len(row))]
        if cells[column or 0].strip():
            yield cells[column or 0].strip(), None if said is None else cells[said].strip()

"""Tar shards: made of media folders and an annotation file, and looked over.

    python -m omnivast pack --txt annotations.json --vision videos/ --output shards/ [--audio sounds/] [--shard_size 1G]
    python -m omnivast verify shards/

``pack`` writes ``clips-000000.tar``, ``clips-000001.tar`` … and ``shards.json``, which lists them with their SHA-256. Stopped at any
moment and repeated, it goes on after the last whole shard; at the end every shard is read back. A clip is one sample: its files as they
are, and its annotation as ``key.json`` (or nothing, with --texts none: then give the annotation file as 'txt' beside the shards). A
training reads them with {"type": "srcindexed", "shards": ["shards/"]}. ``verify`` also takes the shards of other programs.
Exit status: 0 fine; 1 a shard is damaged or does not hold what it should; 2 bad input; 130 stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import re
import tarfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omnivast.config.paths import expanded, looked_up
from omnivast.data.annotations.json_stream import entries
from omnivast.data.annotations.rows import AnnotationError, RowReader
from omnivast.data.derived import locked
from omnivast.data.media.containers import IMAGE_EXTENSIONS, SOUND_EXTENSIONS, VIDEO_EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import MediaFolder
from omnivast.data.shards.shard_index import ShardError, ShardIndex, key_of, scan, tally, unread
from omnivast.data.shards.shard_set import MANIFEST, dotted_keys, expand, key_hash, read_manifest
from omnivast.data.spec import DataError
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.log import Progress, progress, setup_logging
from omnivast.utils.machine import cores

FORMAT = 1
MIB = 2**20
SHOWN = 5
UNITS = {"": 1, "K": 2**10, "M": MIB, "G": 2**30, "T": 2**40}

logger = logging.getLogger("omnivast")


@dataclass(frozen=True)
class Packing:
    """The options of packing."""

    txt: str
    output: str
    vision: str | None = None
    audio: str | None = None
    images: bool = False
    """The vision folder holds images."""
    texts: bool = True
    """Annotations go into the shards."""
    shard_size: int = 2**30
    """Bytes after which a shard is closed."""
    name: str = "clips"
    ignore_fields: tuple[str, ...] = ()
    """Annotation fields that are left out."""
    skip_missing: bool = False
    """Clips without their files are left out and counted; otherwise nothing is packed."""


@dataclass(frozen=True)
class Sample:
    """One clip to be packed."""

    row: int
    key: str
    files: dict[str, str]
    """Extension → path."""
    text: bytes | None


Survey = Callable[[dict[str, Any]], Iterator[Sample]]


def pack(packing: Packing) -> dict[str, Any]:
    """Write what is not written yet, and read all of it back; what ``shards.json`` then says. Raises DataError and OSError."""
    source = _Source(packing)
    return write_shards(Path(packing.output), packing.name, packing.shard_size, source.settings, source.survey)


def write_shards(output: Path, name: str, shard_size: int, settings: dict[str, Any], survey: Survey, *,
                 anew: bool = False) -> dict[str, Any]:
    """Write what is not written yet of the samples that ``survey`` gives, and read all of it back; what ``shards.json`` then says.

    ``settings``: what decides what is in the shards. ``survey``: (what is written) → the samples from the first row on that is in no
    shard yet; it also notes in what it is given how many samples there are in all (``samples``). ``anew``: shards of other settings are
    replaced, otherwise they are an error. Raises DataError and OSError.
    """
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / MANIFEST, "packed"):
        manifest = _begun(output, settings, anew)
        if not manifest["complete"]:
            samples = survey(manifest)
            write_atomically(output / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            whole = {shard["name"] for shard in manifest["shards"]}
            for leftover in [*output.glob(f".{name}-*.tar.*.tmp"), *output.glob(f".{MANIFEST}.*.tmp"),
                             *(path for path in output.glob(f"{name}-*.tar") if path.name not in whole)]:
                leftover.unlink()
            _write_shards(output, name, shard_size, samples, manifest)
        faults = verify([str(output / shard["name"]) for shard in manifest["shards"]])
    if faults:
        raise DataError(f"{output}: {len(faults)} of the shards do not hold what was packed: see above; remove them and repeat the same "
                        "command")
    logger.info("%s: %d samples in %d shards, read back", output, sum(shard["samples"] for shard in manifest["shards"]),
                len(manifest["shards"]))
    return manifest


class _Source:
    """The annotation file and the folders."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        if not packing.vision and not packing.audio:
            raise DataError("nothing to pack: give --vision, a folder of videos or images, or --audio, a folder of sound files, or both")
        for folder in filter(None, (packing.vision, packing.audio)):
            if not os.path.isdir(folder):
                raise DataError(f"the folder '{folder}' does not exist or is not a folder{looked_up(folder)}")
        seen = IMAGE_EXTENSIONS if packing.images else VIDEO_EXTENSIONS
        self._folders = [(MediaFolder(folder, endings), endings)
                         for folder, endings in ((packing.vision, seen), (packing.audio, SOUND_EXTENSIONS)) if folder]
        settings = {key: value for key, value in vars(packing).items() if key not in ("txt", "output")}
        settings |= {key: folder and os.path.abspath(folder) for key, folder in (("vision", packing.vision), ("audio", packing.audio))}
        settings["ignore_fields"] = sorted(packing.ignore_fields)
        try:
            self.settings = {"format": FORMAT, "annotation_sha256": sha256_file(packing.txt), **settings}
        except OSError as error:
            raise AnnotationError(f"{packing.txt}: cannot be read: {error.strerror or error}") from None

    def survey(self, manifest: dict[str, Any]) -> Iterator[Sample]:
        """Check every row and its files first, so that faults are reported before anything is written; then yield the samples, from the
        first row that is in no shard yet."""
        reader = RowReader(Path(self.packing.txt), frozenset(self.packing.ignore_fields), training=False, ids_suffice=False)
        rows, hashes, absent, silent = array("q"), array("Q"), list[str](), list[str]()
        for row, item in enumerate(progress(_items(self.packing.txt), "looking for the clips", unit="row")):
            clip_id = reader.read(row, item).clip_id
            files = self._files(clip_id)
            if files is None:
                absent.append(clip_id)
                continue
            rows.append(row)
            hashes.append(key_hash(key_of(clip_id)))
            if len(files) < len(self._folders):
                silent.append(clip_id)
        txt = self.packing.txt
        if absent and not self.packing.skip_missing:
            raise DataError(f"{txt}: {len(absent)} of {len(rows) + len(absent)} clips have no file, such as {', '.join(absent[:SHOWN])}; "
                            "--skip_missing leaves them out")
        if not rows:
            raise DataError(f"{txt}: no clip to pack")
        kept = np.frombuffer(rows, np.int64)[np.sort(np.unique(np.frombuffer(hashes, np.uint64), return_index=True)[1])]
        if len(kept) < len(rows) and self.packing.texts:
            raise DataError(f"{txt}: {len(rows) - len(kept)} of {len(rows)} rows repeat the id of another, and a key holds one row; pack "
                            "with --texts none and give the annotation file as 'txt' beside the shards")
        if absent or silent:
            first = [f" ('{clips[0]}' first)" if clips else "" for clips in (absent, silent)]
            logger.warning("%d clips have no file and are left out%s; %d have none in the audio folder: these will be silent%s",
                           len(absent), first[0], len(silent), first[1])
        manifest["left_out"], manifest["silent"], manifest["samples"] = len(absent), len(silent), len(kept)
        wanted = np.zeros(rows[-1] + 1, dtype=bool)
        wanted[kept] = True
        wanted[: manifest["shards"][-1]["rows"][1] if manifest["shards"] else 0] = False
        return self._samples(wanted)

    def _samples(self, wanted: np.ndarray) -> Iterator[Sample]:
        ignored = {*self.packing.ignore_fields}
        reader = RowReader(Path(self.packing.txt), frozenset(ignored), training=False, ids_suffice=False)
        for row, item in enumerate(_items(self.packing.txt)):
            if row < len(wanted) and wanted[row]:
                clip_id = reader.read(row, item).clip_id
                item = {name: value for name, value in item.items() if name not in ignored}
                text = json.dumps(item, ensure_ascii=False).encode() if self.packing.texts else None
                yield Sample(row, key_of(clip_id), self._files(clip_id) or {}, text)

    def _files(self, clip_id: str) -> dict[str, str] | None:
        """Extension → file of a clip; None where it has none, or lacks what the folders are for."""
        files: dict[str, str] = {}
        for folder, endings in self._folders:
            try:
                path = folder.find(clip_id)
            except MediaError:
                if files:
                    continue  # as in folders: a clip that is seen and has no file for its sound is silent
                return None
            ending = os.path.splitext(path)[1].lower()
            if ending not in endings:
                raise DataError(f"{path}: a shard tells what its members are by their extensions; expected one of {', '.join(endings)}")
            files[ending] = path
        return files


def _items(path: str) -> Iterator[Any]:
    """The entries of an annotation file, one at a time."""
    try:
        with open(path, "rb") as file:
            yield from entries(file)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"{path}: not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from None


def _begun(output: Path, settings: dict[str, Any], anew: bool) -> dict[str, Any]:
    """What an earlier call has written: its whole shards up to the first that is absent or of another size."""
    manifest = read_manifest(output)
    if manifest is None:
        others = sorted(output.glob("*.tar"))
        if others:
            raise DataError(f"{output}: there are shards of another origin, such as {others[0].name}; choose another --output")
        return {"settings": settings, "complete": False, "shards": []}
    if manifest["settings"] != settings and anew:
        return {"settings": settings, "complete": False, "shards": []}
    if manifest["settings"] != settings:
        old, new = manifest["settings"], settings
        differing = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        raise DataError(f"{output}: packed with other settings ({', '.join(differing)} differ); choose another --output, or empty it")
    whole = 0
    for shard in manifest["shards"]:
        path = output / shard["name"]
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            break
        whole += 1
    if whole < len(manifest["shards"]):
        manifest["shards"], manifest["complete"] = manifest["shards"][:whole], False
    return manifest


# --------------------------------------------------------------------------------------------------------------- writing


def _write_shards(output: Path, prefix: str, shard_size: int, samples: Iterator[Sample], manifest: dict[str, Any]) -> None:
    shards = manifest["shards"]
    bar: Progress[Any] = progress(manifest["samples"], "packing", initial=sum(shard["samples"] for shard in shards), unit="clip")
    with bar:
        first = next(samples, None)
        while first is not None:
            name = f"{prefix}-{len(shards):06d}.tar"
            shard = _Shard(first, samples, shard_size, bar)
            path = write_atomically(output / name, shard.write)
            shards.append({"name": name, "samples": shard.samples, "bytes": path.stat().st_size, "sha256": shard.digest,
                           "rows": [shards[-1]["rows"][1] if shards else 0, shard.last_row + 1]})
            first = next(samples, None)
            manifest["complete"] = first is None
            write_atomically(output / MANIFEST, json.dumps(manifest, indent=1) + "\n")


class _Shard:
    """One shard: from ``first`` on as many samples as fit."""

    def __init__(self, first: Sample, others: Iterator[Sample], size: int, bar: Progress[Any]) -> None:
        self._first, self._others, self._size, self._bar = first, others, size, bar
        self.samples, self.last_row, self.digest = 0, 0, ""

    def write(self, output: BinaryIO) -> None:
        stream = _Hashed(output)
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, copybufsize=MIB) as tar:  # type: ignore[call-overload]
            sample: Sample | None = self._first
            while sample is not None:
                for ending, path in sample.files.items():
                    self._add(tar, sample.key + ending, path)
                if sample.text is not None:
                    self._add(tar, sample.key + ".json", sample.text)
                self.samples, self.last_row = self.samples + 1, sample.row
                self._bar.update()
                sample = next(self._others, None) if tar.offset < self._size else None
        self.digest = stream.sha256.hexdigest()

    def _add(self, tar: tarfile.TarFile, name: str, content: str | bytes) -> None:
        """Append a member, without the machine's times and users in its header, so that the same clips always give the same bytes."""
        info = tarfile.TarInfo(name)
        if isinstance(content, bytes):
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            return
        try:
            with open(content, "rb") as file:
                info.size = os.fstat(file.fileno()).st_size
                tar.addfile(info, file)
        except OSError as error:
            raise DataError(f"{content}: cannot be packed: {error}") from None


class _Hashed:
    """An output that is hashed as it is written."""

    def __init__(self, output: BinaryIO) -> None:
        self._output, self.sha256 = output, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self._output.write(content)


# -------------------------------------------------------------------------------------------------------------- verifying


def verify(paths: Sequence[str]) -> list[str]:
    """Read every shard whole; log and return what is wrong with the damaged ones. Members that no training reads are reported too."""
    faults: list[str] = []
    samples = size = 0
    unknown, dotted = dict[str, tuple[int, str]](), (0, "")
    bar: Progress[Any] = progress(len(paths), "verifying", unit="shard")
    with ThreadPoolExecutor(cores()) as pool, bar:
        for path, (index, its_size, wrong) in zip(paths, pool.map(_look, paths)):
            samples, size = samples + len(index.samples), size + its_size
            unknown, dotted = tally([unknown, index.unknown]), (dotted[0] + index.dotted[0], dotted[1] or index.dotted[1])
            faults += [f"{path}: {'; '.join(wrong)}"] if wrong else []
            bar.update()
    for fault in faults:
        logger.error("%s", fault)
    if dotted[0]:
        logger.warning("%s", dotted_keys(*dotted))
    state = f"{len(faults)} damaged" if faults else "all whole"
    logger.info("%d shards, %d samples, %.1f MiB: %s; %s", len(paths), samples, size / MIB, state,
                unread(unknown) or "every member is of a kind that is read")
    return faults


def _look(path: str) -> tuple[ShardIndex, int, list[str]]:
    """(what it holds, bytes, what is wrong) of a shard; its content is read."""
    faults = []
    manifest = read_manifest(os.path.dirname(path) or ".") or {"shards": []}
    packed = next((shard for shard in manifest["shards"] if shard["name"] == os.path.basename(path)), None)
    try:
        index = scan(path)
        if packed and sha256_file(path) != packed["sha256"]:
            faults.append("its content is not what was packed (SHA-256)")
    except ShardError as error:
        return ShardIndex(), os.path.getsize(path), [str(error).removeprefix(f"{path}: ")]
    if index.fault:
        faults.append(index.fault)
    if packed and packed["samples"] != len(index.samples):
        faults.append(f"{len(index.samples)} of {packed['samples']} samples")
    if index.nameless:
        faults.append(f"{len(index.nameless)} members without an extension, '{index.nameless[0]}' first")
    with open(path, "rb") as file:
        for key, members in index.samples.items():
            if ".json" in members:
                start, size = members[".json"]
                file.seek(start)
                try:
                    json.loads(file.read(size))
                except (ValueError, RecursionError) as error:
                    faults.append(f"{key}.json: not JSON: {error}")
    return index, os.path.getsize(path), faults


# ------------------------------------------------------------------------------------------------------------ command line


def as_bytes(text: str) -> int:
    """``500M`` → bytes, for a command line."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text.upper())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"expected bytes such as 500M or 1G, got '{text}'")
    return int(float(match[1]) * UNITS[match[2]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m omnivast", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packs = commands.add_parser("pack", help="media folders and an annotation file → shards")
    packs.add_argument("--txt", required=True, type=expanded, help="annotation file, a JSON list")
    packs.add_argument("--vision", type=expanded, help="folder of videos or images")
    packs.add_argument("--audio", type=expanded, help="folder of sound files; without it the sound is the videos' own track")
    packs.add_argument("--vision_format", choices=["video_rawvideo", "image_rawimage"], default="video_rawvideo", help="what it holds")
    packs.add_argument("--output", required=True, type=expanded, help="folder for the shards")
    packs.add_argument("--shard_size", type=as_bytes, default=as_bytes("1G"), help="bytes after which a shard is closed; default 1G")
    packs.add_argument("--texts", choices=["json", "none"], default="json", help="annotations go into the shards, or stay outside")
    packs.add_argument("--name", default="clips", help="start of the shards' names; default clips")
    packs.add_argument("--ignore_fields", nargs="*", default=[], help="annotation fields to leave out")
    packs.add_argument("--skip_missing", action="store_true", help="leave out clips without their files, instead of stopping")
    looks = commands.add_parser("verify", help="read shards whole and compare them with what was packed")
    looks.add_argument("shards", nargs="+", type=expanded, help="tar files, folders, or patterns as in 'shards' of a config")
    return parser


def main(argv: Sequence[str]) -> int:
    """Do what a command line says; the exit status."""
    arguments = _parser().parse_args(argv)
    setup_logging(None)
    try:
        if arguments.command == "verify":
            return int(bool(verify(expand("verify", arguments.shards))))
        if not re.fullmatch(r"[\w+-]+", arguments.name):
            raise DataError(f"--name: expected letters, digits, '_', '-' or '+', got '{arguments.name}'")
        pack(Packing(arguments.txt, arguments.output, arguments.vision, arguments.audio, arguments.vision_format == "image_rawimage",
                     arguments.texts == "json", arguments.shard_size, arguments.name, tuple(arguments.ignore_fields),
                     arguments.skip_missing))
    except (DataError, OSError) as error:
        logger.error("%s: %s", type(error).__name__, error)
        return 2
    except KeyboardInterrupt:
        logger.error("stopped; the same command goes on after the last whole shard")
        return 130
    return 0

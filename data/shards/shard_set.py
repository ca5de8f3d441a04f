"""A corpus in tar shards: where each clip's members lie, and the texts, by row and in any order.

The indexes of the single shards (shard_index.py) are joined into one file that is memory-mapped, so that a corpus of millions of clips
costs neither the processes that read it nor their start much memory. Texts inside the shards are gathered once into an annotation file,
which is from then on read as any other. Both lie beside the first shard, or in the user's cache, and are made again when a shard has
changed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omnivast.config.files import parse_json
from omnivast.config.paths import looked_up
from omnivast.data.annotations.rows import CAPTION_KEYS, ID_KEYS, UNREAD, AnnotationError, typename
from omnivast.data.derived import first_writable, locked, places
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import check_id
from omnivast.data.media.parts import Part
from omnivast.data.shards.shard_index import (
    FORMAT,
    TEXT_EXTENSIONS,
    ShardError,
    ShardIndex,
    key_of,
    keys_of,
    load_index,
    tally,
    unread,
    without_extension,
)
from omnivast.utils.files import write_atomically
from omnivast.utils.log import Progress, progress

READERS = 8
"""Threads that index shards: on network disks they spend nearly all of their time waiting."""
SHOWN = 5
PAGE = 4096
MANIFEST = "shards.json"
"""The list of shards that ``python -m omnivast pack`` writes beside them."""
SAMPLE = np.dtype([("shard", "<u4"), ("first", "<u8"), ("count", "u1")])
MEMBER = np.dtype([("offset", "<u8"), ("size", "<u8"), ("ending", "u1")])

logger = logging.getLogger("omnivast")


class Shards:
    """The samples of all shards of a dataset."""

    def __init__(self, paths: list[str], file: Path) -> None:
        """``file``: the joined index."""
        self.paths, self._file = paths, file
        self._open()

    def __len__(self) -> int:
        return len(self._samples)

    def __str__(self) -> str:
        return self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} … {os.path.basename(self.paths[-1])}"

    def holds(self, endings: Sequence[str]) -> bool:
        """Whether some sample has a member with one of these extensions."""
        return not set(endings).isdisjoint(self.header["endings"])

    def members(self, clip_id: str) -> dict[str, Part] | None:
        """Extension → member of a clip; None where no shard has it."""
        for key in keys_of(clip_id):
            sample = self._place(key)
            if sample is not None:
                shard, first, count = self._samples[sample]
                path, endings = self.paths[int(shard)], self.header["endings"]
                members = ((endings[ending], int(offset), int(size)) for offset, size, ending in self._members[first : first + count])
                return {ending: Part(path, offset, size, key + ending) for ending, offset, size in members}
        return None

    def shards_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """(clips,) int64: the number of the shard that has each; -1 where none has it."""
        numbers = np.full(len(clip_ids), -1, dtype=np.int64)
        left = np.arange(len(clip_ids))
        for form in (str, without_extension, key_of):
            wanted = np.fromiter((key_hash(form(clip_ids[clip])) for clip in left.tolist()), np.uint64, len(left))
            sample = np.searchsorted(self._hashes, wanted).clip(max=len(self._hashes) - 1)
            there = self._hashes[sample] == wanted
            numbers[left[there]] = self._samples["shard"][sample[there]]
            left = left[~there]
        return numbers

    def _place(self, key: str) -> int | None:
        wanted = np.uint64(key_hash(key))
        sample = int(np.searchsorted(self._hashes, wanted))
        return sample if sample < len(self._hashes) and self._hashes[sample] == wanted else None

    def _open(self) -> None:
        try:
            with open(self._file, "rb") as file:
                self.header: dict[str, Any] = json.loads(file.readline())
            samples, members, start = (self.header[name] for name in ("samples", "members", "start"))
            self._hashes = np.memmap(self._file, "<u8", "r", start, (samples,))
            self._samples = np.memmap(self._file, SAMPLE, "r", start + 8 * samples, (samples,))
            self._members = np.memmap(self._file, MEMBER, "r", start + (8 + SAMPLE.itemsize) * samples, (members,))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{self._file}: cannot be read ({error}); delete it, and it is made again") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_file": self._file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class ShardFolder:
    """Finds a clip's member of one kind, as ``MediaFolder`` finds its file."""

    def __init__(self, shards: Shards, kind: str, endings: tuple[str, ...]) -> None:
        """``endings``: the extensions that the kind ("video" …) has, the preferred ones first."""
        self._shards, self._kind, self._endings = shards, kind, endings
        self.folder = str(shards)

    def find(self, clip_id: str) -> Part:
        """Raises MediaError where the shards have no such clip, or it has no such member."""
        check_id(clip_id)
        members = self._shards.members(clip_id)
        if members is None:
            raise MediaError(f"{self.folder}:{clip_id}", "no such clip in the shards")
        member = next((members[ending] for ending in self._endings if ending in members), None)
        if member is None:
            has = ", ".join(sorted(members))
            raise MediaError(f"{self.folder}:{clip_id}", f"no {self._kind} member ({', '.join(self._endings)}) in the shards; it has {has}")
        return member


def key_hash(key: str) -> int:
    """64 bits: two of 27 million keys share them with a probability of 2e-5, which ends in an error that names both."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


# ------------------------------------------------------------------------------------------------------------- which files


def expand(name: str, patterns: Sequence[str]) -> list[str]:
    """The shards that a dataset's ``shards`` names: files, folders, patterns with * or with braces (``a-{000..127}.tar``, ``{a,b}.tar``).
    Raises ShardError for one that is absent or named twice, and for shards whose packing was not finished."""
    if not patterns:
        raise ShardError(f"dataset '{name}': give its tar files, folders of them, or patterns as 'shards'")
    shards: list[str] = []
    for pattern in patterns:
        for path in [pattern] if os.path.exists(pattern) else _braces(pattern):
            if os.path.isdir(path):
                inside = sorted({*glob.glob(os.path.join(glob.escape(path), "*.tar")), *_packed(name, path)})
                if not inside:
                    raise ShardError(f"dataset '{name}': no shard (*.tar) in the folder '{path}'{looked_up(path)}")
                shards += inside
            elif not os.path.exists(path) and glob.has_magic(path):
                inside = sorted(glob.glob(path))
                if not inside:
                    raise ShardError(f"dataset '{name}': no shard is named like '{path}'{looked_up(path)}")
                shards += inside
            else:
                shards.append(path)
    missing = [path for path in shards if not os.path.isfile(path)]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise ShardError(f"dataset '{name}': {len(missing)} of its {len(shards)} shards are missing: "
                         f"{', '.join(missing[:SHOWN])}{more}{looked_up(missing[0])}")
    twice = sorted({path for path in shards if shards.count(path) > 1}) if len(set(shards)) < len(shards) else []
    if twice:
        raise ShardError(f"dataset '{name}': the shard '{twice[0]}' is named twice")
    return shards


def _packed(name: str, folder: str) -> list[str]:
    """The shards that a folder should have, by what its packing wrote."""
    manifest = read_manifest(folder)
    if manifest and not manifest["complete"]:
        raise ShardError(f"dataset '{name}': the packing of '{folder}' was not finished; repeat the same `python -m omnivast pack`")
    return [os.path.join(folder, shard["name"]) for shard in manifest["shards"]] if manifest else []


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """What is known of packed shards; None where they were packed by another program. Raises ShardError."""
    path = Path(folder, MANIFEST)
    try:
        manifest = json.loads(path.read_bytes())
        if not isinstance(manifest["complete"], bool) or any({"name", "samples", "sha256"} - shard.keys() for shard in manifest["shards"]):
            raise KeyError("complete")
        return manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path}: cannot be read ({type(error).__name__}); `python -m omnivast pack` writes it") from None


def _braces(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` → a-00.tar, a-01.tar, a-02.tar."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if match[3] is not None:
        values = match[3].split(",")
    else:
        values = [f"{value:0{len(match[1])}}" for value in range(int(match[1]), int(match[2]) + 1)]
    return [path for value in values for path in _braces(pattern[: match.start()] + value + pattern[match.end() :])]


# ------------------------------------------------------------------------------------------------------- the joined index


def open_shards(name: str, patterns: Sequence[str], *, training: bool) -> Shards:
    """The shards of dataset ``name``, indexed. Damaged ones are logged, and refused in evaluation. Raises ShardError."""
    paths = expand(name, patterns)
    stamps = [(os.path.basename(path), status.st_size, status.st_mtime_ns) for path in paths for status in [os.stat(path)]]
    key = hashlib.sha256(json.dumps([FORMAT, stamps]).encode()).hexdigest()[:16]
    file = _made(places(_corpus(paths), "shards", f"{key}.index"), lambda output: _join(paths, key, output))
    shards = Shards(paths, file)
    if shards.header["nameless"]:
        logger.warning("dataset '%s': %d members of its shards belong to no sample, '%s' first", name, *shards.header["nameless"])
    if shards.header["unknown"]:
        logger.warning("dataset '%s': its shards hold %s", name, unread(shards.header["unknown"]))
    if shards.header["dotted"]:
        logger.warning("dataset '%s': %s", name, dotted_keys(*shards.header["dotted"]))
    if shards.header["faults"]:
        _tell_faults(name, shards, training)
    return shards


def dotted_keys(count: int, example: str) -> str:
    """How samples were read whose names have dots before the extension, in words."""
    return (f"{count} samples have dots in their names, such as '{example}', where by webdataset's convention the key ends at the first; "
            "they are grouped by the name up to the last dot")


def _corpus(paths: Sequence[str]) -> Path:
    """What files made of all shards are named after."""
    return Path(paths[0]).with_name("corpus")


def _made(candidates: Sequence[Path], write: Callable[[BinaryIO], None]) -> Path:
    """The first of the paths at which the file exists. Where it exists nowhere, one process writes it."""
    for path in candidates:
        if path.exists():
            return path
    path = first_writable(candidates, "the shards' index needs a place", ShardError)
    with locked(path, "made"):
        if not path.exists():
            write_atomically(path, write)
    return path


def _join(paths: Sequence[str], fingerprint: str, output: BinaryIO) -> None:
    endings: dict[str, int] = {}
    hashes, samples, members = [], [], []
    faults, nameless, count = {}, (0, ""), 0
    unknown, dotted, marks = dict[str, tuple[int, str]](), (0, ""), list[str]()
    with ThreadPoolExecutor(READERS) as pool:
        for number, index in enumerate(progress(_indexes(pool, paths), "indexing shards", unit="shard")):
            rows = [(start, size, endings.setdefault(ending, len(endings)))
                    for parts in index.samples.values() for ending, (start, size) in parts.items()]
            sizes = np.array([len(parts) for parts in index.samples.values()])
            first = count + np.cumsum(sizes) - sizes
            hashes.append(np.array([key_hash(key) for key in index.samples], "<u8"))
            samples.append(np.array([*zip([number] * len(sizes), first, sizes)], SAMPLE))
            members.append(np.array(rows, MEMBER))
            count += len(rows)
            nameless = (nameless[0] + len(index.nameless), nameless[1] or next(iter(index.nameless), ""))
            unknown = tally([unknown, index.unknown])
            dotted = (dotted[0] + index.dotted[0], dotted[1] or index.dotted[1])
            marks.append(index.mark)
            if index.fault:
                faults[str(number)] = (index.fault, len(index.samples))
    every, table = np.concatenate(hashes), np.concatenate(samples)
    order = np.argsort(every, kind="stable")
    every, table = every[order], table[order]
    again = np.flatnonzero(every[1:] == every[:-1])
    if len(again):
        raise _repeated(paths, table[again[0] : again[0] + 2]["shard"].tolist(), int(every[again[0]]), len(again))
    header: dict[str, Any] = {"key": fingerprint, "samples": len(every), "members": count, "endings": [*endings], "faults": faults,
                              "nameless": nameless if nameless[0] else None, "unknown": unknown, "dotted": dotted if dotted[0] else None,
                              "marks": "".join(marks), "start": 0}
    header["start"] = PAGE * (len(json.dumps(header)) // PAGE + 2)
    output.write(json.dumps(header).encode() + b"\n")
    output.seek(header["start"])
    for part in (every, table, *members):
        output.write(part.tobytes())


def _indexes(pool: ThreadPoolExecutor, paths: Sequence[str]) -> Iterator[ShardIndex]:
    """The indexes in order; few are held at once. All shards that cannot be used are named in one ShardError."""
    refused = []
    for start in range(0, len(paths), 4 * READERS):
        for index in pool.map(_index_or_error, paths[start : start + 4 * READERS]):
            if isinstance(index, ShardError):
                refused.append(str(index))
            else:
                yield index
    if refused:
        raise ShardError("\n- ".join([f"{len(refused)} of {len(paths)} shards cannot be used:", *refused[:SHOWN]])
                         + (f"\n- … and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""))


def _index_or_error(path: str) -> ShardIndex | ShardError:
    try:
        return load_index(path)
    except ShardError as error:
        return error


def _repeated(paths: Sequence[str], shards: Sequence[int], wanted: int, count: int) -> ShardError:
    keys = [next(key for key in load_index(paths[shard]).samples if key_hash(key) == wanted) for shard in shards]
    named = f"'{keys[0]}'" if keys[0] == keys[1] else f"'{keys[0]}', by its hash the same as '{keys[1]}'"
    more = f", and {count - 1} more are repeated" if count > 1 else ""
    return ShardError(f"{paths[shards[0]]} and {paths[shards[1]]}: both have a sample {named}{more}; a key names one sample of a dataset")


def _tell_faults(name: str, shards: Shards, training: bool) -> None:
    """Log which shards are damaged and, where their packing says how many samples they had, how many are lost."""
    lines = []
    for number, (fault, samples) in shards.header["faults"].items():
        path = shards.paths[int(number)]
        manifest = read_manifest(os.path.dirname(path)) or {"shards": []}
        packed = next((shard["samples"] for shard in manifest["shards"] if shard["name"] == os.path.basename(path)), None)
        lines.append(f"  {path}: {fault}; {samples} sample(s) found{f' of {packed}' if packed is not None else ''}")
    shown = "\n".join([f"dataset '{name}': {len(lines)} of its {len(shards.paths)} shards are damaged:", *lines[:4 * SHOWN],
                       *([f"  … and {len(lines) - 4 * SHOWN} more"] if len(lines) > 4 * SHOWN else [])])
    if not training:
        raise ShardError(f"{shown}\nA test needs all of its clips: pack or fetch these shards again")
    logger.error("%s\nTheir other samples are lost to this training; samples that are cut are counted as unreadable", shown)


# --------------------------------------------------------------------------------------------------------------- the texts


def gather_texts(name: str, shards: Shards, ignored: Sequence[str], optional: bool = False) -> Path:
    """The annotation file with the texts in the shards (``key.json``, an object as in annotation files, or ``key.txt``, a caption a
    line), in the order of the shards. ``optional``: samples without texts are rows too. Raises AnnotationError and ShardError."""
    key = hashlib.sha256(json.dumps([FORMAT, shards.header["key"], sorted(ignored), optional]).encode()).hexdigest()[:16]
    candidates = places(_corpus(shards.paths), "shards", f"{key}.texts.json")
    return _made(candidates, lambda output: _write_texts(name, shards, ignored, optional, output))


def _write_texts(name: str, shards: Shards, ignored: Sequence[str], optional: bool, output: BinaryIO) -> None:
    bar: Progress[Any] = progress(len(shards), f"texts of {name}", unit="clip")
    output.write(b"[")
    with bar:
        for path in shards.paths:
            index = load_index(path)
            with open(path, "rb") as file:
                for key, members in index.samples.items():
                    item = _item(file, f"{path}:{key}", key, members, ignored)
                    item = {"clip_id": key} if item is None and optional else item
                    if item is not None:
                        read = {name: value for name, value in item.items() if name not in UNREAD}
                        output.write((b",\n" if bar.count else b"\n") + json.dumps(read).encode())
                        bar.update()
                    elif not index.fault:
                        raise AnnotationError(f"{path}: sample '{key}' has no text; expected a member '{key}.json' or '{key}.txt', or the "
                                              "annotation file as 'txt'")
    output.write(b"\n]\n")


def _item(file: BinaryIO, where: str, key: str, members: dict[str, tuple[int, int]], ignored: Sequence[str]) -> dict[str, Any] | None:
    """The row of an annotation file that a sample's texts stand for; None where it has none, or the shard is cut before their end."""
    texts: dict[str, str] = {}
    for ending in TEXT_EXTENSIONS:
        if ending in members:
            start, size = members[ending]
            file.seek(start)
            content = file.read(size)
            if len(content) < size:
                return None
            try:
                texts[ending] = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise AnnotationError(f"{where}{ending}: not UTF-8") from None
    if not texts:
        return None
    item = parse_json(texts.get(".json", "{}"), f"{where}.json", AnnotationError, expected="an object")
    if not isinstance(item, dict):
        raise AnnotationError(f"{where}.json: expected an object, found {typename(item)}")
    if ".txt" in texts and item.keys().isdisjoint(CAPTION_KEYS):
        item["caption"] = [line.strip() for line in texts[".txt"].splitlines() if line.strip()]
    named = next((name for name in ID_KEYS if name in item and name not in ignored), None)
    if named is None:
        name = next(name for name in ID_KEYS if name not in ignored)
        return {name: key, **{name: value for name, value in item.items() if name not in ID_KEYS}}
    if key not in keys_of(str(item[named])):
        raise AnnotationError(f"{where}.json: its '{named}' is '{item[named]}', and its key '{key}'; expected the same, or "
                              f'"ignore_fields": ["{named}"] to go by the key')
    return item

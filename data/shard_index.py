"""What a tar shard holds, and where in it: an index for each shard, ``x.tar.index.json``, made once.

A shard follows the convention of webdataset: members ``key.mp4``, ``key.wav``, ``key.json`` … are one sample; the key is the name up
to the first dot after its last slash. An index holds the place of every member, and is used as long as the shard has the size and the
time that it was made with. Nothing is ever extracted.
"""

from __future__ import annotations

import json
import os
import tarfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.derived import places, writable
from data.media import EXTENSIONS, MediaError, check_id
from data.spec import DataError
from utils.files import write_atomically

FORMAT = 1
TEXT_EXTENSIONS = (".json", ".txt")
BLOCK = tarfile.BLOCKSIZE


class ShardError(DataError):
    """A shard that cannot be used; the message names it, the member and what was expected."""


@dataclass
class ShardIndex:
    """The samples of one shard."""

    samples: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """Key → extension → (first byte, bytes) of its media and texts, in the shard's order."""
    fault: str = ""
    """What is wrong with the archive itself: samples after that place are lost. "" for a whole one."""
    nameless: list[str] = field(default_factory=list)
    """Members that belong to no sample, since their names have no extension."""


def key_of(clip_id: str) -> str:
    """The key under which a clip is packed: its id without a known extension, and with its dots written as %2E, since a key ends at
    its first dot."""
    stem = without_extension(clip_id).removeprefix("./")
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.replace("%", "%25").replace(".", "%2E")


def keys_of(clip_id: str) -> tuple[str, ...]:
    """Where a clip may be found, the likeliest first."""
    return tuple(dict.fromkeys([clip_id, without_extension(clip_id), key_of(clip_id)]))


def without_extension(clip_id: str) -> str:
    """``clip.mp4`` → ``clip``; an ending that is no known extension stays."""
    stem, ending = os.path.splitext(clip_id)
    return stem if ending.lower() in EXTENSIONS else clip_id


def split_name(name: str) -> tuple[str, str]:
    """A member's name → (key, lower-case extension with its dot); no extension, or nothing before it: ("", "")."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, ending = base.partition(".")
    return (folder + slash + stem, dot + ending.lower()) if stem and ending else ("", "")


def load_index(shard: str) -> ShardIndex:
    """The index of a shard, made where there is none that fits. Raises ShardError."""
    candidates = places(Path(shard), "shards", "index.json")
    for place in candidates:
        found = _known(place, shard)
        if found is not None:
            return found
    before = _stamp(shard)
    index = scan(shard)
    for place in candidates:
        if writable(place.parent):
            with suppress(OSError):  # a full disk: the index is made again next time
                write_atomically(place, json.dumps({**before, **asdict(index)}))
                break
    return index


def scan(shard: str) -> ShardIndex:
    """Read the headers of all members. Raises ShardError for what is no tar archive, or holds what a shard must not."""
    index = ShardIndex()
    try:
        with tarfile.open(shard, "r:") as tar:
            try:
                for member in tar:
                    _add(index, member, shard)
            except tarfile.ReadError as error:
                index.fault = f"{error} at byte {min(tar.offset, os.path.getsize(shard))}"
            index.fault = index.fault or _fault_at(shard, tar.offset)
    except tarfile.TarError as error:
        raise ShardError(f"{shard}: not a tar archive ({error}); compressed ones cannot be read at random, unpack them") from None
    except (OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:  # as headers of hostile content may cause
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{shard}: cannot be read: {error}") from None
    if not index.samples:
        raise ShardError(f"{shard}: no sample in it{f' ({index.fault})' if index.fault else ''}; expected members such as key.mp4, "
                         "key.jpg, key.wav, key.json, key.txt")
    return index


def _add(index: ShardIndex, member: tarfile.TarInfo, shard: str) -> None:
    """Note a member. What is no plain file inside the archive is refused: links could lead anywhere."""
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        what = "a symbolic link" if member.issym() else "a hard link" if member.islnk() else "no plain file"
        raise ShardError(f"{shard}: its member '{member.name}' is {what}; shards hold plain files only")
    try:
        check_id(member.name)
    except MediaError:
        raise ShardError(f"{shard}: its member '{member.name}' has a name that leads out of a folder") from None
    key, ending = split_name(member.name)
    if not key:
        index.nameless.append(member.name)
    elif ending in EXTENSIONS or ending in TEXT_EXTENSIONS:
        members = index.samples.setdefault(key, {})
        if ending in members:
            raise ShardError(f"{shard}: two members '{key}{ending}'")
        members[ending] = (member.offset_data, member.size)


def _fault_at(shard: str, offset: int) -> str:
    """tarfile takes anything that is no header for the end; an archive ends with blocks of zeros."""
    with open(shard, "rb") as file:
        file.seek(offset)
        block = file.read(BLOCK)
    if block == bytes(BLOCK):
        return ""
    return f"no header at byte {offset}" if len(block) == BLOCK else f"cut at byte {offset + len(block)}"


def _stamp(shard: str) -> dict[str, Any]:
    status = os.stat(shard)
    return {"format": FORMAT, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _known(place: Path, shard: str) -> ShardIndex | None:
    """The index kept at ``place``; None where it is of another format or time, or damaged."""
    try:
        kept = json.loads(place.read_bytes())
        if any(kept[name] != value for name, value in _stamp(shard).items()):
            return None
        samples = {key: {ending: (int(start), int(size)) for ending, (start, size) in members.items()}
                   for key, members in kept["samples"].items()}
        return ShardIndex(samples, kept["fault"], kept["nameless"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

"""What a tar shard holds, and where in it: an index for each shard, ``x.tar.index.json``, made once.

A shard follows the convention of webdataset: members ``key.mp4``, ``key.wav``, ``key.json`` … are one sample; the key is the name up
to the first dot after its last slash. Programs that do not know of it write names with dots of their own, ``take 2.1.mp4`` and ``take
2.1.json``; what the convention makes nothing of is grouped by the name up to the last dot where that gives whole samples
(``_add_dotted``). An index holds the place of every member, and is used as long as the shard has the size and the time that it was made
with. Nothing is ever extracted.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnivast.data.derived import places, writable
from omnivast.data.media.containers import EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import check_id
from omnivast.data.spec import DataError
from omnivast.utils.files import write_atomically

FORMAT = 2
TEXT_EXTENSIONS = (".json", ".txt")
BLOCK = tarfile.BLOCKSIZE
SHOWN = 5


class ShardError(DataError):
    """A shard that cannot be used; the message names it, the member and what was expected."""


@dataclass
class ShardIndex:
    """The samples of one shard."""

    samples: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """Key → extension → (first byte, bytes) of its media and texts, in the shard's order."""
    fault: str = ""
    """Where and how the archive is damaged, "" for a whole one. Samples after the damage are lost."""
    nameless: list[str] = field(default_factory=list)
    """Members that belong to no sample, since their names have no extension."""
    unknown: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Last extension → (number, an example) of the members that are not read, since they are of no known kind."""
    dotted: tuple[int, str] = (0, "")
    """(number, an example) of the samples whose keys have dots, against the convention."""
    mark: str = ""
    """A fingerprint of the content: a hash of each member's name, size and last bytes, which need no further seek."""


def key_of(clip_id: str) -> str:
    """The key under which a clip is packed: its id without a known extension, and with its dots written as %2E, since a key ends at
    its first dot."""
    stem = without_extension(clip_id).removeprefix("./")
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.replace("%", "%25").replace(".", "%2E")


def keys_of(clip_id: str) -> tuple[str, ...]:
    """The keys under which a shard may hold the clip, the most likely first."""
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


def tally(tallies: Iterable[dict[str, tuple[int, str]]]) -> dict[str, tuple[int, str]]:
    """Counts with an example each, summed over several shards."""
    total: dict[str, tuple[int, str]] = {}
    for endings in tallies:
        for ending, (count, example) in endings.items():
            earlier = total.get(ending, (0, example))
            total[ending] = (earlier[0] + count, earlier[1])
    return total


def unread(unknown: dict[str, tuple[int, str]]) -> str:
    """``3 member(s) of kinds that are not read: 2 .cls ('a.cls' first), 1 .xyz ('b.xyz' first)``; "" for none."""
    if not unknown:
        return ""
    most = sorted(unknown.items(), key=lambda entry: -entry[1][0])
    shown = [f"{count} {ending} ('{example}' first)" for ending, (count, example) in most[:SHOWN]]
    more = f" and {len(most) - SHOWN} more kinds" if len(most) > SHOWN else ""
    return f"{sum(count for count, _ in unknown.values())} member(s) that are not read: {', '.join(shown)}{more}"


def load_index(shard: str) -> ShardIndex:
    """The index of a shard, made where there is none that fits. Raises ShardError."""
    candidates = places(Path(shard), "shards", "index.json")
    for path in candidates:
        known = _known(path, shard)
        if known is not None:
            return known
    before = _stamp(shard)
    index = scan(shard)
    for path in candidates:
        if writable(path.parent):
            with suppress(OSError):  # a full disk: the index is made again next time
                write_atomically(path, json.dumps({**before, **asdict(index)}))
                break
    return index


def scan(shard: str) -> ShardIndex:
    """Read the headers of all members. Raises ShardError for a file that is no tar archive, or holds what a shard must not."""
    index, others, digest = ShardIndex(), dict[str, list[tarfile.TarInfo]](), hashlib.blake2b(digest_size=8)
    try:
        with tarfile.open(shard, "r:") as tar, open(shard, "rb") as file:
            try:
                for member in tar:
                    _add(index, member, shard, others)
                    file.seek(member.offset_data + max(0, member.size - BLOCK))
                    digest.update(f"{member.name}\0{member.size}\0".encode("utf-8", "surrogateescape"))
                    digest.update(file.read(min(member.size, BLOCK)))
            except tarfile.ReadError as error:
                index.fault = f"{error} at byte {min(tar.offset, os.path.getsize(shard))}"
            index.fault = index.fault or _fault_at(shard, tar.offset)
        index.mark = digest.hexdigest()
        for key, members in others.items():
            _add_dotted(index, key, members, shard)
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


def _add(index: ShardIndex, member: tarfile.TarInfo, shard: str, others: dict[str, list[tarfile.TarInfo]]) -> None:
    """Note a member; by their keys among the ``others`` where the convention gives it no known extension. What is no plain file inside
    the archive is refused: links could lead anywhere."""
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
        _put(index.samples.setdefault(key, {}), key, ending, member, shard)
    else:
        others.setdefault(key, []).append(member)


def _put(sample: dict[str, tuple[int, int]], key: str, ending: str, member: tarfile.TarInfo, shard: str) -> None:
    if ending in sample:
        raise ShardError(f"{shard}: two members '{key}{ending}'")
    sample[ending] = (member.offset_data, member.size)


def _add_dotted(index: ShardIndex, key: str, members: list[tarfile.TarInfo], shard: str) -> None:
    """Members ``key.x.mp4``, ``key.x.json`` …, to which the convention gives extensions of no known kind: ``key.x`` is a clip, or they
    are further parts of the clip ``key`` (``key.mask.png``).

    ``key.x`` is a clip where it has media and texts and, if ``key`` is a clip too, the same extensions as that; also where it has media
    alone, if then nothing under ``key`` is left that has texts alone. What is no part of a clip is counted as unknown.
    """
    undotted = index.samples.get(key, {})
    stems: dict[str, dict[str, tuple[int, int]]] = {}
    names: dict[str, list[str]] = {}
    for member in members:
        stem, ending = os.path.splitext(member.name.removeprefix("./"))
        ending = ending.lower()
        if ending in EXTENSIONS or ending in TEXT_EXTENSIONS:
            _put(stems.setdefault(stem, {}), stem, ending, member, shard)
            names.setdefault(stem, []).append(member.name)
        else:
            _count_unknown(index, ending, member.name)
    texts_alone = any(parts.keys() <= set(TEXT_EXTENSIONS) for parts in stems.values())
    for stem, parts in stems.items():
        has_media, has_texts = not parts.keys() <= set(TEXT_EXTENSIONS), not parts.keys().isdisjoint(TEXT_EXTENSIONS)
        same = not undotted or undotted.keys() == parts.keys()
        if has_media and same and (has_texts or not (undotted or texts_alone)):
            index.samples[stem] = parts
            index.dotted = (index.dotted[0] + 1, index.dotted[1] or stem)
        else:
            for name in names[stem]:
                _count_unknown(index, os.path.splitext(name)[1].lower(), name)


def _count_unknown(index: ShardIndex, ending: str, name: str) -> None:
    count, example = index.unknown.get(ending, (0, name))
    index.unknown[ending] = (count + 1, example)


def _fault_at(shard: str, offset: int) -> str:
    """What is wrong at byte ``offset``, where tarfile saw the end of the archive; "" for a true end. tarfile takes everything that is no
    header for the end, but an archive ends with blocks of zeros."""
    with open(shard, "rb") as file:
        file.seek(offset)
        block = file.read(BLOCK)
    if block == bytes(BLOCK):
        return ""
    return f"no header at byte {offset}" if len(block) == BLOCK else f"cut at byte {offset + len(block)}"


def _stamp(shard: str) -> dict[str, Any]:
    status = os.stat(shard)
    return {"format": FORMAT, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _known(file: Path, shard: str) -> ShardIndex | None:
    """The index kept in a file; None where it is damaged, of another format, or was made of a shard of another size or time."""
    try:
        kept = json.loads(file.read_bytes())
        if any(kept[name] != value for name, value in _stamp(shard).items()):
            return None
        samples = {key: {ending: (int(start), int(size)) for ending, (start, size) in members.items()}
                   for key, members in kept["samples"].items()}
        unknown = {ending: (int(count), str(example)) for ending, (count, example) in kept["unknown"].items()}
        count, example = kept["dotted"]
        return ShardIndex(samples, kept["fault"], kept["nameless"], unknown, (int(count), str(example)), str(kept["mark"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

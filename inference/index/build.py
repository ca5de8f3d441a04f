"""Files → an index: new and changed files are embedded, removed ones leave it, all others stay as they are.

Killed at any moment, the next call goes on after the last batch that was committed, and ends with the same index as an unbroken one:
files are taken in the order of their paths, and a batch never spans a commit, nor two units of files (see
:mod:`omnivast.inference.index.share`, which shares them out over processes).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from omnivast.config.tasks import Group, Modality, Objective
from omnivast.data.annotations.own_clips import find_files
from omnivast.data.annotations.sidecars import Sidecars
from omnivast.data.batch import Sample
from omnivast.data.media.errors import MediaError
from omnivast.inference.clips import Clip, ClipError, Clips
from omnivast.inference.index import share
from omnivast.inference.index.store import File, Meta, Place, Store
from omnivast.inference.loading import Loaded
from omnivast.inference.moments import Moment, moments_of, read_moments
from omnivast.model.interface import Model, Rows
from omnivast.training.checkpoints.checkpoint import on_main
from omnivast.utils import distributed
from omnivast.utils.log import Progress, progress
from omnivast.utils.machine import cores
from omnivast.version import VERSION

BATCH = 16
"""Moments encoded at once."""
READERS = 4
"""Files read at once, at most."""
AHEAD = 2 * BATCH
"""Files read ahead of the model, at most. One with more than ``BATCH`` moments is not read ahead: an hour of video, read whole, takes
gigabytes."""

logger = logging.getLogger("omnivast")


@dataclass
class Report:
    """What a call of :func:`update` did."""

    files: int = 0
    """Files in the index."""
    moments: int = 0
    new: int = 0
    changed: int = 0
    removed: int = 0
    seconds: float = 0.0
    """Seconds of video and sound that were embedded."""
    faults: dict[str, str] = field(default_factory=dict)
    """Path → why it could not be read, of all files of the index that cannot. They are tried again when they change."""


@dataclass
class _Read:
    """A file as a reader thread has read it: its moments and their samples, or its fault; of a long one its moments and ``clip``, from
    which the samples are still to be read."""

    file: File
    moments: list[Moment] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    clip: Clip | None = None


def describe(parts: Loaded, place: str, root: Path, window: float, stride: float) -> Meta:
    """What an index made by this model says of itself."""
    sampling = parts.sampling
    shown = {"frames": sampling.frames, "slices": sampling.slices, "transform": sampling.transform, "resolution": sampling.spec.resolution}
    groups = [group.key for group in parts.groups.get(Objective.RETRIEVAL, ())]
    if not groups:
        raise ValueError("this model was not trained for retrieval ('ret'), so nothing can be searched with it")
    shapes = shapes_of(parts, sampling.frames)
    return Meta(place, parts.weights.sha256, shown, window, stride, groups, shapes, str(root), VERSION)


def shapes_of(parts: Loaded, frames: int) -> dict[str, dict[str, list[int]]]:
    """Group → name → the shape of a row of what the model keeps of a clip with so many frames."""
    spec, groups = parts.sampling.spec, parts.groups[Objective.RETRIEVAL]
    sample = Sample("shapes", 0, frames=torch.zeros(frames, 3, spec.resolution, spec.resolution, dtype=torch.uint8), subtitle="",
                    spectrogram=torch.zeros(parts.sampling.slices, spec.target_length, spec.mel_bins))
    sample.present = dict.fromkeys(Modality, True)
    return {key: {name: list(x.shape[1:]) for name, x in rows.tensors.items()} for key, rows in _encode(parts, groups, [sample]).items()}


@dataclass(frozen=True)
class Files:
    """The media files that an index is to hold, as they are now."""

    root: Path
    by_path: dict[str, File]
    """By their paths below the root, in order."""
    said: dict[str, str]
    """Path → its subtitle where a list gives one, in place of a file beside it."""


def find(source: Path, media: Path | None = None) -> Files:
    """The media files below a folder, or those of a list (as for ``omnivast label``), which are looked for in ``media``. Files that are no
    media by their ending are left out; others are opened when they are read. Raises DataError where nothing is there."""
    found, sidecars = find_files([str(source)], str(media) if media else None), Sidecars()
    by_path: dict[str, File] = {}
    listed = {path: words for path, words in found.subtitles.items() if words is not None}
    for path in sorted(found.subtitles):
        file = found.root / path
        status, words = file.stat(), None if path in listed else sidecars.find(file)
        stamp = sha256(listed[path].encode()).hexdigest() if path in listed else "" if words is None else _stamp(words)
        by_path[path] = File(path, status.st_size, status.st_mtime_ns, stamp)
    for entry, why in found.missing.items():
        logger.warning("%s: '%s' is left out: %s", source, entry, why)
    return Files(found.root, by_path, listed)


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def update(store: Store, parts: Loaded, files: Files, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Bring the index up to date with the files; of several processes each does its share. ``on_progress``: called with (files done, files
    to do), of this process, after each."""
    pending, shared, report = on_main(lambda: _begin(store, files))
    own = share.share(pending, share.units(files.by_path.values(), BATCH), distributed.rank(), distributed.world_size())
    if shared:
        part = share.of_rank(store, distributed.rank())
        try:
            seconds = _index(part, parts, files, own, on_progress)
        finally:
            part.close()
    else:
        seconds = _index(store, parts, files, own, on_progress)
    seconds = sum(distributed.all_gather_objects(seconds))

    def end() -> Report:
        if shared:
            share.merge(store, files.by_path)
        known = store.files()
        faults = {path: file.fault for path, file in known.items() if file.fault}
        return replace(report, files=len(known), moments=len(store), seconds=seconds, faults=faults)

    return on_main(end)


def _begin(store: Store, files: Files) -> tuple[list[File], bool, Report]:
    """Take out what is gone: the files to read, whether processes share them out or have begun to, and what is known already of the
    report."""
    there, known, done = files.by_path, store.files(), share.done(store)
    gone = [path for path in known if path not in there]
    store.remove(gone)
    differ = [file for path, file in there.items() if path not in known or known[path].unread != file]
    new = sum(file.path not in known for file in differ)
    pending = [file for file in differ if all(other.unread != file for other in done.get(file.path, ()))]
    shared = distributed.world_size() > 1 or bool(share.folders(store))
    return pending, shared, Report(new=new, changed=len(differ) - new, removed=len(gone))


def _index(store: Store, parts: Loaded, files: Files, pending: Sequence[File], on_progress: Callable[[int, int], None] | None) -> float:
    """Embed files and write them; the seconds that they play."""
    groups = tuple(Group.parse(key) for key in store.meta.groups)
    unit_of, unit, seconds = share.units(files.by_path.values(), BATCH), 0, 0.0
    bar: Progress[Any] = progress(len(pending), "indexing", unit="files")
    with bar:
        done: list[tuple[File, list[tuple[Place, str]]]] = []
        samples: list[Sample] = []
        for number, read in enumerate(_read_ahead(parts, files, pending, groups, (store.meta.window, store.meta.stride)), 1):
            if read.clip is not None or unit_of[read.file.path] != unit:
                _write(store, parts, groups, done, samples)
                done, samples, unit = [], [], unit_of[read.file.path]
            if read.clip is not None:
                _write_long(store, parts, groups, read, read.clip)
            else:
                done.append((read.file, [_placed(read.file, *pair) for pair in zip(read.moments, read.samples)]))
                samples += read.samples
            if len(samples) >= BATCH:
                _write(store, parts, groups, done, samples)
                done, samples = [], []
            seconds += read.file.seconds or 0.0
            bar.update()
            if on_progress is not None:
                on_progress(number, len(pending))
        _write(store, parts, groups, done, samples)
    return seconds


def _write(store: Store, parts: Loaded, groups: Sequence[Group], done: Sequence[tuple[File, Sequence[tuple[Place, str]]]],
           samples: Sequence[Sample]) -> None:
    if samples:
        store.append(embed(parts, groups, samples, store.meta.shapes))
    if done:
        store.commit(done)


def _write_long(store: Store, parts: Loaded, groups: Sequence[Group], read: _Read, clip: Clip) -> None:
    """A file of many moments, of which a batch at a time is in memory; it becomes part of the index when the last is written."""
    modalities = tracks_of(clip, {m for group in groups for m in group})
    pairs = zip(read.moments, read_moments(parts.sampling, clip, read.moments, modalities))
    places: list[tuple[Place, str]] = []
    try:
        while batch := [(moment, as_indexed(parts, sample)) for moment, sample in islice(pairs, BATCH)]:
            store.append(embed(parts, groups, [sample for _, sample in batch], store.meta.shapes))
            places += [_placed(read.file, *pair) for pair in batch]
    except (MediaError, OSError) as error:
        store.cut()
        store.commit([(replace(read.file, fault=str(error)), [])])
        return
    store.commit([(read.file, places)])


def _placed(file: File, moment: Moment, sample: Sample) -> tuple[Place, str]:
    """Where a moment is, and what is said in it."""
    return Place(file.path, moment.start, moment.end, letters_of(sample)), moment.said


def letters_of(sample: Sample) -> str:
    """The tracks that a sample has: "va"."""
    return "".join(m.value for m in Modality if sample.present.get(m))


def _read_ahead(parts: Loaded, files: Files, pending: Sequence[File], groups: Sequence[Group], windows: tuple[float, float]
                ) -> Iterator[_Read]:
    """The files in order, read by threads: decoding is not done in Python."""
    modalities = {m for group in groups for m in group}
    with Clips() as opened, ThreadPoolExecutor(max(1, min(READERS, cores()))) as threads:
        left = iter(pending)

        def start(number: int) -> list[Future[_Read]]:
            return [threads.submit(_read, parts, opened, files, file, modalities, windows) for file in islice(left, number)]

        waiting = start(AHEAD)
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += start(1)
        finally:  # who stops early does not wait for files that nobody will look at
            for future in waiting:
                future.cancel()


def _read(parts: Loaded, opened: Clips, files: Files, file: File, modalities: set[Modality], windows: tuple[float, float]) -> _Read:
    try:
        clip = opened.open(files.root / file.path)
        if file.path in files.said:
            clip = replace(clip, said=files.said[file.path], cues=None)
        moments = moments_of(clip, *windows)
        file = replace(file, seconds=moments[-1].end or None)
        if len(moments) > BATCH:
            return _Read(file, moments, clip=clip)
        samples = [as_indexed(parts, sample) for sample in read_moments(parts.sampling, clip, moments, tracks_of(clip, modalities))]
        return _Read(file, moments, samples)
    except (MediaError, ClipError, OSError) as error:
        return _Read(replace(file, fault=str(error)))


def tracks_of(clip: Clip, wanted: Collection[Modality]) -> list[Modality]:
    """The modalities that some moment of a clip may have."""
    return [m for m in Modality if m in wanted and m in clip.present]


def as_indexed(parts: Loaded, sample: Sample) -> Sample:
    """A picture as often as a video has frames, where the model keeps something of each frame: rows must have one shape."""
    frames = parts.sampling.frames
    if sample.frames is None or len(sample.frames) == frames or parts.model.pair_numbers == Model.pair_numbers:
        return sample
    return replace(sample, frames=sample.frames.expand(frames, -1, -1, -1))


def embed(parts: Loaded, groups: Sequence[Group], samples: Sequence[Sample], shapes: Mapping[str, Mapping[str, Sequence[int]]]
          ) -> dict[str, Rows]:
    """Group → what the model compares these samples by, on the CPU; zeros where a sample lacks a track of the group."""
    found = {key: Rows({name: torch.zeros(len(samples), *shape) for name, shape in own.items()}) for key, own in shapes.items()}
    for numbers in (part for same in alike(samples) for part in (same[n : n + BATCH] for n in range(0, len(same), BATCH))):
        own = [samples[number] for number in numbers]
        mine = [group for group in groups if all(own[0].present.get(m) for m in group)]
        for key, rows in _encode(parts, mine, own).items() if mine else ():
            for name, x in rows.tensors.items():
                found[key][name][numbers] = x
    return found


def _encode(parts: Loaded, groups: Sequence[Group], samples: Sequence[Sample]) -> dict[str, Rows]:
    """Group → what the model compares samples by that have all its tracks."""
    with torch.inference_mode():
        features = parts.encode(groups, samples)
        return {group.key: parts.model.index_clips(features, group).to("cpu") for group in groups}


def alike(samples: Sequence[Sample]) -> list[list[int]]:
    """Numbers of the samples that can be encoded together: of the same tracks and the same number of frames."""
    kinds: dict[Any, list[int]] = {}
    for number, sample in enumerate(samples):
        frames = None if sample.frames is None else len(sample.frames)
        kinds.setdefault((letters_of(sample), frames), []).append(number)
    return list(kinds.values())

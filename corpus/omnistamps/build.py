"""Builds a set of OmniStamps clips in a folder: media, annotations, vocabulary, ceilings. Killed at any moment, it goes on later."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np
import PIL

from omnivast.corpus.omnistamps.annotations import annotation_files, training_texts
from omnivast.corpus.omnistamps.ceilings import ceilings
from omnivast.corpus.omnistamps.compose import Job, compose
from omnivast.corpus.omnistamps.facts import SPLITS, Clip, Stamp, clip_id, draw_clips, entities_of, read_stamps, size_named
from omnivast.corpus.omnistamps.texts import write_texts
from omnivast.corpus.omnistamps.vocabulary import train_vocabulary
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.log import Progress, progress
from omnivast.utils.machine import cores
from omnivast.utils.random import stable_seed

log = logging.getLogger("omnivast")

_INSTALLED, _CHECKOUT = Path(__file__).with_name("stamps"), Path(__file__).resolve().parents[2] / "datasets" / "omnistamps"
SOURCE = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""Pictures and sounds that come with the project."""
BUILDER = 1
"""Raise it when the same seed would give other clips or texts."""
_STARTED, _FINISHED = "building.json", "build.json"
_FEW = 64


class BuildError(RuntimeError):
    """A folder in which the asked set cannot be built; the message names the folder and the ways out."""


def build(
    size: str,
    output: str | Path,
    seed: int = 0,
    workers: int | None = None,
    source: str | Path | None = None,
    fresh: bool = False,
) -> Path:
    """Build the set ``size`` (quick, full, debug) in ``output`` and return that folder.

    What an earlier call finished is reused. ``workers`` None takes every CPU that this process may use; the result does not depend
    on it. ``source`` None takes the stamps that come with the project. ``fresh`` throws away an earlier build first.
    Raises BuildError for a folder with another set or with foreign files, SourceError for a broken source.
    """
    output, source = Path(output), Path(source or SOURCE)
    choice = size_named(size)
    stamps = read_stamps(source)
    plan = {"builder": BUILDER, "size": size, "seed": seed, "source": _fingerprint(source, stamps)}
    _open_folder(output, plan, fresh)
    if _finished(output, plan):
        log.info("%s: reusing the finished set '%s' (seed %d, %d clips)", output, size, seed, sum(choice.clips.values()))
        return output
    clips = draw_clips(entities_of(choice, stamps), choice.clips, seed, choice.cells)
    hashes = _write_annotations(output, clips, stamps, seed, choice.vocabulary)
    jobs = [_job(clip, stamps, seed) for clip in clips]
    _compose_missing(jobs, source, output / "clips", workers or cores())
    record = {
        **plan,
        "clips": choice.clips,
        "files": hashes,
        "media_sha256": _media_hash(output / "clips", [job.clip_id for job in jobs]),
        "versions": {"av": av.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
    }
    write_atomically(output / _FINISHED, json.dumps(record, indent=1) + "\n")
    (output / _STARTED).unlink(missing_ok=True)
    log.info("%s: finished the set '%s' (seed %d, %d clips)", output, size, seed, len(clips))
    return output


def _fingerprint(source: Path, stamps: dict[str, Stamp]) -> str:
    """A hash of the stamps' list and of every file it names."""
    digest = hashlib.sha256()
    for stamp in stamps.values():
        for media in filter(None, (stamp.image, stamp.sound)):
            digest.update(f"{stamp.name} {stamp.phrase} {media} {sha256_file(source / media)}\n".encode())
    return digest.hexdigest()


def _open_folder(output: Path, plan: dict, fresh: bool) -> None:
    """Make sure that the folder is ours and for this plan, and mark it as begun."""
    if output.exists() and not output.is_dir():
        raise BuildError(f"{output} is a file; name a folder for the clips")
    record = next((output / name for name in (_FINISHED, _STARTED) if (output / name).is_file()), None)
    if record is None and output.is_dir() and any(output.iterdir()):
        raise BuildError(f"{output} holds files that this builder did not write; name an empty or a new folder")
    if record is not None:
        if fresh:
            shutil.rmtree(output)
        else:
            _check_plan(record, plan)
    if not (output / _FINISHED).is_file():
        try:
            write_atomically(output / _STARTED, json.dumps(plan) + "\n")
            (output / "clips").mkdir(exist_ok=True)
        except OSError as error:
            raise BuildError(f"{output} cannot be written: {error}") from error


def _check_plan(record: Path, plan: dict) -> None:
    try:
        found = json.loads(record.read_text())
    except ValueError:
        raise BuildError(f"{record} is not JSON; build with --fresh to start over") from None
    differing = [f"{key} {found.get(key)!r} (asked: {value!r})" for key, value in plan.items() if found.get(key) != value]
    if differing:
        raise BuildError(
            f"{record.parent} holds another set: {', '.join(differing)}; name another folder, or build with --fresh to replace it"
        )


def _finished(output: Path, plan: dict) -> bool:
    """Whether the build is marked finished and all of its files are still there and whole. Clips that are not are removed."""
    if not (output / _FINISHED).is_file():
        return False
    record = json.loads((output / _FINISHED).read_text())
    for name, sha256 in record["files"].items():
        if not (output / name).is_file() or sha256_file(output / name) != sha256:
            log.info("%s: %s is missing or changed; making it again", output, name)
            return False
    ids = [clip_id(split, index) for split in SPLITS for index in range(record["clips"][split])]
    if not set(ids) <= _present(output / "clips"):
        return False
    if _media_hash(output / "clips", ids) != record["media_sha256"]:
        log.warning("%s: some clips are not those that were built; making them all again", output)
        shutil.rmtree(output / "clips")
        return False
    return True


def _write_annotations(output: Path, clips: Sequence[Clip], stamps: dict[str, Stamp], seed: int, vocabulary: int) -> dict[str, str]:
    """Write all files but the media; their SHA-256 by name."""
    texts = {clip.clip_id: write_texts(clip, stamps, seed) for clip in clips}
    files = annotation_files(clips, texts, stamps)
    tokens = train_vocabulary(training_texts(files), vocabulary)
    files["ceilings.json"] = ceilings([clip for clip in clips if clip.split == "test"])
    contents = {name: json.dumps(content, indent=0) + "\n" for name, content in files.items()}
    contents["vocab.txt"] = "\n".join(tokens) + "\n"
    for name, content in contents.items():
        write_atomically(output / name, content)
    return {name: hashlib.sha256(content.encode()).hexdigest() for name, content in contents.items()}


def _job(clip: Clip, stamps: dict[str, Stamp], seed: int) -> Job:
    sound = stamps[clip.heard].sound
    assert sound is not None, "entities_of lets only stamps with a sound be heard"
    return Job(clip.clip_id, stamps[clip.seen].image, clip.motion, clip.background, sound, stable_seed(seed, "media", clip.clip_id))


def _present(folder: Path) -> set[str]:
    """Ids of the clips whose files are there and not empty."""
    with os.scandir(folder) as entries:
        return {entry.name[:-4] for entry in entries if entry.name.endswith(".mp4") and entry.stat().st_size}


def _compose_missing(jobs: Sequence[Job], source: Path, folder: Path, workers: int) -> None:
    folder.mkdir(exist_ok=True)
    for left_over in folder.glob(".*.tmp"):
        left_over.unlink(missing_ok=True)
    present = _present(folder)
    missing = [job for job in jobs if job.clip_id not in present]
    if len(missing) < len(jobs):
        log.info("%s: reusing %d finished clips, %d to make", folder, len(jobs) - len(missing), len(missing))
    bar: Progress[None] = progress(len(jobs), "composing clips", initial=len(jobs) - len(missing), unit="clip")
    with bar:
        for _ in _composed(missing, partial(compose, source=str(source), folder=str(folder)), workers):
            bar.update()


def _composed(jobs: Sequence[Job], work: partial[str], workers: int) -> Iterator[str]:
    """The ids of the jobs as they are done, by this process when there are few or one worker is asked for."""
    if workers <= 1 or len(jobs) < _FEW:
        yield from map(work, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(work, jobs, chunksize=8)


def _media_hash(folder: Path, ids: Sequence[str]) -> str:
    """One hash over these clips, to tell whether two builds are the same."""
    digest = hashlib.sha256()
    for name in ids:
        digest.update((folder / f"{name}.mp4").read_bytes())
    return digest.hexdigest()

"""Long videos composed from the clips of a set: scenes that follow each other by cuts, with a sentence spoken over the sound of each.

    python -m omnivast.corpus.omnistamps.long --data datasets/omnistamps/quick --output videos/

``scenes.json`` beside the videos says what is true: of each scene its clip, frames and seconds. Sentences are spoken by espeak-ng where it
is installed (Debian: apt-get install espeak-ng), and stand in a .srt file beside each video unless --no-srt asks for speech alone.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from omnivast.config.paths import as_path
from omnivast.corpus.omnistamps.annotations import annotation_files
from omnivast.corpus.omnistamps.build import SOURCE
from omnivast.corpus.omnistamps.compose import SOUND_RATE, Job, encode, frames_of, sound_of
from omnivast.corpus.omnistamps.facts import draw_clips, entities_of, read_stamps, size_named
from omnivast.corpus.omnistamps.picks import SIZES
from omnivast.corpus.omnistamps.texts import write_texts
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.log import progress, setup_logging
from omnivast.utils.machine import cores
from omnivast.utils.random import stable_seed

RATE = 12
"""Frames per second; a whole number of samples of sound to a frame would be luck, so that scenes end on frames."""
SCENES = 20
"""Of a video."""
SHORTEST, LONGEST = 5.5, 7.5
"""Seconds of a scene, where its sentence needs no more."""
PAUSE = 0.5
"""Seconds before and behind the sentence."""
QUIETER = 0.35
"""The sound of a scene while somebody speaks."""
SPEAKER = "espeak-ng"
PATIENCE = 60

log = logging.getLogger("omnivast")


@dataclass(frozen=True)
class Scene:
    """One clip of a set, and what is said in it."""

    job: Job
    subtitle: str


@dataclass(frozen=True)
class Video:
    """A long video to be composed."""

    name: str
    scenes: tuple[Scene, ...]
    seed: int


def videos_of(data: Path, clips: int | None, seed: int = 0) -> list[Video]:
    """The first ``clips`` training clips of a set (None: all), mixed, SCENES to a video."""
    stamps = read_stamps(SOURCE)
    subtitles = {row["video_id"]: row["subtitle"] for row in json.loads((data / "ret_train.json").read_text())}
    facts = [clip for clip in json.loads((data / "clips.json").read_text()) if clip["split"] == "train"][:clips]
    scenes = []
    for clip in facts:
        sound = stamps[clip["stamps"]["heard"]].sound
        assert sound is not None, "only stamps with a sound are heard"
        job = Job(clip["clip_id"], stamps[clip["stamps"]["seen"]].image, clip["motion"], clip["background"], sound,
                  stable_seed(seed, "long", clip["clip_id"]))
        scenes.append(Scene(job, subtitles[clip["clip_id"]]))
    order = np.random.default_rng(stable_seed(seed, "order")).permutation(len(scenes)).tolist()
    mixed = [scenes[place] for place in order]
    return [Video(f"long{number:04d}", tuple(mixed[start : start + SCENES]), stable_seed(seed, "video", str(number)))
            for number, start in enumerate(range(0, len(mixed), SCENES))]


def draw_texts(size: str, seed: int, folder: Path) -> None:
    """The facts and texts of a set of this size, without its media, where :func:`videos_of` looks for them."""
    choice, stamps = size_named(size), read_stamps(SOURCE)
    clips = draw_clips(entities_of(choice, stamps), choice.clips, seed, choice.cells)
    files = annotation_files(clips, {clip.clip_id: write_texts(clip, stamps, seed) for clip in clips}, stamps)
    for name in ("clips.json", "ret_train.json", "pretrain_train.json"):
        write_atomically(folder / name, json.dumps(files[name], indent=0) + "\n")


def compose_video(video: Video, folder: Path, source: str, speaks: bool, srt: bool) -> str:
    """Write ``<name>.mp4``, its subtitles where they are wanted, and, last, ``<name>.json``, which says that all of it is there."""
    rng = np.random.default_rng(video.seed)
    frames, sounds, told, at = [], [], list[dict[str, Any]](), 0
    for scene in video.scenes:
        words = speech_of(scene.subtitle) if speaks else np.zeros(0, np.float32)
        seconds = max(float(rng.uniform(SHORTEST, LONGEST)), len(words) / SOUND_RATE + 2 * PAUSE)
        count = round(seconds * RATE)
        # The sample at which the scene's last frame ends, so that errors do not add up.
        samples = round((at + count) * SOUND_RATE / RATE) - round(at * SOUND_RATE / RATE)
        sound = sound_of(scene.job, source, rng, samples)
        begin = round(PAUSE * SOUND_RATE)
        sound[begin : begin + len(words)] = sound[begin : begin + len(words)] * QUIETER + 0.8 * words
        frames.append(frames_of(scene.job, source, rng, count))
        sounds.append(np.clip(sound, -1, 1))
        start, end = at / RATE, (at + count) / RATE
        said = [start + PAUSE, start + PAUSE + len(words) / SOUND_RATE if len(words) else end - PAUSE]
        told.append({"video": f"{video.name}.mp4", "clip_id": scene.job.clip_id, "first": at, "last": at + count - 1,
                     "start": round(start, 6), "end": round(end, 6), "said": [round(time, 3) for time in said], "subtitle": scene.subtitle})
        at += count
    write_atomically(folder / f"{video.name}.mp4", encode(np.concatenate(frames), np.concatenate(sounds), RATE))
    if srt:
        lines = (f"{number}\n{_clock(scene['said'][0])} --> {_clock(scene['said'][1])}\n{scene['subtitle']}\n\n"
                 for number, scene in enumerate(told, start=1))
        write_atomically(folder / f"{video.name}.srt", "".join(lines))
    write_atomically(folder / "truth" / f"{video.name}.json", json.dumps(told, indent=1) + "\n")
    return video.name


def speech_of(text: str) -> np.ndarray:
    """(N,) float32 at 16 kHz in -1 to 1: the text, spoken. Raises RuntimeError with what the speaker said."""
    done = subprocess.run([SPEAKER, "--stdout", "-v", "en-us", "-s", "160", "--", text], capture_output=True, timeout=PATIENCE)
    if done.returncode or not done.stdout:
        raise RuntimeError(f"{SPEAKER} ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    container: Any
    with av.open(io.BytesIO(done.stdout)) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SOUND_RATE)
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        parts += resampler.resample(None)
    return np.concatenate([part.to_ndarray()[0] for part in parts]).astype(np.float32)


def _clock(seconds: float) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{thousandths:03d}"


def compose_all(data: Path, output: Path, clips: int | None, *, speaks: bool, srt: bool, workers: int, seed: int = 0
                ) -> list[dict[str, Any]]:
    """Compose what is not there yet, and write ``scenes.json``; its scenes, in order. Other settings than before begin anew."""
    settings = {"data": sha_of(data), "clips": clips, "speaks": speaks, "srt": srt, "seed": seed}
    marker = output / "truth" / "settings"
    if not marker.exists() or json.loads(marker.read_text()) != settings:
        if output.exists():
            if not marker.exists() and any(output.iterdir()):
                raise ValueError(f"{output} holds files that this program did not write; name an empty or a new folder")
            shutil.rmtree(output)
        write_atomically(marker, json.dumps(settings) + "\n")
    videos = videos_of(data, clips, seed)
    missing = [video for video in videos if not (output / "truth" / f"{video.name}.json").exists()]
    work = partial(compose_video, folder=output, source=str(SOURCE), speaks=speaks, srt=srt)
    bar: Any = progress(len(videos), "composing long videos", initial=len(videos) - len(missing), unit="video")
    with bar:
        if workers > 1 and len(missing) > workers:
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                for _ in pool.imap_unordered(work, missing):
                    bar.update()
        else:
            for video in missing:
                work(video)
                bar.update()
    scenes = [scene for video in videos for scene in json.loads((output / "truth" / f"{video.name}.json").read_text())]
    write_atomically(output / "scenes.json", json.dumps(scenes, indent=1) + "\n")
    return scenes


def sha_of(data: Path) -> str:
    """Which set it is."""
    return sha256_file(data / "clips.json") + sha256_file(data / "ret_train.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m omnivast.corpus.omnistamps.long", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=as_path, required=True, metavar="FOLDER", help="a set of OmniStamps; its training clips are used")
    parser.add_argument("--draw", choices=list(SIZES), metavar="SIZE", help="draw facts and texts of a set of this size "
                        "into --data first")
    parser.add_argument("--seed", type=int, default=0, help="of the videos, and of what --draw draws (default 0)")
    parser.add_argument("--output", type=as_path, required=True, metavar="FOLDER", help="where the videos go")
    parser.add_argument("--clips", type=int, metavar="N", help="so many scenes (default: one for each training clip)")
    parser.add_argument("--no-srt", action="store_true", help="no subtitle files: what is said can be heard alone")
    parser.add_argument("--silent", action="store_true", help="nothing is spoken")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    setup_logging(None)
    speaks = not options.silent and shutil.which(SPEAKER) is not None
    if not speaks and options.no_srt:
        log.error("--no-srt: without %s (Debian: apt-get install espeak-ng) nothing would tell what is said", SPEAKER)
        return 2
    if not speaks:
        log.warning("nothing is spoken%s; the subtitles stand in .srt files", "" if options.silent else f": {SPEAKER} is not installed")
    try:
        if options.draw:
            draw_texts(options.draw, options.seed, options.data)
        scenes = compose_all(options.data, options.output, options.clips, speaks=speaks, srt=not options.no_srt,
                             workers=options.workers or cores(), seed=options.seed)
    except (OSError, ValueError) as error:
        log.error("%s", error)
        return 2
    log.info("%d scenes, composed: %s", len(scenes), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

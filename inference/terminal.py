"""What the verbs of this room have in common: their options, how they end, and what they print.

Results go to standard output, for people or, with ``--json``, for programs; progress and warnings to standard error. Exit status: 0 done,
1 done but for clips that could not be read (each is named), 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnivast.config.paths import as_path
from omnivast.utils.ending import end_with
from omnivast.utils.log import setup_logging

MODEL = "OMNIVAST_MODEL"
"""The environment variable that names the model where --model does not."""
SHOWN_FAULTS = 5


# ---------------------------------------------------------------------------------------------------------------- options


def parser_of(verb: str, does: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m omnivast {verb}", description=does)


def add_clips(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="+", type=as_path, help="files, or folders of them")
    add_common(parser)


def add_common(parser: argparse.ArgumentParser, group: bool = True) -> None:
    if group:
        parser.add_argument("--group", help="tracks to look at: v (seen), a (heard), s (said), such as va (default: all that the clip has)")
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser, json: bool = True) -> None:
    parser.add_argument("--model", help=f"the output folder of a training, a checkpoint, a shared folder, or hf-hub:org/name (default: the "
                                        f"environment variable {MODEL})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default auto)")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16", "fp16"), help="default: as the model was trained")
    if json:
        parser.add_argument("--json", action="store_true", help="results as JSON on standard output")


def read_weights(text: str) -> dict[str, float]:
    """``seen=1,heard=0.5`` → a dict."""
    weights = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{part}': expected seen=1, heard=0.5 or said=0.2, joined by commas") from None
    return weights


def load_model(options: argparse.Namespace) -> Any:
    from omnivast.inference.pipeline import load

    place = options.model or os.environ.get(MODEL)
    if not place:
        raise ValueError(f"which model? Name the output folder of a training with --model, or in the environment variable {MODEL}")
    return load(place, device=options.device, precision=options.precision)


def run_verb(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None) -> int:
    options = parser.parse_args(arguments)
    setup_logging(None).setLevel(logging.WARNING)
    try:
        return run(options)
    except BrokenPipeError:  # a reader that has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, ValueError, ImportError, OSError, RuntimeError) as error:
        if os.environ.get("OMNIVAST_TRACEBACK"):
            raise
        return end_with(f"omnivast: {str(error) or 'stopped'}", 130 if isinstance(error, KeyboardInterrupt) else 2)


# ----------------------------------------------------------------------------------------------------------------- output


def by_clip(options: argparse.Namespace, do: Callable[[Any], Any], words: Callable[[Any], str]) -> tuple[list[Any], int]:
    """``do`` of every clip, its result told as soon as it is there; the results, and the exit status."""
    from omnivast.data.annotations.own_clips import find_files
    from omnivast.data.media.errors import MediaError
    from omnivast.inference.clips import ClipError
    from omnivast.utils.log import progress

    found = find_files([str(clip) for clip in options.clips])
    paths = [found.root / name for name in found.subtitles]
    results: list[Any] = []
    faults: dict[str, str] = {}
    for path in progress(paths, "reading", unit="clips") if len(paths) > 1 and not sys.stdout.isatty() else paths:
        try:
            results.append(do(path))
        except (MediaError, ClipError) as error:
            faults[str(path)] = str(error)
            continue
        if not options.json:
            words_of_it = words(results[-1])
            tell(words_of_it if len(paths) == 1 else f"{path.relative_to(found.root)}: {words_of_it}")
    if options.json:
        print_json({"results": [as_plain(one) for one in results], "faults": faults})
    else:
        print_missing(results)
        print_faults(faults)
    return results, 1 if faults else 0


def as_plain(result: Any) -> dict[str, Any]:
    from omnivast.inference.results import as_json

    return as_json(result)


def in_words(text: str) -> str:
    return text or "(no words)"


def print_missing(results: Sequence[Any]) -> None:
    """What a person must know of results: tracks that clips lack."""
    lacking: dict[str, list[str]] = {}
    for one in results:
        for track in one.missing:
            lacking.setdefault(track, []).append(Path(one.name).name)
    for track, names in lacking.items():
        several = f"{len(names)} of {len(results)} clips have no {track}, such as {names[0]}"
        say(f"{names[0]} has no {track}" if len(results) == 1 else several)


def tell(line: str) -> None:
    """A line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def say(note: str) -> None:
    """A line beside the result."""
    if note:
        sys.stderr.write(f"{note}\n")


def print_json(content: dict[str, Any]) -> None:
    tell(json.dumps(content, ensure_ascii=False, indent=1 if sys.stdout.isatty() else None))


def print_faults(faults: dict[str, str]) -> None:
    for path, why in list(faults.items())[:SHOWN_FAULTS]:
        say(f"not read: {why if path in why else f'{path}: {why}'}")
    if len(faults) > SHOWN_FAULTS:
        say(f"… and {len(faults) - SHOWN_FAULTS} more files could not be read")


def print_table(found: Sequence[Any]) -> None:
    """A line for every moment: how sure, where, by which track and second, and what each track alone scores."""
    width = min(60, max(len(one.path) for one in found))
    for place, one in enumerate(found, 1):
        sure = f"{100 * one.probability:3.0f} %" if one.probability is not None else f"{one.score:5.2f}"
        tracks = "  ".join(f"{name} {score:.2f}" for name, score in one.tracks.items())
        at = "" if one.second is None else f" at {_clock(one.second)}"
        why = "" if one.by is None else f"  by {one.by}{at}"
        matched = "" if one.match is None else f"  match {100 * one.match:.0f} %"
        said = f"  “{one.said[:60]}{'…' if len(one.said) > 60 else ''}”" if one.said else ""
        tell(f"{place:3}  {sure}  {one.path:<{width}}  {_clock(one.start)}–{_clock(one.end)}{matched}{why}  ({tracks}){said}")


def print_evidence(evidence: Sequence[Any]) -> None:
    for one in evidence:
        what = "frame" if one.track == "seen" else "slice of sound"
        at = "" if one.start is None else f", {_clock(one.start)}–{_clock(one.end)}"
        tell(f"  {one.track} in {what} {one.number + 1}{at}")
    if evidence:
        tell(f"  without {'it' if len(evidence) == 1 else 'these'}: {in_words(evidence[-1].without)}")
    else:
        tell("  the answer is the same without frames or slices of sound")


def _clock(seconds: float) -> str:
    """``1:02:03.5``, ``0:07.0``"""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def save_results(path: Path, found: Sequence[Any]) -> None:
    groups = dict.fromkeys(key for one in found for key in one.vectors)
    arrays: dict[str, Any] = {"paths": np.array([one.name for one in found])}
    for key in groups:
        width = next(len(one.vectors[key]) for one in found if key in one.vectors)
        arrays[key] = np.stack([one.vectors.get(key, np.full(width, np.nan, np.float32)) for one in found])
    np.savez(path, **arrays)
    tell(f"{path}: vectors of {len(found)} clips by {', '.join(groups)}")

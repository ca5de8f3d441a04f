"""Does a model compute what the public release computed? Checks a folder of recorded values, VAST's or VALOR's, one line per kind of value.

    python -m omnivast parity tests/goldens/vast_tiny
    python -m omnivast parity FOLDER --tolerance output=1e-4 gradient=1e-3

FOLDER is laid out as tests/goldens/vast_tiny, tests/goldens/valor_tiny/videoswin (models: a checkpoint, inputs, and what the release made
of them) or tests/goldens/valor_tiny/data (texts, frames, sound); which it is its golden.json says. Everything is computed again in float32,
on the CPU or on another --device. Errors of outputs, losses and gradients are relative (norm of the difference over norm of the recorded
value), of spectrograms and pixels the largest difference; texts, ids and choices must be equal. What this version cannot compute is out of
tolerance.

Exit status: 0 everything is within tolerance; 1 something is not, is missing or not supported; 2 the folder cannot be read or is not
understood.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from omnivast.config.paths import as_path
from omnivast.scripts.tools.parity import valor, valor_data, vast
from omnivast.scripts.tools.parity.rows import TOLERANCES, FolderError, Row, known, read_golden
from omnivast.utils.console import readers_may_leave

Read = Callable[[Path, str], tuple[str, Iterator[Row]]]
LAYOUTS: tuple[tuple[str, frozenset[str], Read], ...] = (
    ("vast_tiny", frozenset({"eva", "beats"}), vast.read),
    ("valor_tiny/videoswin", frozenset({"clip", "videoswin", "ast"}), valor.read),
    ("valor_tiny/data", frozenset({"frame_choice", "text", "audio", "frames"}), valor_data.read),
)
"""Folders in tests/goldens, sections of which one or more stand in the golden.json of no other, and what reads such a folder."""


@readers_may_leave()
def main(argv: Sequence[str]) -> int:
    """Print a line per group of values and the summary; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m omnivast parity", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=as_path, help="laid out as one of tests/goldens: " + ", ".join(name for name, *_ in LAYOUTS))
    parser.add_argument("--tolerance", nargs="+", default=[], metavar="KIND=ERROR",
                        help="largest error accepted of a kind: " + ", ".join(f"{k}={v:g}" for k, v in TOLERANCES.items() if v))
    parser.add_argument("--device", default="cpu", help="where models compute: cpu (default), cuda, …; convolutions in float32, too")
    parser.add_argument("--values", action="store_true", help="a line for every value, not only for those out of tolerance")
    parser.add_argument("--json", action="store_true", help="one JSON object instead: groups, and every value")
    arguments = parser.parse_args(argv)
    try:
        limits = tolerances(arguments.tolerance)
        torch.backends.cudnn.allow_tf32 = False
        headline, rows = reader_of(arguments.folder)(arguments.folder, arguments.device)
        judged = [dataclasses.replace(row, tolerance=judge(row, limits)) for row in rows]
    except BrokenPipeError:
        raise
    except (ValueError, OSError, LookupError, TypeError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    good = bool(judged) and all(row.ok for row in judged)
    if arguments.json:
        print(json.dumps(as_json(arguments.folder, headline, judged, good), indent=1))
    else:
        print(f"{arguments.folder}: {headline}")
        for line in table(judged, arguments.values):
            print(line)
        failed = [row.name for row in judged if not row.ok]
        more = f" and {len(failed) - 20} more" if len(failed) > 20 else ""
        print(f"passed: {len(judged)} values" if good else f"FAILED: {', '.join(failed[:20])}{more}")
    return 0 if good else 1


def reader_of(folder: Path) -> Read:
    """What reads a folder of this layout. Raises FolderError for one that is none."""
    layouts = ", ".join(f"tests/goldens/{name}" for name, *_ in LAYOUTS)
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder; expected one laid out as {layouts}")
    if not (folder / "golden.json").is_file():
        raise FolderError(f"{folder}: no folder of recorded values: it lacks golden.json; expected one laid out as {layouts}")
    golden = read_golden(folder)
    fitting = max(LAYOUTS, key=lambda layout: len(layout[1] & golden.keys()))
    if not fitting[1] & golden.keys():
        sections = "; ".join(f"{name}: {', '.join(sorted(keys))}" for name, keys, _ in LAYOUTS)
        raise FolderError(f"{folder / 'golden.json'}: none of the sections that say what was recorded ({sections}); it has "
                          f"{', '.join(golden) or 'nothing'}")
    return fitting[2]


def tolerances(given: Sequence[str]) -> dict[str, float]:
    """The tolerance of every kind, with those that the command line gives. Raises FolderError."""
    words = dict(word.partition("=")[::2] for word in given)
    known(words, [kind for kind, value in TOLERANCES.items() if value], "--tolerance")
    limits = dict(TOLERANCES)
    for kind, text in words.items():
        try:
            limits[kind] = float(text)
        except ValueError:
            raise FolderError(f"--tolerance {kind}={text}: expected a number, for example {kind}={TOLERANCES[kind]:g}") from None
    return limits


def judge(row: Row, limits: dict[str, float]) -> float:
    """The tolerance of a row: its kind's, unless it must be exact or has a tolerance of its own."""
    return limits[row.kind] if row.tolerance and row.tolerance == TOLERANCES.get(row.kind) else row.tolerance


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by kind and group, in their order."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.kind, row.group), []).append(row)
    return found


def worst(rows: Sequence[Row]) -> Row:
    return max(rows, key=lambda row: (not row.ok, math.inf if math.isnan(row.error) else row.error))


def table(rows: Sequence[Row], values: bool) -> Iterator[str]:
    """A line per group: how many values, the worst error, its tolerance; below it those out of tolerance, or with ``values`` all."""
    found = groups(rows)
    width = max((len(group) for _, group in found), default=0)
    yield f"{'kind':<12}{'values':<{width}}  compared     worst  tolerance"
    for (kind, group), own in found.items():
        row = worst(own)
        bad = sum(not each.ok for each in own)
        yield (f"{kind:<12}{group:<{width}}  {len(own):>8}  {row.error:8.1e}  {row.tolerance:9.2g}  "
               f"{f'FAIL ({bad})' if bad else 'ok'}")
        for each in own:
            if values or not each.ok:
                yield f"  {each.name:<62}  {each.error:8.1e}  {each.tolerance:9.2g}  {'ok' if each.ok else 'FAIL'}  {each.note}".rstrip()


def as_json(folder: Path, headline: str, rows: Sequence[Row], good: bool) -> dict[str, Any]:
    """What the table says, and every value. An error that is no number, or infinite, is null."""
    def error(row: Row) -> float | None:
        return row.error if math.isfinite(row.error) else None

    return {
        "folder": str(folder), "what": headline, "passed": good,
        "groups": [{"kind": kind, "group": group, "compared": len(own), "failed": sum(not row.ok for row in own), "worst": worst(own).name,
                    "error": error(worst(own)), "tolerance": worst(own).tolerance} for (kind, group), own in groups(rows).items()],
        "values": [{"kind": row.kind, "name": row.name, "group": row.group, "error": error(row), "tolerance": row.tolerance, "ok": row.ok,
                    "note": row.note} for row in rows],
    }

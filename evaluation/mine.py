"""Hard negatives for a training: ``python -m omnivast mine RESULT.json --group tvas --output hard_negatives.json``

RESULT.json is what a retrieval test of the training clips wrote (their annotation file as ``txt`` in ``data_cfg.val``). The clips that a
text finds right behind its own are hard negatives of that clip. Those that it finds before its own may well be right too (false
negatives), and so may those that have one of its texts word for word: they are left out, and with ``--margin N`` the first N behind as
well. Give the file to a dataset of the training as ``hard_negatives``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.config.files import read_json
from omnivast.config.paths import as_path
from omnivast.config.tasks import Objective
from omnivast.evaluation.inputs import is_result
from omnivast.utils.files import write_atomically


class MiningError(ValueError):
    """A file that is no result of retrieval, or has not the group; the message says what it is."""


def mine(path: Path, group: str, margin: int = 0) -> dict[str, list[str]]:
    """Clip id → ids of its hard negatives, the hardest first, for every clip of the result. Raises MiningError."""
    result = read_json(path, MiningError, what="result file")
    if not is_result(result) or result["protocol"]["objective"] != Objective.RETRIEVAL.value:
        raise MiningError(f"{path} is no result of a retrieval test (results/NAME.ret.json in a run's folder)")
    entries = [entry for entry in result["predictions"] if group in entry]
    if not entries:
        raise MiningError(f"{path} has no group '{group}'; it has {', '.join(result['protocol'].get('groups', []))}")
    having: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        having[entry["text"]].add(entry["clip_id"])
    found: dict[str, dict[str, None]] = defaultdict(dict)
    alike: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        found[entry["clip_id"]].update(dict.fromkeys(_behind(entry, group, margin)))
        alike[entry["clip_id"]] |= having[entry["text"]]
    return {clip_id: [other for other in others if other not in alike[clip_id]] for clip_id, others in found.items()}


def _behind(entry: Mapping[str, Any], group: str, margin: int) -> Sequence[str]:
    """The clips that the text found behind its own, by similarity; none where its own is not among those that were kept."""
    top = entry[group].get("itc_top", entry[group]["top"])
    return top[top.index(entry["clip_id"]) + 1 + margin:] if entry["clip_id"] in top else ()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast mine", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("result", type=as_path, metavar="RESULT.json", help="of a retrieval test of the training clips")
    result.add_argument("--group", default="tvas", help="the group by whose scores (default tvas)")
    result.add_argument("--margin", type=int, default=0, metavar="N", help="clips right behind a text's own that are left out (default 0)")
    result.add_argument("--output", type=as_path, required=True, help="the file to write")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        found = mine(options.result, options.group, max(0, options.margin))
    except MiningError as error:
        sys.stderr.write(f"mine: {error}\n")
        return 2
    write_atomically(options.output, json.dumps(found) + "\n")
    having = sum(map(bool, found.values()))
    each = sum(map(len, found.values())) / max(1, having)
    sys.stdout.write(f"{options.output}: {having} of {len(found)} clips have hard negatives, {each:.1f} each\n")
    return 0

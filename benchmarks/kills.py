"""SIGKILL at random moments of ``omnivast index``: is the index that is finished at last the one of an unbroken run?

    python benchmarks/kills.py --model RUN --clips FOLDER [--kills 50] [--seed 0] [--json out.json] [settings of omnivast index]

(benchmarks/kills_corpus.py does the same to ``omnivast build``.)

Each process is killed after a time drawn evenly from 0 to what an unbroken one takes, and the next one goes on. One that ends before its
time is compared with the unbroken index, to the byte of vectors and texts and the row of tables, and the next begins a new index. Processes
are forked from one that has only imported what the verb needs. ``kills_within`` counts those that left an index begun and unfinished.
Exit status 1 where any index differs.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.inference import cli  # noqa: E402
from omnivast.inference.index.store import CLIPS, META, VECTORS  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["omnivast.inference.index.api"])

LIMIT = 600.0
"""Seconds after which a process that nobody kills has hung."""

log = logging.getLogger("omnivast")


def content(folder: Path) -> dict[str, Any]:
    """All that an index holds, comparable."""
    with closing(sqlite3.connect(folder / CLIPS)) as clips:
        tables = {name: clips.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in ("files", "moments", "said", "counts")}
    files = [*sorted((folder / VECTORS).iterdir()), folder / META, folder / "background.json"]
    return {**tables, **{path.name: path.read_bytes() for path in files}, "folder": sorted(path.name for path in folder.iterdir())}


def index(arguments: Sequence[str]) -> None:
    """The verb, as a process."""
    sys.exit(cli.index([*arguments, "--json"]))


def kill(arguments: Sequence[str], folder: Path, whole: Path, kills: int, seconds: float, seed: int = 0) -> dict[str, int]:
    """Kill so many processes that make the index in ``folder`` with these arguments, and compare each index that is finished with
    ``whole``."""
    moments, wanted = random.Random(seed), content(whole)
    done = {"kills": 0, "kills_within": 0, "finished": 0, "different": 0}
    while True:
        process = WARM.Process(target=index, args=([*arguments, "--index", str(folder)],))
        process.start()
        last = done["kills"] == kills
        process.join(LIMIT if last else moments.uniform(0, seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            if last:
                raise RuntimeError(f"omnivast index had not ended after {LIMIT:g} s")
            done["kills"] += 1
            done["kills_within"] += (folder / META).is_file()
            continue
        if process.exitcode not in (0, 1):
            raise RuntimeError(f"omnivast index ended with {process.exitcode}")
        done["finished"] += 1
        done["different"] += content(folder) != wanted
        shutil.rmtree(folder)
        if last:
            return done


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, compare, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options, others = parser.parse_known_args(arguments)
    setup_logging(None)
    given = [options.clips, "--model", options.model, *others]
    with tempfile.TemporaryDirectory(prefix="omnivast_") as place:
        for name in ("first", "whole"):  # the first starts the process from which the others are forked
            whole = Path(place, name)
            process = WARM.Process(target=index, args=([*given, "--index", str(whole)],))
            began = time.perf_counter()
            process.start()
            process.join()
            seconds = time.perf_counter() - began
        found = kill(given, Path(place, "broken"), whole, options.kills, seconds, options.seed)
        rows = len(content(whole)["moments"])
    result = {"machine": hardware(), "settings": others, "moments": rows, "unbroken_s": round(seconds, 1), **found}
    log.info("%s", json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(found["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())

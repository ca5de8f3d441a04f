"""Annotations of millions of rows: time and memory of the conversion to a memory-mapped file, of later starts, and of each worker.

    python benchmarks/annotations.py --rows 2000000 --folder output/annotations [--json out.json]

Writes a synthetic file of VAST-27M's form (5 vision captions, 5 audio captions, an omni caption, a subtitle) unless it is there, and
prints what was measured. Every figure is of a process of its own; memory is what that process has for itself (anonymous pages), at its
peak, above what it has after the imports.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from omnivast.config.tasks import Task  # noqa: E402
from omnivast.data.annotations.load import load_annotations  # noqa: E402

TASK = Task.parse("ret%tvas%tv%ta")
WORDS = [f"{a}{b}{c}" for a in ("ba", "ste", "ki", "lo", "un") for b in ("r", "nd", "ll", "t") for c in ("a", "ing", "er", "o", "")]


def write(path: Path, rows: int) -> None:
    """A JSON list of ``rows`` rows of about 1.3 kB, from 4,096 different sentences of each length."""
    draw = random.Random(0)
    short, long = ([json.dumps(" ".join(draw.choices(WORDS, k=length))) for _ in range(4096)] for length in (14, 34))
    with open(path, "w") as file:
        for row in range(rows):
            seen, heard = (", ".join(draw.choices(short, k=5)) for _ in range(2))
            file.write(f'{",["[row == 0]}\n{{"clip_id": "clip{row:09}", "vision_cap": [{seen}], "audio_cap": [{heard}], '
                       f'"vast_cap": {long[draw.getrandbits(12)]}, "subtitle": {short[draw.getrandbits(12)]}}}')
        file.write("\n]\n")


def own_memory() -> float:
    """MiB of anonymous pages that only this process has."""
    content = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"Private_Dirty:\s+(\d+)", content)) / 1024


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, MiB at the peak, looked at five times a second) of ``work`` in a forked process."""
    receiver, sender = multiprocessing.Pipe(False)

    def run() -> None:
        import threading

        import pyarrow  # noqa: F401

        before, highest, ended = own_memory(), [0.0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                highest[0] = max(highest[0], own_memory())

        threading.Thread(target=watch, daemon=True).start()
        start = time.perf_counter()
        kept = work()
        seconds = time.perf_counter() - start
        ended.set()
        sender.send((seconds, max(highest[0], own_memory()) - before))
        del kept

    gc.collect()
    gc.freeze()  # a collection in the child would write to, and so copy, every page of objects that it has from this process
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    result = receiver.recv()
    child.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="also write the figures here (s and MiB)")
    arguments = parser.parse_args()
    path = arguments.folder / f"{arguments.rows}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write(path, arguments.rows)
    for old in path.parent.glob(f"{path.name}.*"):
        old.unlink()
    print(f"{arguments.rows:,} rows, {path.stat().st_size / 2**30:.2f} GiB")  # noqa: T201

    def load() -> object:
        return load_annotations(path, TASK, training=True)

    figures: dict[str, float] = {"rows": arguments.rows}
    for name, work in (("conversion", load), ("later start", load)):
        seconds, memory = measured(work)
        figures |= {f"{name}.seconds": seconds, f"{name}.mib": memory}
        print(f"{name}: {seconds:.1f} s, {memory:.0f} MiB", flush=True)  # noqa: T201
    annotations = load_annotations(path, TASK, training=True)
    rows = [random.Random(1).randrange(len(annotations)) for _ in range(5000)]
    seconds, memory = measured(lambda: [annotations[row] for row in rows])
    figures |= {"worker.seconds": seconds, "worker.mib": memory}
    print(f"a further worker: {memory:.0f} MiB after {len(rows):,} rows at random, {1e6 * seconds / len(rows):.0f} us each")  # noqa: T201
    columns = next(path.parent.glob(f"{path.name}.*.arrow"))
    print(f"columns: {columns.stat().st_size / 2**30:.2f} GiB")  # noqa: T201
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

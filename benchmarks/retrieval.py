"""Search of a retrieval test among very many candidates, on disk as a test keeps them: seconds and memory of one process.

    python benchmarks/retrieval.py [--candidates 1000000 --queries 10000 --parts 1 --width 512 --folder DIR]

Queries are searched in 64 parts, which processes share out. ``--parts`` of them are timed, and the time of all is told from these: every
part is as large, and reads all candidates. The vectors are noise; each text is near one of the clips.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.evaluation.retrieval import search as module  # noqa: E402
from omnivast.evaluation.retrieval.features import file_of, mapped  # noqa: E402
from omnivast.model.interface import Rows  # noqa: E402

AT_ONCE = 1 << 16


def write(path: Path, count: int, width: int) -> dict[str, np.ndarray]:
    """``count`` unit vectors of float16 in a file."""
    draws = np.random.default_rng(0)
    block = draws.standard_normal((min(AT_ONCE, count), width), dtype=np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    with open(file_of(path, "vector"), "wb") as file:
        for start in range(0, count, AT_ONCE):  # rolled, so that no two rows are the same
            np.roll(block, start // AT_ONCE, axis=1)[: count - start].astype(np.float16).tofile(file)
    return mapped(path, count, {"vector": (width,)})


def measure(folder: Path, candidates: int, queries: int, parts: int, width: int) -> tuple[float, float, float]:
    """Seconds of the processor and of the clock for ``parts`` of the 64 parts, and the most memory of this process, in bytes."""
    clips = write(folder / "clips", candidates, width)
    rows = -(-queries // module.PARTS) * parts
    truth = np.random.default_rng(1).choice(candidates, rows)
    noise = np.random.default_rng(2).standard_normal((rows, width), dtype=np.float32) / width**0.5
    texts = (clips["vector"][truth].astype(np.float32) + noise).astype(np.float16)
    before, module.PARTS = module.PARTS, parts
    began, clock = time.process_time(), time.perf_counter()
    try:
        module.search({"vector": texts}, clips, dot, truth, np.arange(candidates), 50)
    finally:
        module.PARTS = before
    return time.process_time() - began, time.perf_counter() - clock, 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def dot(texts: Rows, clips: Rows) -> Tensor:
    return texts["vector"] @ clips["vector"].T


def main() -> None:
    """Print what was measured and what follows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name, default in (("candidates", 1_000_000), ("queries", 10_000), ("parts", 1), ("width", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", help="where the vectors lie meanwhile; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        seconds, clock, memory = measure(Path(folder), args.candidates, args.queries, args.parts, args.width)
    whole = seconds * module.PARTS / args.parts
    print(f"{args.candidates:,} candidates x {args.queries:,} queries, {args.parts} of {module.PARTS} parts:\n"  # noqa: T201
          f"{seconds:.1f} s of the processor, {clock:.1f} s of the clock, {memory / 1e9:.2f} GB at most;\n"
          f"all parts: {whole:,.0f} s, on two processes {whole / 2:,.0f} s")


if __name__ == "__main__":
    main()

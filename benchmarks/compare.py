"""Two commits on the same machine, in alternation: seconds of our way in each, and their ratio with its spread.

    python benchmarks/compare.py A B [--only step,decode,rerank,mask] [--size default|tiny|…] [--rounds 5] [--threads 1] [--clock wall|cpu]

Each commit is checked out into a git worktree of its own, which is removed at the end; B's benchmarks measure both, so that A may
be older than they are. The ratio is A's seconds over B's: above 1, B is faster.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

log = logging.getLogger("omnivast")
ROOT = Path(__file__).resolve().parent.parent


def measure(tree: Path, options: argparse.Namespace, file: Path) -> dict[str, float]:
    """Seconds of ours by name, from one run of benchmarks/run.py in ``tree``. Raises CalledProcessError when it fails."""
    command = [sys.executable, "benchmarks/run.py", "--only", options.only, "--size", options.size, "--threads", str(options.threads),
               "--clock", options.clock, "--repeats", "1", "--json", str(file)]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(file.read_text())
    return {name: found[name]["ours_s"] for name in options.only.split(",")}


def spread(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest ratio of paired rounds."""
    ratios = [a / b for a, b in zip(first, second)]
    return statistics.median(ratios), min(ratios), max(ratios)


def main() -> int:
    """Check out, measure in turn, print a row per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a")
    parser.add_argument("b")
    for name, default in (("only", "step,decode,rerank,mask"), ("size", "default"), ("clock", "wall")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    times: list[list[dict[str, float]]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder) / name for name in ("a", "b")]
        try:
            for tree, commit in zip(trees, (options.a, options.b)):
                subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(tree), commit], cwd=ROOT, check=True)
            shutil.copytree(trees[1] / "benchmarks", trees[0] / "benchmarks", dirs_exist_ok=True)
            for number in range(options.rounds):
                for which in ((0, 1), (1, 0))[number % 2]:
                    times[which].append(measure(trees[which], options, Path(folder) / "found.json"))
        finally:
            for tree in trees:
                if tree.exists():
                    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)
    for name in options.only.split(","):
        first, second = ([found[name] for found in own] for own in times)
        middle, low, high = spread(first, second)
        log.info("%-10s A %9.4f s   B %9.4f s   ratio %.3f (%.3f to %.3f, %d rounds)",
                 name, statistics.median(first), statistics.median(second), middle, low, high, options.rounds)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    raise SystemExit(main())

"""Approximate search beside the exact one, over many made-up moments.

    python benchmarks/ann.py --moments 1000000 [--engines exact usearch faiss] [--groups vas,v,a,s] [--json out.json]

Vectors are neither real nor uniform at random, which no model's are: what is seen, heard and said is each drawn from ``CLUSTERS`` clusters
whose centres have a spectrum that falls as 1 / n^``FALL``, spread in ``WITHIN`` dimensions around each, with noise in all; a group of
tracks is the sum of its tracks, with noise. ``dimensions`` in the result says how many axes hold 90 % of the largest group. Queries are
moments of their own drawn alike, by all tracks, moved in one direction, as texts are from clips, with noise.

For each engine, in processes of their own: seconds to build (by the clock, and of the processor: others may use the machine), p50 and p99
of a whole search (candidates, exact comparison, places) in ms, likewise, the share of the exact best ten that are found, by equal weights,
by each track alone and by one mix, and memory while searching: private, and mapped from graphs and from vectors. faiss (HNSW, 32 edges,
float32) has a graph for each group as ours has, and the same comparison after it.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.inference.index.ann import Ann, Facts, recall  # noqa: E402
from omnivast.inference.index.query import Part, Searcher  # noqa: E402
from omnivast.inference.index.store import File, Meta, Place, Store  # noqa: E402
from omnivast.model.interface import Model, Rows  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402
from omnivast.version import VERSION  # noqa: E402

ENGINES = ("exact", "usearch", "faiss")
CLUSTERS, WITHIN, SPREAD = 2000, 16, 0.8
FALL, NOISE, GAP, OWN = 1.5, 0.2, 0.7, 0.4
"""Exponent of the spectrum; lengths, beside unit vectors, of moments' noise, of the step from clips to texts, and of texts' noise."""
AT_ONCE = 20_000
FILE = 100
"""Moments of a file."""

log = logging.getLogger("omnivast")


class Made:
    """Where vectors are drawn from."""

    def __init__(self, groups: Sequence[str], width: int) -> None:
        rng = np.random.default_rng(0)
        spectrum = np.arange(1, width + 1) ** -FALL
        turn = np.linalg.qr(rng.normal(size=(width, width)))[0] * np.sqrt(spectrum / spectrum.sum())
        self.groups, self.width, self.tracks = groups, width, sorted(set("".join(groups)))
        self.centres, self.around = {}, {}
        for track in self.tracks:
            self.centres[track] = _unit(rng.normal(size=(CLUSTERS, width)) @ turn.T)
            around = _unit(rng.normal(size=(CLUSTERS * WITHIN, width)) @ turn.T).reshape(CLUSTERS, WITHIN, width)
            self.around[track] = around * np.float32(SPREAD / WITHIN ** 0.5)
        self.gap = _unit(rng.normal(size=(1, width)))

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """(count, width) of each group."""
        tracks = {}
        for track in self.tracks:
            chosen = np.sort(rng.integers(CLUSTERS, size=count))
            x = self.centres[track][chosen]
            for cluster, start in zip(*np.unique(chosen, return_index=True)):
                rows = slice(start, np.searchsorted(chosen, cluster, "right"))
                x[rows] += rng.standard_normal((rows.stop - start, WITHIN), np.float32) @ self.around[track][cluster]
            tracks[track] = self.noisy(rng, _unit(x), NOISE)[rng.permutation(count)]
        return {group: self.noisy(rng, _unit(np.sum([tracks[track] for track in group], 0)), NOISE) if len(group) > 1 else tracks[group]
                for group in self.groups}

    def noisy(self, rng: np.random.Generator, x: np.ndarray, length: float) -> np.ndarray:
        """Unit vectors with noise of this length."""
        return _unit(x + rng.standard_normal(x.shape, np.float32) * np.float32(length / self.width ** 0.5))

    def queries(self, count: int) -> np.ndarray:
        """(count, width)"""
        rng = np.random.default_rng(2)
        return self.noisy(rng, _unit(self.draw(rng, count)[max(self.groups, key=len)] + GAP * self.gap), OWN)


def write(made: Made, folder: Path, count: int) -> int:
    """Write an index of ``count`` moments; how many axes hold 90 % of the largest group."""
    rng = np.random.default_rng(1)
    meta = Meta("made", "", {}, 5, 2.5, list(made.groups), {group: {"vector": [made.width]} for group in made.groups}, "/", VERSION)
    with Store.write(folder, meta) as store:
        for start in range(0, count, AT_ONCE):
            drawn = made.draw(rng, min(AT_ONCE, count - start))
            size = store.append({group: Rows({"vector": torch.from_numpy(x)}) for group, x in drawn.items()})
            names = [f"{number}.mp4" for number in range(start // FILE, (start + size - 1) // FILE + 1)]
            store.commit([(File(name, 1, 1), [(Place(name, 2.5 * n, 2.5 * n + 5, "".join(made.tracks)), "")
                                              for n in range(min(FILE, count - FILE * int(name[:-4])))]) for name in names])
    largest = drawn[max(made.groups, key=len)]
    kept = np.cumsum(np.linalg.eigvalsh(largest.T @ largest)[::-1])
    return int(np.searchsorted(kept, 0.9 * kept[-1])) + 1


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class Faiss(Ann):
    """Graphs of faiss in the place of ours."""

    def __init__(self, searcher: Searcher, near: int) -> None:
        import faiss

        rows = len(searcher.bits)
        self.count = near
        self.facts = Facts(rows, rows, {"vas": [group.key for group in searcher.known]}, 0.0, 0)
        self.graphs = {}
        for group in searcher.known:
            vectors = searcher.vectors[group]["vector"]
            graph = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efSearch = near
            for start in range(0, rows, AT_ONCE):
                graph.add(np.asarray(vectors[start : start + AT_ONCE], np.float32))
            self.graphs[group.key] = graph

    def near(self, tracks: str, group: str, vector: np.ndarray) -> np.ndarray:
        """The nearest rows."""
        found = self.graphs[group].search(vector[None], self.count)[1][0]
        return found[found >= 0]


def build(engine: str, folder: Path, threads: int) -> dict[str, float]:
    """Make the approximate index."""
    if engine != "usearch":
        return {}
    torch.set_num_threads(threads)
    began, busy = time.perf_counter(), time.process_time()
    Searcher(Store.read(folder), Model()).make_ann()
    return {"build_s": round(time.perf_counter() - began, 1), "build_cpu_s": round(time.process_time() - busy, 1)}


def measure(engine: str, folder: Path, queries: np.ndarray, threads: int) -> dict[str, Any]:
    """Times, memory, and the scores found of each query, by weights."""
    torch.set_num_threads(threads)
    before = _memory()["private"]
    searcher = Searcher(Store.read(folder), Model(), None, Ann.of(folder) if engine == "usearch" else None)
    found: dict[str, Any] = {"weights": {}, "scores": {}}
    if engine == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        began, busy = time.perf_counter(), time.process_time()
        searcher.ann = Faiss(searcher, 200)
        searcher._always = searcher._not_in_graphs()
        found.update(build_s=round(time.perf_counter() - began, 1), build_cpu_s=round(time.process_time() - busy, 1))
        faiss.omp_set_num_threads(1)
    for name, weights in weightings([group.key for group in searcher.known]).items():
        times, scores = [], []
        for number, query in enumerate(queries):
            part = [Part(1.0, text=Rows({"vector": torch.from_numpy(query[None])}))]
            start, busy = time.perf_counter(), time.process_time()
            results = searcher.search(part, weights=weights, merge=False)
            times += [(time.perf_counter() - start, time.process_time() - busy)] if number >= 5 else []  # the first read the files
            scores.append([one.score for one in results])
        clock, processor = 1000 * np.array(times).T
        found["weights"][name] = {"p50_ms": _quantile(clock, 0.5), "p99_ms": _quantile(clock, 0.99),
                                  "p50_cpu_ms": _quantile(processor, 0.5), "p99_cpu_ms": _quantile(processor, 0.99)}
        found["scores"][name] = scores
    found["memory_mib"] = {"before": before, **_memory()}
    return found


def _quantile(x: np.ndarray, share: float) -> float:
    return round(float(np.quantile(x, share)), 2)


def _memory() -> dict[str, int]:
    """MiB that are resident: private, and mapped from graphs and from vectors."""
    sizes, kind = {"private": 0, "graphs": 0, "vectors": 0, "other files": 0}, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = words[5] if len(words) > 5 else "["
            other = "other files" if name[0] == "/" else "private"
            kind = {".usearch": "graphs", ".f16": "vectors"}.get(Path(name).suffix, other)
        elif words[0] == "Rss:":
            sizes[kind] += int(words[1])
    return {name: round(size / 1024) for name, size in sizes.items()}


def weightings(groups: Sequence[str]) -> dict[str, dict[str, float] | None]:
    """Those that are measured: of tracks that the model compares by alone."""
    tracks = {"v": "seen", "a": "heard", "s": "said"}
    return {"equal": None, **{tracks[group]: {tracks[group]: 1.0} for group in groups if group in tracks},
            "seen=1,heard=0.5": {"seen": 1.0, "heard": 0.5}}


def apart(work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """``work`` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(pool.apply(work, arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--groups", default="vas,va,v,a,s")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=1, help="of searches, and of faiss while it builds; usearch builds with all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    made = Made(options.groups.split(","), options.width)
    result: dict[str, Any] = {"machine": hardware(), "moments": options.moments, "width": options.width, "groups": made.groups}
    with tempfile.TemporaryDirectory(prefix="omnivast_") as place:
        folder = Path(place)
        result.update(dimensions=write(made, folder, options.moments), engines={})
        queries = made.queries(options.queries)
        exact = apart(measure, "exact", folder, queries, options.threads)
        for engine in options.engines:
            built = apart(build, engine, folder, options.threads)
            found = exact if engine == "exact" else built | apart(measure, engine, folder, queries, options.threads)
            for name, own in found["weights"].items():
                pairs = zip(exact["scores"][name], found["scores"][name])
                own["recall_10"] = round(float(np.mean([recall(np.array(best), np.array(near)) for best, near in pairs])), 4)
            result["engines"][engine] = {key: value for key, value in found.items() if key != "scores"}
            for what, pattern in (("vectors", "vectors/*"), ("graphs", "ann/*.usearch")):
                result[f"{what}_mib"] = round(sum(path.stat().st_size for path in folder.glob(pattern)) / 2**20)
            if options.json:  # after each: the next may take hours
                options.json.write_text(json.dumps(result, indent=1) + "\n")
    log.info("%s", json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

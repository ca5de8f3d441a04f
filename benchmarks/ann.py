"""Approximate search beside the exact one, over many moments made of the real ones of an index.

    omnivast index datasets/omnistamps/quick/clips --model output/quickstart/pretrain --index quick_index
    python benchmarks/ann.py --index quick_index --moments 1000000 [--engines exact usearch faiss] [--json out.json]

Each moment is a mix, by random shares, of a few real moments, the same in every group, with noise in each; vectors narrower than
``--width`` are first turned into so many dimensions, which leaves their products as they are. Queries are the index's background texts.
For each engine, in a process of its own: seconds to build, p50 and p99 of a whole search (candidates, exact comparison, places) in ms, the
share of the exact best ten that are found, by equal weights, by each track alone and by one mix, memory (anonymous, and mapped from
files), and bytes on the disk. faiss (HNSW, 32 edges, float32) has a graph for each group as ours has, and the same comparison after it.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.config.tasks import Group  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.inference.index.ann import Ann, Facts, recall  # noqa: E402
from omnivast.inference.index.api import Index  # noqa: E402
from omnivast.inference.index.query import Part, Searcher  # noqa: E402
from omnivast.inference.index.store import File, Place, Store  # noqa: E402
from omnivast.model.interface import Model, Rows  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402

ENGINES = ("exact", "usearch", "faiss")
MIXED, NOISE = 4, 0.3
"""Real moments in each, and the length of the noise beside that of the mix."""
AT_ONCE = 20_000
FILE = 100
"""Moments of a file."""

log = logging.getLogger("omnivast")


def enlarge(source: Index, groups: Sequence[str], folder: Path, count: int, width: int) -> np.ndarray:
    """Write an index of ``count`` moments; the queries (Q, width)."""
    rng = np.random.default_rng(0)
    full = np.flatnonzero(source.store.tracks() == 7)
    real = {group: np.asarray(source.store.vectors(group)["vector"][full], np.float32) for group in groups}
    own = next(iter(real.values())).shape[1]
    turn = np.linalg.qr(rng.normal(size=(max(own, width), own)))[0].T.astype(np.float32)
    width = max(own, width)
    meta = replace(source.store.meta, groups=list(groups), shapes={group: {"vector": [width]} for group in groups})
    with Store.write(folder, meta) as store:
        for start in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - start)
            chosen = rng.integers(len(full), size=(size, MIXED))
            shares = rng.dirichlet(np.ones(MIXED), size=size).astype(np.float32)
            rows = {}
            for group in groups:
                x = _unit(np.einsum("nk,nkd->nd", shares, real[group][chosen])) @ turn
                noise = rng.normal(size=(size, width)).astype(np.float32) * (NOISE / width ** 0.5)
                rows[group] = Rows({"vector": torch.from_numpy(_unit(x + noise))})
            store.append(rows)
            names = [f"{number}.mp4" for number in range(start // FILE, (start + size - 1) // FILE + 1)]
            store.commit([(File(name, 1, 1), [(Place(name, 2.5 * n, 2.5 * n + 5, "vas"), "") for n in range(FILE)]) for name in names])
    assert source.searcher.background is not None, "the index has no background texts to search with"
    return source.searcher.background["vector"].numpy() @ turn


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


def measure(engine: str, folder: Path, queries: np.ndarray, threads: int) -> dict[str, Any]:
    """Times, memory, and the scores found of each query, by weights."""
    torch.set_num_threads(threads)
    searcher = Searcher(Store.read(folder), Model())
    began = time.perf_counter()
    if engine == "usearch":
        searcher.make_ann()
        build = time.perf_counter() - began
        searcher = Searcher(Store.read(folder), Model(), None, Ann.of(folder))
    elif engine == "faiss":
        import faiss

        from omnivast.inference.index.ann import NEAR

        faiss.omp_set_num_threads(threads)
        ann = Faiss(searcher, NEAR)
        build = time.perf_counter() - began
        faiss.omp_set_num_threads(1)
        searcher = Searcher(Store.read(folder), Model(), None, ann)
    else:
        build = 0.0
    found: dict[str, Any] = {"build_s": round(build, 1), "weights": {}, "scores": {}}
    for name, weights in weightings([group.key for group in searcher.known]).items():
        times, scores = [], []
        for number, query in enumerate(queries):
            part = [Part(1.0, text=Rows({"vector": torch.from_numpy(query[None])}))]
            start = time.perf_counter()
            results = searcher.search(part, weights=weights, merge=False)
            times += [1000 * (time.perf_counter() - start)] if number >= 5 else []  # the first read the files
            scores.append([one.score for one in results])
        found["weights"][name] = {"p50_ms": round(float(np.quantile(times, 0.5)), 2), "p99_ms": round(float(np.quantile(times, 0.99)), 2)}
        found["scores"][name] = scores
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss"))
    kinds = {"anonymous": "RssAnon", "mapped": "RssFile"}
    found["memory_mib"] = {name: round(int(status[key].split()[0]) / 1024) for name, key in kinds.items()}
    return found


def weightings(groups: Sequence[str]) -> dict[str, dict[str, float] | None]:
    """Those that are measured: of tracks that the model compares by alone."""
    tracks = {"v": "seen", "a": "heard", "s": "said"}
    return {"equal": None, **{tracks[group]: {tracks[group]: 1.0} for group in groups if group in tracks},
            "seen=1,heard=0.5": {"seen": 1.0, "heard": 0.5}}


def apart(engine: str, folder: Path, queries: np.ndarray, threads: int) -> dict[str, Any]:
    """``measure`` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (engine, folder, queries, threads))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, help="an index of real clips with what is seen, heard and said")
    parser.add_argument("--moments", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100, help="texts of the index's background that are searched, at most (default 100)")
    parser.add_argument("--groups", default="vas,va,v,a,s", help="those of them that the index has")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=1, help="of exact search, and of faiss while it builds; ours takes all cores")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    source = Index.open(options.index)
    groups = [key for key in options.groups.split(",") if Group.parse(key) in source.searcher.known]
    result: dict[str, Any] = {"machine": hardware(), "moments": options.moments, "width": options.width, "groups": groups,
                              "real_moments": int((source.store.tracks() == 7).sum()), "engines": {}}
    text = ""
    with tempfile.TemporaryDirectory(prefix="omnivast_") as place:
        folder = Path(place)
        queries = enlarge(source, groups, folder, options.moments, options.width)[: options.queries]
        exact = apart("exact", folder, queries, options.threads)
        for engine in options.engines:
            found = exact if engine == "exact" else apart(engine, folder, queries, options.threads)
            for name, own in found["weights"].items():
                pairs = zip(exact["scores"][name], found["scores"][name])
                own["recall_10"] = round(float(np.mean([recall(np.array(best), np.array(near)) for best, near in pairs])), 4)
            result["engines"][engine] = {key: value for key, value in found.items() if key != "scores"}
            for what, pattern in (("vectors", "vectors/*"), ("graphs", "ann/*.usearch")):
                result[f"{what}_mib"] = round(sum(path.stat().st_size for path in folder.glob(pattern)) / 2**20)
            text = json.dumps(result, indent=1)
            if options.json:  # after each: the next may take hours
                options.json.write_text(text + "\n")
    log.info("%s", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

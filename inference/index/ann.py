"""An approximate index beside the exact one, for more moments than are scanned in no time: graphs (HNSW, by usearch) of nearest neighbours.

One graph over the vectors of all groups together would be built for one weighting, and miss what others look for. So there is a graph for
each group, of each kind of moments (those with the same tracks): a search takes the nearest of each group that counts, unites them, and
compares these exactly, in float32, as it would all. What was added since is scanned, what has gone is left out.

A graph holds its group's vectors by their principal axes alone, as bytes: it only has to find candidates, and is to be small enough that a
million moments of several groups are held in memory.

``ann/`` in the index's folder: ``facts.json``, and ``<tracks>.<group>.usearch``, mapped when it is first needed, with the axes in
``<tracks>.<group>.npy``. It can be deleted.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnivast.config.extras import import_extra, is_installed, not_installed
from omnivast.model.interface import Model
from omnivast.utils.files import write_atomically
from omnivast.utils.log import Progress, progress
from omnivast.utils.machine import cores

ANN, FACTS = "ann", "facts.json"
FORMAT = 2
EXACT_UP_TO = 300_000
"""Moments up to which all are compared, unless the approximate index is asked for."""
SCANNED = 2000
"""Moments of a kind that is so rare are all compared."""
CHANGED = 0.1
"""The share of moments that may have come or gone before it is made anew."""
NEAR = 500
"""The nearest that each graph is asked for."""
LOOKED_AT = 2000
"""Candidates that are kept while a graph is searched: with more of them it finds more, and takes longer."""
AXES = 64
"""Principal axes by which a graph holds vectors, at most."""
SAMPLE = 20_000
"""Vectors of which the axes are computed."""
CONNECTIVITY, EXPANSION = 8, 64
"""Of HNSW: edges of a vector, and candidates looked at when it is added."""
AT_ONCE = 1 << 14
RECALL_AT = 10
RECALL_TEXTS = 100

logger = logging.getLogger("omnivast")


class AnnError(ValueError):
    """An approximate index that cannot be made; the message says why."""


@dataclass(frozen=True)
class Facts:
    """What an approximate index says of itself."""

    rows: int
    """Rows that it was made of; those after it are scanned."""
    moments: int
    """Of them with a moment."""
    graphs: dict[str, list[str]]
    """Tracks of moments ("vas") → the groups that have a graph of them."""
    seconds: float
    texts: int
    recall: dict[str, float] = field(default_factory=dict)
    """Weights ("equal", "seen" …) → the share of the 10 best that it finds, over background texts; empty without any."""
    format: int = FORMAT

    @property
    def words(self) -> str:
        """What a user must know of results."""
        if not self.recall:
            return "what it misses is not known, for want of background texts"
        shares = ", ".join(f"{100 * share:.1f} % ({name})" for name, share in self.recall.items())
        return f"of the {RECALL_AT} best it finds {shares}, over {self.texts} texts"


class Ann:
    """An opened approximate index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ANN
        self.facts = Facts(**json.loads((self.folder / FACTS).read_text(encoding="utf-8")))
        self._graphs: dict[str, tuple[Any, np.ndarray]] = {}

    @classmethod
    def of(cls, folder: Path) -> Ann | None:
        """That of an index. None where there is none, or one of another format, or where usearch is not installed, which is told: then all
        is scanned."""
        if not (folder / ANN / FACTS).is_file():
            return None
        if json.loads((folder / ANN / FACTS).read_text(encoding="utf-8")).get("format") != FORMAT:
            logger.warning("%s: every moment is compared, since its approximate index was made by another version; omnivast index --ann "
                           "makes it anew", folder)
            return None
        if not is_installed("usearch"):
            logger.warning("%s: every moment is compared, since %s", folder, not_installed("usearch"))
            return None
        return cls(folder)

    def near(self, tracks: str, group: str, vector: np.ndarray) -> np.ndarray:
        """The ``NEAR`` rows of moments with exactly these tracks whose vectors of a group are nearest to ``vector`` (D,)."""
        name = f"{tracks}.{group}"
        if name not in self._graphs:
            graph, axes = _usearch().restore(str(self.folder / f"{name}.usearch"), view=True), np.load(self.folder / f"{name}.npy")
            graph.expansion_search = LOOKED_AT
            self._graphs[name] = graph, axes
        graph, axes = self._graphs[name]
        return np.asarray(graph.search(np.append(vector @ axes, np.float32(0)), NEAR, threads=1).keys, np.int64)


def by_products(model: Model) -> bool:
    """Whether a model compares by a product of vectors, as an approximate index does."""
    return type(model).similarity is Model.similarity


def check_ann(model: Model) -> None:
    """Raise AnnError or ImportError where no approximate index can be made."""
    import_extra("usearch")
    if not by_products(model):
        raise AnnError(f"{type(model).__name__} compares clips otherwise than by a product of vectors; an approximate index cannot be "
                         "made of them")


def is_due(known: Ann | None, rows: int, moments: int, asked: bool | None) -> bool:
    """Whether it is to be made: for the first time when asked for or above ``EXACT_UP_TO``, anew when more than ``CHANGED`` of it has
    come or gone."""
    if known is not None:
        added, gone = rows - known.facts.rows, max(0, known.facts.moments + rows - known.facts.rows - moments)
        return added + gone > CHANGED * known.facts.moments
    if not asked and moments > EXACT_UP_TO and not is_installed("usearch"):
        logger.warning("%d moments are searched faster by an approximate index, but %s", moments, not_installed("usearch"))
        return False
    return bool(asked) or moments > EXACT_UP_TO


def make(folder: Path, bits: np.ndarray, groups: Sequence[str], letters: Callable[[int], str],
         vectors: Callable[[str, np.ndarray], np.ndarray]) -> None:
    """Write the graphs of an index, in place of those that are there.

    Args:
        bits: (rows,) which tracks each row has, 0 for rows without a moment; ``letters`` of such a number: "va".
        vectors: (group, rows) → (n, D) float32.
    """
    graph_of = _usearch()
    began, new = time.perf_counter(), folder / f"{ANN}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    graphs = {letters(int(kind)): [group for group in groups if set(group) <= set(letters(int(kind)))]
              for kind, count in zip(*np.unique(bits[bits > 0], return_counts=True)) if count > SCANNED}
    work = [(kind, tracks, group) for kind in np.unique(bits[bits > 0]) for tracks in [letters(int(kind))]
            for group in graphs.get(tracks, ())]
    bar: Progress[Any] = progress(len(work), "approximate index", unit="groups")
    with bar:
        for kind, tracks, group in work:
            rows = np.flatnonzero(bits == kind)
            axes = principal_axes(vectors(group, rows[:: -(-len(rows) // SAMPLE)]))
            graph = graph_of(ndim=axes.shape[1] + 1, metric="cos", dtype="i8", connectivity=CONNECTIVITY, expansion_add=EXPANSION)
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                graph.add(part, by_axes(vectors(group, part), axes), threads=cores())
            graph.save(str(new / f"{tracks}.{group}.usearch"))
            np.save(new / f"{tracks}.{group}.npy", axes)
            del graph
            bar.update()
    facts = Facts(len(bits), int((bits > 0).sum()), graphs, round(time.perf_counter() - began, 1), 0)
    write_facts(new, facts)
    shutil.rmtree(folder / ANN, ignore_errors=True)
    new.rename(folder / ANN)


def principal_axes(vectors: np.ndarray) -> np.ndarray:
    """(n, D) → (D, A): the directions that keep most of these vectors' squared length."""
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    return np.ascontiguousarray(axes[:, : -AXES - 1 : -1], np.float32)


def by_axes(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Unit vectors (n, D) → (n, A + 1): along the axes and, so that they stay unit vectors, the length of what lies off them. Of a query
    this last number is 0: then an angle between the two is ordered as the product along the axes."""
    along = vectors @ axes
    return np.concatenate([along, np.sqrt(np.maximum(0, 1 - np.square(along).sum(1, keepdims=True)))], 1)


def _usearch() -> Any:
    """usearch's class of graphs. Raises ImportError that says what to install."""
    import_extra("usearch")
    return importlib.import_module("usearch.index").Index


def write_facts(folder: Path, facts: Facts) -> None:
    """Keep what an approximate index says of itself; ``folder``: its own."""
    write_atomically(folder / FACTS, json.dumps(asdict(facts), indent=1) + "\n")


def recall(exact: np.ndarray, found: np.ndarray, count: int = RECALL_AT) -> float:
    """The share of the best ``count`` scores of all moments, ``exact``, that are among the scores ``found``; equal ones stand for each
    other."""
    count = min(count, int(np.isfinite(exact).sum()))
    if not count:
        return 1.0
    least = np.partition(exact, len(exact) - count)[len(exact) - count]
    return min(1.0, float((found >= least - 1e-6).sum()) / count)

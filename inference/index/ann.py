"""An approximate index beside the exact one, for more moments than are scanned in no time: graphs (HNSW, by usearch) of nearest neighbours.

One graph over the vectors of all groups together would be built for one weighting, and miss what others look for. So there is a graph for
each group, of each kind of moments (those with the same tracks): a search takes the nearest of each group that counts, unites them, and
compares these exactly, in float32, as it would all. What was added since is scanned, what has gone is left out.

``ann/`` in the index's folder: ``facts.json``, and ``<tracks>.<group>.usearch``, mapped when it is first needed. It can be deleted.
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
EXACT_UP_TO = 300_000
"""Moments up to which all are compared, unless the approximate index is asked for."""
SCANNED = 2000
"""Moments of a kind that is so rare are all compared."""
CHANGED = 0.1
"""The share of moments that may have come or gone before it is made anew."""
NEAR = 200
"""The nearest that each graph is asked for."""
CONNECTIVITY, EXPANSION = 16, 128
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
        self._graphs: dict[str, Any] = {}

    @classmethod
    def of(cls, folder: Path) -> Ann | None:
        """That of an index. None where there is none, or where usearch is not installed, which is told: then all is scanned."""
        if not (folder / ANN / FACTS).is_file():
            return None
        if not is_installed("usearch"):
            logger.warning("%s: every moment is compared, since %s", folder, not_installed("usearch"))
            return None
        return cls(folder)

    def near(self, tracks: str, group: str, vector: np.ndarray) -> np.ndarray:
        """The ``NEAR`` rows of moments with exactly these tracks whose vectors of a group are nearest to ``vector`` (D,)."""
        name = f"{tracks}.{group}"
        if name not in self._graphs:
            self._graphs[name] = _usearch().restore(str(self.folder / f"{name}.usearch"), view=True)
        return np.asarray(self._graphs[name].search(vector, NEAR, threads=1).keys, np.int64)


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
            width = vectors(group, rows[:1]).shape[1]
            graph = graph_of(ndim=width, metric="cos", dtype="i8", connectivity=CONNECTIVITY, expansion_add=EXPANSION,
                             expansion_search=NEAR)
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                graph.add(part, vectors(group, part), threads=cores())
            graph.save(str(new / f"{tracks}.{group}.usearch"))
            del graph
            bar.update()
    facts = Facts(len(bits), int((bits > 0).sum()), graphs, round(time.perf_counter() - began, 1), 0)
    write_facts(new, facts)
    shutil.rmtree(folder / ANN, ignore_errors=True)
    new.rename(folder / ANN)


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

"""Search an index: any weights of what is seen, heard and said (weights.py), texts and clips as queries, mixed and negated.

**How sure.** ``probability`` is 1 minus the chance that a text that nothing here fits finds something with such a score, and
``at_most_false`` leaves out what is likelier to be false (see sure.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.inference.index.ann import RECALL_AT, RECALL_TEXTS, Ann, check_ann, make, recall, write_facts
from omnivast.inference.index.store import Store
from omnivast.inference.index.sure import Absent, Nulls, QueryError, check_share, p_values
from omnivast.inference.index.weights import WEIGHTS, mix, track_weights
from omnivast.model.interface import Model, Rows

ROWS_AT_ONCE = 1 << 10
"""Rows that are compared at once. They become float32 for it, which costs next to nothing as long as they stay in the processor's cache."""
FUSED = 60
"""The constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)."""
CANDIDATES = 1000
PER_RESULT = 20
"""Candidates that are looked at for each result, of which those that overlap a better one are left out."""
SPREAD_TEXTS, SPREAD_ROWS = 100, 1000
"""Background texts and moments by which it is measured how much scores vary, at most."""


@dataclass(frozen=True)
class Found:
    """A moment that a search found."""

    path: str
    start: float
    end: float
    score: float
    probability: float | None
    """1 minus the chance that a text that nothing here fits finds something with this score; None where that cannot be told."""
    tracks: dict[str, float] = field(default_factory=dict)
    """Seen, heard, said → the score by this track alone, of those that the moment has."""
    changes: dict[str, float] = field(default_factory=dict)
    """Seen, heard, said → how much of the score goes when this track is left out, of those that count and leave something to compare."""
    by: str | None = None
    """The track whose absence changes the score most, or the only one that counts."""
    second: float | None = None
    """Where the second begins that fits best by that track; None where this was not asked for or cannot be told."""
    match: float | None = None
    """The probability by the matching head, of re-ranked results."""
    said: str = ""
    row: int = -1


@dataclass(frozen=True)
class Part:
    """A part of a query: a text's features, or those of a clip by group, and its weight; negative: unlike it."""

    weight: float
    text: Rows | None = None
    clip: Mapping[str, Rows] | None = None

    @property
    def tracks(self) -> frozenset[Modality]:
        """The tracks of moments that it can be compared with: all or, of a clip, those that it has itself."""
        return frozenset(Modality) if self.clip is None else frozenset(m for key in self.clip for m in Group.parse(key))


class Searcher:
    """An opened index with its vectors, and the model that compares. What is computed of the background is kept for the next query with
    the same weights."""

    def __init__(self, store: Store, model: Model, background: Rows | None = None, ann: Ann | None = None, *,
                 recombined: Rows | None = None, absent: Absent | None = None) -> None:
        """``ann``: the approximate index, where one is to be used. The others tell how sure a result is, see sure.py: texts about other
        things, the same recombined, and what texts score whose clips are known."""
        self.store, self.model, self.background, self.ann = store, model, background, ann
        self.nulls = Nulls(self._best_found, [texts for texts in (background, recombined) if texts is not None], absent)
        self.known = tuple(Group.parse(key) for key in store.meta.groups)
        self.vectors = {group: store.vectors(group.key) for group in self.known}
        self.bits = store.tracks()
        self.kinds = [int(kind) for kind in np.unique(self.bits[self.bits > 0])]
        self._always = self._not_in_graphs()

    # ------------------------------------------------------------------------------------------------------------ scores

    def mix(self, weights: Mapping[Modality, float], has: frozenset[Modality]) -> list[tuple[float, Group]]:
        """As :func:`mix`, by the groups of this index."""
        return mix(weights, has, self.known, self.variances)

    @cached_property
    def variances(self) -> dict[Group, float]:
        """How much the scores of background texts vary, by group; empty without a background: all are taken for alike."""
        found: dict[Group, float] = {}
        if self.background is None:
            return found
        texts = self.background.rows(slice(0, SPREAD_TEXTS))
        for group in self.known:
            rows = np.flatnonzero(np.isin(self.bits, [kind for kind in self.kinds if set(group) <= _tracks(kind)]))
            rows = rows[:: -(-len(rows) // SPREAD_ROWS) or 1]
            if len(rows):
                scores = self.model.similarity(group, texts, self._rows(group, rows))
                found[group] = max(float(scores.var(correction=0)), 1e-12)
        return found

    def scores(self, parts: Sequence[Part], weights: Mapping[Modality, float], rows: np.ndarray | None = None) -> np.ndarray:
        """(rows,) float32 of the whole query, of all rows or of some; −inf for those without a moment or without any of the tracks that
        count."""
        total = np.zeros(len(self.bits) if rows is None else len(rows), np.float32)
        for part in parts:
            own = self._part_scores(part, weights, rows)
            total = np.where(np.isfinite(own), total + np.float32(part.weight) * np.nan_to_num(own, neginf=0.0), -np.inf)
        return total

    def _part_scores(self, part: Part, weights: Mapping[Modality, float], rows: np.ndarray | None) -> np.ndarray:
        bits = self.bits if rows is None else self.bits[rows]
        scores = np.full(len(bits), -np.inf, np.float32)
        by_group: dict[Group, np.ndarray] = {}
        for kind in self.kinds:
            mixed = self.mix(weights, _tracks(kind) & part.tracks)
            here = bits == kind
            if not mixed or not here.any():
                continue
            own = np.zeros(int(here.sum()), np.float32)
            for share, group in mixed:
                if group not in by_group:
                    by_group[group] = self._group_scores(part, group, rows)
                own += np.float32(share) * by_group[group][here]
            scores[here] = own
        return scores

    def _group_scores(self, part: Part, group: Group, some: np.ndarray | None) -> np.ndarray:
        """(rows,) by one group."""
        if some is not None:
            return np.concatenate([self._compare(part, group, self._rows(group, own)) for own in _slices(some, ROWS_AT_ONCE)])
        found = np.empty(len(self.bits), np.float32)
        for rows, clips in self._blocks(group):
            found[rows] = self._compare(part, group, clips)
        return found

    def _blocks(self, group: Group) -> Iterator[tuple[slice, Rows]]:
        count = len(self.bits)
        size = max(1, ROWS_AT_ONCE // max(1, self.model.pair_numbers))
        for start in range(0, count, size):
            rows = slice(start, min(start + size, count))
            yield rows, self._rows(group, rows)

    def _compare(self, part: Part, group: Group, clips: Rows) -> np.ndarray:
        if part.text is not None:
            return self.model.similarity(group, part.text, clips)[0].numpy()
        own = (part.clip or {})[group.key]
        if "vector" not in own.tensors:
            raise QueryError(f"{type(self.model).__name__} compares texts with clips, not clips with clips")
        return (clips["vector"] @ own["vector"][0]).numpy()

    # -------------------------------------------------------------------------------------------------------- approximate

    def near(self, parts: Sequence[Part], weights: Mapping[Modality, float], more: np.ndarray | None = None) -> np.ndarray | None:
        """The rows that are worth comparing, in order, ``more`` among them; None: all."""
        if self.ann is None:
            return None
        found = [self._always, *([] if more is None else [more])]
        for kind in self.kinds:
            for group, vector in self._vectors(parts, weights, kind) if _letters(kind) in self.ann.facts.graphs else ():
                found.append(self.ann.near(_letters(kind), group.key, vector))
        rows = np.unique(np.concatenate(found))
        return rows[self.bits[rows] > 0]

    def _vectors(self, parts: Sequence[Part], weights: Mapping[Modality, float], kind: int) -> list[tuple[Group, np.ndarray]]:
        """For each group that counts for moments of a kind, the vector (D,) whose product with a moment's is that group's share of the
        score."""
        found: dict[Group, np.ndarray] = {}
        for part in parts:
            for share, group in self.mix(weights, _tracks(kind) & part.tracks):
                own = part.text if part.text is not None else (part.clip or {})[group.key]
                found[group] = found.get(group, np.float32(0)) + np.float32(part.weight * share) * own["vector"][0].numpy()
        return [(group, vector) for group, vector in found.items() if vector.any()]

    def _not_in_graphs(self) -> np.ndarray:
        """Rows that every search compares: of kinds without a graph, and added since the graphs were made."""
        if self.ann is None:
            return np.empty(0, np.int64)
        inside = np.isin(self.bits, [kind for kind in self.kinds if _letters(kind) in self.ann.facts.graphs])
        inside[self.ann.facts.rows :] = False
        return np.flatnonzero(~inside & (self.bits > 0))

    def make_ann(self) -> Ann:
        """Make the approximate index of this one, and measure what it finds of what is there. Raises as :func:`check_ann`."""
        check_ann(self.model)
        make(self.store.folder, self.bits, [group.key for group in self.known], _letters,
             lambda group, rows: self._rows(Group.parse(group), rows)["vector"].numpy())
        ann = Ann(self.store.folder)
        if self.background is not None:
            some = self.background.rows(slice(0, RECALL_TEXTS))
            texts = [Part(1.0, text=some.rows(slice(n, n + 1))) for n in range(len(some))]
            other = Searcher(self.store, self.model, None, ann)
            other.variances = self.variances
            shares = {"equal": track_weights(None), **{name: track_weights({name: 1.0}) for name, track in WEIGHTS.items()
                                                       if any(track in _tracks(kind) for kind in self.kinds)}}
            measured = {}
            for name, by in shares.items():
                pairs = zip(self.bests(some, by, RECALL_AT), texts)
                measured[name] = np.mean([recall(best, other.scores([text], by, other.near([text], by))) for best, text in pairs])
            ann.facts = replace(ann.facts, texts=len(texts), recall={name: round(float(x), 4) for name, x in measured.items()})
            write_facts(ann.folder, ann.facts)
        return ann

    # ------------------------------------------------------------------------------------------------------------ results

    def _can_compare(self, parts: Sequence[Part], weights: Mapping[Modality, float], kind: int) -> bool:
        return all(self.mix(weights, _tracks(kind) & part.tracks) for part in parts)

    def search(self, parts: Sequence[Part], *, top: int = 10, weights: Mapping[str, float] | None = None, words: str = "",
               at_most_false: float | None = None, merge: bool = True) -> list[Found]:
        """The best moments, the best first.

        Args:
            weights: of "seen", "heard" and "said"; None: all the same.
            words: moments in which some of these words are said come further up, by reciprocal rank fusion with the model's order.
            at_most_false: leave out results that a text about something else would find as often as this, such as 0.01.
            merge: of moments of a file that overlap, only the best.
        """
        if top < 1:
            raise QueryError(f"top is {top}; expected at least 1")
        if not parts and not words:
            raise QueryError("the query is empty")
        by_track = track_weights(weights)
        if self.kinds and not any(self._can_compare(parts, by_track, kind) for kind in self.kinds):
            usable = frozenset.intersection(*(part.tracks for part in parts))
            counted = " and ".join(name for name, track in WEIGHTS.items() if by_track[track] and track in usable)
            raise QueryError(f"no moment can be compared by what is {counted or 'in this clip'} alone: the model compares by the groups "
                             f"{', '.join(group.key for group in self.known)}")
        said = np.array([row for row, _ in self.store.saying(words, CANDIDATES)], np.int64) if words else np.empty(0, np.int64)
        rows = (self.near(parts, by_track, said) if parts else np.unique(said))
        own = self.scores(parts, by_track, rows)
        order = _best(own, CANDIDATES)
        order = order if rows is None else rows[order]

        def scores(some: Any) -> Any:
            """Of rows that were compared."""
            return own[some if rows is None else np.searchsorted(rows, some)]

        if words:
            there = said if rows is None else said[np.isin(said, rows)]
            order = self._fused(order if parts else np.empty(0, np.int64), there[np.isfinite(scores(there))])
        chances = self.chances(parts, by_track, order, scores(order), at_most_false)
        if chances is not None and at_most_false is not None:
            order, chances = order[chances <= at_most_false], chances[chances <= at_most_false]
        found: list[Found] = []
        kept: dict[str, list[tuple[float, float]]] = {}
        for number, row in enumerate(order[: PER_RESULT * top].tolist()):
            if len(found) == top:
                break
            (place,) = self.store.places([row])
            others = kept.setdefault(place.path, [])
            if merge and any(place.start < end and start < place.end for start, end in others):
                continue
            others.append((place.start, place.end))
            sure = None if chances is None else 1.0 - float(chances[number])
            found.append(Found(place.path, place.start, place.end, float(scores(row)), sure, said=self.store.words(row), row=row))
        return self._explained(parts, by_track, found) if parts else found

    def _explained(self, parts: Sequence[Part], weights: Mapping[Modality, float], found: Sequence[Found]) -> list[Found]:
        """The results with ``tracks``, ``changes`` and ``by``. Those that have the same tracks are compared at once: hundreds of small
        products of a result each would let every other thread of a service come between."""
        explained = list(found)
        for kind in {int(self.bits[one.row]) for one in found}:
            own = [number for number, one in enumerate(found) if self.bits[one.row] == kind]
            whys = self._why(parts, weights, _tracks(kind), np.array([found[number].row for number in own]))
            for number, why in zip(own, whys, strict=True):
                explained[number] = replace(found[number], **why)
        return explained

    def _why(self, parts: Sequence[Part], weights: Mapping[Modality, float], has: frozenset[Modality], rows: np.ndarray,
             ) -> list[dict[str, Any]]:
        """``tracks``, ``changes`` and ``by`` of rows that have the tracks ``has``."""
        clips = cache(lambda group: self._rows(group, rows))

        def scores(tracks: frozenset[Modality], weights: Mapping[Modality, float]) -> list[float] | None:
            found = self.score(parts, weights, tracks, clips)
            return None if found is None else found.tolist()

        alone = {name: scores(frozenset((track,)), track_weights(None)) for name, track in WEIGHTS.items() if track in has}
        asked = frozenset.union(*(part.tracks for part in parts))
        counted = [name for name, track in WEIGHTS.items() if track in has & asked and weights[track] > 0]
        whole = scores(has, weights)
        rests = {name: scores(has - {WEIGHTS[name]}, weights) for name in counted}

        def why(place: int) -> dict[str, Any]:
            changes = {name: whole[place] - own[place] for name, own in rests.items() if whole is not None and own is not None}
            by = max(changes, key=lambda name: changes[name]) if changes else counted[0] if len(counted) == 1 else None
            return {"tracks": {name: own[place] for name, own in alone.items() if own is not None}, "changes": changes, "by": by}

        return [why(place) for place in range(len(rows))]

    def score(self, parts: Sequence[Part], weights: Mapping[Modality, float], has: frozenset[Modality],
              clips: Callable[[Group], Rows]) -> np.ndarray | None:
        """(C,) of the whole query for clips with the tracks ``has``, whose rows ``clips`` gives by group; None where some part of the query
        cannot be compared with them."""
        total: np.ndarray | float = 0.0
        for part in parts:
            mixed = self.mix(weights, has & part.tracks)
            if not mixed:
                return None
            total = total + part.weight * sum(share * self._compare(part, group, clips(group)) for share, group in mixed)
        return np.asarray(total, np.float32)

    def _fused(self, order: np.ndarray, said: np.ndarray) -> np.ndarray:
        ranks: dict[int, float] = {int(row): 1.0 / (FUSED + place) for place, row in enumerate(order)}
        for place, row in enumerate(said.tolist()):
            ranks[row] = ranks.get(row, 0.0) + 1.0 / (FUSED + place)
        return np.array(sorted(ranks, key=lambda row: -ranks[row]), np.int64)

    # -------------------------------------------------------------------------------------------------------- calibration

    def chances(self, parts: Sequence[Part], weights: Mapping[Modality, float], rows: np.ndarray, scores: np.ndarray,
                at_most_false: float | None = None) -> np.ndarray | None:
        """(rows,) how often a text that nothing here fits finds something with such a score (see sure.py); None where there are no texts to
        tell it by, and for queries with a clip. Several texts count as their mean. Raises QueryError where ``at_most_false`` is asked for
        and there are none or too few."""
        if not parts or any(part.text is None for part in parts):
            return None
        scores = scores / (sum(part.weight for part in parts if part.weight > 0) or 1.0)
        found = np.ones(len(rows))
        for kind in self.kinds:
            nulls, here = self.nulls(weights, _tracks(kind)), self.bits[rows] == kind
            if not nulls and at_most_false is not None:
                raise QueryError("no texts about other things are kept with the index, so that nothing tells how sure a result is; give "
                                 "some: omnivast index FOLDER --background TEXTS.txt")
            if not nulls:
                return None
            if at_most_false is not None:
                check_share(at_most_false, nulls)
            found[here] = p_values(nulls, scores[here])
        return found

    def prepare(self, weights: Mapping[Modality, float]) -> None:
        """Compute what tells how sure results by these weights are, or the first search by them would."""
        for kind in self.kinds:
            self.nulls(weights, _tracks(kind))

    def _best_found(self, texts: Rows, weights: Mapping[Modality, float]) -> np.ndarray:
        """(T,) the best score of each text as a search finds it."""
        if self.ann is None:
            return self.best(texts, weights)
        each = [[Part(1.0, text=texts.rows(slice(number, number + 1)))] for number in range(len(texts))]
        return np.array([self.scores(own, weights, self.near(own, weights)).max(initial=-np.inf) for own in each], np.float32)

    def best(self, texts: Rows, weights: Mapping[Modality, float], has: frozenset[Modality] = frozenset(Modality),
             leave_out: np.ndarray | None = None) -> np.ndarray:
        """(T,) the best score of each text; see :meth:`bests`."""
        return self.bests(texts, weights, 1, has, leave_out)[:, 0]

    def bests(self, texts: Rows, weights: Mapping[Modality, float], count: int, has: frozenset[Modality] = frozenset(Modality),
              leave_out: np.ndarray | None = None) -> np.ndarray:
        """(T, count) float32: the best scores of each text among all moments, compared by those of their tracks that are in ``has``, the
        best first; −inf where there are fewer. ``leave_out``: (T, rows), moments that do not count."""
        best = torch.full((len(texts), count), -torch.inf)
        for kind in self.kinds:
            mixed = self.mix(weights, _tracks(kind) & has)
            for rows in _slices(np.flatnonzero(self.bits == kind), ROWS_AT_ONCE) if mixed else ():
                scores = torch.zeros(len(texts), len(rows))
                for share, group in mixed:
                    scores += share * self.model.similarity(group, texts, self._rows(group, rows))
                if leave_out is not None:
                    scores[torch.from_numpy(leave_out[:, rows])] = -torch.inf
                best = torch.cat([best, scores], 1).topk(count, 1).values
        return best.numpy()

    def _rows(self, group: Group, rows: np.ndarray | slice) -> Rows:
        """Some rows of a group in float32."""
        return Rows({name: torch.from_numpy(x[rows]).float() for name, x in self.vectors[group].items()})


def _tracks(bits: int) -> frozenset[Modality]:
    return frozenset(track for track in Modality if bits & _bit(track))


def _bit(track: Modality) -> int:
    return 1 << "vas".index(track.value)


def _letters(bits: int) -> str:
    return "".join(track.value for track in Modality if bits & _bit(track))


def _slices(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Rows of the best scores, the best first; of equal ones the lower row."""
    valid = np.flatnonzero(np.isfinite(scores))
    if len(valid) > count:
        valid = valid[np.argpartition(-scores[valid], count)[:count]]
    return valid[np.lexsort((valid, -scores[valid]))]

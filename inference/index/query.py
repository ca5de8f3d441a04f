"""Search an index: any weights of what is seen, heard and said, texts and clips as queries, mixed and negated, and how sure it is.

**Weights.** A score is a mix of the model's scores by group, such as vision + audio. Weights of tracks w_v, w_a, w_s choose the mix: sorted
from the largest, w₁ ≥ w₂ ≥ w₃, the score is

    (w₁ − w₂) · s(track 1) + (w₂ − w₃) · s(tracks 1, 2) + w₃ · s(tracks 1, 2, 3), divided by w₁

(a Choquet integral of the group scores). Equal weights are the model's score by all tracks together; one track alone is that track's own
score; all between is continuous. A moment without some track is compared by the tracks that it has.

**How sure.** At the time of indexing, texts that describe other clips (the background) are kept. How often one of them finds a moment with
such a score is the chance that a result is false: ``probability`` is 1 minus it, and ``at_most_false`` leaves out what is likelier to be
false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.config.words import did_you_mean
from omnivast.inference.index.ann import RECALL_AT, RECALL_TEXTS, Ann, check_ann, make, recall, write_facts
from omnivast.inference.index.store import Store
from omnivast.model.interface import Model, Rows

WEIGHTS = {"seen": Modality.VISION, "heard": Modality.AUDIO, "said": Modality.SUBTITLE}
"""What weights are called → the track."""
ROWS_AT_ONCE = 1 << 10
"""Rows that are compared at once. They become float32 for it, which costs next to nothing as long as they stay in the processor's cache."""
FUSED = 60
"""The constant of reciprocal rank fusion (Cormack et al., SIGIR 2009)."""
CANDIDATES = 1000
REMEMBERED = 256
"""Weightings whose scores of the background are kept."""
PER_RESULT = 20
"""Candidates that are looked at for each result, of which those that overlap a better one are left out."""


class QueryError(ValueError):
    """A query that cannot be answered; the message says what is valid."""


@dataclass(frozen=True)
class Found:
    """A moment that a search found."""

    path: str
    start: float
    end: float
    score: float
    probability: float | None
    """1 minus the chance that a text about something else finds a moment with this score; None without a background."""
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


def track_weights(weights: Mapping[str, float] | None) -> dict[Modality, float]:
    """Weights of tracks by name → by modality; None: all the same. Raises QueryError."""
    if weights is None:
        return dict.fromkeys(Modality, 1.0)
    for name, weight in weights.items():
        if name not in WEIGHTS:
            raise QueryError(f"there is no track '{name}' to weigh; the tracks are {', '.join(WEIGHTS)}.{did_you_mean(name, WEIGHTS)}")
        if not np.isfinite(weight) or weight < 0:
            raise QueryError(f"the weight of '{name}' is {weight:g}; expected 0 or more (what a result is not to be like is a negative "
                             "text: without)")
    by_track = {track: float(weights.get(name, 0.0)) for name, track in WEIGHTS.items()}
    if not any(by_track.values()):
        raise QueryError("every weight is 0; give at least one track more")
    return by_track


def mix(weights: Mapping[Modality, float], has: frozenset[Modality], known: Sequence[Group]) -> tuple[tuple[float, Group], ...]:
    """The groups by which moments with the tracks ``has`` are scored, and their shares, which sum to 1 (see the module's docstring).
    Where the model does not know a group of tracks, the known groups of which it consists stand for it, in equal shares; empty where it
    knows none of the tracks."""
    return _mix(tuple(weights[track] for track in Modality), has, tuple(known))


@lru_cache(maxsize=1024)
def _mix(given: tuple[float, ...], has: frozenset[Modality], known: tuple[Group, ...]) -> tuple[tuple[float, Group], ...]:
    """:func:`mix`, which every result of a search asks for several times."""
    weights = dict(zip(Modality, given))
    tracks = sorted((track for track in has if weights[track] > 0), key=lambda track: -weights[track])
    shares: dict[Group, float] = {}
    for place, track in enumerate(tracks):
        below = weights[tracks[place + 1]] if place + 1 < len(tracks) else 0.0
        parts = _parts(frozenset(tracks[: place + 1]), known)
        for group in parts:
            shares[group] = shares.get(group, 0.0) + (weights[track] - below) / len(parts)
    total = sum(shares.values())
    return tuple((share / total, group) for group, share in shares.items() if share > 0)


def _parts(tracks: frozenset[Modality], known: Sequence[Group]) -> list[Group]:
    """The group of exactly these tracks or, of those within them, the largest that cover what others do not."""
    parts: list[Group] = []
    for group in sorted(known, key=lambda group: -len(group.modalities)):
        if set(group) <= tracks and not any(set(group) <= set(part) for part in parts):
            parts.append(group)
    exact = [group for group in parts if set(group) == tracks]
    return exact or parts


class Searcher:
    """An opened index with its vectors, and the model that compares. What is computed of the background is kept for the next query with
    the same weights."""

    def __init__(self, store: Store, model: Model, background: Rows | None = None, ann: Ann | None = None) -> None:
        """``background``: texts about other things. ``ann``: the approximate index, where one is to be used."""
        self.store, self.model, self.background, self.ann = store, model, background, ann
        self.known = tuple(Group.parse(key) for key in store.meta.groups)
        self.vectors = {group: store.vectors(group.key) for group in self.known}
        self.bits = store.tracks()
        self.kinds = [int(kind) for kind in np.unique(self.bits[self.bits > 0])]
        self._always = self._not_in_graphs()
        self._null: dict[tuple[float, ...], np.ndarray] = {}

    # ------------------------------------------------------------------------------------------------------------ scores

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
            mixed = mix(weights, _tracks(kind) & part.tracks, self.known)
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
            for share, group in mix(weights, _tracks(kind) & part.tracks, self.known):
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
            shares = {"equal": track_weights(None), **{name: track_weights({name: 1.0}) for name, track in WEIGHTS.items()
                                                       if any(track in _tracks(kind) for kind in self.kinds)}}
            measured = {}
            for name, by in shares.items():
                pairs = zip(self._best_of_all(some, by, RECALL_AT), texts)
                measured[name] = np.mean([recall(best, other.scores([text], by, other.near([text], by))) for best, text in pairs])
            ann.facts = replace(ann.facts, texts=len(texts), recall={name: round(float(x), 4) for name, x in measured.items()})
            write_facts(ann.folder, ann.facts)
        return ann

    # ------------------------------------------------------------------------------------------------------------ results

    def _can_compare(self, parts: Sequence[Part], weights: Mapping[Modality, float], kind: int) -> bool:
        return all(mix(weights, _tracks(kind) & part.tracks, self.known) for part in parts)

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
        null = self.null(by_track) if any(part.text is not None for part in parts) else None
        if null is not None and at_most_false is not None:
            order = order[scores(order) > _threshold(null, at_most_false)]
        found: list[Found] = []
        kept: dict[str, list[tuple[float, float]]] = {}
        for row in order[: PER_RESULT * top].tolist():
            if len(found) == top:
                break
            (place,) = self.store.places([row])
            others = kept.setdefault(place.path, [])
            if merge and any(place.start < end and start < place.end for start, end in others):
                continue
            others.append((place.start, place.end))
            sure = None if null is None else _probability(null, float(scores(row)))
            found.append(Found(place.path, place.start, place.end, float(scores(row)), sure, **self._why(parts, by_track, row),
                               said=self.store.words(row), row=row))
        return found

    def _why(self, parts: Sequence[Part], weights: Mapping[Modality, float], row: int) -> dict[str, Any]:
        """``tracks``, ``changes`` and ``by`` of a result."""
        if not parts:
            return {}
        has, clips = _tracks(int(self.bits[row])), cache(lambda group: self._rows(group, slice(row, row + 1)))

        def score(tracks: frozenset[Modality], weights: Mapping[Modality, float]) -> float | None:
            found = self.score(parts, weights, tracks, clips)
            return None if found is None else float(found[0])

        alone = {name: score(frozenset((track,)), track_weights(None)) for name, track in WEIGHTS.items() if track in has}
        asked = frozenset.union(*(part.tracks for part in parts))
        counted = [name for name, track in WEIGHTS.items() if track in has & asked and weights[track] > 0]
        whole, changes = score(has, weights), {}
        for name in counted:
            rest = score(has - {WEIGHTS[name]}, weights)
            if whole is not None and rest is not None:
                changes[name] = whole - rest
        by = max(changes, key=lambda name: changes[name]) if changes else counted[0] if len(counted) == 1 else None
        return {"tracks": {name: found for name, found in alone.items() if found is not None}, "changes": changes, "by": by}

    def score(self, parts: Sequence[Part], weights: Mapping[Modality, float], has: frozenset[Modality],
              clips: Callable[[Group], Rows]) -> np.ndarray | None:
        """(C,) of the whole query for clips with the tracks ``has``, whose rows ``clips`` gives by group; None where some part of the query
        cannot be compared with them."""
        total: np.ndarray | float = 0.0
        for part in parts:
            mixed = mix(weights, has & part.tracks, self.known)
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

    def null(self, weights: Mapping[Modality, float]) -> np.ndarray | None:
        """(texts,) sorted: the best score in this index of each text of the background. None without one, or without a moment."""
        if self.background is None or not self.kinds:
            return None
        key = tuple(weights[track] for track in Modality)
        if key not in self._null:
            if self.ann is None:
                best = self._best_of_all(self.background, weights, 1)[:, 0]
            else:
                texts = [[Part(1.0, text=self.background.rows(slice(n, n + 1)))] for n in range(len(self.background))]
                best = np.array([self.scores(own, weights, self.near(own, weights)).max(initial=-np.inf) for own in texts], np.float32)
            if len(self._null) >= REMEMBERED:
                self._null.pop(next(iter(self._null)))
            self._null[key] = np.sort(best)
        return self._null[key]

    def _best_of_all(self, texts: Rows, weights: Mapping[Modality, float], count: int) -> np.ndarray:
        """(T, count) float32: the best scores of each text among all moments, in any order; −inf where there are fewer."""
        best = torch.full((len(texts), count), -torch.inf)
        for kind in self.kinds:
            mixed = mix(weights, _tracks(kind), self.known)
            for rows in _slices(np.flatnonzero(self.bits == kind), ROWS_AT_ONCE) if mixed else ():
                scores = torch.zeros(len(texts), len(rows))
                for share, group in mixed:
                    scores += share * self.model.similarity(group, texts, self._rows(group, rows))
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


def _probability(null: np.ndarray, score: float) -> float:
    """1 minus the share of background texts whose best score is at least this one; never quite 1, since they are few."""
    above = len(null) - int(np.searchsorted(null, score, "left"))
    return 1.0 - (above + 1) / (len(null) + 2)


def _threshold(null: np.ndarray, at_most_false: float) -> float:
    """The score above which a share ``at_most_false`` of background texts lie. Raises QueryError for a share that cannot be told."""
    if not 0 < at_most_false < 1:
        raise QueryError(f"at_most_false is {at_most_false:g}; expected a share between 0 and 1, such as 0.01")
    if at_most_false * len(null) < 1:
        raise QueryError(f"at_most_false is {at_most_false:g}, but {len(null)} background texts tell nothing below {1 / len(null):.2g}")
    return float(np.quantile(null, 1 - at_most_false))

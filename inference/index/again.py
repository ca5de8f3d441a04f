"""Moments of an index read again from their files, for what their vectors do not tell: which second fits, what the matching head says."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from omnivast.config.tasks import Group, Modality
from omnivast.data.batch import Sample
from omnivast.data.media.errors import MediaError
from omnivast.inference.clips import Clip, ClipError, Clips
from omnivast.inference.index.build import READERS, as_indexed, embed, tracks_of
from omnivast.inference.index.query import Found, Part, Searcher
from omnivast.inference.index.store import Store
from omnivast.inference.index.weights import WEIGHTS
from omnivast.inference.loading import Loaded
from omnivast.inference.moments import Moment, moments_of, read_moments, words_within
from omnivast.utils.machine import cores

SECOND = 1.0

Cut = Callable[[Clip, Found], list[Moment]]
"""(a file, a result in it) → what is to be read for it."""

logger = logging.getLogger("omnivast")


def read_again(parts: Loaded, store: Store, found: Sequence[Found], cut: Cut, modalities: frozenset[Modality]
               ) -> dict[int, tuple[list[Moment], list[Sample]]]:
    """Row → the moments that ``cut`` makes of a result, with their samples. A file is opened once, several are read at once; results of
    files that are gone, changed or cannot be read are left out, and a warning names them."""
    by_path: dict[str, list[Found]] = {}
    for one in found:
        by_path.setdefault(one.path, []).append(one)

    def read(path: str) -> dict[int, tuple[list[Moment], list[Sample]]]:
        try:
            with Clips() as opened:
                clip = opened.open(Path(store.meta.root, path))
            moments = {one.row: cut(_as_it_was(clip, one), one) for one in by_path[path]}
            together = [moment for own in moments.values() for moment in own]
            shown = replace(clip, said=" ".join(moment.said for moment in together))
            there = tracks_of(shown, modalities)
            read_of = read_moments(parts.sampling, shown, together, there) if together else iter(())
            samples = iter([as_indexed(parts, sample) for sample in read_of])
            return {row: (own, [next(samples) for _ in own]) for row, own in moments.items()}
        except (MediaError, ClipError, OSError) as error:
            logger.warning("%s: cannot be read again: %s", path, error)
            return {}

    with ThreadPoolExecutor(max(1, min(READERS, cores()))) as threads:
        return {row: own for part in threads.map(read, by_path) for row, own in part.items()}


def _as_it_was(clip: Clip, found: Found) -> Clip:
    """The clip with the words by which it was indexed, which a list may have given."""
    as_now = found.said == words_within(clip, found.start, found.end)
    return clip if as_now else replace(clip, said=found.said, cues=None)


def as_indexed_moment(store: Store) -> Cut:
    """Each result as it was read for the index."""
    def cut(clip: Clip, found: Found) -> list[Moment]:
        for moment in moments_of(clip, store.meta.window, store.meta.stride):
            if (moment.start, moment.end) == (found.start, found.end):
                return [replace(moment, said=found.said)]
        raise ClipError("it has changed since it was indexed; bring the index up to date: omnivast index")

    return cut


def explain(parts: Loaded, searcher: Searcher, query: Sequence[Part], weights: Mapping[Modality, float], found: Sequence[Found]
            ) -> list[Found]:
    """The results with the second within each that fits best, by the track that counted most (``by``) or, of a model that compares by no
    such track alone, by all tracks. None for pictures, for what is not longer than two seconds, and where all seconds score alike."""
    known = frozenset(m for group in searcher.known for m in group)
    read = read_again(parts, searcher.store, found, _seconds, known)
    return [replace(one, second=_best(parts, searcher, query, weights, one, *read[one.row])) if one.row in read else one for one in found]


def _seconds(clip: Clip, found: Found) -> list[Moment]:
    """The seconds of a result; its last one ends with it."""
    if found.end - found.start < 2 * SECOND:
        return []
    count = math.ceil((found.end - found.start) / SECOND - 1e-6)
    starts = [min(found.start + number * SECOND, found.end - SECOND) for number in range(count)]
    return [Moment(start, start + SECOND, words_within(clip, start, start + SECOND)) for start in starts]


def _best(parts: Loaded, searcher: Searcher, query: Sequence[Part], weights: Mapping[Modality, float], found: Found,
          moments: Sequence[Moment], samples: Sequence[Sample]) -> float | None:
    wanted = frozenset(Modality)
    if found.by is not None and Group((WEIGHTS[found.by],)) in searcher.known:
        wanted = frozenset((WEIGHTS[found.by],))
    scores = np.full(len(moments), -np.inf, np.float32)
    rows = embed(parts, searcher.known, samples, searcher.store.meta.shapes)
    for number, sample in enumerate(samples):
        has = frozenset(track for track in wanted if sample.present.get(track))
        score = searcher.score(query, weights, has, lambda group, n=number: rows[group.key].rows(slice(n, n + 1)))  # type: ignore[misc]
        scores[number] = -np.inf if score is None else score[0]
    known = scores[np.isfinite(scores)]
    if not len(known) or len(known) == len(scores) and float(np.ptp(known)) < 1e-6:
        return None
    return moments[int(scores.argmax())].start

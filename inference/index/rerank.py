"""Re-ranking: the best results of a search, ordered anew by the matching head beside the similarity.

The head reads text and clip together, which the similarity does not; yet of some models it orders worse. A result's place is decided by

    (1 − w) · similarity + w · probability by the matching head

and w is chosen by texts whose clips are known (``omnivast index --fit``), from ``GRID``, in which 0 leaves the order as it is. So it is
never worse on them; and since the best of a grid is better on them by chance alone, it is 0 unless it brings own clips further up by more
texts than chance would. It is chosen by equal weights of the tracks, and used by these alone. It lies in the index's folder.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.data.batch import Sample, Texts, make_texts
from omnivast.inference.index.again import as_indexed_moment, read_again
from omnivast.inference.index.build import BATCH, alike
from omnivast.inference.index.known import is_clip
from omnivast.inference.index.query import Found, Part, Searcher
from omnivast.inference.index.sure import QueryError
from omnivast.inference.index.weights import mix, track_weights
from omnivast.inference.loading import Loaded
from omnivast.model.interface import Rows
from omnivast.utils.files import write_atomically
from omnivast.utils.log import Progress, progress

FIT = "rerank.json"
CANDIDATES = 50
GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
TEXTS = 400
"""Texts that a weight is fitted on, at most."""
READ_AT_ONCE = 64
"""Moments whose frames are held at once."""
PAIRS = 256
"""Texts and clips matched at once."""

logger = logging.getLogger("omnivast")


@dataclass(frozen=True)
class Fit:
    """How much the matching head counts, and what that was found by. Shares are of texts: 0.5 for half."""

    weight: float
    """0: re-ranking helps nothing, and is left out."""
    candidates: int
    texts: int
    r1: float
    """Texts whose own clip comes first, by this weight; ``r1_without``: without re-ranking."""
    r1_without: float
    mrr: float
    """The mean of 1 / place of the own clip, 0 where it is not among the candidates."""
    mrr_without: float
    fitted_on: str


# ------------------------------------------------------------------------------------------------------------------ search


def check_matching(parts: Loaded) -> None:
    """Raise QueryError for a model without a matching head."""
    if not parts.model.can_match:
        raise QueryError(f"{type(parts.model).__name__} has no matching head, so that nothing can be re-ranked by it; search without")


def check_rerank(parts: Loaded, count: int, texts: Sequence[str], words: str) -> None:
    """Raise QueryError for a search that cannot be re-ranked."""
    check_matching(parts)
    if count < 1:
        raise QueryError(f"rerank is {count}; expected how many of the best results, such as {CANDIDATES}")
    if not texts:
        raise QueryError("the matching head compares texts with clips; give a text to re-rank by")
    if words:
        raise QueryError("results are ordered either by words that are said (words) or by the matching head (rerank), not by both")


def read_fit(folder: Path, weights: Mapping[Modality, float]) -> Fit | None:
    """The fitted weight of an index; None, which is told, where it is 0 or was fitted by other weights of the tracks than the query's.
    Raises QueryError where there is no fit."""
    path = folder / FIT
    if not path.is_file():
        raise QueryError(f"{folder}: how much the matching head is to count is not known, and it may order worse than the similarity does; "
                         "fit it on texts whose clips are known: omnivast index FOLDER --fit VAL.json")
    fit = Fit(**json.loads(path.read_text(encoding="utf-8")))
    if not fit.weight:
        logger.warning("results are not re-ranked: on %s that did no good (R@1 %.1f %% without)", fit.fitted_on, 100 * fit.r1_without)
        return None
    if len(set(weights.values())) > 1:
        logger.warning("results are not re-ranked: how much the matching head is to count is known for equal weights of the tracks alone")
        return None
    return fit


def write_fit(folder: Path, fit: Fit) -> None:
    """Keep a weight with its index."""
    write_atomically(folder / FIT, json.dumps(asdict(fit), indent=1, ensure_ascii=False) + "\n")


def reranked(parts: Loaded, searcher: Searcher, texts: Sequence[tuple[float, str]], weights: Mapping[Modality, float],
             found: Sequence[Found], count: int, weight: float) -> list[Found]:
    """The results, the best ``count`` of them in a new order. ``texts`` with their signs: of several the probabilities are added up, those
    of negative ones taken away. Results whose files cannot be read any more count as if nothing matched."""
    best = list(found[:count])
    pairs = [(text, place) for text in range(len(texts)) for place in range(len(best))]
    matches = _matched(parts, searcher, weights, best, _texts(parts, [text for _, text in texts]), pairs).reshape(len(texts), len(best))
    signs = np.array([sign for sign, _ in texts], np.float32)
    total = signs @ np.nan_to_num(matches)
    blend = (1 - weight) * np.array([one.score for one in best]) + weight * total
    first = matches[[number for number, sign in enumerate(signs) if sign > 0] or [0]].mean(0)
    told = [replace(one, match=None if np.isnan(p) else float(p)) for one, p in zip(best, first)]
    return [told[place] for place in np.argsort(-blend, kind="stable")] + list(found[count:])


def _texts(parts: Loaded, texts: Sequence[str]) -> Texts:
    lengths = parts.sampling.spec.lengths(several_kinds=False)
    return make_texts([[text] for text in texts], parts.model.tokenizer, lengths.caption[CaptionKind.OMNI])


def _matched(parts: Loaded, searcher: Searcher, weights: Mapping[Modality, float], found: Sequence[Found], texts: Texts,
             pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(pairs,) float32: the probability that a text fits a result, by the groups that the similarity is mixed of; NaN for results that
    cannot be read again. ``pairs``: (number of a text, place in ``found``)."""
    matches = np.full(len(pairs), np.nan, np.float32)
    of_result: dict[int, list[int]] = {}
    for number, (_, place) in enumerate(pairs):
        of_result.setdefault(place, []).append(number)
    known = frozenset(m for group in searcher.known for m in group)
    for first in range(0, len(found), READ_AT_ONCE):
        part = found[first : first + READ_AT_ONCE]
        read = read_again(parts, searcher.store, part, as_indexed_moment(searcher.store), known)
        places = [first + place for place, one in enumerate(part) if one.row in read]
        samples = [read[found[place].row][1][0] for place in places]
        for same in alike(samples):
            for start in range(0, len(same), BATCH):
                own = same[start : start + BATCH]
                wanted = [(number, row) for row, n in enumerate(own) for number in of_result.get(places[n], ())]
                if wanted:
                    probabilities = _match(parts, searcher.known, weights, [samples[n] for n in own], texts,
                                           [(pairs[number][0], row) for number, row in wanted])
                    matches[[number for number, _ in wanted]] = probabilities
    return matches


def _match(parts: Loaded, known: Sequence[Group], weights: Mapping[Modality, float], samples: Sequence[Sample], texts: Texts,
           pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(pairs,) of texts with samples that are alike; NaN where the model compares by none of their tracks."""
    has = frozenset(m for m in Modality if samples[0].present.get(m))
    mixed = mix(weights, has, known)
    if not mixed:
        return np.full(len(pairs), np.nan, np.float32)
    total = np.zeros(len(pairs), np.float32)
    with torch.inference_mode():
        features = parts.encode([group for _, group in mixed], samples)
        for share, group in mixed:
            memory = parts.model.memory(parts.model.matching_features(features, list(group)))
            for start in range(0, len(pairs), PAIRS):
                numbers, rows = map(torch.tensor, zip(*pairs[start : start + PAIRS]))
                margins = parts.model.match(memory, group, texts.ids[numbers], texts.mask[numbers], rows)
                total[start : start + PAIRS] += share * margins.float().sigmoid().cpu().numpy()
    return total


# --------------------------------------------------------------------------------------------------------------------- fit


def fit_weight(parts: Loaded, searcher: Searcher, embed_texts: Callable[[str], Rows], texts: Sequence[tuple[str, str]], name: str) -> Fit:
    """The weight by which most texts find their own clip first in ``searcher``, an index of these clips; of equal ones that of the best
    mean reciprocal rank, then the smallest; 0 where that could as well be chance. ``texts``: (text, the id of its clip), of which at most
    ``TEXTS`` are drawn by a fixed seed."""
    texts = texts if len(texts) <= TEXTS else random.Random(0).sample(texts, TEXTS)
    weights = track_weights(None)
    candidates = [searcher.search([Part(1.0, text=embed_texts(text))], top=CANDIDATES) for text, _ in texts]
    place = {row: n for n, row in enumerate(dict.fromkeys(one.row for own in candidates for one in own))}
    results = {one.row: one for own in candidates for one in own}
    pairs = [(number, place[one.row]) for number, own in enumerate(candidates) for one in own]
    bar: Progress[None] = progress(1, "matching", unit="lists")
    with bar:
        matches = _matched(parts, searcher, weights, [results[row] for row in place], _texts(parts, [text for text, _ in texts]), pairs)
        bar.update()
    scores = np.array([one.score for own in candidates for one in own], np.float32)
    right = np.array([is_clip(one.path, clip) for own, (_, clip) in zip(candidates, texts) for one in own])
    ends = np.cumsum([len(own) for own in candidates])
    tried = {weight: ranked(scores, np.nan_to_num(matches), right, ends, weight) for weight in GRID}  # (texts,) 1 / place of the own clip
    if not right.any():
        raise QueryError(f"{name}: no text finds its own clip among the best {CANDIDATES}, so that nothing can be told by it")
    best = chosen(tried)
    (r1, mrr), (r1_without, mrr_without) = [(float((one == 1).mean()), float(one.mean())) for one in (tried[best], tried[0.0])]
    return Fit(best, CANDIDATES, len(texts), r1, r1_without, mrr, mrr_without, name)


def chosen(tried: Mapping[float, np.ndarray]) -> float:
    """The best of several weights, by (texts,) 1 / place of the own clip, 0 where it is not found: of R@1, then of MRR, then the smallest;
    0 unless more texts gain by it than lose by more than the square root of both (a standard error, were each as likely to gain)."""
    best = max(tried, key=lambda weight: (float((tried[weight] == 1).mean()), float(tried[weight].mean()), -weight))
    gain, loss = int((tried[best] > tried[0.0]).sum()), int((tried[best] < tried[0.0]).sum())
    return best if gain > loss and (gain - loss) ** 2 > gain + loss else 0.0


def ranked(scores: np.ndarray, matches: np.ndarray, right: np.ndarray, ends: np.ndarray, weight: float) -> np.ndarray:
    """(lists,) 1 / place of the own clip, or 0, of lists that lie one after the other, each up to its end: similarities, probabilities, and
    whether it is the own clip."""
    places = []
    for start, end in zip([0, *ends[:-1]], ends):
        blend = (1 - weight) * scores[start:end] + weight * matches[start:end]
        hits = np.flatnonzero(right[start:end][np.argsort(-blend, kind="stable")])
        places.append(1 / (hits[0] + 1) if len(hits) else 0.0)
    return np.array(places)

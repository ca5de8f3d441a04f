"""Text-to-video (and video-to-text) retrieval: the model's similarity of all pairs, then matching re-orders the first k of each query.

Each clip is encoded once for all groups, again for re-ranking where memory does not hold its features. Ranks count ties against the
true clip. Nothing depends on the batch size or on the number of processes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnivast.config.tasks import CaptionKind, Group, Modality, Objective
from omnivast.data.batch import Batch, Texts
from omnivast.evaluation.collect import EVALUATORS, Encoded, Outcome
from omnivast.evaluation.metrics import bootstrap, recall
from omnivast.evaluation.retrieval.features import (
    Again,
    Conditions,
    FeatureRows,
    mapped,
    reranked_share,
    share_of_memory,
    temporary_folder,
    write_joined,
)
from omnivast.evaluation.retrieval.matching import PairMatcher
from omnivast.evaluation.retrieval.measures import rank_metrics
from omnivast.evaluation.retrieval.same import first_of_same
from omnivast.evaluation.retrieval.search import Features, Search, read, search, size
from omnivast.model.interface import Model, Rows
from omnivast.utils import distributed
from omnivast.utils.log import Progress, progress

if TYPE_CHECKING:
    from omnivast.config.schema import Config
    from omnivast.data.loader import EvalLoader
    from omnivast.evaluation.journal import Journal

SHOWN = 5
"""Retrieved clips named per text in the predictions."""


@dataclass
class _TextPool:
    """Texts of one caption kind, as they come in: token ids, words, annotation row of their clip, features."""

    features: FeatureRows
    ids: list[list[int]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    row: list[int] = field(default_factory=list)


@dataclass
class _Part:
    """The clips and texts that one process has seen."""

    rows: list[int] = field(default_factory=list)
    clip_ids: list[str] = field(default_factory=list)
    clips: dict[Group, FeatureRows] = field(default_factory=dict)
    texts: dict[CaptionKind, _TextPool] = field(default_factory=dict)


@dataclass
class _Texts:
    """All texts of one caption kind in annotation order; ``clip`` (T,) numbers the clips in annotation order."""

    ids: list[list[int]]
    raw: list[str]
    clip: np.ndarray
    features: Features
    shared: int
    """Texts that another clip has too, word for word."""
    also: np.ndarray | None
    """(P, 2) int64, sorted: pairs (text, other clip with the same text); None where these do not count as right."""


class RetrievalEvaluator:
    """Collects features batch by batch (:meth:`add`), then ranks (:meth:`finish`).

    Args:
        model: says what is kept of clips and texts, how similar they are, and whether they match.
        groups: the retrieval groups of the task.
        rerank: candidates per query that matching re-orders; 0, or a model that cannot match: none, and nothing is kept for it.
        both_directions: also video to text.
        dual_softmax: also the ranks after a dual softmax of the similarities, beside the plain ones.
        shared_texts: a text that several clips have, word for word, is right with any of them; else only with the clip it came with.
        features_dir: folder, common to all processes, that holds what is searched with as float16 while it is needed; None: it is
            float32 in memory.
        memory_gb: memory of this machine for condition features, see :class:`evaluation.retrieval.features.Conditions`;
            None: half of what is free.
        share: of the clips, how large a part will be re-ranked, as far as one can tell, see
            :func:`evaluation.retrieval.features.reranked_share`.
        again: encodes clips whose condition features memory did not hold.
        journal: keeps the pairs that were matched, so that a test that breaks off need not match them again.
    """

    def __init__(
        self, model: Model, groups: Sequence[Group], *, rerank: int = 0, both_directions: bool = False, dual_softmax: bool = False,
        shared_texts: bool = False, features_dir: str | Path | None = None, memory_gb: float | None = None, share: float = 1.0,
        again: Again | None = None, journal: Journal | None = None,
    ) -> None:
        self.model, self.groups, self.again, self.journal = model, tuple(groups), again, journal
        rerank = rerank if model.can_match else 0
        self.rerank, self.both_directions, self.dual_softmax, self.shared_texts = rerank, both_directions, dual_softmax, shared_texts
        self._folder = temporary_folder(features_dir) if features_dir else None
        kinds = dict.fromkeys(group.caption_kind for group in groups)
        self._part = _Part(clips={group: FeatureRows(self._file(f"clips_{group}")) for group in groups},
                          texts={kind: _TextPool(FeatureRows(self._file(f"texts_{kind.value}"))) for kind in kinds})
        modalities = tuple(dict.fromkeys(m for group in groups for m in group))
        part = partial(model.matching_features, modalities=modalities)
        self._conditions = Conditions(modalities, part, share_of_memory(memory_gb), share) if rerank else None
        self._same: dict[str, np.ndarray] = {}

    def add(self, batch: Batch, encoded: Encoded) -> dict[str, Any]:
        """One batch, on the model's device, with features of (at least) the groups' modalities. Returns what was found."""
        rows = batch.index.tolist()
        embedded: list[tuple[Texts, Rows]] = []
        texts_by_kind: dict[str, dict[str, Any]] = {}
        for kind in self._part.texts:
            texts = _captions(batch, kind)
            known = next((vectors for other, vectors in embedded if _same(other, texts)), None)
            embedded.append((texts, _on_host(self.model.index_texts(texts)) if known is None else known))
            ids = [ids[:length] for ids, length in zip(texts.ids.tolist(), texts.mask.sum(1).tolist())]
            texts_by_kind[kind.value] = {"features": embedded[-1][1].tensors, "raw": texts.raw,
                                         "row": [rows[clip] for clip in texts.clip.tolist()], "ids": ids}
        clips = {str(group): _on_host(self.model.index_clips(encoded.features, group)).tensors for group in self.groups}
        result = {"rows": rows, "clip_ids": batch.clip_ids, "clips": clips, "texts": texts_by_kind}
        self._append(result)
        if self._conditions is not None:
            self._conditions.add(rows, encoded.features, encoded.seconds)
        return result

    def take(self, found: Mapping[str, Any]) -> None:
        """What :meth:`add` returned in an earlier run, after all of this one's: clips that re-ranking needs are encoded again."""
        self._append(found)
        if self._conditions is not None:
            self._conditions.add_absent(found["rows"])

    def _append(self, result: Mapping[str, Any]) -> None:
        self._part.rows.extend(result["rows"])
        self._part.clip_ids.extend(result["clip_ids"])
        for group, rows in self._part.clips.items():
            rows.append(Rows(result["clips"][str(group)]))
        for kind, pool in self._part.texts.items():
            texts = result["texts"][kind.value]
            pool.features.append(Rows(texts["features"]))
            pool.raw.extend(texts["raw"])
            pool.row.extend(texts["row"])
            pool.ids.extend(texts["ids"])

    def finish(self) -> Outcome:
        """Ranks of all processes' texts and clips, and metrics by group: ``itm`` (after re-ranking) and ``itc`` (by similarity
        alone), ``dual_softmax`` where asked for, with ``_v2t`` behind the name for video to text. Called on every process.

        Raises ValueError when clips must be encoded again and ``again`` is absent.
        """
        parts = distributed.all_gather_objects(self._part)
        clip_ids, owner = _join_clips(parts)
        order = _clip_order(parts, owner)
        clips = {group: self._joined([part.clips[group] for part in parts], order, f"all_clips_{group}") for group in self.groups}
        texts = {kind: self._join_texts(parts, kind, owner) for kind in self._part.texts}
        searches = {group: self._search(group, texts[group.caption_kind], clips[group]) for group in self.groups}
        matched = self._match(searches, texts, owner) if self._conditions is not None else {}
        ranked = {group: _found(directions, matched.get(group), self.rerank) for group, directions in searches.items()}
        predictions = _predictions(self.groups, texts, clip_ids, ranked)
        metrics, intervals = distributed.computed_once(lambda: rank_metrics(predictions, [str(group) for group in self.groups]))
        temperatures = dict.fromkeys(f"{self.model.dual_temperature(group):.4g}" for group in self.groups)
        facts = {
            "clips": len(clip_ids),
            "texts": sum(len(pool.raw) for pool in _distinct(texts).values()),
            "rerank_depth": self.rerank,
            "directions": ["text to video", "video to text"] if self.both_directions else ["text to video"],
            "ties": "counted against the true clip",
            "dual_softmax": f"extra, temperature {', '.join(temperatures)}" if self.dual_softmax else "none",
            "texts_of_several_clips": max(pool.shared for pool in texts.values()),
            "right": "any clip that has the very same text" if self.shared_texts else "the text's own clip alone",
            "features": "float16 on disk" if self._folder else "float32 in memory",
            **self._condition_facts(),
            "intervals": bootstrap.WORDS,
        }
        if self._folder is not None:
            self._folder.cleanup()
        return Outcome(metrics, predictions, facts, intervals)

    def _file(self, name: str) -> Path | None:
        return Path(self._folder.name, name) if self._folder else None

    def _joined(self, parts: Sequence[FeatureRows], order: np.ndarray, name: str) -> Features:
        """The rows of all processes in the given order, see :func:`evaluation.retrieval.features.write_joined`; rows that differ by
        rounding alone are made equal."""
        path, shapes = self._file(name), next(part.shapes for part in parts if part.count)
        places = torch.cat([place for part in parts for place in part.places])[torch.from_numpy(order)]
        if path is None:
            whole = [read(part.read(), slice(None)) for part in parts if part.count]
            features = {key: torch.cat([part[key] for part in whole])[torch.from_numpy(order)] for key in shapes}
            self._same[name] = first_of_same(features, places)
            return {key: x[torch.from_numpy(self._same[name])] for key, x in features.items()}
        written = distributed.computed_once(lambda: write_joined(parts, order, path))
        first = distributed.computed_once(lambda: first_of_same(mapped(written, len(order), shapes), places))
        self._same[name] = first
        if not np.array_equal(first, np.arange(len(first))):
            written = distributed.computed_once(lambda: write_joined(parts, order[first], path.with_name(f"{name}_same")))
        return mapped(written, len(order), shapes)

    def _join_texts(self, parts: Sequence[_Part], kind: CaptionKind, owner: dict[int, tuple[int, int, int]]) -> _Texts:
        pools = [part.texts[kind] for part in parts]
        clip = np.array([owner[row][0] for pool in pools for row in pool.row], dtype=np.int64)
        if not len(clip):
            raise ValueError(f"there is no {kind.value} caption to retrieve with")
        order = np.argsort(clip, kind="stable")
        ids = [text_ids for pool in pools for text_ids in pool.ids]
        raw = [text for pool in pools for text in pool.raw]
        raw = [raw[n] for n in order]
        features = self._joined([pool.features for pool in pools], order, f"all_texts_{kind.value}")
        clips_of: dict[str, dict[int, None]] = defaultdict(dict)
        for text, own_clip in zip(raw, clip[order].tolist()):
            clips_of[text][own_clip] = None
        also = None
        if self.shared_texts:
            pairs = [(number, other) for number, (text, own_clip) in enumerate(zip(raw, clip[order].tolist()))
                     for other in clips_of[text] if other != own_clip]
            also = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return _Texts([ids[n] for n in order], raw, clip[order], features, sum(len(clips_of[text]) > 1 for text in raw), also)

    def _condition_facts(self) -> dict[str, str]:
        """How many condition features were kept and how many were encoded again, over all processes, in words."""
        conditions = self._conditions
        if conditions is None:
            return {}
        parts = distributed.all_gather_objects((conditions.clips_kept, conditions.bytes, conditions.clips_again, conditions.seconds_again))
        kept, size, again, seconds = (sum(column) for column in zip(*parts))
        words = f"kept of {kept:,} clips, {size / 1e6:,.1f} MB"
        words += f"; {again:,} clips encoded again in {seconds:.1f} s" if again else ""
        return {"condition_features": words + (f"; measured: {conditions.decision}" if conditions.decision else "")}

    def _search(self, group: Group, texts: _Texts, clips: Features) -> dict[str, Search]:
        """The search by similarity in each direction, named by what metrics append to their name."""
        model, numbers = self.model, np.arange(size(clips))
        # One product is made where the rows are kept; what takes more, where the model is.
        device = "cpu" if model.pair_numbers == 1 else model.device

        def by_text(queries: Rows, candidates: Rows) -> torch.Tensor:
            return model.similarity(group, queries.to(device), candidates.to(device))

        def by_clip(queries: Rows, candidates: Rows) -> torch.Tensor:
            return model.similarity(group, candidates.to(device), queries.to(device), by_clip=True)

        depth = max(self.rerank, SHOWN)
        also = texts.also
        same_texts, same_clips = self._same.get(f"all_texts_{group.caption_kind.value}"), self._same.get(f"all_clips_{group}")
        searches = {"": search(texts.features, clips, by_text, texts.clip, numbers, depth, self.dual_softmax, also, same_clips,
                               model.pair_numbers, model.dual_temperature(group))}
        if self.both_directions:
            queries = np.unique(texts.clip)
            given = clips if len(queries) == size(clips) else read(clips, queries).tensors
            back = None if also is None else np.stack([np.searchsorted(queries, also[:, 1]), also[:, 0]], 1)
            back = None if back is None else back[np.lexsort(back.T[::-1])]
            searches["_v2t"] = search(given, texts.features, by_clip, queries, texts.clip, depth, self.dual_softmax, back, same_texts,
                                      model.pair_numbers, model.dual_temperature(group))
        return searches

    def _match(
        self, searches: dict[Group, dict[str, Search]], texts: dict[CaptionKind, _Texts], owner: dict[int, tuple[int, int, int]]
    ) -> dict[Group, tuple[np.ndarray, np.ndarray]]:
        """Per group: sorted pair keys (text · clips + clip) of all processes, and how well they match."""
        clips = len(owner)
        asked = {group: np.unique(np.concatenate([_pair_keys(name, s, self.rerank, clips) for name, s in directions.items()]))
                 for group, directions in searches.items()}
        first = {group: self._first_of_same(group, pair_keys, clips) for group, pair_keys in asked.items()}
        keys = {group: np.unique(pair_keys) for group, pair_keys in first.items()}
        local = np.full(clips, -1)
        for number, rank, position in owner.values():
            if rank == distributed.rank():
                local[number] = position
        known = self.journal.matched(list(owner)) if self.journal else {}
        before = {group: known.get(str(group), (np.empty(0, np.int64), np.empty(0))) for group in self.groups}
        to_score = {group: all_keys[(local[all_keys % clips] >= 0) & ~np.isin(all_keys, before[group][0])]
                    for group, all_keys in keys.items()}
        assert self._conditions is not None, "called only for re-ranking"
        wanted = np.zeros(len(self._part.rows), dtype=bool)
        for here in to_score.values():
            wanted[local[here % clips]] = True
        places = self._conditions.places(wanted)
        pairs = {group: (here // clips, places[local[here % clips]]) for group, here in to_score.items()}
        bar: Progress[Any] = progress(sum(map(len, to_score.values())), "re-ranking", unit="pairs")
        with bar:
            matcher = PairMatcher(self.model, self._conditions.chunks(wanted, self.again), self.model.device)
            scores = matcher.margins(
                pairs, {group: texts[group.caption_kind].ids for group in self.groups}, bar.update,
                lambda group, chosen, part: self.journal.add_matched(str(group), to_score[group][chosen], part) if self.journal else None)
        gathered = distributed.all_gather_objects({group: (to_score[group], scores[group]) for group in self.groups})
        result = {}
        for group in self.groups:
            all_keys, all_scores = (np.concatenate(column) for column in zip(before[group], *(part[group] for part in gathered)))
            order = np.argsort(all_keys)
            result[group] = (asked[group], all_scores[order][np.searchsorted(all_keys[order], first[group])])
        return result

    def _first_of_same(self, group: Group, keys: np.ndarray, clips: int) -> np.ndarray:
        """For each pair, the key of the first pair whose text and clip are the same but for rounding: equal pairs are scored once."""
        numbers = [keys // clips, keys % clips]
        for i, name in enumerate((f"all_texts_{group.caption_kind.value}", f"all_clips_{group}")):
            if name in self._same:
                numbers[i] = self._same[name][numbers[i]]
        return numbers[0] * clips + numbers[1]


@EVALUATORS.register(Objective.RETRIEVAL.value)
def retrieval_evaluator(model: Model, loader: EvalLoader, config: Config, journal: Journal) -> RetrievalEvaluator:
    """Retrieval in a dataset."""
    settings = config.run_cfg

    def again(rows: list[int], modalities: Sequence[Modality]) -> Iterator[tuple[list[int], Any]]:
        for on_host in loader.batches(rows):
            if len(on_host):
                batch = on_host.to(model.device)
                yield batch.index.tolist(), model.encode(batch, modalities)

    # In the other direction every clip has texts re-ranked.
    texts, depth = loader.provenance["texts"], settings.itm_rerank_num
    share = 1.0 if settings.ret_bidirection_evaluation else reranked_share(loader.clips, texts, depth)
    return RetrievalEvaluator(model, loader.task.groups(Objective.RETRIEVAL), rerank=depth,
                              both_directions=settings.ret_bidirection_evaluation, dual_softmax=settings.dual_softmax_evaluation,
                              shared_texts=settings.ret_shared_texts, features_dir=settings.ret_features_dir,
                              memory_gb=settings.rerank_memory_gb, share=share, again=again,
                              journal=journal)


def _on_host(rows: Rows) -> Rows:
    """In float32 on the CPU."""
    return Rows({name: x.float().cpu() for name, x in rows.tensors.items()})


def _captions(batch: Batch, kind: CaptionKind) -> Texts:
    texts = batch.captions.get(kind)
    if texts is None:
        raise ValueError(f"the batch of corpus '{batch.corpus}' with clip '{batch.clip_ids[0]}' has no {kind.value} captions, which "
                         f"retrieval needs; it has {', '.join(k.value for k in batch.captions) or 'none'}")
    return texts


def _same(first: Texts, second: Texts) -> bool:
    """Whether two caption kinds are the same texts, as where an annotation has one kind only."""
    return first is second or (first.raw == second.raw and torch.equal(first.ids, second.ids) and torch.equal(first.clip, second.clip))


def _join_clips(parts: Sequence[_Part]) -> tuple[list[str], dict[int, tuple[int, int, int]]]:
    """Clip ids in annotation order; annotation row → (clip number, process, its position there).

    Raises ValueError when there is no clip, or one occurs twice.
    """
    places = sorted((row, rank, position) for rank, part in enumerate(parts) for position, row in enumerate(part.rows))
    if not places:
        raise ValueError("there is no clip to evaluate")
    owner = {row: (number, rank, position) for number, (row, rank, position) in enumerate(places)}
    if len(owner) < len(places):
        twice = next(a[0] for a, b in zip(places, places[1:]) if a[0] == b[0])
        raise ValueError(f"the clip in annotation row {twice} was evaluated twice")
    return [parts[rank].clip_ids[position] for _, rank, position in places], owner


def _clip_order(parts: Sequence[_Part], owner: dict[int, tuple[int, int, int]]) -> np.ndarray:
    """(C,) int64: where each clip stands among those of all processes, one process after the other."""
    starts = np.cumsum([0] + [len(part.rows) for part in parts])
    return np.array([starts[rank] + position for _, rank, position in owner.values()], dtype=np.int64)


def _pair_keys(direction: str, ranking: Search, depth: int, clips: int) -> np.ndarray:
    """Keys text · clips + clip of the pairs that a direction re-ranks."""
    top = ranking.top[:, :depth]
    if direction:
        return (top * clips + ranking.query_keys[:, None]).ravel()
    return (np.arange(len(top))[:, None] * clips + top).ravel()


def _found(directions: dict[str, Search], matched: tuple[np.ndarray, np.ndarray] | None, depth: int) -> dict[str, np.ndarray]:
    """What is known of each text of a group, as arrays with one row per text.

    ``top``: the best clips, best first. ``itc_top``: the same by similarity alone, where ``top`` is re-ranked. ``itc_rank``, ``itm_rank``
    (where re-ranked) and ``dual_softmax_rank`` (where asked for): the rank of the text's clip. With ``_v2t`` before ``_rank``: the rank
    of the best text of that clip, in the search for texts.
    """
    plain = directions[""]
    clips = len(plain.candidate_keys)
    columns: dict[str, np.ndarray] = {"top": plain.top}
    for name, ranking in directions.items():
        # Every row of the other direction is a clip; its texts all carry that clip's rank.
        rows = np.searchsorted(ranking.query_keys, plain.query_keys) if name else slice(None)
        if matched is not None:
            keys, margins = matched
            top = ranking.top[:, :depth]
            scores = margins[np.searchsorted(keys, _pair_keys(name, ranking, depth, clips).reshape(top.shape))]
            ranks = recall.reranked_ranks(ranking.ranks, top, scores, ranking.query_keys, ranking.candidate_keys, ranking.also)
            columns[f"itm{name}_rank"] = ranks[rows]
            if not name:
                best_first = np.argsort(-scores, axis=1, kind="stable")
                columns["top"] = np.concatenate([np.take_along_axis(top, best_first, 1), ranking.top[:, depth:]], 1)
                columns["itc_top"] = ranking.top
        columns[f"itc{name}_rank"] = ranking.ranks[rows]
        if ranking.dual_ranks is not None:
            columns[f"dual_softmax{name}_rank"] = ranking.dual_ranks[rows]
    return columns


def _distinct(texts: dict[CaptionKind, _Texts]) -> dict[CaptionKind, _Texts]:
    """The caption kinds that are not the same texts as an earlier one."""
    distinct: dict[CaptionKind, _Texts] = {}
    for kind, pool in texts.items():
        if not any(pool.raw == other.raw and pool.ids == other.ids for other in distinct.values()):
            distinct[kind] = pool
    return distinct


def _predictions(
    groups: Sequence[Group], texts: dict[CaptionKind, _Texts], clip_ids: Sequence[str], ranked: dict[Group, dict[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """One entry per text, with the groups that search with it."""
    predictions = []
    for pool in _distinct(texts).values():
        using = [g for g in groups if texts[g.caption_kind].raw == pool.raw and texts[g.caption_kind].ids == pool.ids]
        for number, (raw, clip) in enumerate(zip(pool.raw, pool.clip.tolist())):
            entry: dict[str, Any] = {"text": raw, "clip_id": clip_ids[clip]}
            for group in using:
                ranks = {name: values[number].tolist() for name, values in ranked[group].items()}
                entry[str(group)] = {name: [clip_ids[n] for n in value[:SHOWN]] if isinstance(value, list) else value
                                     for name, value in ranks.items()}
            predictions.append(entry)
    return predictions

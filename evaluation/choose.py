"""The best of several captions of each clip, by a model that compares texts with clips, and the score from which on it may be trusted.

Candidates of a clip are its captions; where its row has rejected ones (``negatives``), they stand among the candidates, and how often a
caption of its own is chosen is measured. Letters: B clips of a batch, T candidates of all of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from omnivast.config.tasks import CaptionKind, Group
from omnivast.data.annotations.rows import Row
from omnivast.data.batch import Batch, make_texts
from omnivast.data.loader import EvalLoader
from omnivast.model.interface import Model
from omnivast.utils.files import write_atomically
from omnivast.utils.log import JsonlWriter, Progress, iterate_jsonl, progress

THRESHOLD = 0.43
"""Above it Panda-70M takes a caption to be strongly associated with its clip. It is a value of their model's scores, not of ours."""
By = Literal["matching", "contrastive"]
KEYS = {CaptionKind.OMNI: "desc", CaptionKind.VISION: "vision_cap", CaptionKind.AUDIO: "audio_cap"}
"""Under which a chosen caption stands in an annotation file."""

logger = logging.getLogger("omnivast")


@dataclass(frozen=True)
class Scored:
    """A clip, its candidates and their scores."""

    row: int
    """Of the annotation file."""
    clip_id: str
    texts: list[str]
    own: int
    """The first so many candidates are its captions, the others are known to be worse."""
    scores: list[float]
    """By the matching head the probabilities, by the contrastive space the similarities."""
    margins: list[float]
    """What candidates are ordered by: the logits of the probabilities, which in float32 may all be 1; or the similarities."""

    @property
    def best(self) -> int:
        """The number of the best candidate; the first of equals."""
        return max(range(len(self.margins)), key=self.margins.__getitem__)

    @property
    def labelled(self) -> bool:
        """Whether some candidates are known to be worse."""
        return self.own < len(self.texts)


def candidates(row: Row, kind: CaptionKind) -> tuple[list[str], int]:
    """The candidates of a clip for groups of a caption kind, and how many of them are its own captions; each text once."""
    own = list(dict.fromkeys(row.captions.get(kind) or row.captions[CaptionKind.OMNI]))
    return list(dict.fromkeys([*own, *row.negatives])), len(own)


@torch.inference_mode()
def score(model: Model, batch: Batch, rows: Sequence[Row], group: Group, by: By, longest: int) -> Iterator[Scored]:
    """Scores the candidates of a batch of clips, whose annotations are ``rows``; each clip is encoded once."""
    found = [candidates(row, group.caption_kind) for row in rows]
    texts = make_texts([own for own, _ in found], model.tokenizer, longest)
    features = model.encode(batch.to(model.device), list(group))
    if by == "matching":
        memory = model.memory(model.matching_features(features, list(group)))
        margins = model.match(memory, group, texts.ids, texts.mask, texts.clip)
        scores = margins.sigmoid()
    else:
        similar = model.similarity(group, model.index_texts(texts), model.index_clips(features, group))
        margins = scores = similar[torch.arange(len(texts)), texts.clip.to(similar.device)]
    ends = np.cumsum([0, *(len(own) for own, _ in found)])
    for place, (own, count) in enumerate(found):
        part = slice(int(ends[place]), int(ends[place + 1]))
        yield Scored(int(batch.index[place]), batch.clip_ids[place], own, count, scores[part].tolist(), margins[part].tolist())


def score_all(model: Model, loader: EvalLoader, group: Group, by: By, folder: Path, weights: str) -> list[Scored]:
    """Scores all clips, in annotation order. Each batch is written to ``folder`` as soon as it is done, and another call with the same
    weights, rows and settings goes on there. Raises ValueError for a model without a matching head, UnreadableError."""
    if by == "matching" and not model.can_match:
        raise ValueError(f"{type(model).__name__} has no matching head; choose by contrastive")
    key = hashlib.sha256(json.dumps([weights, loader.provenance["split_sha256"], str(group), by]).encode()).hexdigest()[:12]
    path = folder / f"scores_{key}.jsonl"
    done = {line["row"]: Scored(**line) for line in iterate_jsonl(path)} if path.exists() else {}
    if done:
        logger.info("%d of %d clips were scored before, in %s", len(done), loader.clips, path)
    annotations, longest = loader.part.annotations, loader.part.lengths.caption[group.caption_kind]
    writer = JsonlWriter(path)
    bar: Progress[Any] = progress(loader.clips, "scoring", initial=len(done), unit="clips")
    with bar:
        for batch in loader.read(done):
            for one in score(model, batch, [annotations[int(row)] for row in batch.index], group, by, longest):
                writer.append(asdict(one))
                done[one.row] = one
            bar.update(len(batch))
    writer.close()
    return [done[row] for row in sorted(done)]


def calibrated(found: Sequence[Scored]) -> dict[str, float] | None:
    """The score that tells the clips' own captions from rejected ones with the fewest errors of either kind: "threshold", the share of own
    captions below it, "lost", and of rejected ones at it or above, "let through"; the larger of both shares is as small as can be. None
    where no clip has rejected captions."""
    own = np.sort([value for one in found if one.labelled for value in one.scores[: one.own]])
    rejected = np.sort([value for one in found for value in one.scores[one.own :]])
    if not len(own) or not len(rejected):
        return None
    values = np.unique(np.concatenate([own, rejected]))
    places = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    lost = np.searchsorted(own, places) / len(own)
    let_through = 1 - np.searchsorted(rejected, places) / len(rejected)
    best = np.maximum(lost, let_through).argmin()
    return {"threshold": float(places[best]), "lost": float(lost[best]), "let through": float(let_through[best])}


def summary(found: Sequence[Scored], threshold: float) -> dict[str, Any]:
    """What ``summary.json`` says: clips, how many have a best caption at or above the threshold, and of clips with rejected captions how
    often one of their own is chosen, in %."""
    labelled = [one for one in found if one.labelled]
    best = [one.scores[one.best] for one in found]
    result: dict[str, Any] = {
        "clips": len(found), "captions": sum(len(one.texts) for one in found), "threshold": threshold,
        "at or above": sum(value >= threshold for value in best), "mean score of the best": float(np.mean(best)) if best else None}
    if labelled:
        result |= {"labelled": len(labelled), "r1": 100 * float(np.mean([one.best < one.own for one in labelled])),
                   "chance": 100 * float(np.mean([one.own / len(one.texts) for one in labelled])), "calibrated": calibrated(found)}
    return result


def chosen_rows(found: Sequence[Scored], rows: Sequence[Row], kind: CaptionKind, threshold: float) -> list[dict[str, Any]]:
    """An annotation file of the clips whose best caption scores ``threshold`` or more: that caption, and the subtitle."""
    kept = (one for one in found if one.scores[one.best] >= threshold)
    return [{"clip_id": one.clip_id, KEYS[kind]: one.texts[one.best],
             **({} if rows[one.row].subtitle is None else {"subtitle": rows[one.row].subtitle})} for one in kept]


def write_choice(folder: Path, found: Sequence[Scored], rows: Sequence[Row], kind: CaptionKind, threshold: float,
                 facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``choices.jsonl`` (every candidate with its score), ``annotations.json`` (the best captions) and ``summary.json``, whose
    content is returned."""
    lines = []
    for one in found:
        texts = [{"text": text, "score": round(value, 6), "own": place < one.own}
                 for place, (text, value) in enumerate(zip(one.texts, one.scores))]
        lines.append(json.dumps({"clip_id": one.clip_id, "best": one.best, "sure": one.scores[one.best] >= threshold, "captions": texts},
                                ensure_ascii=False) + "\n")
    write_atomically(folder / "choices.jsonl", "".join(lines))
    chosen = chosen_rows(found, rows, kind, threshold)
    write_atomically(folder / "annotations.json", json.dumps(chosen, indent=1, ensure_ascii=False) + "\n")
    result = {**facts, **summary(found, threshold)}
    write_atomically(folder / "summary.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result

"""The reward of self-critical training: CIDEr against the training captions of the clip, with the end of a caption as a word.

A caption that breaks off ("somebody speaks about a") holds nothing wrong, so that plain CIDEr likes it better than a whole one with
a wrong last word; its end is an n-gram that no reference has, which takes some of that back. Testing scores with plain CIDEr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from omnivast.config.tasks import CaptionKind
from omnivast.evaluation.metrics.cider import Cider
from omnivast.evaluation.metrics.tokenizer import tokenize
from omnivast.model.objectives.self_critical import SelfCritical
from omnivast.model.vast.self_critical import learn_from_reward

if TYPE_CHECKING:
    from omnivast.config.schema import RunConfig
    from omnivast.data.loader import TrainLoader
    from omnivast.model.vast.model import VAST


END = "[SEP]"
"""Behind the last word; no tokenised caption has capital letters."""


class CiderReward:
    """CIDEr of captions that end; the document frequencies of each corpus and caption kind are counted once, from all its captions."""

    def __init__(self, references: Mapping[tuple[str, CaptionKind], Mapping[str, Sequence[str]]]) -> None:
        """references: clip id → captions, by corpus and caption kind."""
        self._clips = {key: {clip_id: n for n, clip_id in enumerate(own)} for key, own in references.items()}
        self._cider = {key: Cider([[_ended(text) for text in texts] for texts in own.values()]) for key, own in references.items()}

    def __call__(self, corpus: str, kind: CaptionKind, clip_ids: Sequence[str], captions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The score of each caption of each clip, 1 for what is usually printed as 100. Equal captions are scored once."""
        clips, cider = self._clips[corpus, kind], self._cider[corpus, kind]
        scores = []
        for clip_id, own in zip(clip_ids, captions):
            different = list(dict.fromkeys(own))
            found = dict(zip(different, cider.scores(clips[clip_id], [_ended(caption) for caption in different])))
            scores.append([found[caption] for caption in own])
        return scores


def _ended(caption: str) -> str:
    return f"{tokenize(caption)} {END}"


def set_reward(model: VAST, run: RunConfig, loader: TrainLoader | None) -> None:
    """Make the model learn captions from CIDEr, where ``run.scst_finetuning`` asks for it."""
    if run.scst_finetuning and loader is not None:
        reward = CiderReward(loader.references())
        learn_from_reward(model, SelfCritical(reward, run.scst_candidates, run.scst_search, run.scst_baseline))

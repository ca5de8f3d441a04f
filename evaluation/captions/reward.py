"""The reward of self-critical training: CIDEr against the training captions of the clip, with the end of a caption as a word; and BLEU-4
beside it where asked for.

A caption that breaks off ("somebody speaks about a") holds nothing wrong, so that plain CIDEr likes it better than a whole one with
a wrong last word; its end is an n-gram that no reference has, which takes some of that back. Testing scores with plain CIDEr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from omnivast.config.tasks import CaptionKind
from omnivast.evaluation.metrics.bleu import bleu_of_sums, bleu_terms
from omnivast.evaluation.metrics.cider import Cider
from omnivast.evaluation.metrics.tokenizer import tokenize
from omnivast.model.interface import Model

if TYPE_CHECKING:
    from omnivast.config.schema import RunConfig
    from omnivast.data.loader import TrainLoader


END = "[SEP]"
"""Behind the last word; no tokenised caption has capital letters."""


class CiderReward:
    """CIDEr of captions that end; the document frequencies of each corpus and caption kind are counted once, from all its captions."""

    def __init__(self, references: Mapping[tuple[str, CaptionKind], Mapping[str, Sequence[str]]], with_bleu: bool = False) -> None:
        """references: clip id → captions, by corpus and caption kind. ``with_bleu`` adds BLEU-4 of each caption by itself."""
        self._clips = {key: {clip_id: n for n, clip_id in enumerate(by_clip)} for key, by_clip in references.items()}
        texts = {key: [[_ended(text) for text in texts] for texts in by_clip.values()] for key, by_clip in references.items()}
        self._cider = {key: Cider(own) for key, own in texts.items()}
        self._texts = texts if with_bleu else None

    def __call__(self, corpus: str, kind: CaptionKind, clip_ids: Sequence[str], captions: Sequence[Sequence[str]]) -> list[list[float]]:
        """The score of each caption of each clip, 1 for what is usually printed as 100. Equal captions are scored once."""
        clips, cider = self._clips[corpus, kind], self._cider[corpus, kind]
        scores = []
        for clip_id, candidates in zip(clip_ids, captions):
            different = list(dict.fromkeys(candidates))
            ended = [_ended(caption) for caption in different]
            rewards = cider.scores(clips[clip_id], ended)
            if self._texts is not None:
                terms = bleu_terms(ended, [self._texts[corpus, kind][clips[clip_id]]] * len(ended))
                rewards = [one + float(other) for one, other in zip(rewards, bleu_of_sums(terms)[:, 3])]
            by_caption = dict(zip(different, rewards))
            scores.append([by_caption[caption] for caption in candidates])
        return scores


def _ended(caption: str) -> str:
    return f"{tokenize(caption)} {END}"


def set_reward(model: Model, run: RunConfig, loader: TrainLoader | None) -> None:
    """Make the model learn captions from CIDEr, where ``run.scst_finetuning`` asks for it."""
    if run.scst_finetuning and loader is not None:
        model.learn_from_reward(CiderReward(loader.references(), run.scst_reward == "cider_bleu4"), candidates=run.scst_candidates,
                                search=run.scst_search, baseline=run.scst_baseline)

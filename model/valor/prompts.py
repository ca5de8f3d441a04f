"""VALOR's prompts: a sentence beside a text that says what is to be done with it (released VALOR; its paper does not name them)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omnivast.config.tasks import Group, Modality
from omnivast.model.text.layout import Grid, Layout
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.utils.transfer import on_host

COMPARE = "project language in common space"
CAPTION = "describe the video with natural language"
ANSWER = "answer the question"
MLM = {(Modality.VISION,): "visual cues", (Modality.AUDIO,): "audio cues", (Modality.VISION, Modality.AUDIO): "visual and audio cues"}
LONGEST = 64

Pair = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Ids and mask (N, P)."""


class Prompts:
    """The prompts of a model: those of tasks where ``tasks`` is set, those of masked words always."""

    def __init__(self, tokenizer: Tokenizer, tasks: bool) -> None:
        self.tasks = tasks
        sentences = [COMPARE, CAPTION, ANSWER, *(f"predict masked tokens with {cues}" for cues in MLM.values())]
        self.ids = dict(zip(sentences, tokenizer.encode(sentences, LONGEST)))

    def task(self, sentence: str, rows: int) -> Pair | None:
        """COMPARE or CAPTION for ``rows`` texts; None where the model has no prompts for tasks."""
        return self._repeated(self.ids[sentence], rows) if self.tasks else None

    def masked_words(self, group: Group, rows: int) -> Pair:
        """What tells a text with masked words where to look."""
        return self._repeated(self.ids[f"predict masked tokens with {MLM[group.modalities]}"], rows)

    def question(self, ids: Grid, mask: Grid) -> Pair:
        """Questions (N, L) as prompts; with prompts for tasks ANSWER stands before their words, behind [CLS]."""
        ids, mask = on_host(ids), on_host(mask).astype(bool)
        if not self.tasks:
            return ids, mask
        words, seen = self._repeated(self.ids[ANSWER][1:-1], len(ids))
        return (np.concatenate([ids[:, :1], words, ids[:, 1:]], 1), np.concatenate([mask[:, :1], seen, mask[:, 1:]], 1))

    @staticmethod
    def _repeated(ids: list[int], rows: int) -> Pair:
        return np.tile(np.array(ids, dtype=np.int64), (rows, 1)), np.ones((rows, len(ids)), dtype=bool)


def layout_of(prompt: Pair | None, ids: Grid, mask: Grid, causal: bool = False) -> tuple[Layout, int]:
    """Texts ids, mask (N, L) behind their prompts, and the columns that these take."""
    if prompt is None:
        return Layout.of(ids, mask, causal), 0
    return Layout.prompted(*prompt, ids, mask, causal), prompt[0].shape[1]

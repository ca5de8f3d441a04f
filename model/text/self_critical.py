"""Captioning learnt from a reward: captions tried by the model itself, scored, and made likelier or less likely.

At inference the model sees the text so far and, mostly, one [MASK]. The log-probability of a caption is therefore computed under
just these inputs, in one forward that holds a [MASK] for every step. Letters: B clips, n captions tried per clip, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.tasks import Group
from omnivast.model.objectives.generation import IGNORED
from omnivast.model.objectives.self_critical import SelfCritical, advantages, self_critical_loss
from omnivast.model.text.bert import CrossAttention, DecoderState, SelfAttention, TextModel
from omnivast.model.text.generate import sample
from omnivast.model.text.layout import Grid, Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import CrossPass, plan_texts
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import send, to_device

if TYPE_CHECKING:
    from omnivast.data.batch import Batch

Ids = list[int]


class Captioner(Protocol):
    """What is used of a model."""

    tokenizer: Tokenizer
    self_critical: SelfCritical | None
    multimodal_encoder: TextModel

    @property
    def device(self) -> torch.device: ...

    @property
    def masks(self) -> bool:
        """Whether the next word is predicted at a [MASK], or at the last one."""
        ...

    @property
    def caption_words(self) -> int:
        """The most tokens of a generated caption."""
        ...

    def caption_prompt(self, rows: int) -> tuple[Grid, Grid] | None:
        """Ids and mask (rows, P) of what stands before a caption."""
        ...

    def searched(self, state: DecoderState, beams: int) -> list[list[Ids]]:
        """The ``beams`` best captions that a search finds for every row, the best first; one beam is greedy search."""
        ...

    def mixed(self) -> AbstractContextManager: ...

    def memory(self, features: Any) -> Memory: ...


def learn_from_reward(model: Captioner, settings: SelfCritical) -> None:
    """From now on the model's captioning loss is the self-critical one. Its text tower loses its dropout: the captions that are
    scored must be those of the model whose parameters are changed."""
    model.self_critical = settings
    for module in model.multimodal_encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, SelfAttention | CrossAttention):
            module.dropout = 0.0


def self_critical_losses(model: Captioner, settings: SelfCritical, batch: Batch, groups: Sequence[Group], features: Any,
                         draws: StepRandom) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The loss of every group ("cap.<group>"), and for the log the mean rewards: "reward" (over the groups), "reward.<group>" of
    the captions tried and "baseline.<group>" of the greedy ones."""
    tried: dict[Group, list[list[Ids]]] = {}
    gains: dict[Group, Tensor] = {}
    facts: dict[str, Tensor] = {}
    # A second memory and a second autocast: the pass with gradient must not reuse what is projected or cast here without gradient.
    with torch.no_grad(), model.mixed():
        memory = model.memory(features)
        for group in groups:
            tried[group], greedy = _try(model, settings, memory, group, draws)
            texts = [sampled + best for sampled, best in zip(tried[group], greedy)]
            decoded = [[model.tokenizer.decode(ids) for ids in of_clip] for of_clip in texts]
            scores = settings.reward(batch.corpus, group.caption_kind, batch.clip_ids, decoded)
            rewards, baseline = to_device(torch.tensor(scores, device="cpu"), model.device).split([settings.candidates, len(greedy[0])], 1)
            gains[group] = advantages(rewards, baseline[:, 0] if settings.baseline == "greedy" else None)
            facts[f"reward.{group}"] = rewards.mean()
            if settings.baseline == "greedy":
                facts[f"baseline.{group}"] = baseline.mean()
    with model.mixed():
        likelihoods = log_probs(model.multimodal_encoder, model.tokenizer, model.memory(features), tried, model.caption_words,
                                model.caption_prompt, model.masks)
    facts["reward"] = torch.stack([facts[f"reward.{group}"] for group in groups]).mean()
    return {f"cap.{group}": self_critical_loss(likelihoods[group], gains[group]) for group in groups}, facts


def _try(model: Captioner, settings: SelfCritical, memory: Memory, group: Group, draws: StepRandom,
         ) -> tuple[list[list[Ids]], list[list[Ids]]]:
    """n sampled captions of every clip; and the greedy caption (as a list of one) where it is the baseline, else an empty list."""
    def begun() -> DecoderState:
        return model.multimodal_encoder.start(memory, group, model.caption_prompt(len(memory)))

    if settings.search == "beam":
        tried = model.searched(begun(), settings.candidates)
    else:
        uniform = draws.uniform(f"candidates.{group}", len(memory), settings.candidates, model.caption_words)
        tried = sample(model.multimodal_encoder, begun(), model.tokenizer, uniform, mask=model.masks)
    return tried, model.searched(begun(), 1) if settings.baseline == "greedy" else [[] for _ in tried]


def log_probs(model: TextModel, tokenizer: Tokenizer, memory: Memory, texts: Mapping[Group, Sequence[Sequence[Ids]]], max_length: int,
              prompt: Callable[[int], tuple[Grid, Grid] | None] = lambda rows: None, masks: bool = True) -> dict[Group, Tensor]:
    """By group, log-probabilities (B, n) float32 of the n texts of every clip under generation of at most ``max_length`` tokens. The
    probability of [SEP] is included, unless the text is ``max_length`` long. ``prompt``, ``masks``: see Captioner."""
    rows: list[Ids] = []
    passes: list[CrossPass] = []
    for group, clips in texts.items():
        start = len(rows)
        rows += [list(clip[i]) for i in range(len(clips[0])) for clip in clips]
        passes.append(CrossPass(start, len(rows), memory, group))
    rows = [ids if len(ids) == max_length else [*ids, tokenizer.sep] for ids in rows]
    longest = max(map(len, rows))
    targets = np.array([ids + [IGNORED] * (longest - len(ids)) for ids in rows])
    real = targets != IGNORED
    layout = _predicting(np.where(real, targets, tokenizer.pad), real, tokenizer, masks)
    if (before := prompt(len(rows))) is not None:
        layout = layout.behind(*before)
    predicted = np.concatenate([np.zeros((len(rows), layout.length - longest), dtype=bool), real], 1)
    plan = plan_texts(layout, passes)
    plan, states, words, row = send((plan, plan.outputs.places(predicted), targets[real], real.nonzero()[0]), model.device)
    logits = model.logits(model(plan).hidden[states]).float()
    each = -F.cross_entropy(logits, words, reduction="none")
    total = each.new_zeros(len(rows)).index_add(0, row, each)
    # Rows of a group stand text by text, each for all clips.
    return {group: total[p.start:p.stop].view(-1, len(memory)).T for group, p in zip(texts, passes)}


def _predicting(texts: np.ndarray, real: np.ndarray, tokenizer: Tokenizer, masks: bool) -> Layout:
    """A layout whose last L columns predict the texts (N, L): at a [MASK] each, or each at the token before it."""
    if masks:
        return Layout.stepwise(texts, real, tokenizer.cls, tokenizer.mask)
    return Layout.of(np.concatenate([np.full_like(texts[:, :1], tokenizer.cls), texts[:, :-1]], 1), real, causal=True)

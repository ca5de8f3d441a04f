"""Captioning learnt from a reward: captions tried by the model itself, scored, and made likelier or less likely.

At inference the model sees the text so far and one [MASK]. The log-probability of a caption is therefore computed under
just these inputs, in one forward that holds a [MASK] for every step. Letters: B clips, n captions tried per clip, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.tasks import Group
from omnivast.model.objectives.generation import IGNORED
from omnivast.model.objectives.self_critical import SelfCritical, advantages, self_critical_loss
from omnivast.model.text.bert import CrossAttention, SelfAttention, TextModel
from omnivast.model.text.generate import CAPTION_LENGTH_PENALTY, beam_search, best_texts, sample
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import CrossPass, plan_texts
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.parts import Parts
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import send, to_device

if TYPE_CHECKING:
    from omnivast.data.batch import Batch

Ids = list[int]


def learn_from_reward(model: Parts, settings: SelfCritical) -> None:
    """From now on the model's captioning loss is the self-critical one. Its text tower loses its dropout: the captions that are
    scored must be those of the model whose parameters are changed."""
    model.self_critical = settings
    for module in model.multimodal_encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, SelfAttention | CrossAttention):
            module.dropout = 0.0


def self_critical_losses(model: Parts, settings: SelfCritical, batch: Batch, groups: Sequence[Group], features: ClipFeatures,
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
        likelihoods = log_probs(model.multimodal_encoder, model.tokenizer, model.memory(features), tried, model.config.max_caption_len)
    facts["reward"] = torch.stack([facts[f"reward.{group}"] for group in groups]).mean()
    return {f"cap.{group}": self_critical_loss(likelihoods[group], gains[group]) for group in groups}, facts


def _try(model: Parts, settings: SelfCritical, memory: Memory, group: Group, draws: StepRandom) -> tuple[list[list[Ids]], list[list[Ids]]]:
    """n sampled captions of every clip; and the greedy caption (as a list of one) where it is the baseline, else an empty list."""
    text, longest = model.multimodal_encoder, model.config.max_caption_len
    if settings.search == "beam":
        tried = best_texts(text, text.start(memory, group), model.tokenizer, settings.candidates, longest, CAPTION_LENGTH_PENALTY)
    else:
        uniform = draws.uniform(f"candidates.{group}", len(memory), settings.candidates, longest)
        tried = sample(text, text.start(memory, group), model.tokenizer, uniform)
    if settings.baseline != "greedy":
        return tried, [[] for _ in tried]
    return tried, [[ids] for ids in beam_search(text, text.start(memory, group), model.tokenizer, 1, longest, CAPTION_LENGTH_PENALTY)]


def log_probs(model: TextModel, tokenizer: Tokenizer, memory: Memory, texts: Mapping[Group, Sequence[Sequence[Ids]]],
              max_length: int) -> dict[Group, Tensor]:
    """By group, log-probabilities (B, n) float32 of the n texts of every clip under generation of at most ``max_length`` tokens. The
    probability of [SEP] is included, unless the text is ``max_length`` long."""
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
    plan = plan_texts(Layout.stepwise(np.where(real, targets, tokenizer.pad), real, tokenizer.cls, tokenizer.mask), passes)
    predicted = np.concatenate([np.zeros_like(real), real], 1)
    plan, states, words, row = send((plan, plan.outputs.places(predicted), targets[real], real.nonzero()[0]), model.device)
    logits = model.logits(model(plan).hidden[states]).float()
    each = -F.cross_entropy(logits, words, reduction="none")
    total = each.new_zeros(len(rows)).index_add(0, row, each)
    # Rows of a group stand text by text, each for all clips.
    return {group: total[p.start:p.stop].view(-1, len(memory)).T for group, p in zip(texts, passes)}

"""The training step: the contrastive loss (multimodal grouping alignment), then all texts that attend to clips in one forward.

Letters: b pairs of this process, B of the global batch, L tokens, k tokens that are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from omnivast.config.tasks import Group, Objective, Task
from omnivast.model.interface import Rows
from omnivast.model.objectives.generation import IGNORED, mask_tokens
from omnivast.model.recompute import remaking
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import CrossPass, plan_texts
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.parts import Parts
from omnivast.model.valor.prompts import CAPTION, layout_of
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host, planning, send

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts

CAPTION_MASK, MLM_MASK, ANSWER_MASK = 0.6, 0.15, 0.99
"""Share of tokens predicted: of captions (paper, section 3.4), of captions read bidirectionally, and of answers (release)."""
Masked = dict[str, tuple[Tensor, Tensor]]
"""Disguised ids and labels (N, L), on the host, under "cap.<caption kind>", "mlm.<caption kind>" and "qa"."""
ORDER = (("ret", Objective.RETRIEVAL), ("cap", Objective.CAPTION), ("mlm", Objective.MLM), ("qa", Objective.QA))


@dataclass
class Block:
    """Texts of one loss, "cap.<group>" or the like: a layout of rows, and their labels (N, length), IGNORED where nothing is predicted."""

    name: str
    layout: Layout
    labels: NDArray[np.int64]


def training_losses(model: Parts, batch: Batch, task: Task, draws: StepRandom, masked: Masked | None = None) -> dict[str, Tensor]:
    """The losses of a task (see VALOR.forward). Tests fix the ``masked`` ids and labels, on the host."""
    with remaking():
        features = model.encode(batch, task.modalities)
        losses: dict[str, Tensor] = {}
        if groups := task.groups(Objective.RETRIEVAL):
            losses |= contrastive(model, batch, groups, features)
        if masked is None:
            masked = draw_masks(model, batch, task, draws)
        with model.mixed():
            losses |= generation(model, batch, task, model.memory(features), masked)
        return _total(losses, task, model.config.contra_loss_ratio)


def contrastive(model: Parts, batch: Batch, groups: tuple[Group, ...], features: ClipFeatures) -> dict[str, Tensor]:
    """ "ret.<group>" of every group: mean over both directions of the cross-entropies of this process's pairs in the global batch."""
    clips = model.embed_clips(features, groups)
    all_clips = _gathered(model, clips)
    targets = torch.arange(len(batch), device=model.device) + distributed.rank() * len(batch)
    losses = {}
    indexed: dict[object, Rows] = {}
    for own in compared_together(batch, groups):
        source = batch.captions.source(own[0].caption_kind)
        if source not in indexed:
            indexed[source] = model.index_texts(batch.captions.of(source))
        texts = indexed[source]
        to_clip = model.alignment.scores(own, texts, all_clips)
        alone = distributed.world_size() == 1 and model.gather_with_grad
        to_text = to_clip if alone else model.alignment.scores(own, _gathered(model, texts), clips)
        for group, one, other in zip(own, to_clip, to_text):
            rows = torch.cat([one, other.T]) / model.temperature
            losses[f"ret.{group}"] = F.cross_entropy(rows, targets.repeat(2))
    return losses


def compared_together(batch: Batch, groups: tuple[Group, ...]) -> list[list[Group]]:
    """The groups by the texts that they are compared with: for one process by their source; for several by their kind, as kinds that are
    the same texts here may not be on another process, and all must exchange the same."""
    found: dict[object, list[Group]] = {}
    for group in groups:
        kind = group.caption_kind
        found.setdefault(batch.captions.source(kind) if distributed.world_size() == 1 else kind, []).append(group)
    return list(found.values())


def _gathered(model: Parts, rows: Rows) -> Rows:
    """The rows of all processes."""
    return Rows({name: distributed.gather_rows(x, model.gather_with_grad) for name, x in rows.tensors.items()})


def draw_masks(model: Parts, batch: Batch, task: Task, draws: StepRandom) -> Masked:
    """Which tokens are predicted, drawn at the full length, so that they do not depend on the batch's padding."""
    def drawn(texts: Texts, purpose: str, probability: float) -> tuple[Tensor, Tensor]:
        longest = max(model.config.max_caption_len, model.config.max_answer_len, texts.ids.shape[1])
        with planning():
            return mask_tokens(texts.ids, model.mask_ids, probability, draws.uniform(f"mask.{purpose}", len(texts), longest, 3))

    masked = {}
    for objective, share in ((Objective.CAPTION, CAPTION_MASK), (Objective.MLM, MLM_MASK)):
        for kind in dict.fromkeys(group.caption_kind for group in task.groups(objective)):
            name = f"{objective.value}.{kind.value}"
            masked[name] = drawn(batch.captions.of(kind), name, share)
    if task.groups(Objective.QA):
        masked["qa"] = drawn(_asked(batch)[1], "qa", ANSWER_MASK)
    return masked


def generation(model: Parts, batch: Batch, task: Task, memory: Memory, masked: Masked) -> dict[str, Tensor]:
    """ "cap", "mlm" and "qa", means over their groups, and of each group without gradient."""
    blocks: list[Block] = []
    passes: list[CrossPass] = []
    parts: list[tuple[list[Block], NDArray[np.int64] | None]]
    start = 0
    for group in task.all_groups:
        parts = [(caption_blocks(model, batch, task, group, masked), None)]
        if group in task.groups(Objective.QA):
            parts.append(([question_block(model, batch, group, masked)], on_host(_asked(batch)[0].clip)))
        for own, index in parts:
            if own:
                stop = start + sum(len(block.layout) for block in own)
                passes.append(CrossPass(start, stop, memory, group, index, max(block.layout.length for block in own)))
                blocks += own
                start = stop
    return read(model, blocks, passes) if blocks else {}


def caption_blocks(model: Parts, batch: Batch, task: Task, group: Group, masked: Masked) -> list[Block]:
    """A group's captions with masked words, read causally and bidirectionally."""
    found = []
    for objective in (Objective.CAPTION, Objective.MLM):
        if group in task.groups(objective):
            texts, (ids, labels) = batch.captions.of(group.caption_kind), masked[f"{objective.value}.{group.caption_kind.value}"]
            causal = objective is Objective.CAPTION
            if causal and not model.masks:
                ids, labels = texts.ids, next_words(texts)
            prompt = model.prompts.task(CAPTION, len(texts)) if causal else model.prompts.masked_words(group, len(texts))
            layout, start = layout_of(prompt, ids, texts.mask, causal)
            found.append(Block(f"{objective.value}.{group}", layout, _behind(start, labels)))
    return found


def question_block(model: Parts, batch: Batch, group: Group, masked: Masked) -> Block:
    """Answers with masked words behind their questions."""
    questions, answers = _asked(batch)
    ids, labels = masked["qa"] if model.masks else (answers.ids, next_words(answers))
    layout, start = layout_of(model.prompts.question(questions.ids, questions.mask), ids, answers.mask, causal=True)
    return Block(f"qa.{group}", layout, _behind(start, labels))


def next_words(texts: Texts) -> Tensor:
    """Labels (N, L) by which every token predicts the one behind it."""
    following = F.pad(texts.ids.masked_fill(~texts.mask, IGNORED), (0, 1), value=IGNORED)
    return following[:, 1:]


def read(model: Parts, blocks: list[Block], passes: list[CrossPass]) -> dict[str, Tensor]:
    """One forward, and the losses from its states at the chosen tokens: means over all tokens that a loss predicts; of answers, means over
    each answer's tokens, then over the answers."""
    layout = Layout.stack([block.layout for block in blocks])
    labels = np.concatenate([np.pad(block.labels, ((0, 0), (0, layout.length - block.labels.shape[1])), constant_values=IGNORED)
                             for block in blocks])
    chosen = labels != IGNORED
    plan = plan_texts(layout, passes, chosen.copy())
    counts = [_counts(block) for block in blocks]
    plan, places, words, tokens, divisors = send(
        (plan, plan.outputs.places(chosen), labels[chosen], np.concatenate([each for each, _ in counts]),
         np.array([total for _, total in counts])), model.device)
    divisors = distributed.total(divisors.float()) / distributed.world_size()
    states = model.multimodal_encoder(plan).hidden[places]
    sizes = [len(each) for each, _ in counts]
    losses: dict[str, Tensor] = {}
    parts = list(zip(blocks, states.split(sizes), words.split(sizes), tokens.split(sizes), divisors))
    for name in dict.fromkeys(block.name.split(".")[0] for block in blocks):
        own = [part for part in parts if part[0].name.split(".")[0] == name]
        shares = [1 / (each * divisor) for _, _, _, each, divisor in own]
        hidden, targets = torch.cat([part[1] for part in own]), torch.cat([part[2] for part in own])
        losses[name], found = model.multimodal_encoder.prediction_loss(hidden, targets, torch.cat(shares) / len(own))
        losses |= {part[0].name: (x * share).sum() for part, x, share in zip(own, found.split([len(s) for s in shares]), shares)}
    return losses


def _counts(block: Block) -> tuple[NDArray[np.int64], int]:
    """For each token that is predicted, of how many its mean is taken first, and of how many means the loss is one: answers weigh alike
    whatever their length, words of captions do."""
    chosen = block.labels != IGNORED
    if block.name.startswith("qa."):
        return np.repeat(chosen.sum(1), chosen.sum(1)), len(chosen)
    return np.ones(int(chosen.sum()), dtype=np.int64), int(chosen.sum())


def _behind(columns: int, labels: Tensor) -> NDArray[np.int64]:
    return np.pad(on_host(labels), ((0, 0), (columns, 0)), constant_values=IGNORED)


def _asked(batch: Batch) -> tuple[Texts, Texts]:
    if batch.questions is None or batch.answers is None:
        raise ValueError(f"corpus '{batch.corpus}': the task asks for qa, but its batch has no questions and answers")
    return batch.questions, batch.answers


def _total(losses: dict[str, Tensor], task: Task, ratio: float) -> dict[str, Tensor]:
    """Means over groups, their weighted sum "loss", and the detached losses of single groups."""
    result: dict[str, Tensor] = {}
    for name, objective in ORDER:
        own = [losses[f"{name}.{group}"] for group in task.groups(objective)]
        if own:
            result[name] = losses.pop(name) if name in losses else torch.stack(own).mean()
    result["loss"] = torch.stack([ratio * value if name == "ret" else value for name, value in result.items()]).sum()
    return result | {name: value.detach() for name, value in losses.items()}

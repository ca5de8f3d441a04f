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

from omnivast.config.schema import label_smoothing
from omnivast.config.tasks import Group, Objective, Task
from omnivast.model.interface import Rows
from omnivast.model.objectives.generation import IGNORED, mask_tokens
from omnivast.model.recompute import remaking
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import CrossPass, plan_texts
from omnivast.model.text.self_critical import self_critical_losses
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.parts import Parts
from omnivast.model.valor.prompts import CAPTION, Pair, layout_of
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host, planning, send, to_device

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts

CAPTION_MASK, MLM_MASK, ANSWER_MASK = 0.6, 0.15, 0.99
"""Share of tokens predicted: of captions (paper, section 3.4), of captions read bidirectionally, and of answers (release)."""
Masked = dict[str, tuple[Tensor, Tensor]]
"""Disguised ids and labels (N, L), on the host, under "cap.<caption kind>", "mlm.<caption kind>" and "qa"."""
ORDER = (("ret", Objective.RETRIEVAL), ("cap", Objective.CAPTION), ("mlm", Objective.MLM), ("qa", Objective.QA))


@dataclass
class Block:
    """Texts of one loss, "cap.<group>" or the like: a layout of rows, and their labels (N, length), IGNORED where nothing is predicted.

    Answers have (N,) ``weights``, and are to so many ``questions``; 0: what is predicted is of captions.
    """

    name: str
    layout: Layout
    labels: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    questions: int = 0


def training_losses(model: Parts, batch: Batch, task: Task, draws: StepRandom, masked: Masked | None = None) -> dict[str, Tensor]:
    """The losses of a task (see VALOR.forward). Tests fix the ``masked`` ids and labels, on the host."""
    with remaking():
        features = model.encode(batch, task.modalities)
        losses: dict[str, Tensor] = {}
        rewards: dict[str, Tensor] = {}
        whole = task
        if model.self_critical is not None and (captioned := task.groups(Objective.CAPTION)):
            losses, rewards = self_critical_losses(model, model.self_critical, batch, captioned, features, draws)
            task = task.without(Objective.CAPTION)
        if groups := task.groups(Objective.RETRIEVAL):
            losses |= contrastive(model, batch, groups, features)
        if masked is None:
            masked = draw_masks(model, batch, task, draws)
        with model.mixed():
            losses |= generation(model, batch, task, model.memory(features), masked)
        return _total(losses, whole, model.config.contra_loss_ratio) | rewards


def contrastive(model: Parts, batch: Batch, groups: tuple[Group, ...], features: ClipFeatures) -> dict[str, Tensor]:
    """ "ret.<group>" of every group: mean over both directions of the cross-entropies of this process's pairs in the global batch."""
    clips = model.embed_clips(features, groups)
    all_clips = _gathered(model, clips)
    targets = torch.arange(len(batch), device=model.device) + distributed.rank() * len(batch)
    alone = distributed.world_size() == 1 and model.gather_with_grad
    losses = {}
    indexed: dict[object, Rows] = {}
    for of_texts in compared_together(batch, groups):
        texts = _texts_of(model, batch, of_texts[0], indexed)
        pairs, own = ([group for group in of_texts if bool(group.alone) is wanted] for wanted in (True, False))
        all_texts = None if texts is None or (alone and not pairs) else _gathered(model, texts)
        scores = [(group, model.alignment.pairs(group, clips, all_texts, all_clips),
                   model.alignment.pairs(group, all_clips, texts, clips)) for group in pairs]
        if own and texts is not None:
            to_clip = model.alignment.scores(own, texts, all_clips)
            to_text = to_clip if all_texts is None or alone else model.alignment.scores(own, all_texts, clips)
            scores += zip(own, to_clip, to_text)
        for group, one, other in scores:
            rows = torch.cat([one, other.T]) / model.temperature
            losses[f"ret.{group}"] = F.cross_entropy(rows, targets.repeat(2))
    return losses


def compared_together(batch: Batch, groups: tuple[Group, ...]) -> list[list[Group]]:
    """The groups by the texts that they are compared with: for one process by their source; for several by their kind, as kinds that are
    the same texts here may not be on another process, and all must exchange the same. Groups without a text stand together."""
    found: dict[object, list[Group]] = {}
    for group in groups:
        kind = group.caption_kind
        texts = batch.captions.source(kind) if distributed.world_size() == 1 else kind
        found.setdefault(texts if group.with_text else None, []).append(group)
    return list(found.values())


def _texts_of(model: Parts, batch: Batch, group: Group, indexed: dict[object, Rows]) -> Rows | None:
    """The texts that a group is compared with, encoded once for all groups; None for one without a text."""
    if not group.with_text:
        return None
    source = batch.captions.source(group.caption_kind)
    if source not in indexed:
        indexed[source] = model.index_texts(batch.captions.of(source))
    return indexed[source]


def _gathered(model: Parts, rows: Rows) -> Rows:
    """The rows of all processes."""
    return Rows({name: distributed.gather_rows(x, model.gather_with_grad) for name, x in rows.tensors.items()})


def draw_masks(model: Parts, batch: Batch, task: Task, draws: StepRandom) -> Masked:
    """Which tokens are predicted, drawn at the full length, so that they do not depend on the batch's padding."""
    def drawn(texts: Texts, purpose: str, probability: float) -> tuple[Tensor, Tensor]:
        longest = max(model.config.max_caption_len, model.config.max_answer_len, texts.ids.shape[1])
        # Several texts of a clip have draws of their own, whatever the other clips have.
        nth = _nth_of_clip(on_host(texts.clip))
        with planning():
            uniform = [draws.uniform(f"mask.{purpose}" + (f".{n}" if n else ""), len(batch), longest, 3) for n in range(int(nth.max()) + 1)]
            return mask_tokens(texts.ids, model.mask_ids, probability, torch.stack(uniform)[torch.from_numpy(nth), texts.clip])

    masked = {}
    full = model.config.full_masker or not model.masks
    for objective, share in ((Objective.CAPTION, CAPTION_MASK), (Objective.MLM, MLM_MASK)):
        for kind in dict.fromkeys(group.caption_kind for group in task.groups(objective)):
            if objective is Objective.MLM or not full:
                name = f"{objective.value}.{kind.value}"
                masked[name] = drawn(batch.captions.of(kind), name, share)
    if task.groups(Objective.QA) and not full:
        masked["qa"] = drawn(_asked(batch)[1], "qa", ANSWER_MASK)
    return masked


def _nth_of_clip(clip: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how many earlier texts are of the same clip."""
    order = np.argsort(clip, kind="stable")
    first = np.searchsorted(clip[order], clip[order])
    nth = np.empty_like(order)
    nth[order] = np.arange(len(clip)) - first
    return nth


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
    texts = batch.captions.of(group.caption_kind) if group in (*task.groups(Objective.CAPTION), *task.groups(Objective.MLM)) else None
    if texts is not None and group in task.groups(Objective.CAPTION):
        layout, labels = _written(model, texts, masked.get(f"cap.{group.caption_kind.value}"), model.prompts.task(CAPTION, len(texts)))
        found.append(Block(f"cap.{group}", layout, labels))
    if texts is not None and group in task.groups(Objective.MLM):
        hidden, words = masked[f"mlm.{group.caption_kind.value}"]
        layout, start = layout_of(model.prompts.masked_words(group, len(texts)), hidden, texts.mask)
        found.append(Block(f"mlm.{group}", layout, _behind(start, on_host(words))))
    return found


def question_block(model: Parts, batch: Batch, group: Group, masked: Masked) -> Block:
    """Answers with masked words behind their questions."""
    questions, answers = _asked(batch)
    layout, labels = _written(model, answers, masked.get("qa"), model.prompts.question(questions.ids, questions.mask))
    weights = None if answers.weights is None else on_host(answers.weights)
    asked = len(answers) if weights is None else len(np.unique(on_host(answers.clip)))
    return Block(f"qa.{group}", layout, labels, weights, asked)


def _written(model: Parts, texts: Texts, masked: tuple[Tensor, Tensor] | None, prompt: Pair | None) -> tuple[Layout, NDArray[np.int64]]:
    """Texts that are predicted from left to right, behind their prompts, and their labels: at words that are hidden in their place, at the
    word before each (caption_type lm), or at a row of [MASK]s behind the text, the j-th of which sees j words (full_masker)."""
    if model.masks and model.config.full_masker:
        words, real = on_host(texts.ids)[:, 1:], on_host(texts.mask).astype(bool)[:, 1:]
        layout = Layout.stepwise(words, real, model.mask_ids.cls, model.mask_ids.mask)
        layout = layout if prompt is None else layout.behind(*prompt)
        return layout, _behind(layout.length - words.shape[1], np.where(real, words, IGNORED))
    ids, labels = masked if model.masks and masked is not None else (texts.ids, next_words(texts))
    layout, start = layout_of(prompt, ids, texts.mask, causal=True)
    return layout, _behind(start, on_host(labels))


def next_words(texts: Texts) -> Tensor:
    """Labels (N, L) by which every token predicts the one behind it."""
    following = F.pad(texts.ids.masked_fill(~texts.mask, IGNORED), (0, 1), value=IGNORED)
    return following[:, 1:]


def read(model: Parts, blocks: list[Block], passes: list[CrossPass]) -> dict[str, Tensor]:
    """One forward, and the losses from its states at the chosen tokens: means over all tokens that a loss predicts; of answers, means over
    each answer's tokens, then over the answers, or the weighted sum of a question's answers, and the mean over the questions."""
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
        shares = [_weighed(block, 1 / (each * divisor)) for block, _, _, each, divisor in own]
        hidden, targets = torch.cat([part[1] for part in own]), torch.cat([part[2] for part in own])
        smoothing = label_smoothing(model.config) if name == "cap" else 0.0
        losses[name], found = model.multimodal_encoder.prediction_loss(hidden, targets, torch.cat(shares) / len(own), smoothing)
        losses |= {part[0].name: (x * share).sum() for part, x, share in zip(own, found.split([len(s) for s in shares]), shares)}
    return losses


def _counts(block: Block) -> tuple[NDArray[np.int64], int]:
    """For each token that is predicted, of how many its mean is taken first, and of how many means the loss is one: answers weigh alike
    whatever their length, words of captions do."""
    chosen = block.labels != IGNORED
    if block.questions:
        return np.repeat(chosen.sum(1), chosen.sum(1)), block.questions
    return np.ones(int(chosen.sum()), dtype=np.int64), int(chosen.sum())


def _weighed(block: Block, shares: Tensor) -> Tensor:
    """The shares (k,) of the tokens that are predicted in the loss, times the weights of their answers."""
    if block.weights is None:
        return shares
    return shares * to_device(torch.from_numpy(np.repeat(block.weights, (block.labels != IGNORED).sum(1))), shares.device)


def _behind(columns: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.pad(labels, ((0, 0), (columns, 0)), constant_values=IGNORED)


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

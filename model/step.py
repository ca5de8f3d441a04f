"""The training step and the matching of pairs: which texts attend to which memories, in as few forwards as possible.

Letters: b pairs of this process, B of the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from config.tasks import Group, Modality, Objective, Task
from model.layout import Layout
from model.memory import CrossPass, Memory
from model.objectives.contrastive import contrastive_loss, hard_negatives, similarities
from model.objectives.generation import IGNORED, generation_loss, mask_tokens
from model.objectives.matching import matching_loss
from model.self_critical import self_critical_losses
from model.text import TextOutput
from utils import distributed
from utils.random import StepRandom

if TYPE_CHECKING:
    from data.batch import Batch, Texts
    from model.vast import VAST, ClipFeatures

CAPTION_MASK, ANSWER_MASK = 0.6, 0.99
"""Share of tokens predicted in captions (paper, section 4.2) and answers (release)."""


@dataclass
class _Rows:
    """Rows of the joint text forward, gathered block by block."""

    layouts: list[Layout] = field(default_factory=list)
    passes: list[CrossPass] = field(default_factory=list)
    stop: int = 0

    def add(self, layouts: list[Layout], memory: Memory, group: Group, index: Tensor | None = None) -> slice:
        """Append blocks of texts that attend to one memory; returns where they stand."""
        start = self.stop
        self.layouts += layouts
        self.stop += sum(len(x.ids) for x in layouts)
        self.passes.append(CrossPass(start, self.stop, memory, group, index, max(x.ids.shape[1] for x in layouts)))
        return slice(start, self.stop)


@dataclass
class Negatives:
    """Global rows of the hard negatives of this process's pairs: a clip for each caption, a caption for each clip; (b,)."""

    clip_of_caption: Tensor
    caption_of_clip: Tensor


@dataclass
class _Prediction:
    """Where generation logits are needed: block of rows, labels (rows, L)."""

    name: str
    rows: slice
    labels: Tensor


def training_losses(model: VAST, batch: Batch, task: Task, draws: StepRandom, negatives: dict[Group, Negatives] | None = None,
                    masked: dict[str, tuple[Tensor, Tensor]] | None = None) -> dict[str, Tensor]:
    """The losses of a task (see VAST.forward). Tests fix the ``negatives`` and the ``masked`` ids and labels (keys "cap.<kind>", "qa")."""
    features = model.encode(batch, task.modalities)
    losses: dict[str, Tensor] = {}
    rewards: dict[str, Tensor] = {}
    whole = task
    if model.self_critical is not None and task.groups(Objective.CAPTION):
        losses, rewards = self_critical_losses(model, model.self_critical, batch, task.groups(Objective.CAPTION), features, draws)
        task = task.without(Objective.CAPTION)
    chosen = dict(negatives or {})
    groups = task.groups(Objective.RETRIEVAL)
    if groups:
        losses |= _contrastive(model, batch, groups, features, draws, chosen)
    with model.mixed():
        matching, predictions, output = _fused_forward(model, batch, task, features, chosen, draws, masked)
        if output is not None:
            for group, (positive, *others) in matching.items():
                cls = output.cls()
                parts = [model.itm_head(cls[rows]) for rows in (positive, *others)]
                losses[f"itm.{group}"] = matching_loss(*parts)
            losses |= _generation(model, output, predictions)
    return _total(losses, whole, model.config.itm_ratio) | rewards


def _contrastive(model: VAST, batch: Batch, groups: tuple[Group, ...], features: ClipFeatures, draws: StepRandom,
                 chosen: dict[Group, Negatives]) -> dict[str, Tensor]:
    """OM-VCC of every group; fills ``chosen`` with the hard negatives where they are not given."""
    kinds = {id(batch.captions[g.caption_kind]): batch.captions[g.caption_kind] for g in groups}
    with model.mixed():
        output = model.multimodal_encoder.sentences(Layout.stack([Layout.of(t.ids, t.mask) for t in kinds.values()]))
    texts = dict(zip(kinds, model.embed_cls(output.cls()).split([len(t) for t in kinds.values()])))
    b = len(batch)
    targets = torch.arange(b, device=model.device) + distributed.rank() * b
    losses = {}
    for group in groups:
        text, clip = texts[id(batch.captions[group.caption_kind])], model.embed_clips(features, group)
        all_text, all_clip = (distributed.gather_rows(x, model.gather_with_grad) for x in (text, clip))
        text_to_clip, clip_to_text = similarities(text, clip, all_text, all_clip, model.contra_temp)
        losses[f"itc.{group}"] = contrastive_loss(text_to_clip, clip_to_text, targets, model.config.label_smoothing)
        if group not in chosen:
            draw = draws.uniform(f"negatives.{group}", b, 2).to(model.device)
            chosen[group] = Negatives(hard_negatives(text_to_clip, targets, draw[:, 0]), hard_negatives(clip_to_text, targets, draw[:, 1]))
    return losses


def _fused_forward(model: VAST, batch: Batch, task: Task, features: ClipFeatures, chosen: dict[Group, Negatives], draws: StepRandom,
                   masked: dict[str, tuple[Tensor, Tensor]] | None,
                   ) -> tuple[dict[Group, list[slice]], list[_Prediction], TextOutput | None]:
    """One text forward for every pass that attends to a memory: matching, captions and answers of all groups."""
    memory, rows = model.memory(features), _Rows()
    matching: dict[Group, list[slice]] = {}
    predictions: list[_Prediction] = []
    masks: dict[int, tuple[Tensor, Tensor]] = {}
    b = len(batch)
    for group in dict.fromkeys([*task.groups(Objective.RETRIEVAL), *task.groups(Objective.CAPTION)]):
        texts = batch.captions[group.caption_kind]
        blocks = []
        if group in task.groups(Objective.RETRIEVAL):
            own = Layout.of(texts.ids, texts.mask)
            blocks += [own, _negative_captions(texts, chosen[group].caption_of_clip)]
        if group in task.groups(Objective.CAPTION):
            if id(texts) not in masks:
                masks[id(texts)] = _masked(model, texts, f"cap.{group.caption_kind.value}", CAPTION_MASK, draws, masked)
            ids, labels = masks[id(texts)]
            blocks.append(Layout.of(ids, texts.mask, causal=True))
        where = rows.add(blocks, memory, group)
        if group in task.groups(Objective.CAPTION):
            predictions.append(_Prediction(f"cap.{group}", slice(where.stop - b, where.stop), labels))
        if group in task.groups(Objective.RETRIEVAL):
            negative_memory, index = _negative_memory(memory, group, chosen[group].clip_of_caption)
            other = rows.add([own], negative_memory, group, index)
            matching[group] = [slice(where.start, where.start + b), slice(where.start + b, where.start + 2 * b), other]
    if task.groups(Objective.QA):
        layout, labels, clip = _question_rows(model, batch, draws, masked)
        for group in task.groups(Objective.QA):
            predictions.append(_Prediction(f"qa.{group}", rows.add([layout], memory, group, None if len(clip) == b else clip), labels))
    if not rows.layouts:
        return matching, predictions, None
    layout = Layout.stack(rows.layouts)
    return matching, predictions, model.multimodal_encoder(layout, rows.passes, _label_grid(layout.real, predictions) != IGNORED)


def _masked(model: VAST, texts: Texts, purpose: str, probability: float, draws: StepRandom,
            fixed: dict[str, tuple[Tensor, Tensor]] | None) -> tuple[Tensor, Tensor]:
    """Disguised ids and labels (N, L). Drawn at the full length, so that they do not depend on the batch's padding."""
    if fixed is not None:
        return fixed[purpose]
    cfg = model.config
    longest = max(cfg.max_caption_len, cfg.max_omni_caption_len, cfg.max_answer_len, texts.ids.shape[1])
    return mask_tokens(texts.ids, model.mask_ids, probability, draws.uniform(f"mask.{purpose}", len(texts), longest, 3))


def _negative_captions(texts: Texts, rows: Tensor) -> Layout:
    """The captions at global rows, fetched from the processes that hold them."""
    ids, mask = texts.ids, texts.mask
    if distributed.world_size() > 1:
        longest = torch.tensor(ids.shape[1], device=ids.device)
        torch.distributed.all_reduce(longest, torch.distributed.ReduceOp.MAX)
        spare = int(longest) - ids.shape[1]
        ids, mask = torch.nn.functional.pad(ids, (0, spare)), torch.nn.functional.pad(mask, (0, spare))
    picked = distributed.fetch_rows(torch.stack([ids, mask.long()], -1), rows)
    ids, mask = picked[..., 0], picked[..., 1].bool()
    width = int(mask.sum(1).max())
    return Layout.of(ids[:, :width], mask[:, :width])


def _negative_memory(memory: Memory, group: Group, rows: Tensor) -> tuple[Memory, Tensor]:
    """A memory that holds the clips at global rows, and each row's index in it. Within one process it is the memory itself, so
    nothing is projected twice; across processes only the rows asked for travel."""
    if distributed.world_size() == 1:
        return memory, rows
    condition, mask = {}, {}
    for modality in group:
        condition[modality], mask[modality] = _fetch_padded(memory, modality, rows)
    return Memory(condition, mask), torch.arange(len(rows), device=rows.device)


def _fetch_padded(memory: Memory, modality: Modality, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Condition features at global rows; subtitles may differ in length between processes and are padded to the longest."""
    condition, mask = memory.condition[modality], memory.mask[modality]
    state = torch.tensor([condition.shape[1], int(mask is not None)], device=condition.device)
    torch.distributed.all_reduce(state, torch.distributed.ReduceOp.MAX)
    longest, masked = state.tolist()
    spare = longest - condition.shape[1]
    fetched = distributed.fetch_rows(torch.nn.functional.pad(condition, (0, 0, 0, spare)), rows)
    if not masked and not spare:
        return fetched, None
    if mask is None:
        mask = torch.ones(condition.shape[:2], dtype=torch.bool, device=condition.device)
    return fetched, distributed.fetch_rows(torch.nn.functional.pad(mask, (0, spare)).long(), rows).bool()


def _question_rows(model: VAST, batch: Batch, draws: StepRandom, fixed: dict[str, tuple[Tensor, Tensor]] | None,
                   ) -> tuple[Layout, Tensor, Tensor]:
    """Questions with masked answers behind them, the labels on the same grid, and the clip of each question."""
    questions, answers = batch.questions, batch.answers
    if questions is None or answers is None:
        raise ValueError(f"corpus '{batch.corpus}': the task asks for qa, but its batch has no questions and answers")
    ids, labels = _masked(model, answers, "qa", ANSWER_MASK, draws, fixed)
    layout = Layout.question_answer(questions.ids, questions.mask, ids, answers.mask, model.config.max_caption_len)
    return layout, torch.nn.functional.pad(labels, (questions.ids.shape[1], 0), value=IGNORED), questions.clip


def _generation(model: VAST, output: TextOutput, predictions: list[_Prediction]) -> dict[str, Tensor]:
    """The loss of every generation pass; the vocabulary is projected at the chosen tokens alone."""
    if not predictions:
        return {}
    grid = _label_grid(output.real, predictions)
    chosen = grid != IGNORED
    logits, labels = model.multimodal_encoder.logits(output.at(chosen)), grid[chosen]
    counts = torch.stack([chosen[p.rows].sum() for p in predictions])
    divisors = counts.float()
    if distributed.world_size() > 1:
        torch.distributed.all_reduce(divisors)
        divisors = divisors / distributed.world_size()
    sizes = counts.tolist()
    return {p.name: generation_loss(x, y, count)
            for p, x, y, count in zip(predictions, logits.split(sizes), labels.split(sizes), divisors)}


def _label_grid(real: Tensor, predictions: list[_Prediction]) -> Tensor:
    """(N, L) labels on the grid of the joint forward, IGNORED where nothing is predicted."""
    grid = torch.full(real.shape, IGNORED, device=real.device)
    for p in predictions:
        grid[p.rows, : p.labels.shape[1]] = p.labels
    return grid


def _total(losses: dict[str, Tensor], task: Task, itm_ratio: float) -> dict[str, Tensor]:
    """Means over groups, their weighted sum "loss", and the detached losses of single groups."""
    result: dict[str, Tensor] = {}
    for name, objective in (("itc", Objective.RETRIEVAL), ("itm", Objective.RETRIEVAL), ("cap", Objective.CAPTION), ("qa", Objective.QA)):
        own = [losses[f"{name}.{g}"] for g in task.groups(objective)]
        if own:
            result[name] = torch.stack(own).mean()
    weights = {"itm": itm_ratio}
    result["loss"] = torch.stack([weights.get(name, 1.0) * value for name, value in result.items()]).sum()
    return result | {name: value.detach() for name, value in losses.items()}


def match_pairs(model: VAST, memory: Memory, group: Group, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """Matching probability (P,) of texts (P, L) with memory rows (P,).

    Texts that share a memory row stand together as one long query, so that its keys and values are not copied per pair;
    where the numbers per row differ much, each pair reads its memory by index instead.
    """
    used, inverse, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    width = int(counts.max())
    with model.mixed():
        if width * len(used) > 1.25 * len(rows):
            output = model.multimodal_encoder.sentences(Layout.of(ids, mask), [CrossPass(0, len(rows), memory, group, rows)])
            return model.itm_head(output.cls()).float().softmax(-1)[:, 1]
        order = torch.argsort(inverse, stable=True)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[inverse[order]]
        grid = torch.zeros(width, len(used), dtype=torch.long, device=rows.device)
        grid[place, inverse[order]] = order
        shared = memory if len(used) == len(memory) else memory.rows(used)
        texts = grid.flatten()
        output = model.multimodal_encoder.sentences(Layout.of(ids[texts], mask[texts]), [CrossPass(0, len(texts), shared, group)])
        scores = model.itm_head(output.cls()).float().softmax(-1)[:, 1].view(grid.shape)
    result = scores.new_empty(len(rows))
    result[order] = scores[place, inverse[order]]
    return result

"""The training step and the matching of pairs: which texts attend to which memories, in as few forwards as possible.

Letters: b pairs of this process, B of the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from omnivast.config.tasks import CaptionKind, Group, Modality, Objective, Task
from omnivast.model.objectives.contrastive import hard_negatives
from omnivast.model.objectives.generation import IGNORED, mask_tokens
from omnivast.model.objectives.matching import matching_loss
from omnivast.model.recompute import remaking
from omnivast.model.text.bert import TextOutput
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import CrossPass, Memory, shared_rows
from omnivast.model.vast.self_critical import self_critical_losses
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts
    from omnivast.model.vast.model import VAST, ClipFeatures

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
    with remaking():
        return _training_losses(model, batch, task, draws, negatives, masked)


def _training_losses(model: VAST, batch: Batch, task: Task, draws: StepRandom, negatives: dict[Group, Negatives] | None,
                     masked: dict[str, tuple[Tensor, Tensor]] | None) -> dict[str, Tensor]:
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
    clips = {group: model.embed_clips(features, group) for group in groups}
    captions = {group.caption_kind: texts[id(batch.captions[group.caption_kind])] for group in groups}
    # One exchange for all of them.
    own = torch.cat([*captions.values(), *clips.values()], 1)
    parts = distributed.gather_rows(own, model.gather_with_grad).chunk(len(captions) + len(clips), 1)
    all_captions, all_clips = dict(zip(captions, parts)), dict(zip(clips, parts[len(captions):]))
    losses = {}
    for group in groups:
        kind = group.caption_kind
        text_to_clip, clip_to_text = model.contrast_logits(captions[kind], clips[group], all_captions[kind], all_clips[group])
        losses[f"itc.{group}"] = model.contrast.loss(text_to_clip, clip_to_text, targets, model.config.label_smoothing)
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
    masks: dict[CaptionKind, tuple[Tensor, Tensor]] = {}
    b, alone = len(batch), distributed.world_size() == 1
    offered = _Offered.of(batch, memory, task.groups(Objective.RETRIEVAL)) if task.groups(Objective.RETRIEVAL) else None
    for group in dict.fromkeys([*task.groups(Objective.RETRIEVAL), *task.groups(Objective.CAPTION)]):
        texts = batch.captions[group.caption_kind]
        blocks = []
        if offered is not None and group in task.groups(Objective.RETRIEVAL):
            own = Layout.of(texts.ids, texts.mask)
            blocks += [own, offered.texts(group.caption_kind, chosen[group].caption_of_clip)]
        if group in task.groups(Objective.CAPTION):
            # By kind, though two kinds may be the same texts: on another process, or with other clips, they may not be.
            if group.caption_kind not in masks:
                masks[group.caption_kind] = _masked(model, texts, f"cap.{group.caption_kind.value}", CAPTION_MASK, draws, masked)
            ids, labels = masks[group.caption_kind]
            blocks.append(Layout.of(ids, texts.mask, causal=True))
        where = rows.add(blocks, memory, group)
        if group in task.groups(Objective.CAPTION):
            predictions.append(_Prediction(f"cap.{group}", slice(where.stop - b, where.stop), labels))
        if offered is not None and group in task.groups(Objective.RETRIEVAL):
            negative = chosen[group].clip_of_caption
            # Within one process the memory itself holds them, so nothing is projected twice.
            other = rows.add([own], memory, group, negative) if alone else rows.add([own], offered.memory(group, negative), group)
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


@dataclass
class _Offered:
    """What other processes may fetch of this one's b pairs, padded to the same lengths on all of them: captions (b, L, 2), their ids and
    masks; condition features (b, tokens, D); their masks (b, tokens) of the modalities that are masked on some process."""

    captions: dict[CaptionKind, Tensor]
    condition: dict[Modality, Tensor]
    mask: dict[Modality, Tensor]

    @classmethod
    def of(cls, batch: Batch, memory: Memory, groups: tuple[Group, ...]) -> _Offered:
        """Called on every process; one exchange settles the lengths."""
        texts = {group.caption_kind: batch.captions[group.caption_kind] for group in groups}
        modalities = [m for m in memory.condition if any(m in group for group in groups)]
        captions, tokens = [x.ids.shape[1] for x in texts.values()], [memory.condition[m].shape[1] for m in modalities]
        masked = [int(memory.mask[m] is not None) for m in modalities]
        state = torch.tensor([*captions, *tokens, *[-n for n in tokens], *masked], device="cpu")
        if distributed.world_size() > 1:
            state = distributed.largest(state.to(next(iter(memory.condition.values())).device))
        parts = state.split([len(captions), len(tokens), len(tokens), len(tokens)])
        longest, most, least, any_mask = (part.tolist() for part in parts)
        padded, condition, masks = {}, {}, {}
        for (kind, own), length in zip(texts.items(), longest):
            padded[kind] = pad(torch.stack([own.ids, own.mask.long()], -1), (0, 0, 0, length - own.ids.shape[1]))
        for modality, high, low, used in zip(modalities, most, least, any_mask):
            x, mask = memory.condition[modality], memory.mask[modality]
            spare = high - x.shape[1]
            condition[modality] = pad(x, (0, 0, 0, spare))
            if used or -low < high:
                mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
                masks[modality] = pad(mask, (0, spare))
        return cls(padded, condition, masks)

    def texts(self, kind: CaptionKind, rows: Tensor) -> Layout:
        """The captions at global rows, fetched from the processes that hold them."""
        ids, mask = distributed.fetch_rows(self.captions[kind], rows).unbind(-1)
        width = int(mask.sum(1).max())
        return Layout.of(ids[:, :width], mask[:, :width].bool())

    def memory(self, group: Group, rows: Tensor) -> Memory:
        """A memory of the clips at global rows. Under autocast their features travel in half precision, to which the projections of
        keys and values would bring them anyway."""
        kind = rows.device.type
        wire = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        tokens = [self.condition[m] for m in group]
        sizes = [x.shape[1] for x in tokens]
        condition = dict(zip(group, distributed.fetch_rows(torch.cat(tokens, 1), rows, wire).split(sizes, 1)))
        if not any(m in self.mask for m in group):
            return Memory(condition, dict.fromkeys(group))
        full = [self.mask.get(m, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)) for m, x in zip(group, tokens)]
        masks = distributed.fetch_rows(torch.cat(full, 1).byte(), rows).bool().split(sizes, 1)
        return Memory(condition, {m: mask if m in self.mask else None for m, mask in zip(group, masks)})


def _question_rows(model: VAST, batch: Batch, draws: StepRandom, fixed: dict[str, tuple[Tensor, Tensor]] | None,
                   ) -> tuple[Layout, Tensor, Tensor]:
    """Questions with masked answers behind them, the labels on the same grid, and the clip of each question."""
    questions, answers = batch.questions, batch.answers
    if questions is None or answers is None:
        raise ValueError(f"corpus '{batch.corpus}': the task asks for qa, but its batch has no questions and answers")
    ids, labels = _masked(model, answers, "qa", ANSWER_MASK, draws, fixed)
    layout = Layout.question_answer(questions.ids, questions.mask, ids, answers.mask, model.config.max_caption_len)
    return layout, pad(labels, (questions.ids.shape[1], 0), value=IGNORED), questions.clip


def _generation(model: VAST, output: TextOutput, predictions: list[_Prediction]) -> dict[str, Tensor]:
    """The losses of generation: "cap" and "qa", means over their groups, and of each group without gradient. The vocabulary is
    projected at the chosen tokens alone."""
    if not predictions:
        return {}
    grid = _label_grid(output.real, predictions)
    chosen = grid != IGNORED
    hidden, labels = output.at(chosen), grid[chosen]
    counts = torch.stack([chosen[p.rows].sum() for p in predictions])
    divisors = distributed.total(counts.float()) / distributed.world_size()
    sizes = counts.tolist()
    parts = zip(predictions, hidden.split(sizes), labels.split(sizes), divisors)
    losses: dict[str, Tensor] = {}
    for name, found in groupby(parts, lambda part: part[0].name.split(".")[0]):
        own, states, words, dividing = zip(*found)
        shares = torch.cat([(1 / (len(own) * divisor)).expand(len(x)) for x, divisor in zip(words, dividing)])
        losses[name], each = model.multimodal_encoder.prediction_loss(torch.cat(states), torch.cat(words), shares)
        losses |= {p.name: x.sum() / divisor for p, x, divisor in zip(own, each.split([len(x) for x in words]), dividing)}
    return losses


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
            result[name] = losses.pop(name) if name in losses else torch.stack(own).mean()
    weights = {"itm": itm_ratio}
    result["loss"] = torch.stack([weights.get(name, 1.0) * value for name, value in result.items()]).sum()
    return result | {name: value.detach() for name, value in losses.items()}


def match_pairs(model: VAST, memory: Memory, group: Group, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """Matching margin (P,) of texts (P, L) with memory rows (P,): the logit of "matched" minus that of "not matched". Its sigmoid is the
    probability, but in float32 those of sure pairs are all 1, and their order would be lost.

    Texts that share a memory row stand together as one long query, so that its keys and values are not copied per pair;
    where the numbers per row differ much, or are one, each pair reads its memory by index instead.
    """
    used, grid, place = shared_rows(rows)
    texts = grid.flatten()
    own = CrossPass(0, len(texts), memory, group, used) if len(grid) == 1 else CrossPass(0, len(texts), memory.rows(used), group)
    with model.mixed():
        output = model.multimodal_encoder.sentences(Layout.of(ids[texts], mask[texts]), [own])
        return model.itm_head(output.cls()).float().diff(dim=-1)[place, 0]

"""The training step in three movements: **plan** on the host what texts attend to which memories (plan.py), **run** them in one forward
(text/bert.py), **read** the losses by name.

Between encoding and planning stands the contrastive loss, from whose similarities the hard negatives are drawn (negatives.py). Letters: b
pairs of this process, B of the global batch, k tokens that are predicted.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Objective, Task
from omnivast.model.objectives.matching import matching_loss
from omnivast.model.recompute import remaking
from omnivast.model.text.bert import TextOutput
from omnivast.model.text.layout import Layout
from omnivast.model.text.self_critical import self_critical_losses
from omnivast.model.vast.contrast import ADDED, Contrasted, Vectors, added_losses, group_loss, tracks_of_pairs
from omnivast.model.vast.features import ClipFeatures
from omnivast.model.vast.negatives import Negatives, wrong_pairs
from omnivast.model.vast.parts import Parts
from omnivast.model.vast.plan import Masked, StepPlan, draw_masks, plan_step
from omnivast.model.vast.rejected import rejected_of
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import send, to_device

if TYPE_CHECKING:
    from omnivast.data.batch import Batch


def training_losses(model: Parts, batch: Batch, task: Task, draws: StepRandom, negatives: dict[Group, Negatives] | None = None,
                    masked: Masked | None = None) -> dict[str, Tensor]:
    """The losses of a task (see VAST.forward). Tests fix the ``negatives`` and the ``masked`` ids and labels, on the host."""
    with remaking():
        return _training_losses(model, batch, task, draws, negatives, masked)


def _training_losses(model: Parts, batch: Batch, task: Task, draws: StepRandom, negatives: dict[Group, Negatives] | None,
                     masked: Masked | None) -> dict[str, Tensor]:
    features = model.encode(batch, task.modalities)
    losses: dict[str, Tensor] = {}
    rewards: dict[str, Tensor] = {}
    whole = task
    if model.self_critical is not None and task.groups(Objective.CAPTION):
        losses, rewards = self_critical_losses(model, model.self_critical, batch, task.groups(Objective.CAPTION), features, draws)
        task = task.without(Objective.CAPTION)
    groups, drawn = task.groups(Objective.RETRIEVAL), dict(negatives or {})
    if groups:
        losses |= _contrastive(model, batch, groups, features, draws, drawn)
    if masked is None:
        masked = draw_masks(batch, task, draws, model.config, model.mask_ids)
    with model.mixed():
        memory = model.memory(features)
        wrong = wrong_pairs(batch, memory.alone, groups, drawn) if groups and model.config.itm_ratio else {}
        plan = plan_step(batch, task, memory, wrong, masked, model.config)
        if plan is not None:
            plan = send(plan, model.device)
            losses |= _read(model, plan, model.multimodal_encoder(plan.texts))
    return _total(losses, whole, model.config) | rewards


def _contrastive(model: Parts, batch: Batch, groups: tuple[Group, ...], features: ClipFeatures, draws: StepRandom,
                 drawn: dict[Group, Negatives]) -> dict[str, Tensor]:
    """OM-VCC of every group, and what settings add to it; adds hard negatives to ``drawn`` where they are not given."""
    sources = {group: batch.captions.source(group.caption_kind) for group in groups}
    texts = {source: batch.captions.of(source) for source in sources.values()}
    every = [*texts.values(), *([] if batch.negatives is None else [batch.negatives])]
    with model.mixed():
        output = model.multimodal_encoder.sentences(Layout.stack([Layout.of(t.ids, t.mask) for t in every]))
    parts = model.embed_cls(output.cls()).split([len(t) for t in every])
    embedded = dict(zip(texts, parts))
    b = len(batch)
    targets = torch.arange(b, device=model.device) + distributed.rank() * b
    compared = dict.fromkeys([*groups, *tracks_of_pairs(model.config, features)])
    clips = {group: model.clip_vectors(features, group) for group in compared}
    # By kind, also where kinds share a source: on another process they may not.
    captions = {group.caption_kind: embedded[sources[group]] for group in groups}
    # One exchange for all of them.
    vectors = [*captions.values(), *clips.values()]
    everyone = distributed.gather_rows(torch.cat(vectors, 1), model.gather_with_grad).split([x.shape[1] for x in vectors], 1)
    of_all = Vectors(dict(zip(captions, everyone)), dict(zip(clips, everyone[len(captions):])))
    contrasted = Contrasted(Vectors(captions, clips), of_all, targets, groups)
    rejected = rejected_of(batch.negatives, parts[-1], targets, model.config)
    losses = {}
    for group in groups:
        draw = None if group in drawn else to_device(draws.uniform(f"negatives.{group}", b, 2), model.device)
        losses[f"itc.{group}"], negatives = group_loss(model, contrasted, group, draw, rejected)
        if negatives is not None:
            drawn[group] = negatives
    return losses | added_losses(model, batch, features, contrasted)


def _read(model: Parts, plan: StepPlan, output: TextOutput) -> dict[str, Tensor]:
    """"itm.<group>" of every group, and the losses of generation: "cap" and "qa", means over their groups, and of each group without
    gradient. The vocabulary is projected at the chosen tokens alone."""
    losses: dict[str, Tensor] = {}
    if plan.matching:
        cls = output.cls()
        for group, (positive, *others) in plan.matching.items():
            losses[f"itm.{group}"] = matching_loss(*(model.itm_head(cls[rows]) for rows in (positive, *others)))
    if plan.names:
        divisors = distributed.total(plan.counts.float()) / distributed.world_size()
        parts = zip(plan.names, output.hidden[plan.states].split(plan.sizes), plan.labels.split(plan.sizes), divisors)
        for name, same_loss in groupby(parts, lambda part: part[0].split(".")[0]):
            names, states, words, dividing = zip(*same_loss)
            shares = torch.cat([(1 / (len(names) * divisor)).expand(len(x)) for x, divisor in zip(words, dividing)])
            losses[name], each = model.multimodal_encoder.prediction_loss(torch.cat(states), torch.cat(words), shares)
            losses |= {loss: x.sum() / divisor for loss, x, divisor in zip(names, each.split([len(x) for x in words]), dividing)}
    return losses


def _total(losses: dict[str, Tensor], task: Task, config: ModelConfig) -> dict[str, Tensor]:
    """Means over groups, their weighted sum "loss", and the detached losses of single groups."""
    result: dict[str, Tensor] = {}
    for name, objective in (("itc", Objective.RETRIEVAL), ("itm", Objective.RETRIEVAL), ("cap", Objective.CAPTION), ("qa", Objective.QA)):
        of_groups = [losses[f"{name}.{g}"] for g in task.groups(objective) if f"{name}.{g}" in losses]
        if of_groups:
            result[name] = losses.pop(name) if name in losses else torch.stack(of_groups).mean()
    result |= {name: losses.pop(name) for name in ADDED if name in losses}
    weights = {"itm": config.itm_ratio, "taught": config.fused_teaches}
    result["loss"] = torch.stack([weights.get(name, 1.0) * value for name, value in result.items()]).sum()
    return result | {name: value.detach() for name, value in losses.items()}

"""The plan of a training step: all texts that attend to a memory, in one forward, and where each loss reads its states.

It is made on the host from lengths, drawn masks and hard negatives. With b pairs and two groups for all objectives the rows are::

    rows     true captions  wrong captions   masked captions   true captions    the same of the other group      questions and answers
    memory   true clips     true clips       true clips        wrong clips      …                                their clips
             b              b                b                 b
             └─ matching ───┴────────────────┼─ captioning ────┼─ matching                                       └─ answering
             texts of a clip are one long query of its memory  by index, or fetched
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Objective, Task
from omnivast.model.objectives.generation import IGNORED, MaskTokens, mask_tokens
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import CrossPass, TextPlan, plan_texts
from omnivast.model.vast.negatives import WrongPairs
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import Index, on_host, planning

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts

CAPTION_MASK, ANSWER_MASK = 0.6, 0.99
"""Share of tokens predicted in captions (paper, section 4.2) and answers (release)."""
Masked = dict[str, tuple[Tensor, Tensor]]
"""Disguised ids and labels (N, L), on the host, under "cap.<caption kind>" and "qa"."""


@dataclass
class StepPlan:
    """One text forward, and what is read from its states; numpy arrays, or tensors once it is sent to the device."""

    texts: TextPlan
    matching: dict[Group, list[slice]]
    """Rows of the true pairs, of those with a wrong caption, and of those with a wrong clip."""
    names: list[str]
    """Names of the P generation losses, "cap.<group>" and "qa.<group>"."""
    sizes: list[int]
    """How many tokens each of these losses predicts; k in all."""
    counts: Index
    """(P,) the same counts, as an array that is sent to the device."""
    states: Index
    """(k,) the states from which the tokens are predicted, loss by loss."""
    labels: Index
    """(k,) the ids that they should predict."""


@dataclass
class _Rows:
    """Rows of the joint text forward, gathered block by block."""

    layouts: list[Layout] = field(default_factory=list)
    passes: list[CrossPass] = field(default_factory=list)
    labels: list[tuple[str, slice, NDArray[np.int64]]] = field(default_factory=list)
    """Name of a generation loss, its rows, and their labels."""
    stop: int = 0

    def add(self, layouts: list[Layout], memory: Memory, group: Group, index: NDArray[np.int64] | None = None) -> list[slice]:
        """Append blocks of texts that attend to one memory; returns the rows of each."""
        start, blocks = self.stop, []
        for layout in layouts:
            blocks.append(slice(self.stop, self.stop + len(layout)))
            self.stop += len(layout)
        self.layouts += layouts
        self.passes.append(CrossPass(start, self.stop, memory, group, index, max(layout.length for layout in layouts)))
        return blocks

    def add_parts(self, parts: list[tuple[list[Layout], Memory]], group: Group) -> list[slice]:
        """Append blocks that attend to several memories; those of the same share a query."""
        where: list[slice] = []
        for _, same in groupby((part for part in parts if part[0]), lambda part: id(part[1])):
            blocks, memories = zip(*same)
            where += self.add([layout for own in blocks for layout in own], memories[0], group)
        return where

    def plan(self, matching: dict[Group, list[slice]]) -> StepPlan:
        layout = Layout.stack(self.layouts)
        grid = np.full(layout.ids.shape, IGNORED)
        for _, rows, labels in self.labels:
            grid[rows, :labels.shape[1]] = labels
        chosen = grid != IGNORED
        texts = plan_texts(layout, self.passes, chosen)
        sizes = [int(chosen[rows].sum()) for _, rows, _ in self.labels]
        # Row by row is loss by loss, as rows were added in the order of the losses.
        return StepPlan(texts, matching, [name for name, _, _ in self.labels], sizes, np.array(sizes, dtype=np.int64),
                        texts.outputs.places(chosen), grid[chosen])


def draw_masks(batch: Batch, task: Task, draws: StepRandom, config: ModelConfig, tokens: MaskTokens) -> Masked:
    """Draws which tokens are predicted.

    Draws have the full length, so that they do not depend on how far the batch is padded. Each caption kind has its draws, even where two
    kinds are the same texts in this batch: on another process, or with other clips, they may differ.
    """
    def drawn(texts: Texts, purpose: str, probability: float) -> tuple[Tensor, Tensor]:
        longest = max(config.max_caption_len, config.max_omni_caption_len, config.max_answer_len, texts.ids.shape[1])
        with planning():
            return mask_tokens(texts.ids, tokens, probability, draws.uniform(f"mask.{purpose}", len(texts), longest, 3))

    kinds = dict.fromkeys(group.caption_kind for group in task.groups(Objective.CAPTION))
    masked = {f"cap.{kind.value}": drawn(batch.captions.of(kind), f"cap.{kind.value}", CAPTION_MASK) for kind in kinds}
    if task.groups(Objective.QA):
        masked["qa"] = drawn(_asked(batch)[1], "qa", ANSWER_MASK)
    return masked


def plan_step(batch: Batch, task: Task, memory: Memory, wrong: dict[Group, WrongPairs], masked: Masked, config: ModelConfig,
              ) -> StepPlan | None:
    """One text forward for every pass that attends to a memory; None where there is none."""
    rows = _Rows()
    matching: dict[Group, list[slice]] = {}
    for group in dict.fromkeys([*task.groups(Objective.RETRIEVAL), *task.groups(Objective.CAPTION)]):
        texts = batch.captions.of(group.caption_kind)
        layout = Layout.of(texts.ids, texts.mask)
        matched: list[Layout] = []
        learnt: list[Layout] = []
        if group in wrong:
            matched = [layout, wrong[group].captions]
        if group in task.groups(Objective.CAPTION):
            ids, labels = masked[f"cap.{group.caption_kind.value}"]
            learnt = [Layout.of(ids, texts.mask, causal=True)]
        if not matched + learnt:
            continue  # contrasted without matching
        where = rows.add_parts([(matched, memory.alone), (learnt, memory)], group)
        if group in task.groups(Objective.CAPTION):
            rows.labels.append((f"cap.{group}", where[-1], on_host(labels)))
        if group in wrong:
            matching[group] = where[:2] + rows.add([layout], wrong[group].memory, group, wrong[group].clips)
    if task.groups(Objective.QA):
        questions, answers = _asked(batch)
        ids, labels = masked["qa"]
        layout = Layout.question_answer(questions.ids, questions.mask, ids, answers.mask, config.max_caption_len)
        grid = np.pad(on_host(labels), ((0, 0), (questions.ids.shape[1], 0)), constant_values=IGNORED)
        for group in task.groups(Objective.QA):
            (where_asked,) = rows.add([layout], memory.alone, group, None if len(questions) == len(batch) else on_host(questions.clip))
            rows.labels.append((f"qa.{group}", where_asked, grid))
    return rows.plan(matching) if rows.layouts else None


def _asked(batch: Batch) -> tuple[Texts, Texts]:
    if batch.questions is None or batch.answers is None:
        raise ValueError(f"corpus '{batch.corpus}': the task asks for qa, but its batch has no questions and answers")
    if batch.answers.weights is not None:
        raise ValueError(f"corpus '{batch.corpus}': its answers have weights, by which VALOR learns several answers to one question; VAST "
                         "has no such loss: leave the weights out, and one answer is drawn in each epoch")
    return batch.questions, batch.answers

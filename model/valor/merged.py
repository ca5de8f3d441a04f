"""A decoder without cross-attention: a clip's tokens stand before the text, and self-attention fuses them (VALOR, figure 7c and table 11,
"merge attention"; the release's own ends in an error).

The mask is partly causal. Tokens of the clip see one another, and never the text, so that they are the same for all texts of a group; text
sees all of them, and the text as its layout says::

              clip   text          Letters: M clips, S their tokens in a group, N texts, L text tokens, D width, H heads, d a head's width.
    clip      x x    . . .
    text      x x    x . .
              x x    x x .
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.tasks import Group
from omnivast.model.text.bert import DecoderState, TextModel, TextOutput, TextSizes, attention_mask
from omnivast.model.text.layout import Grid
from omnivast.model.text.memory import Memory
from omnivast.model.text.packing import Packing, pick
from omnivast.model.text.plan import TextPlan
from omnivast.utils.transfer import on_host, send


class NoCrossAttention(nn.Module):
    """Stands in a block whose text attends to clips elsewhere, or not at all."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.shared: list[nn.Module] = []

    def step(self, x: Tensor, *_: Any) -> Tensor:
        return x


class MergedText(TextModel):
    """A BERT that reads a clip's tokens before the text. Its layers are not computed again in the backward pass (``checkpointing``)."""

    runs_whole_blocks = False

    def __init__(self, sizes: TextSizes, prompts: bool = False) -> None:
        super().__init__(sizes, prompts, NoCrossAttention)

    def _clips(self, memory: Memory, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values (M, H, S, d) of the clips' tokens at every layer."""
        x = torch.cat([memory.condition[modality] for modality in group], 1)
        for block in self.blocks:
            own = block.attention
            query, key, value = (own.split(part) for part in own.project(x).chunk(3, -1))
            yield key, value
            x = block.feed(own.output(own.attend(query, key, value, None).transpose(1, 2).flatten(2), x))

    def forward(self, plan: TextPlan) -> TextOutput:
        """See TextModel."""
        if not plan.passes:
            return super().forward(plan)
        seen = attention_mask(plan.visible, plan.reach)
        x = self.bert.embeddings(plan.ids, plan.positions, plan.prompt)
        clips = [self._clips(p.memory, p.group) for p in plan.passes]
        rows = [torch.arange(p.stop - p.start, device=x.device) % len(p.memory) if p.index is None else p.index for p in plan.passes]
        for block in self.blocks:
            own = block.attention
            query, key, value = own.parts(own.project(x), plan.packing)
            found = []
            for p, of_clips, row in zip(plan.passes, clips, rows):
                texts = slice(p.start, p.stop)
                keys, values = (torch.cat([of_clip[row], of_text[texts]], 2) for of_clip, of_text in zip(next(of_clips), (key, value)))
                found.append(own.attend(query[texts], keys, values, F.pad(seen[texts], (keys.shape[2] - key.shape[2], 0), value=True)))
            x = block.feed(own.finish(torch.cat(found), plan.packing, x))
        x = x if plan.last is None else pick(x, plan.last.index)
        return TextOutput(x, plan.firsts, plan.padded, plan.outputs)

    def start(self, memory: Memory, group: Group, prompt: tuple[Grid, Grid] | None = None, offset: int = 0) -> DecoderState:
        """See TextModel. The clips' tokens are the first that the state holds, so that ``step`` is the same."""
        state = DecoderState(memory, group, offset)
        clips = list(self._clips(memory, group))
        state.keys, state.values = map(list, zip(*clips))
        state.seen = torch.ones(len(memory), clips[0][0].shape[2], dtype=torch.bool, device=memory.device)
        if prompt is None:
            return state
        ids, mask = send((on_host(prompt[0]), on_host(prompt[1]).astype(bool)), memory.device)
        each = len(ids) // len(memory)
        state.reorder(torch.arange(len(memory), device=ids.device).repeat_interleave(each))
        state.seen = torch.cat([state.seen, mask.bool()], 1)
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        x = self.bert.embeddings(ids, positions, torch.ones_like(ids) if self.prompts else None).flatten(0, 1)
        packing = Packing((ids.shape[0], ids.shape[1]), None)
        for i, block in enumerate(self.blocks):
            own = block.attention
            query, key, value = own.parts(own.project(x), packing)
            state.keys[i], state.values[i] = torch.cat([state.keys[i], key], 2), torch.cat([state.values[i], value], 2)
            attended = own.attend(query, state.keys[i], state.values[i], state.seen[:, None, None])
            x = block.feed(own.output(attended.transpose(1, 2).flatten(2).flatten(0, 1), x))
        return state

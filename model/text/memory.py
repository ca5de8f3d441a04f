"""What texts attend to: clips' condition features, with their keys and values projected once.

Letters: M memory rows (clips), R texts per memory row, N rows of texts, H heads, d width of a head, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omnivast.config.tasks import Group, Modality
from omnivast.model.text.layout import Packing

Projection = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(M, tokens, D) condition features → keys and values of a layer, each (M, H, tokens, d)."""


_ORDER = (Modality.AUDIO, Modality.VISION, Modality.SUBTITLE)
"""Of tokens, so that those of all groups but "as" stand side by side in "vas"."""
SPARE = 1.25
"""Texts that share memories stand in a grid only where that has at most so many places per text."""


class _Parts(torch.autograd.Function):
    """Stretches of the tokens (dimension 2) of a tensor as views. Their gradients are added up in place: those of ordinary slices
    would each be padded to the whole."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, spans: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.spans = whole.shape, spans
        return tuple(whole[:, :, start:stop] for start, stop in spans)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        total = None
        for (start, stop), gradient in zip(ctx.spans, gradients):
            if gradient is not None:
                total = gradient.new_zeros(ctx.shape) if total is None else total
                total[:, :, start:stop] += gradient
        return total, None


def _ordered(group: Group) -> list[Modality]:
    return [m for m in _ORDER if m in group]


def _group(modalities: Sequence[Modality]) -> Group:
    return Group(tuple(m for m in Modality if m in modalities))


class Memory:
    """What texts attend to: condition features of M clips, whose keys and values are projected once per layer and modality,
    and used by every group and every text of that clip.

    condition: per modality (M, tokens, D). mask: per modality (M, tokens) bool, or None where every token is attended to.
    """

    def __init__(self, condition: dict[Modality, Tensor], mask: dict[Modality, Tensor | None]) -> None:
        self.condition, self.mask = condition, mask
        self._held: dict[tuple[int, Group], tuple[Tensor, Tensor]] = {}
        """Keys and values that are not part of wider ones."""
        self._known: dict[tuple[int, Group], tuple[Tensor, Tensor, Group]] = {}
        """Those and their parts, with the group that they are part of."""

    def __len__(self) -> int:
        return next(iter(self.condition.values())).shape[0]

    def rows(self, index: Tensor) -> Memory:
        """The memory of some clips, with what was projected already; itself where they are all clips in their order."""
        if torch.equal(index, torch.arange(len(self), device=index.device)):
            return self
        picked = Memory({m: c[index] for m, c in self.condition.items()}, {m: x if x is None else x[index] for m, x in self.mask.items()})
        for (layer, group), (keys, values) in self._held.items():
            picked._hold(layer, group, keys[index], values[index])
        return picked

    def keys_values(self, layer: int, group: Group, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values of a group at a layer, each (M, H, tokens, d), in the order a, v, s."""
        if (layer, group) not in self._known:
            if len(group.modalities) == 1:
                self._hold(layer, group, *self._project(group.modalities[0], project))
            else:
                parts = [self.keys_values(layer, Group((modality,)), project) for modality in _ordered(group)]
                self._hold(layer, group, *(torch.cat(own, 2) for own in zip(*parts)))
        return self._known[layer, group][:2]

    def _project(self, modality: Modality, project: Projection) -> tuple[Tensor, Tensor]:
        if modality not in self.condition:
            raise ValueError(f"the memory holds no {modality.word} features; encode that modality first")
        return project(self.condition[modality])

    def _hold(self, layer: int, group: Group, keys: Tensor, values: Tensor) -> None:
        """Keep keys and values of a group. Groups whose tokens stand side by side in it become views of them: no token is kept
        twice but where a group skips a modality in between."""
        modalities = _ordered(group)
        ends = list(accumulate((self.condition[m].shape[1] for m in modalities), initial=0))
        spans = {_group(modalities[i:j]): (ends[i], ends[j]) for i in range(len(ends)) for j in range(i + 1, len(ends))}
        parts = [_Parts.apply(x, list(spans.values())) for x in (keys, values)] if len(spans) > 1 else [(keys,), (values,)]
        for part, *own in zip(spans, *parts):
            if (layer, part) not in self._known or len(self._known[layer, part][2].modalities) <= len(group.modalities):
                self._known[layer, part] = (own[0], own[1], group)
                self._held.pop((layer, part), None)
        self._held[layer, group] = (keys, values)

    def group_mask(self, group: Group) -> Tensor | None:
        """(M, 1, 1, tokens) bool of a group, or None when every token may be seen. A clip with nothing to see sees all."""
        if all(self.mask.get(m) is None for m in group):
            return None
        parts = []
        for modality in _ordered(group):
            own, tokens = self.mask.get(modality), self.condition[modality]
            parts.append(torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if own is None else own)
        mask = torch.cat(parts, 1)
        return (mask | ~mask.any(1, keepdim=True))[:, None, None]


@dataclass
class CrossPass:
    """Rows [start, stop) of a layout and what they attend to.

    With ``index`` None the rows are R blocks of len(memory): row start + r · M + m attends to memory row m, and the R texts
    of a memory row are one long query. With ``index`` (stop - start,) each row names its memory row.
    """

    start: int
    stop: int
    memory: Memory
    group: Group
    index: Tensor | None = None
    length: int = 0
    """Tokens of the longest of these rows; 0: the layout's."""


class Reading(NamedTuple):
    """A pass at one layer. A tuple, in which FSDP finds the tensors."""

    queries: Packing
    """Where its tokens stand among the queries: (M, R · its length) where texts share memory rows, else (texts, its length)."""
    key: Tensor
    value: Tensor
    mask: Tensor | None
    rows: Tensor | None
    """The memory row of each text; None where texts share them."""


def queries(passes: Sequence[CrossPass], packing: Packing) -> list[Packing]:
    """For each pass, which cover all rows of ``packing`` in order, see Reading."""
    if not passes:
        return []
    texts, longest = packing.shape
    device = next(iter(passes[0].memory.condition.values())).device
    index = torch.arange(texts * longest, device=device) if packing.index is None else packing.index
    ends = torch.searchsorted(index, torch.tensor([p.stop * longest for p in passes], device=device)).tolist()
    found = []
    for p, start, stop in zip(passes, [0, *ends], ends):
        length, count = p.length or longest, p.stop - p.start
        rows = len(p.memory) if p.index is None else count
        repeats = count // rows
        text, column = index[start:stop] // longest - p.start, index[start:stop] % longest
        place = (text % rows * repeats + text // rows) * length + column
        in_order = repeats == 1 and len(place) == count * length
        found.append(Packing((rows, repeats * length), None if in_order else place))
    return found


def shared_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How texts with memory rows (P,) can stand so that those of a row are one long query.

    Returns used (M,), memory rows; grid (R, M) numbers of texts, where column m reads row used[m] and spare places repeat text 0;
    place (P,), where each text stands in the flattened grid. Where too many places would be spare, every text has a column.
    """
    numbers = torch.arange(len(rows), device=rows.device)
    used, inverse, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    most = int(counts.max())
    if most * len(used) > SPARE * len(rows):
        return rows, numbers[None], numbers
    order = torch.argsort(inverse, stable=True)
    nth = torch.empty_like(order).scatter(0, order, numbers - (counts.cumsum(0) - counts)[inverse[order]])
    place = nth * len(used) + inverse
    return used, torch.zeros(most * len(used), dtype=torch.long, device=rows.device).scatter(0, place, numbers).view(most, -1), place

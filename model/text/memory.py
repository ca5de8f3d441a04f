"""What texts attend to: clips' condition features, with their keys and values projected once.

Letters: M memory rows (clips), H heads, d width of a head, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnivast.config.tasks import Group, Modality
from omnivast.utils.transfer import send

Projection = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(M, tokens, D) condition features → keys and values of a layer, each (M, H, tokens, d)."""


_ORDER = (Modality.AUDIO, Modality.VISION, Modality.SUBTITLE)
"""The order of a clip's tokens. In it every group is an unbroken stretch of "vas", but for "as"."""


class _Parts(torch.autograd.Function):
    """Views of stretches of a tensor's tokens (dimension 2).

    The backward pass adds their gradients into one tensor; ordinary slices would each make a gradient as large as the whole.
    """

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
    """What texts attend to: condition features of M clips. Their keys and values are projected once per layer and modality, and used
    by every group and every text of that clip. The widest group asked for so far is stored; the others are views of it::

        tokens of a clip     a a | v v v v v v v | s s s
        group vas            [------ stored -----------]
        groups va, vs        [----- view -----]
                                   [------ view -------]
        groups a, v, s       [---]  [-- view --]  [----]
        group as             a a | s s s                  stored apart: its tokens are not neighbours in "vas"

    condition: per modality (M, tokens, D). mask: per modality (M, tokens) bool, or None where every token is attended to.
    """

    def __init__(self, condition: dict[Modality, Tensor], mask: dict[Modality, Tensor | None]) -> None:
        self.condition, self.mask = condition, mask
        self._stored: dict[tuple[int, Group], tuple[Tensor, Tensor]] = {}
        """(layer, group) → keys and values that are not views of a wider group's."""
        self._views: dict[tuple[int, Group], tuple[Tensor, Tensor, int]] = {}
        """(layer, group) → keys and values of every group known so far, and how many modalities the stored group has that they are
        views of."""

    def __len__(self) -> int:
        return next(iter(self.condition.values())).shape[0]

    @property
    def device(self) -> torch.device:
        return next(iter(self.condition.values())).device

    @property
    def alone(self) -> Memory:
        """The clips without what stands beside them (``beside.py``): here itself."""
        return self

    def rows(self, numbers: np.ndarray) -> Memory:
        """The memory of the clips ``numbers`` (k,), with what is projected already. Returns itself for all clips in their order."""
        if np.array_equal(numbers, np.arange(len(self))):
            return self
        index = send(numbers, self.device)
        picked = Memory({m: c[index] for m, c in self.condition.items()}, {m: x if x is None else x[index] for m, x in self.mask.items()})
        for (layer, group), (keys, values) in self._stored.items():
            picked._store(layer, group, keys[index], values[index])
        return picked

    def keys_values(self, layer: int, group: Group, project: Projection) -> tuple[Tensor, Tensor]:
        """Keys and values of a group at a layer, each (M, H, tokens, d), in the order a, v, s."""
        if (layer, group) not in self._views:
            if len(group.modalities) == 1:
                self._store(layer, group, *self._project(group.modalities[0], project))
            else:
                parts = [self.keys_values(layer, Group((modality,)), project) for modality in _ordered(group)]
                keys, values = zip(*parts)
                self._store(layer, group, torch.cat(keys, 2), torch.cat(values, 2))
        return self._views[layer, group][:2]

    def _project(self, modality: Modality, project: Projection) -> tuple[Tensor, Tensor]:
        if modality not in self.condition:
            raise ValueError(f"the memory holds no {modality.word} features; encode that modality first")
        return project(self.condition[modality])

    def _store(self, layer: int, group: Group, keys: Tensor, values: Tensor) -> None:
        """Store keys and values of a group, and make views of them for every group whose modalities are neighbours in it::

            tokens of vas        a a v v v v v v v s s s
            ends                 0   2             9     12
            spans                a: (0, 2)   va: (0, 9)   vas: (0, 12)   v: (2, 9)   vs: (2, 12)   s: (9, 12)

        A view of a wider group that is known already stays; all others give way, so that what they were views of can be freed.
        """
        modalities = _ordered(group)
        width = len(modalities)
        ends = list(accumulate((self.condition[m].shape[1] for m in modalities), initial=0))
        spans = {_group(modalities[i:j]): (ends[i], ends[j]) for i in range(width) for j in range(i + 1, width + 1)}
        views = [_Parts.apply(x, list(spans.values())) for x in (keys, values)] if width > 1 else [(keys,), (values,)]
        for part, part_keys, part_values in zip(spans, *views):
            known = self._views.get((layer, part))
            if known is None or known[2] <= width:
                self._views[layer, part] = (part_keys, part_values, width)
                self._stored.pop((layer, part), None)
        self._stored[layer, group] = (keys, values)

    def group_mask(self, group: Group) -> Tensor | None:
        """(M, 1, 1, tokens) bool of a group, or None when every token may be attended to. A clip whose tokens are all masked attends to all
        of them, so that no softmax is over nothing."""
        if all(self.mask.get(m) is None for m in group):
            return None
        parts = []
        for modality in _ordered(group):
            mask, tokens = self.mask.get(modality), self.condition[modality]
            parts.append(torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask)
        mask = torch.cat(parts, 1)
        return (mask | ~mask.any(1, keepdim=True))[:, None, None]

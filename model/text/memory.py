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
"""Of tokens, so that those of all groups but "as" stand side by side in "vas"."""


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
    and used by every group and every text of that clip. Those of the widest group asked for so far are kept; the others are views::

        tokens of a clip     a a | v v v v v v v | s s s
        group vas            [------- kept ------------]
        groups va, vs        [----- view -----]
                                   [------ view -------]
        groups a, v, s       [---]  [-- view --]  [----]
        group as             a a | s s s                  kept on its own, as its tokens do not stand side by side

    condition: per modality (M, tokens, D). mask: per modality (M, tokens) bool, or None where every token is attended to.
    """

    def __init__(self, condition: dict[Modality, Tensor], mask: dict[Modality, Tensor | None]) -> None:
        self.condition, self.mask = condition, mask
        self._held: dict[tuple[int, Group], tuple[Tensor, Tensor]] = {}
        """By layer and group: keys and values that are not views of wider ones."""
        self._known: dict[tuple[int, Group], tuple[Tensor, Tensor, Group]] = {}
        """Those and the views of them, with the group whose they are views of."""

    def __len__(self) -> int:
        return next(iter(self.condition.values())).shape[0]

    @property
    def device(self) -> torch.device:
        return next(iter(self.condition.values())).device

    def rows(self, numbers: np.ndarray) -> Memory:
        """The memory of the clips ``numbers`` (k,), with what was projected already; itself where they are all clips in their order."""
        if np.array_equal(numbers, np.arange(len(self))):
            return self
        index = send(numbers, self.device)
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
        """Keep keys and values of a group, and views of them for all groups whose tokens stand side by side in it."""
        modalities = _ordered(group)
        ends = list(accumulate((self.condition[m].shape[1] for m in modalities), initial=0))
        spans = {_group(modalities[i:j]): (ends[i], ends[j]) for i in range(len(ends)) for j in range(i + 1, len(ends))}
        views = [_Parts.apply(x, list(spans.values())) for x in (keys, values)] if len(spans) > 1 else [(keys,), (values,)]
        for part, *own in zip(spans, *views):
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

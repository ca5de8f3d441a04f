"""A memory beside which further tokens stand, for those texts that are to attend to them too."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from omnivast.config.tasks import Group
from omnivast.model.text.memory import Memory, Projection
from omnivast.utils.transfer import send


class BesideMemory(Memory):
    """Every group of ``own`` with further tokens behind its own. Keys and values of both are projected once; ``alone`` is ``own``.

    tokens: (M, K, D). seen: (M, K) bool, False at tokens that are not attended to.
    """

    def __init__(self, own: Memory, tokens: Tensor, seen: Tensor) -> None:
        super().__init__(own.condition, own.mask)
        self._own, self._tokens, self._seen = own, tokens, seen
        self._beside: dict[int, tuple[Tensor, Tensor]] = {}
        self._joined: dict[tuple[int, Group], tuple[Tensor, Tensor]] = {}

    @property
    def alone(self) -> Memory:
        return self._own

    def rows(self, numbers: np.ndarray) -> Memory:
        own = self._own.rows(numbers)
        if own is self._own:
            return self
        index = send(numbers, self.device)
        return BesideMemory(own, self._tokens[index], self._seen[index])

    def keys_values(self, layer: int, group: Group, project: Projection) -> tuple[Tensor, Tensor]:
        if (layer, group) not in self._joined:
            if layer not in self._beside:
                self._beside[layer] = project(self._tokens)
            keys, values = (torch.cat(parts, 2) for parts in zip(self._own.keys_values(layer, group, project), self._beside[layer]))
            self._joined[layer, group] = keys, values
        return self._joined[layer, group]

    def group_mask(self, group: Group) -> Tensor:
        mask = self._own.group_mask(group)
        if mask is None:
            tokens = sum(self.condition[modality].shape[1] for modality in group)
            mask = self._seen.new_ones(len(self), 1, 1, tokens)
        return torch.cat([mask, self._seen[:, None, None]], 3)

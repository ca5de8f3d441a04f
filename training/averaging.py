"""``run_cfg.ema_decay``: an exponential moving average of the trained weights, beside the weights themselves.

After each step that was applied, average ← decay · average + (1 − decay) · weights. Early on the decay is smaller, (1 + n) / (10 + n) after
n steps, so that the average soon forgets where the training began. Under FSDP each process averages its share.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from omnivast.training.checkpoints.saving import HostCopies
from omnivast.training.engines.base import Engine
from omnivast.utils import distributed

logger = logging.getLogger("omnivast")


class WeightAverage:
    """The average of what the optimiser of ``engine`` trains, in float32 on the same device. Every method is called on every rank."""

    def __init__(self, engine: Engine, decay: float) -> None:
        self.engine, self.decay, self.updates = engine, decay, 0
        self._copies = HostCopies()
        self._averages = [weight.clone() for weight in self._weights()]

    def _weights(self) -> list[Tensor]:
        """This process's weights, or its share of them, to be read and overwritten in place."""
        parameters = [p.detach() for group in self.engine.optimizer.param_groups for p in group["params"]]
        return [p.to_local() if isinstance(p, DTensor) else p for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """A step was applied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._weights(), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """In place, one tensor after the other: no memory for another model is needed."""
        for weight, average in zip(self._weights(), self._averages):
            before = weight.clone()
            weight.copy_(average)
            average.copy_(before)

    def state_dict(self) -> dict[str, Tensor]:
        """The whole model with averaged weights, as ``Engine.weights`` gives it, in host memory on rank 0; empty elsewhere. It is
        overwritten by the next call."""
        with self.swapped():
            weights = self.engine.weights()
            return self._copies.take(weights) if distributed.is_main() else {}

    @torch.no_grad()
    def load(self, averaged: Mapping[str, Tensor] | None, updates: int, weights: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint: ``averaged`` as ``state_dict`` gave it. None: the run had no average so far; it begins with the
        model's weights. ``weights``: the model's own, which it has before and after."""
        if averaged is None:
            logger.info("run_cfg.ema_decay: the checkpoint has no averaged weights; the average begins with its weights")
        else:
            self.engine.load_weights(averaged)
        self.updates = updates
        for weight, average in zip(self._weights(), self._averages):
            average.copy_(weight)
        if averaged is not None:
            self.engine.load_weights(weights)

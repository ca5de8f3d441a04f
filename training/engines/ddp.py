"""DistributedDataParallel: every process holds the whole model."""

from __future__ import annotations

import gc
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.interface import Model
from omnivast.training.engines.base import Engine, skips_layers
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom


class DataParallel(Engine):
    """DistributedDataParallel: every process holds all weights, and gradients are averaged in buckets during the backward pass."""

    def __init__(self, model: Model, run_cfg: RunConfig, device: torch.device) -> None:
        super().__init__(model, run_cfg, device)
        self.wrapped: DistributedDataParallel | None = None
        self.idle: list[nn.Parameter] = []
        """Parameters that the only task does not use. They do not require a gradient while this engine trains."""

    def begin(self, first: Batch, tasks: Collection[Task]) -> None:
        """Wrap the model. DistributedDataParallel must know which parameters get no gradient in a step.

        Searching for them walks through the autograd graph in every step. But they depend on the task alone: where all corpora have the
        same task, a trial pass over the first batch finds them once, and they stop requiring a gradient. The search is needed only where
        tasks differ or layers are skipped at random.
        """
        search = len(set(tasks)) > 1 or skips_layers(self.model)
        if not search:
            names = self.unused(first, next(iter(tasks)))
            search = any(other != names for other in distributed.all_gather_objects(names))
            if not search:
                parameters = dict(self.model.named_parameters())
                self.idle = [parameters[name] for name in names]
                for parameter in self.idle:
                    parameter.requires_grad_(False)
        self.wrapped = DistributedDataParallel(self.model, find_unused_parameters=search, gradient_as_bucket_view=True)

    def unused(self, batch: Batch, task: Task) -> list[str]:
        """Trainable parameters that a pass over ``batch`` leaves without gradient; changes neither weights nor buffers."""
        self.model.train()
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        draws = StepRandom(self.run_cfg.seed, 0, distributed.rank() * len(batch), len(batch) * distributed.world_size())
        self.model(batch.to(self.device), task, draws)["loss"].backward()
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad and parameter.grad is None]
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self.model.buffers(), buffers):
            buffer.copy_(before)
        return names

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        assert self.wrapped is not None
        return nullcontext() if last else self.wrapped.no_sync()

    def __call__(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        assert self.wrapped is not None
        return self.wrapped(batch, task, draws)

    def close(self) -> None:
        """A DistributedDataParallel that outlives its process group can abort the process at exit and hide the exit code."""
        self.wrapped = None
        for parameter in self.idle:
            parameter.requires_grad_(True)
        gc.collect()

"""How the processes of a training share its work, behind one interface that the loop drives: ``Engine``, for a single process;
``DataParallel`` (DistributedDataParallel); ``training.sharded`` (FSDP2); ``training.zero`` (DeepSpeed).
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.interface import Model
from omnivast.training.checkpoints import optimizer_shards as shards
from omnivast.training.optim import build_optimizer, gradient_norm
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom

logger = logging.getLogger("omnivast")


def build_engine(model: Model, run_cfg: RunConfig, device: torch.device) -> Engine:
    """The engine that ``run_cfg.parallel`` names, around ``model`` on ``device``; one process alone needs none, whatever the name.

    Raises ValueError when DeepSpeed is asked for and is not installed, or its file does not do.
    """
    engine = _engine(model, run_cfg, device)
    if run_cfg.compile:
        from omnivast.training.engines.compile import compile_layers

        logger.info("%d layers will be compiled, each kind when it is first used", compile_layers(engine.trained))
    return engine


def _engine(model: Model, run_cfg: RunConfig, device: torch.device) -> Engine:
    if distributed.world_size() == 1:
        if run_cfg.parallel != "ddp":
            logger.info("run_cfg.parallel %s shares nothing out: there is one process", run_cfg.parallel)
        return Engine(model, run_cfg, device)
    if run_cfg.parallel == "deepspeed":
        from omnivast.training.engines.zero import ZeRO

        return ZeRO(model, run_cfg, device)
    if run_cfg.parallel == "fsdp":
        from omnivast.training.engines.fsdp import Sharded

        return Sharded(model, run_cfg, device)
    return DataParallel(model, run_cfg, device)


class Engine:
    """One process alone, and what the others change. Unless said otherwise every method is called on every rank.

    ``model`` is the whole model, which is saved and tested; ``trained`` is the one whose parameters ``optimizer`` changes.
    """

    def __init__(self, model: Model, run_cfg: RunConfig, device: torch.device) -> None:
        self.model, self.run_cfg, self.device = model, run_cfg, device
        self.trained: Model = model
        self.optimizer: Optimizer = build_optimizer(model, run_cfg)

    def begin(self, first: Batch, tasks: Collection[Task]) -> None:
        """Called once before the first step, with its first batch and the tasks of all corpora."""

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Around the passes of one batch; ``last``: of its step."""
        return nullcontext()

    def __call__(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        """The losses of this process's batch (see Model.forward)."""
        return self.trained(batch, task, draws)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self, scaler: torch.amp.GradScaler) -> tuple[float, bool]:
        """Clip, apply and clear the gradients: (norm before clipping, whether it was finite; otherwise they are not applied)."""
        scaler.unscale_(self.optimizer)
        norm = float(gradient_norm(self.optimizer, self.run_cfg.grad_norm))
        finite = math.isfinite(norm)
        if finite or scaler.is_enabled():
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, finite

    def weights(self) -> dict[str, Tensor]:
        """The state dict of the whole model, on rank 0 at least."""
        return self.model.state_dict()

    def save_optimizer(self, folder: Path, step: int) -> dict[str, Any] | Callable[[], dict[str, Any]]:
        """The optimiser's state for the checkpoint of ``step`` in ``folder``, or the description of what was written there; or a function
        that ends this and returns it, to be called on every rank (see ``Saver.save``)."""
        return self.optimizer.state_dict()

    def load(self, weights: Mapping[str, Tensor], optimizer: dict[str, Any], folder: Path, step: int) -> None:
        """Continue from a checkpoint, written by this engine or another. Raises RuntimeError or ValueError when it does not fit."""
        self.model.load_state_dict(weights)
        if shards.is_sharded(optimizer):
            optimizer = shards.read(folder, step, optimizer, shards.named_parameters(self.optimizer))
        self.optimizer.load_state_dict(optimizer)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, ``model`` holds the current weights on every rank and may be called freely, without gradient."""
        self.share_buffers()
        yield

    def share_buffers(self) -> None:
        """Give every process the main one's buffers, which it saves: each has updated its own running means in the last forward pass."""
        if distributed.world_size() > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def close(self) -> None:
        """Let go of what must not outlive the process group."""


class DataParallel(Engine):
    """DistributedDataParallel: every process holds all weights, and gradients are averaged in buckets during the backward pass."""

    def __init__(self, model: Model, run_cfg: RunConfig, device: torch.device) -> None:
        super().__init__(model, run_cfg, device)
        self.wrapped: DistributedDataParallel | None = None
        self.idle: list[nn.Parameter] = []
        """Parameters that have no part in the only task; no gradient is asked for them."""

    def begin(self, first: Batch, tasks: Collection[Task]) -> None:
        """Parameters that take no part in a step have to be searched for in each, which costs a walk through the graph. Which ones do
        follows from the task: where all corpora have one, a trial pass over the first batch tells, and these are left out. Only tasks
        that differ, and layers skipped at random, need the search.
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


def skips_layers(model: nn.Module) -> bool:
    """Whether some layers are left out at random in training, which each process then draws for itself."""
    return any(randomly_skipping(module) for module in model.modules())


def randomly_skipping(module: nn.Module) -> bool:
    """Whether this module leaves out some of its layers at random: ``layerdrop``, as BEATs and the transformers library call it."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    return trained and bool(getattr(module, "layerdrop", 0.0))

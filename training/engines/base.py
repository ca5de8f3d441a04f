"""``Engine``: how one process trains, behind the interface that the training loop drives; and what engines with several processes share.

``ddp``, ``fsdp`` and ``zero`` hold the engines of several processes, and ``build`` picks the one that the config names.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.interface import Model
from omnivast.training.checkpoints import optimizer_shards as shards
from omnivast.training.optim import build_optimizer, gradient_norm
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom


class Engine:
    """Training in one process, and the base class of the engines with several.

    Unless said otherwise every method is called on every rank. ``model`` is the whole model, which is saved and tested; ``trained`` is
    the one whose parameters ``optimizer`` changes.
    """

    def __init__(self, model: Model, run_cfg: RunConfig, device: torch.device) -> None:
        self.model, self.run_cfg, self.device = model, run_cfg, device
        self.trained: Model = model
        self.optimizer: Optimizer = build_optimizer(model, run_cfg)

    def begin(self, first: Batch, tasks: Collection[Task]) -> None:
        """Called once before the first step, with its first batch and the tasks of all corpora."""

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """The context of the forward and backward pass of one batch. ``last``: whether it is the last one of its step."""
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
        """The optimiser's state for the checkpoint of ``step`` in ``folder``. It may also be the description of what was written there,
        or a function that finishes writing and returns the description, to be called on every rank (see ``Saver.save``)."""
        return self.optimizer.state_dict()

    def load(self, weights: Mapping[str, Tensor], optimizer: dict[str, Any], folder: Path, step: int) -> None:
        """Continue from a checkpoint, written by this engine or another. Raises RuntimeError or ValueError when it does not fit."""
        self.load_weights(weights)
        if shards.is_sharded(optimizer):
            optimizer = shards.read(folder, step, optimizer, shards.named_parameters(self.optimizer))
        self.optimizer.load_state_dict(optimizer)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights as :meth:`weights` gives them, whole on every rank. Raises RuntimeError when they do not fit."""
        self.model.load_state_dict(weights)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """While this context is active, ``model`` holds the current weights on every rank and may be called freely, without gradient."""
        self.share_buffers()
        yield

    def share_buffers(self) -> None:
        """Copy the main process's buffers (which are the ones saved) to every process: each process has updated its running means
        separately in the last forward pass."""
        if distributed.world_size() > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def close(self) -> None:
        """Release what must not outlive the process group."""


class ShardedEngine(Engine):
    """``trained`` is sharded over the processes. ``model`` shares its buffers, and has parameters only within ``whole``.

    Evaluation calls parts of the model in an order that the hooks which gather parameters could not follow, and a different number of
    times on each process. It therefore gets the whole model, which costs 4 bytes per parameter and process while it lasts. Its numbers
    are then those of testing the saved weights.
    """

    def weights(self) -> dict[str, Tensor]:
        """On rank 0, on the CPU; empty elsewhere."""
        main = distributed.is_main()
        self._gather(torch.device("cpu"), keep=main)
        state = self.model.state_dict() if main else {}
        self._drop()
        return state

    @contextmanager
    def whole(self) -> Iterator[None]:
        self.share_buffers()
        self._gather(self.device, keep=True)
        try:
            yield
        finally:
            self._drop()

    def _full(self, part: nn.Parameter) -> Tensor:
        """The full tensor of a parameter of ``trained``, gathered from all processes."""
        raise NotImplementedError

    def _gather(self, device: torch.device, keep: bool) -> None:
        """Give ``model`` the parameters; on processes without ``keep`` they are dropped at once."""
        whole: dict[int, Tensor] = {}
        for part, parameter in zip(self.trained.parameters(), self.model.parameters()):
            full = self._full(part)
            if keep:
                whole[id(parameter)] = full.reshape(parameter.shape).to(device)
        if keep:
            self._replace(lambda parameter: whole[id(parameter)])

    def _drop(self) -> None:
        self._replace(lambda parameter: torch.empty_like(parameter, device="meta"))

    def _replace(self, make: Callable[[nn.Parameter], Tensor]) -> None:
        """Replace each parameter of ``model`` by ``make(parameter)``. A parameter that two modules share stays shared."""
        made: dict[int, nn.Parameter] = {}
        for module in self.model.modules():
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(make(parameter), parameter.requires_grad)
                module._parameters[key] = made[id(parameter)]


def twin(model: Model) -> Model:
    """A model of the same structure, which shares the tensors of ``model``, and all else that is no module."""
    shared: list[Any] = [*model.parameters(), *model.buffers(), *(value for key, value in vars(model).items() if not key.startswith("_"))]
    return copy.deepcopy(model, {id(value): value for value in shared})


def without_scalars(model: nn.Module) -> None:
    """Turn scalars, which cannot be sharded, into vectors of one element."""
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.ndim == 0:
                module._parameters[key] = nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad)


def skips_layers(model: nn.Module) -> bool:
    """Whether training leaves out some layers at random, which each process then draws separately."""
    return any(randomly_skipping(module) for module in model.modules())


def randomly_skipping(module: nn.Module) -> bool:
    """Whether this module leaves out some of its layers at random: ``layerdrop``, as BEATs and the transformers library call it."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    return trained and bool(getattr(module, "layerdrop", 0.0))

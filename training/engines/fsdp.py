"""FSDP2: every process holds a share of each parameter, of its gradient and of its optimiser state.

The parameters of a unit of the model (``Model.units``), such as a block of a tower, are gathered together: either for each forward and
backward pass, or once for all passes of a step. The other parameters, with the heads, are gathered for the whole step. torch's hooks
gather a module's parameters when its ``forward`` is called, so parameters that are used otherwise stand in a part whose ``forward`` is
around the use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.device_kind import kind_of
from omnivast.model.interface import Model
from omnivast.training.checkpoints import optimizer_shards as shards
from omnivast.training.engines.base import ShardedEngine, randomly_skipping, twin, without_scalars
from omnivast.training.optim import build_optimizer
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom, stable_seed
from omnivast.utils.transfer import planning


class FullySharded(ShardedEngine):
    """FSDP2."""

    def __init__(self, model: Model, run_cfg: RunConfig, device: torch.device) -> None:
        self.model, self.run_cfg, self.device = model, run_cfg, device
        self.trained = twin(model)
        self.trained.in_step = True
        with planning():
            mesh = init_device_mesh(device.type, (distributed.world_size(),))
        shard(self.trained, mesh, mixed_precision(model.precision, device))
        self._drop()
        self.optimizer = build_optimizer(self.trained, run_cfg)
        self.saving: Any = torch.distributed.new_group(backend="gloo") if run_cfg.async_save else None
        """The process group through which the background threads that save a checkpoint exchange messages."""
        self.step_key = 0
        for module in self.trained.modules():
            if randomly_skipping(module):
                self._draw_alike(module)

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged only after a step's last batch; until then every process keeps the whole gradient of its batches."""
        trained: Any = self.trained
        trained.set_requires_gradient_sync(last)
        return nullcontext()

    def __call__(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        self.step_key = stable_seed(draws.seed, "layers", draws.step)
        return super().__call__(batch, task, draws)

    def save_optimizer(self, folder: Path, step: int) -> dict[str, Any] | Callable[[], dict[str, Any]]:
        if self.saving is None:
            return shards.write(folder, step, self.optimizer)
        return shards.begin(folder, step, self.optimizer, self.saving)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self._replace(lambda parameter: torch.empty_like(parameter, device="cpu"))
        self.model.load_state_dict(weights)
        with torch.no_grad():
            for part, (name, whole) in zip(self.trained.parameters(), self.model.named_parameters()):
                if name in weights:  # what a checkpoint leaves out stays: a frozen language model comes from its own file
                    part.copy_(shards.share_of(whole.detach(), part))
        self._drop()

    def load(self, weights: Mapping[str, Tensor], optimizer: dict[str, Any], folder: Path, step: int) -> None:
        self.load_weights(weights)
        parameters = shards.named_parameters(self.optimizer)
        read = shards.read(folder, step, optimizer, parameters) if shards.is_sharded(optimizer) else shards.share(optimizer, parameters)
        self.optimizer.load_state_dict(read)

    def _full(self, part: nn.Parameter) -> Tensor:
        return cast(DTensor, part.detach()).full_tensor()

    def _draw_alike(self, module: nn.Module) -> None:
        """Make the random draws within ``module`` the same on every process: all must skip the same layers, because they gather the
        layers together."""
        before: list[Tensor] = []

        def alike(*_: Any) -> None:
            before.append(torch.get_rng_state())
            torch.random.default_generator.manual_seed(self.step_key)

        def apart(*_: Any) -> None:
            torch.set_rng_state(before.pop())

        module.register_forward_pre_hook(alike)
        module.register_forward_hook(apart, always_call=True)


def mixed_precision(precision: torch.dtype | None, device: torch.device) -> MixedPrecisionPolicy:
    """Which types FSDP uses. Blocks are gathered in ``precision``, to which autocast would cast them at each use anyway; gradients are
    averaged in float32. On the CPU blocks are gathered in float32: there, autocast leaves a LayerNorm in the type of its input, and its
    weights must have that type."""
    if precision is None or kind_of(device) == "cpu":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)


def shard(model: Model, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Share the parameters of ``model`` out over ``mesh``, in place."""
    without_scalars(model)
    units = list(model.units())
    for part in _shared_parts([unit.module for unit in units if unit.gathered == "pass"]):
        fully_shard(part, mesh=mesh)
    for unit in units:
        fully_shard(unit.module, mesh=mesh, mp_policy=policy, reshard_after_forward=unit.gathered == "pass")
    fully_shard(model, mesh=mesh)


def _shared_parts(blocks: list[nn.Module]) -> list[nn.Module]:
    """Modules that are part of several blocks."""
    counts = Counter(part for block in blocks for part in block.modules())
    return [part for part, count in counts.items() if count > 1 and part._parameters]

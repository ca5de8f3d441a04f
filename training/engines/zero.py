"""DeepSpeed's ZeRO, an extra: shards the optimiser state (stage 1), also the gradients (2), also the weights (3), as DeepSpeed's JSON
file says.

The file holds the settings that only DeepSpeed has, ``zero_optimization`` above all; what the run's config decides is filled in. A
checkpoint is whole, as DistributedDataParallel's, and is resumed by ddp or fsdp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from omnivast.config.extras import import_extra
from omnivast.config.files import read_json
from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.interface import Model
from omnivast.training.checkpoints import optimizer_shards as shards
from omnivast.training.engines.base import ShardedEngine, twin, without_scalars
from omnivast.training.logs.nonfinite import ADVICE, REMEDIES, NonFiniteLoss, report
from omnivast.training.optim import build_optimizer
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom

DECIDED = {"train_batch_size": "the corpora's batch_size", "train_micro_batch_size_per_gpu": "the corpora's batch_size",
           "gradient_accumulation_steps": "gradient_accumulation_steps", "gradient_clipping": "grad_norm", "optimizer": "optim",
           "scheduler": "scheduler", "bf16": "precision", "fp16": "precision"}
"""Keys of DeepSpeed's file that the run's config decides, and by which of its keys."""


class ZeRO(ShardedEngine):
    """DeepSpeed's engine."""

    def __init__(self, model: Model, run_cfg: RunConfig, device: torch.device) -> None:
        self.library: Any = _deepspeed()
        settings = read_settings(run_cfg)
        self.stage: int = settings["zero_optimization"]["stage"]
        self.model, self.run_cfg, self.device = model, run_cfg, device
        self.trained = twin(model)
        self.trained.in_step = self.stage == 3
        without_scalars(self.trained)
        self._drop()
        self.optimizer = build_optimizer(self.trained, run_cfg)
        self.parameters = shards.named_parameters(self.optimizer)
        self.groups = self.optimizer.state_dict()["param_groups"]
        self.engine: Any = self.library.initialize(model=self.trained, optimizer=self.optimizer, config=settings,
                                                   dist_init_required=False)[0]
        self.step = 0
        """The step that is under way, counted from 1."""
        self.read: list[Batch] = []
        """The batches of this step."""

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        self.engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def __call__(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        self.step = draws.step // self.run_cfg.gradient_accumulation_steps + 1
        self.read.append(batch)
        return self.engine(batch, task, draws)

    def backward(self, loss: Tensor) -> None:
        """Raises NonFiniteLoss on every rank: DeepSpeed has no way to leave a step out."""
        if distributed.any_process(not bool(loss.isfinite()), self.device):
            raise NonFiniteLoss(f"{self._report('loss')} With DeepSpeed no step can be left out. {ADVICE}")
        self.engine.backward(loss, scale_wrt_gas=False)

    def update(self, scaler: torch.amp.GradScaler) -> tuple[float, bool]:
        """DeepSpeed clips and applies at once. Raises NonFiniteLoss when the gradient was not finite."""
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise NonFiniteLoss(f"{self._report('gradient')} DeepSpeed has applied it: what was trained since the last checkpoint is lost. "
                                f"{REMEDIES} --resume true with --parallel fsdp continues from that checkpoint")
        self.read.clear()
        return norm, True

    def _report(self, what: str) -> str:
        """A message that is the same on every rank: one rank that fails is enough to stop all."""
        return report(Path(self.run_cfg.output_dir), self.step, what, self.read, {"loss": math.nan} if what == "loss" else {})

    def save_optimizer(self, folder: Path, step: int) -> dict[str, Any]:
        """The whole optimiser state as a state dict of torch, put together on every rank and kept by rank 0."""
        sharing = self.engine.optimizer
        if self.stage < 3:  # DeepSpeed looks for the states after the step of the first parameter group, and misses those of the others
            sharing._hp_optimizer_states_linked = False
            sharing._lazy_init_hp_params_optimizer_state()
        numbers = {name: number for group in self.groups for number, name in zip(group["params"], group["param_names"])}
        kinds = ("momentum_buffer",) if self.run_cfg.optim == "sgd" else ("exp_avg", "exp_avg_sq")
        state: dict[int, dict[str, Tensor]] = {}
        for name, parameter in self.parameters.items():
            whole = {kind: self.library.utils.safe_get_full_optimizer_state(parameter, kind) for kind in kinds}
            if distributed.is_main() and all(value is not None for value in whole.values()):
                state[numbers[name]] = {kind: value.detach().cpu() for kind, value in whole.items()}
                if self.run_cfg.optim != "sgd":
                    state[numbers[name]]["step"] = torch.tensor(float(self.engine.global_steps))
        return {"state": state, "param_groups": self.groups}

    def load(self, weights: Mapping[str, Tensor], optimizer: dict[str, Any], folder: Path, step: int) -> None:
        raise ValueError("DeepSpeed cannot take up an optimiser's state here; resume with --parallel fsdp or ddp, or begin a new run from "
                         "these weights with --checkpoint")

    def _full(self, part: nn.Parameter) -> Tensor:
        if self.stage < 3:
            return part.detach().clone()
        with self.library.zero.GatheredParameters([part]):
            return part.detach().clone()

    def close(self) -> None:
        self.engine.destroy()


def read_settings(run_cfg: RunConfig) -> dict[str, Any]:
    """DeepSpeed's settings: those of ``deepspeed_config``, and what the run decides. Raises ValueError that names file and key."""
    path = Path(run_cfg.deepspeed_config or "")
    settings = read_json(path, ValueError, wanted_by=" (named by run_cfg.deepspeed_config)")
    stage = settings.get("zero_optimization", {}).get("stage") if isinstance(settings, dict) else None
    if stage not in (1, 2, 3):
        raise ValueError(f"run_cfg.deepspeed_config '{path}': zero_optimization.stage must be 1, 2 or 3, got {stage}")
    for key, decides in DECIDED.items():
        if settings.get(key, "auto") != "auto":
            raise ValueError(f"run_cfg.deepspeed_config '{path}': '{key}' is decided by {decides} of the run's config; leave it out")
    # The size of a batch is for DeepSpeed's reports alone; bfloat16 comes from the model's autocast, over weights in float32.
    return {**{key: value for key, value in settings.items() if key not in DECIDED}, "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": run_cfg.gradient_accumulation_steps, "zero_allow_untested_optimizer": True,
            "gradient_clipping": max(run_cfg.grad_norm or 0.0, 0.0)}


def _deepspeed() -> ModuleType:
    try:
        return import_extra("deepspeed")
    except ImportError as error:
        raise ValueError(f"run_cfg.parallel deepspeed: {error}. --parallel fsdp needs no package and shares out as much as its stage 3"
                         ) from error

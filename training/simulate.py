"""A training step as one of many processes, on a machine with neither GPUs nor other processes: torch's fake process group, in which nobody
answers, and fake tensors, which have no numbers. What runs is the real model in its real engine, forward and backward; what comes out are
bytes: those each collective sends and receives, and those that lie in memory.

Hard negatives are taken to be drawn anywhere in the global batch, captions of others to be as long as one's own. The update of the weights
is not run: its moments are added, its work is known (cards.py).
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed._tools.fake_collectives  # noqa: F401 (tells fake tensors what collectives return)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import distributed as torch_ddp
from torch.testing._internal.distributed.fake_pg import FakeStore

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.device_kind import pretending
from omnivast.training.engines.build import build_engine
from omnivast.training.engines.ddp import DataParallel
from omnivast.training.estimate import PRECISIONS, repeated
from omnivast.utils import distributed
from omnivast.utils.collectives import Collectives
from omnivast.utils.distributed import counted_traffic
from omnivast.utils.fake import LiveBytes, without_numbers
from omnivast.utils.random import StepRandom
from omnivast.utils.work import Work

BUCKET = 25 * 2**20
"""Bytes of a bucket of DistributedDataParallel, but of the first (its ``bucket_cap_mb``)."""


@dataclasses.dataclass
class Simulated:
    """One step of one process."""

    clips: int
    """Of this process and of one batch."""
    batches: int
    """Of the step: gradient_accumulation_steps."""
    processes: int
    memory: dict[str, int]
    """Bytes: "weights" (with buffers) and "moments" that this process holds; "in the step", what is there besides at the fullest moment,
    gradients and the batch among it; "together"."""
    trained: int
    """Trained numbers whose update is this process's work."""
    collectives: Collectives
    sent: dict[distributed.Kind, int]
    """Bytes by what our own exchanges are for (utils.distributed.Traffic)."""
    work: Work


def simulated_step(model: nn.Module, batch: Batch, task: Task, run: RunConfig, clips: int, processes: int, moments: int = 2,
                   kind: str = "cuda") -> Simulated:
    """A step of ``model``, which may lie on the device "meta", with ``clips`` clips of each process like those of ``batch``.

    Args:
        run: its parallel (ddp or fsdp), precision and gradient_accumulation_steps count.
        moments: numbers that the optimiser keeps for each trained one.
        kind: of device that code is to take for its own.

    Raises ValueError for another engine.
    """
    if run.parallel not in ("ddp", "fsdp"):
        raise ValueError(f"run_cfg.parallel {run.parallel} cannot be simulated; fsdp shares out as much as DeepSpeed's stage 3")
    run = dataclasses.replace(run, compile=False, async_save=False, optim="adamw")
    sized = repeated(batch, clips)
    with group_of(processes), FakeTensorMode(), pretending(kind), Collectives(0, processes) as collectives, LiveBytes() as live:
        fake: Any = without_numbers(model, "cpu").train()
        fake.precision = PRECISIONS[run.precision]
        for module in fake.modules():
            if hasattr(module, "layerdrop"):
                module.layerdrop = 0.0
        sized = sized.map_media(lambda x: torch.empty((clips, *x.shape[1:]), dtype=x.dtype, device="cpu"))
        engine = build_engine(fake, run, torch.device("cpu"))
        del fake
        if processes > 1:
            engine.begin(sized, {task})
        if isinstance(engine, DataParallel) and engine.wrapped is not None:
            engine.wrapped.register_comm_hook(None, lambda _, bucket: _averaged(bucket))
        gc.collect()  # what an engine has let go stands in circles
        collectives.found.clear()
        weights = sum(x.numel() * x.element_size() for x in map(_own, [*engine.trained.parameters(), *engine.trained.buffers()]))
        live.peak = live.now
        with counted_traffic() as traffic, Work() as work:
            for micro in range(run.gradient_accumulation_steps):
                draws = StepRandom(run.seed, micro, 0, clips * processes)
                with engine.micro_batch(last=micro == run.gradient_accumulation_steps - 1):
                    engine.backward(engine(sized, task, draws)["loss"])
        trained = sum(_own(parameter).numel() for parameter in engine.trained.parameters() if parameter.requires_grad)
        sizes = {"weights": weights, "moments": 4 * moments * trained, "in the step": live.peak - weights}
        engine.close()
    return Simulated(clips, run.gradient_accumulation_steps, processes, {**sizes, "together": sum(sizes.values())}, trained, collectives,
                     traffic.sent, work)


@contextmanager
def group_of(processes: int) -> Iterator[None]:
    """Inside, this process is the first of a group whose others do not exist. Raises RuntimeError within another group."""
    if processes == 1:
        yield
        return
    if dist.is_initialized():
        raise RuntimeError("a group is simulated by one process; start it without torchrun")
    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        # DistributedDataParallel looks at numbers of all processes once, to see that they have the same model.
        with (mock.patch.object(torch_ddp, "_verify_param_shape_across_processes", lambda *_, **__: None),
              mock.patch.object(torch_ddp, "_sync_module_states", lambda *_, **__: None)):
            yield
    finally:
        dist.destroy_process_group()


def _averaged(bucket: Any) -> torch.futures.Future[Tensor]:
    """What DistributedDataParallel does with gradients by itself, but with a result that it can read in a fake group. Its first step, the
    one that is run, has one bucket of all of them; they are sent in buckets of the sizes that all others have."""
    gradients = bucket.buffer().div_(distributed.world_size())
    limits = [dist._DEFAULT_FIRST_BUCKET_BYTES, BUCKET]
    parts, _ = dist._compute_bucket_assignment_by_size(bucket.gradients(), limits)
    for part in gradients.split([sum(bucket.gradients()[i].numel() for i in chosen) for chosen in parts]):
        dist.all_reduce(part)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(gradients)
    return done


def _own(parameter: Tensor) -> Tensor:
    """The share of a parameter that this process holds."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter

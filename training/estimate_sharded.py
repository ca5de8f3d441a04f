"""What each of several GPUs would need for a step of a training under FSDP2 (or ZeRO-3, which shares the same out), found out by one
process without any: see estimate.py."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.interface import Model
from omnivast.training.estimate import PRECISIONS, needs

AT_ONCE = 2
"""Blocks whose weights are there at the same time: one computes while the next is gathered."""


def share_of_each(model: Model, batch: Batch, task: Task, run: RunConfig, clips: int, processes: int, moments: int = 2) -> dict[str, int]:
    """Bytes of each process, by what they are for, and "together".

    Shared out in float32 are all weights, the gradients of those that are trained, and ``moments`` numbers for each of these; every tensor
    by its first dimension, as FSDP2 does, so that small ones are rounded up. What is no part of a block is gathered for the whole step.

    Args:
        model: it may lie on the device "meta".
        clips: of one process.
    """
    precision = PRECISIONS[run.precision]
    width = 4 if precision is None else precision.itemsize
    units = [list(unit.module.parameters()) for unit in model.units() if unit.gathered == "pass"]
    inside = {id(parameter) for own in units for parameter in own}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    largest = max((_numbers(own) for own in units), default=0)
    reduced = max((_numbers(p for p in own if p.requires_grad) for own in units), default=0)
    sizes = {
        "weights": 4 * _share(model.parameters(), processes) + sum(buffer.nbytes for buffer in model.buffers()),
        "gradients": 4 * _share(trained, processes),
        "moments": 4 * moments * _share(trained, processes),
        "gathered for the step": 4 * _numbers(p for p in model.parameters() if id(p) not in inside),
        "gathered for a block": AT_ONCE * width * largest + 4 * reduced,
        "activations": needs(model, batch, task, run, clips, sharded=True).peak}
    return {**sizes, "together": sum(sizes.values())}


def _share(parameters: Iterable[nn.Parameter], processes: int) -> int:
    """Numbers of the largest share."""
    return sum(-(-len(p) // processes) * (p.numel() // max(1, len(p))) if p.ndim else 1 for p in parameters)


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)

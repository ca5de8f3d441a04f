"""What this process sends to others and gets from them, by collective, as torch's dispatcher sees it: also what torch's own wrappers send
(DistributedDataParallel, FSDP2), and also in a group that is simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NAMES = {"allreduce_": "all-reduce", "all_reduce": "all-reduce", "all_reduce_": "all-reduce",
         "allgather_": "all-gather", "_allgather_base_": "all-gather", "all_gather_into_tensor": "all-gather",
         "_reduce_scatter_base_": "reduce-scatter", "reduce_scatter_": "reduce-scatter", "reduce_scatter_tensor": "reduce-scatter",
         "alltoall_base_": "all-to-all", "alltoall_": "all-to-all", "all_to_all_single": "all-to-all",
         "broadcast_": "broadcast", "broadcast": "broadcast", "send": "send", "recv_": "receive"}
"""Operation of the dispatcher → the collective. What is missing moves no data, such as barriers."""
BY_ENGINE = ("_allgather_base_", "_reduce_scatter_base_", "allreduce_")
"""Operations by which DistributedDataParallel and FSDP2 move gradients and weights, while the device computes."""


@dataclass(frozen=True)
class Collective:
    """One exchange of this process."""

    name: str
    operation: str
    sent: float
    received: float
    backward: bool
    """Whether it was called from the backward pass."""


class Collectives(TorchDispatchMode):
    """Inside, every collective is noted in ``found``. Bytes are those of the usual algorithms, for W processes: of n bytes, all-gather
    sends n (W − 1), reduce-scatter n (W − 1) / W, all-reduce 2 n (W − 1) / W in a ring, all-to-all what is meant for others.

    It is meant for simulated groups: between real processes under FSDP2 torch's gloo may wait for Python's lock inside a dispatch mode,
    and never end; there :meth:`note` is called where a collective is."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self.rank, self.world = rank, world
        self.found: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.note(func.overloadpacket.__name__, args)
        return func(*args, **(kwargs or {}))

    def note(self, operation: str, args: Any) -> None:
        name = NAMES.get(operation)
        if name is None or self.world == 1:
            return
        sent, received = _bytes(name, operation, args, self.rank, self.world)
        backward = torch._C._current_graph_task_id() != -1
        self.found.append(Collective(name, operation, sent, received, backward))

    def by_name(self) -> dict[str, tuple[int, float, float]]:
        """Collective → how often, bytes sent, bytes received."""
        totals: dict[str, tuple[int, float, float]] = {}
        for one in self.found:
            count, sent, received = totals.get(one.name, (0, 0.0, 0.0))
            totals[one.name] = count + 1, sent + one.sent, received + one.received
        return totals


def _bytes(name: str, operation: str, args: Any, rank: int, world: int) -> tuple[float, float]:
    """Bytes sent and received."""
    if name == "all-to-all" and operation == "alltoall_base_":
        output, given = args[0], args[1]
        return _leaving(given, args[4], rank, world), _leaving(output, args[3], rank, world)
    place = {"all-gather": 1, "reduce-scatter": 1}.get(name, 0) if not operation.startswith(("all_gather", "reduce_scatter_t")) else 0
    size = float(_size(args[place]))
    if name == "all-gather":
        return size * (world - 1), size * (world - 1)
    if name == "all-reduce":
        return 2 * size * (world - 1) / world, 2 * size * (world - 1) / world
    if name in ("reduce-scatter", "all-to-all"):
        return size * (world - 1) / world, size * (world - 1) / world
    return (0.0 if name == "receive" else size), (0.0 if name == "send" else size)


def _leaving(tensor: Tensor, splits: list[int] | None, rank: int, world: int) -> float:
    """Bytes of all parts of a tensor but this process's own; without ``splits`` all have one size."""
    return _size(tensor) * (1 - (splits[rank] / max(1, sum(splits)) if splits else 1 / world))


def _size(tensors: Any) -> int:
    return sum(x.numel() * x.element_size() for x in _tensors(tensors))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)

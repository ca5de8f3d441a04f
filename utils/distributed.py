"""Processes: one or many through the same code. The number of processes is read from the launcher's environment.

The collectives on features carry gradient: the backward of a gather sums what every process contributed, and the backward
of a fetch by index sends each row's gradient back to its owner.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def setup(device_name: str = "auto", timeout_minutes: float = 30.0) -> torch.device:
    """Join the process group that ``torchrun`` (or ``torch.distributed.launch``) describes, if any, and pick the device.

    Raises ValueError when ``device_name`` is "cuda" and there is no GPU.
    """
    chosen = device(device_name)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(minutes=timeout_minutes))
    return chosen


def teardown() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device(name: str = "auto") -> torch.device:
    """"auto" → this process's GPU where there is one, else the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no GPU; use --device cpu or auto")
    index = local_rank() % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def all_gather_objects(value: Any) -> list[Any]:
    """``value`` of every process, in the order of ranks."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def any_process(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True on every process when it is on one."""
    if world_size() == 1:
        return flag
    count = torch.tensor([float(flag)], device=device)
    dist.all_reduce(count)
    return bool(count.item() > 0)


def gather_rows(rows: Tensor, with_grad: bool) -> Tensor:
    """(n, …) of every process → (n · processes, …) in the order of ranks; each process must have the same n.

    Without gradient the own rows are cut off from the graph as well, so that the function is the same for any number of
    processes (gradient then flows only through what is compared with the gathered rows).
    """
    if not with_grad:
        rows = rows.detach()
    return rows if world_size() == 1 else _GatherRows.apply(rows)


def fetch_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows of the global batch by their global index, with gradient: (n, …), (k,) int64 → (k, …).

    Each process holds n rows, numbered rank · n onwards. Only the rows asked for travel (two all-to-all exchanges), so
    traffic grows with k and not with the number of processes.
    """
    if world_size() == 1:
        return rows[index]
    return _FetchRows.apply(rows, index)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


class _FetchRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        own = rows.shape[0]
        order = torch.argsort(index, stable=True)
        wanted = index[order]
        ask = torch.bincount(wanted // own, minlength=world_size())
        give = torch.empty_like(ask)
        dist.all_to_all_single(give, ask)
        asked, given = ask.tolist(), give.tolist()
        local = index.new_empty(sum(given))
        dist.all_to_all_single(local, wanted % own, given, asked)
        received = rows.new_empty((len(index), *rows.shape[1:]))
        dist.all_to_all_single(received, rows[local].contiguous(), asked, given)
        fetched = torch.empty_like(received)
        fetched[order] = received
        ctx.save_for_backward(order, local)
        ctx.sizes, ctx.own = (asked, given), own
        return fetched

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        order, local = ctx.saved_tensors
        asked, given = ctx.sizes
        returned = grad.new_empty((sum(given), *grad.shape[1:]))
        dist.all_to_all_single(returned, grad[order].contiguous(), given, asked)
        rows = grad.new_zeros((ctx.own, *grad.shape[1:]))
        return rows.index_add_(0, local, returned), None

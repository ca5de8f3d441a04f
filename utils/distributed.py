"""Processes: one or many through the same code. The number of processes is read from the launcher's environment.

The collectives on features carry gradient: the backward of a gather sums what every process contributed, and the backward
of a fetch by index sends each row's gradient back to its owner. What they send can be counted, see :class:`Traffic`.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from omnivast.utils.machine import cores
from omnivast.utils.transfer import Index, send, to_host

POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl that sets the signal which a process gets when its parent ends."""
Computed = TypeVar("Computed")
Kind = Literal["gather", "reduce", "fetch", "index", "objects"]


@dataclass
class Traffic:
    """Bytes that this process sent to others, by kind of exchange, with W processes:

    - gather: n bytes of this process's rows to every other, n (W − 1); their gradient, of n W bytes, by reduce-scatter, as many;
    - reduce: n bytes summed, or their largest found, in a ring: 2 n (W − 1) / W;
    - fetch: rows that others asked for, and gradients of rows fetched from others, as they are sent;
    - index: n bytes of numbers that the hosts plan with, such as those of the rows asked for, to every process, n (W − 1);
    - objects: a pickled object of n bytes to every process, n (W − 1).

    What DistributedDataParallel and its like send is not among them: gradients of n bytes in a ring, 2 n (W − 1) / W. A tree or a
    network that sums takes fewer bytes for "gather" and "reduce"; a row that stays on its process is not counted.
    """

    sent: dict[Kind, int] = field(default_factory=dict)

    def add(self, kind: Kind, size: float) -> None:
        self.sent[kind] = self.sent.get(kind, 0) + round(size)


_traffic: list[Traffic] = []


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """Inside this context, the bytes that this process sends through the functions of this module are counted."""
    traffic = Traffic()
    _traffic.append(traffic)
    try:
        yield traffic
    finally:
        _traffic.remove(traffic)


def _count(kind: Kind, size: float) -> None:
    for traffic in _traffic:
        traffic.add(kind, size)


class ExchangeClock:
    """Seconds that this process spends in exchanges with others, for the network and for those that come later: on a GPU in its stream,
    measured by events, so that the host does not wait."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    @contextmanager
    def running(self, tensor: Tensor) -> Iterator[None]:
        """An exchange of ``tensor`` runs inside."""
        began = time.monotonic()
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if tensor.is_cuda else []
        if pair:
            pair[0].record()
        yield
        if pair:
            pair[1].record()
            self._events.append((pair[0], pair[1]))
        else:
            self._seconds += time.monotonic() - began

    def take(self) -> float:
        """Those since the last call, of the exchanges that are over on the GPU."""
        over = [pair for pair in self._events if pair[1].query()]
        self._events = [pair for pair in self._events if pair not in over]
        seconds, self._seconds = self._seconds + sum(first.elapsed_time(last) for first, last in over) / 1e3, 0.0
        return seconds


_clocks: list[ExchangeClock] = []


@contextmanager
def timed_exchanges() -> Iterator[ExchangeClock]:
    """Inside this context, the exchanges of this module are timed, also those of the backward pass."""
    clock = ExchangeClock()
    _clocks.append(clock)
    try:
        yield clock
    finally:
        _clocks.remove(clock)


@contextmanager
def _timed(tensor: Tensor) -> Iterator[None]:
    with ExitStack() as stack:
        for clock in _clocks:
            stack.enter_context(clock.running(tensor))
        yield


def setup(device_name: str = "auto", timeout_minutes: float = 30.0) -> torch.device:
    """Join the process group that ``torchrun`` (or ``torch.distributed.launch``) describes, if any, and pick the device.

    Raises ValueError when there is no device of that name.
    """
    chosen = device(device_name)
    end_with_launcher()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        limit = timedelta(minutes=timeout_minutes)
        store, rank, world = next(dist.rendezvous("env://", timeout=limit))
        backend = {"cuda": "nccl", "xpu": "xccl"}.get(chosen.type, "gloo")
        dist.init_process_group(backend, store=agreed_store(store, rank, world, limit), rank=rank, world_size=world, timeout=limit)
    return chosen


def end_with_launcher() -> None:
    """Let this process get SIGTERM when the torchrun that started it ends, however it does; where it is not Linux, nothing. Otherwise
    the processes of a launcher that was killed would run on unseen, and keep its GPUs and its output folder."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def agreed_store(store: dist.Store, rank: int, world: int, timeout: timedelta) -> dist.Store:
    """``store`` under a name for this start of the group, on which the ``world`` processes agree; this one is ``rank``.

    When torchrun starts a group again, the store still holds what the last start left there, and addresses of dead processes would be
    called. The machines do not agree on how often the group was started. So rank 0 gives the start a random name; each of the others
    answers with a random name too; and a start whose answers are acknowledged is the present one.
    """
    name = uuid.uuid4().hex
    deadline = time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("start", name)
        answers = [f"{name}/{other}" for other in range(1, world)]
        store.wait(answers, timeout)
        store.set(f"{name}/all", "\n".join([name, *(store.get(answer).decode() for answer in answers)]))
        return dist.PrefixStore(name, store)
    while time.monotonic() < deadline:
        if store.check(["start"]):
            start = store.get("start").decode()
            store.set(f"{start}/{rank}", name)
            if store.check([f"{start}/all"]) and store.get(f"{start}/all").decode().split("\n")[rank] == name:
                return dist.PrefixStore(start, store)
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"rank {rank} found no rank 0 within {timeout}: was every process started, with the same master address and port?")


def teardown() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device(name: str = "auto") -> torch.device:
    """This process's device of that name; "auto" → CUDA where there is a GPU, else the CPU. Raises ValueError where torch finds none."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    kind = "cuda" if name == "auto" else name
    accelerator: Any = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type != kind:
        has = "no GPU" if accelerator is None else f"only '{accelerator.type}'"
        raise ValueError(f"device '{kind}' was asked for, but torch finds {has}; use --device cpu or auto")
    chosen = torch.device(kind, local_rank() % torch.accelerator.device_count())
    torch.accelerator.set_device_index(chosen.index)
    return chosen


def set_threads(number: int = 0) -> None:
    """Set how many threads torch uses in this process; 0 divides the machine's CPUs among its processes."""
    torch.set_num_threads(number or max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def simulated() -> bool:
    """Whether the group's other processes do not exist (torch's "fake" backend): what comes from them has shapes, and no numbers."""
    return dist.is_initialized() and dist.get_backend() == "fake"


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def all_gather_objects(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """``value`` of every process, in the order of ranks. ``group`` is a group of all processes for a thread that must not use the default
    one."""
    if world_size() == 1 or simulated():
        return [value] * world_size()
    if _traffic:
        _count("objects", len(pickle.dumps(value)) * (world_size() - 1))
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value, group)
    return gathered


def computed_once(compute: Callable[[], Computed]) -> Computed:
    """The result of ``compute`` on the main process, on every process."""
    return all_gather_objects(compute() if is_main() else None)[0]  # type: ignore[no-any-return]


def any_process(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True on every process when ``flag`` is True on any."""
    return bool(largest(torch.tensor([float(flag)], device=device)).item() > 0)


def largest(values: Tensor) -> Tensor:
    """The largest of each value over the processes; ``values`` is changed in place and returned."""
    return _all_reduce(values, dist.ReduceOp.MAX)


def total(values: Tensor) -> Tensor:
    """The sum of each value over the processes; ``values`` is changed in place and returned."""
    return _all_reduce(values, dist.ReduceOp.SUM)


def _all_reduce(values: Tensor, how: Any) -> Tensor:
    if world_size() > 1:
        _count("reduce", 2 * _bytes(values) * (world_size() - 1) / world_size())
        with _timed(values):
            dist.all_reduce(values, how)
    return values


def gather_rows(rows: Tensor, with_grad: bool) -> Tensor:
    """Gathers (n, …) of every process into (n · processes, …), in the order of ranks; each process must have the same n.

    Without gradient the rows of this process are detached too, so that the function is the same for any number of processes (gradient
    then flows only through what is compared with the gathered rows).
    """
    if not with_grad:
        rows = rows.detach()
    return rows if world_size() == 1 else _GatherRows.apply(rows)


def gather_numbers(numbers: Tensor, known: np.ndarray | None = None, below: int = 1) -> np.ndarray:
    """Gathers (n,) integers of every process, and (k,) that its host knows, into (processes, n + k) on the host, which waits for them; each
    process must have as many. In a simulated group random ones ``below`` a limit are made up, and all hosts are taken to know the same."""
    facts = np.empty(0, np.int64) if known is None else known
    if facts.size:
        numbers = torch.cat([numbers, send(facts, numbers.device)])
    if world_size() == 1:
        return to_host(numbers)[None]
    numbers = numbers.int()  # half the bytes
    _count("index", _bytes(numbers) * (world_size() - 1))
    parts = [torch.empty_like(numbers) for _ in range(world_size())]
    with _timed(numbers):
        dist.all_gather(parts, numbers)
    gathered = torch.stack(parts)
    if simulated():
        drawn = np.random.default_rng(0).integers(below, size=(world_size(), len(numbers) - len(facts)))
        return np.concatenate([drawn, np.tile(facts, (world_size(), 1))], 1)
    return to_host(gathered).astype(np.int64)


@dataclass
class Routes:
    """Which rows this process gets from whom, and sends to whom. Every process knows what all of them ask for.

    order: (k,) the position to which each received row belongs; rows arrive in the order of their senders. local: numbers of this
    process's rows in the order in which they are sent. asked, given: how many rows come from and go to each process.
    """

    order: Index
    local: Index
    asked: list[int]
    given: list[int]

    @classmethod
    def of(cls, wanted: Sequence[np.ndarray], rows: int) -> Routes:
        """The routes, given the global rows that each process wants. Each process holds ``rows`` rows, numbered from rank · rows."""
        def owners(numbers: np.ndarray) -> np.ndarray:
            return numbers // rows

        order = np.argsort(wanted[rank()], kind="stable")
        leaving = [np.sort(numbers[owners(numbers) == rank()]) % rows for numbers in wanted]
        asked = np.bincount(owners(wanted[rank()]), minlength=world_size())
        return cls(order, np.concatenate(leaving), asked.tolist(), list(map(len, leaving)))


def fetch_rows(rows: Tensor, routes: Routes, wire: torch.dtype | None = None) -> Tensor:
    """Rows of the global batch along ``routes`` (sent to the device of ``rows``), with gradient: (n, …) → (k, …).

    Only the rows asked for travel (one all-to-all exchange, and one of their gradients), so traffic grows with k and not with the
    number of processes. With several processes, rows and gradients travel as ``wire`` where it is given, and the result is of that
    type; gradients are summed in float32.
    """
    if world_size() == 1:
        return rows[routes.local[routes.order.argsort()]]
    return _FetchRows.apply(rows, routes, wire or rows.dtype)


def fetch_host_rows(offered: Sequence[np.ndarray], routes: Sequence[Routes], device: torch.device) -> list[np.ndarray]:
    """Rows of integers of the global batch that lie on the hosts, of several arrays (n, …) along routes of their own. They travel between
    the devices; the host waits once. In a simulated group this process's own rows stand for those of others."""
    local = send([np.ascontiguousarray(rows) for rows in offered], device)
    fetched = [fetch_rows(rows, own) for rows, own in zip(local, routes)]
    joined = torch.cat([rows.flatten() for rows in fetched])
    if simulated():
        return [rows[np.arange(sum(own.asked)) % len(rows)] for rows, own in zip(offered, routes)]
    parts = np.split(to_host(joined), np.cumsum([rows.numel() for rows in fetched])[:-1])
    return [part.reshape(rows.shape) for part, rows in zip(parts, fetched)]


def scatter_sum(parts: Tensor) -> Tensor:
    """Sums (n · processes, …) over the processes and gives each process its part, (n, …)."""
    world, share = world_size(), parts.shape[0] // world_size()
    _count("gather", _bytes(parts) * (world - 1) / world)
    if dist.get_backend() == "nccl":
        result = parts.new_empty((share, *parts.shape[1:]))
        with _timed(parts):
            dist.reduce_scatter_tensor(result, parts)
        return result
    # Gloo's reduce-scatter sums everything everywhere. This sends each part only to its owner.
    received = torch.empty_like(parts)
    with _timed(parts):
        dist.all_to_all_single(received, parts)
    return received.unflatten(0, (world, share)).sum(0)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        _count("gather", _bytes(rows) * (world_size() - 1))
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        with _timed(rows):
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return scatter_sum(grad.contiguous())


class _FetchRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, routes: Routes, wire: torch.dtype) -> Tensor:
        received = _exchange(rows[routes.local].to(wire), routes.given, routes.asked)
        fetched = torch.empty_like(received)
        fetched[routes.order] = received
        ctx.routes, ctx.count, ctx.dtype = routes, rows.shape[0], rows.dtype
        return fetched

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        routes = ctx.routes
        returned = _exchange(grad[routes.order], routes.asked, routes.given)
        rows = returned.new_zeros((ctx.count, *grad.shape[1:]), dtype=torch.promote_types(ctx.dtype, torch.float32))
        return rows.index_add_(0, routes.local, returned.to(rows.dtype)).to(ctx.dtype), None, None


def _exchange(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """``rows`` (n, …) in the order of the processes they go to, ``sent`` to each → those received, in the order of their senders."""
    result = rows.new_empty((sum(received), *rows.shape[1:]))
    _count("fetch", _bytes(rows) * (1 - sent[rank()] / len(rows)) if len(rows) else 0)
    with _timed(rows):
        dist.all_to_all_single(result, rows.contiguous(), received, sent)
    return result


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

"""In which number format products are computed: what a machine computes natively, measured, and what follows from it.

:func:`decide` is a pure function of what was asked for and of a :class:`Machine`; :func:`resolve` looks at the machine on rank 0 and gives
every process the same answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional as F

from omnivast.utils import distributed

logger = logging.getLogger("omnivast")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MARGIN = 1.3
"""How many times faster than float32 measured products must be in bf16 for bf16 to be chosen. CPUs with native bf16 measure 2 to 15,
those without 0.01 to 0.3. The gap keeps other work on the machine from changing the choice; what is near a tie computes in float32."""
ROWS, REPEATS = 2048, 7
OPERATIONS = 2**28
"""Operations of a product that is timed on a CPU, about; by one thread, so that none waits for another: some milliseconds."""
WEIGHTS = 2**18
"""The most numbers in the weights of a timed product, which has 32 columns at least: the weights of a wide model would take longer to
make and to convert than the product takes."""
GLANCE = 2**23
"""Operations of a first, small product, which tells whether bf16 is only emulated, so that no large one has to be waited for."""
GLANCES = 3
"""How often that must be found: on a busy machine one glance may be wrong, and a run that goes on would then compute otherwise."""


@dataclass(frozen=True)
class Machine:
    """A device, and how fast it computes products in each format."""

    kind: str
    """cuda, rocm (AMD's cards, which torch calls cuda), xpu, mps or cpu."""
    name: str
    capability: tuple[int, int] | None
    """CUDA's compute capability."""
    width: int
    """Width of the measured products: (rows, width) × (width, columns), with 4 · width columns or, on a CPU, as many as ``WEIGHTS``
    allows."""
    rates: Mapping[str, float]
    """Operations per second of these products in each format; 0 where torch refuses it. Without float32: not measured."""

    def times(self, name: str, other: str) -> float:
        """How many times as long products take in ``name`` as in ``other``; 0 where it is not known."""
        rate = self.rates.get(name, 0.0)
        return self.rates.get(other, 0.0) / rate if rate > 0 else 0.0

    def computes(self, name: str) -> bool:
        """Whether ``name`` is worth choosing here: the hardware computes it, not torch in its place."""
        if name == "float32":
            return True
        if self.kind == "cuda":
            return (self.capability or (0, 0)) >= ((8, 0) if name == "bf16" else (7, 0))
        return self.times("float32", name) >= MARGIN


@dataclass(frozen=True)
class Precision:
    """The format in which a run computes its products; similarities, losses and weights are float32 whatever it is."""

    name: str
    """float32, bf16 or fp16."""
    reason: str
    """Why this one, and what another would cost: one line."""
    warnings: tuple[str, ...] = ()

    @property
    def autocast(self) -> torch.dtype | None:
        """The type for autocast; None: there is nothing to cast."""
        return None if self.name == "float32" else DTYPES[self.name]

    @property
    def scaled(self) -> bool:
        """Whether the gradient needs a scaler."""
        return self.name == "fp16"


def decide(asked: str, machine: Machine, *, usable: Collection[str] = tuple(DTYPES), kept: str | None = None) -> Precision:
    """The precision of a run.

    Args:
        asked: auto, float32, bf16 or fp16.
        usable: formats that the run can train in.
        kept: what this run computed in before it was interrupted; ``auto`` keeps it.
    """
    best = _best(machine, usable)
    name = asked if asked != "auto" else kept or best
    warnings = []
    if name == "fp16" and machine.kind == "cpu":
        name = "float32"
        warnings.append("fp16 needs a GPU: this run on the CPU uses float32 (--precision auto takes bf16 on CPUs that compute it)")
    if asked != "auto":
        why = "asked for"
    elif name == kept:
        why = "as the run began" + ("" if name == best else f", though this machine alone would take {best}")
    else:
        why = "chosen"
    if name != "float32" and not machine.computes(name) and (machine.kind == "cuda" or machine.times(name, "float32") > 1):
        times = machine.times(name, "float32")
        measured = f": products of width {machine.width} take {times:.3g} times as long as in float32" if times else ""
        warnings.append(f"{name} is only emulated by {machine.name}{measured}; --precision auto takes {best} here")
    return Precision(name, f"{why} on {machine.name}{_costs(name, machine)}", tuple(warnings))


def _best(machine: Machine, usable: Collection[str]) -> str:
    if "bf16" in usable and machine.computes("bf16"):
        return "bf16"
    return "fp16" if "fp16" in usable and machine.kind == "cuda" and machine.computes("fp16") else "float32"


def _costs(name: str, machine: Machine) -> str:
    """How the formats compare in products of the model's width."""
    if not machine.rates.get(name):
        return ""
    others = [f"in {other} they take {machine.times(other, name):.3g} times as long" if rate else f"{other} is not possible"
              for other, rate in machine.rates.items() if other != name]
    whose = " of a thread" if machine.kind == "cpu" else ""
    return "; ".join([f": products of width {machine.width} run at {machine.rates[name] / 1e9:.3g} GFLOP/s{whose}", *others])


def resolve(asked: str, device: torch.device, width: int, *, usable: Collection[str] = tuple(DTYPES),
            kept: str | None = None) -> Precision:
    """What :func:`decide` says of rank 0's machine; called on every process, the same on all. Logs the choice and its warnings.

    Args:
        width: the model's; products of it are timed.
    """
    decision = decide(asked, look(device, width), usable=usable, kept=kept) if distributed.is_main() else None
    chosen = cast(Precision, distributed.all_gather_objects(decision)[0])
    if distributed.is_main():
        logger.info("precision: %s, %s", chosen.name, chosen.reason)
        for warning in chosen.warnings:
            logger.warning("precision: %s", warning)
    return chosen


# ------------------------------------------------------------------------------------------------------------- the machine


def look(device: torch.device, width: int) -> Machine:
    """The machine, its products timed."""
    kind = "rocm" if device.type == "cuda" and torch.version.hip else device.type
    capability = torch.cuda.get_device_capability(device) if kind == "cuda" else None
    name = device_name(device) + (f" (compute capability {capability[0]}.{capability[1]})" if capability else "")
    return Machine(kind, name, capability, width, measure(device, width))


def device_name(device: torch.device) -> str:
    """The device in words: ``NVIDIA A100-SXM4-80GB``, ``cpu (AVX512)``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type


def measure(device: torch.device, width: int) -> dict[str, float]:
    """Operations per second of products of this width in each format that the device may train in; of a CPU, of one thread."""
    if device.type != "cpu":
        return _rates(device, (ROWS, width, 4 * width), list(DTYPES))
    columns = min(4 * width, max(32, WEIGHTS // width))
    threads, per_row = torch.get_num_threads(), 2 * width * columns
    torch.set_num_threads(1)
    try:
        for _ in range(GLANCES):
            glance = _rates(device, (max(4, min(64, GLANCE // per_row)), width, columns), ["float32", "bf16"])
            if glance["bf16"] >= glance["float32"] / 2:
                break
        else:
            return glance
        return _rates(device, (max(64, min(ROWS, OPERATIONS // per_row)), width, columns), ["float32", "bf16"])
    finally:
        torch.set_num_threads(threads)


def _rates(device: torch.device, sizes: tuple[int, int, int], names: Collection[str]) -> dict[str, float]:
    """Operations per second of products (rows, width) × (width, columns) in each format: the fastest of several calls, which other work
    on the machine disturbed least. The formats take turns."""
    rows, width, columns = sizes
    work = {}
    for name in names:
        try:
            inputs, weights = (torch.full((n, width), 0.5, device=device, dtype=DTYPES[name]) for n in (rows, columns))
            F.linear(inputs, weights)
            work[name] = inputs, weights
        except (RuntimeError, TypeError):  # Metal has no bfloat16 before macOS 14
            continue
    least = dict.fromkeys(work, float("inf"))
    for _ in range(REPEATS):
        for name, (inputs, weights) in work.items():
            _wait(device)
            began = time.perf_counter()
            F.linear(inputs, weights)
            _wait(device)
            least[name] = min(least[name], time.perf_counter() - began)
    return {name: 2.0 * rows * width * columns / max(least[name], 1e-9) if name in least else 0.0 for name in names}


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

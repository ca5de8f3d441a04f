"""Random numbers keyed by what they are for, so that a resumed run, or one on another number of processes, draws the same."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def stable_seed(*key: object) -> int:
    """A 63-bit seed from the text of ``key``; the same on every machine and in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by ``key``."""
    return torch.Generator().manual_seed(stable_seed(*key))


def seed_everything(*key: object) -> None:
    """Seed torch (all devices), numpy and random by ``key``, for the draws of libraries (dropout, initialisation)."""
    seed = stable_seed(*key)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@dataclass(frozen=True)
class StepRandom:
    """The random draws of one step. Each is made for the whole global batch and cut to this process's rows, so that the numbers of a
    sample do not depend on the number of processes."""

    seed: int
    step: int
    first_row: int = 0
    """Global row of this process's first sample."""
    global_rows: int | None = None
    """Rows of the global batch; None: this process holds all of it."""

    def uniform(self, purpose: str, rows: int, *shape: int) -> Tensor:
        """(rows, *shape) float32 in [0, 1) on the CPU for this process's rows."""
        total = self.global_rows if self.global_rows is not None else rows
        draws = torch.rand((total, *shape), generator=generator(self.seed, purpose, self.step), device="cpu")
        return draws[self.first_row:self.first_row + rows]

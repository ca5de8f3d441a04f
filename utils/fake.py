"""Modules whose tensors have a shape, a type and a device, but no numbers and no memory (torch's FakeTensorMode): of a GPU that is not
there, or of a size that would not fit."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def without_numbers(module: _Module, device: torch.device | str) -> _Module:
    """Replace every parameter and buffer of ``module``, in place, by one on ``device``; called within a FakeTensorMode, of which they
    are then. What was one tensor in two places stays one."""
    made: dict[int, Tensor] = {}

    def replacement(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return made[id(tensor)]

    tensors = {id(x): x for x in [*module.parameters(), *module.buffers()]}  # alive, so that no number is given twice
    for part in module.modules():
        for own in (part._parameters, part._buffers):
            for name, tensor in own.items():
                if tensor is not None and id(tensor) in tensors:
                    own[name] = replacement(tensor)
    return module

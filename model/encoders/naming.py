"""State dicts in the release's naming, for towers whose library names their parameters otherwise.

A checkpoint of ours then holds the release's names by construction, and reads the release's without a further table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def store_as_released(module: nn.Module, parts: Mapping[str, str] | Callable[[str], str], flat: Sequence[str] = ()) -> None:
    """Make ``module.state_dict()`` give, and ``load_state_dict`` take, the release's names, alone and as part of a model.

    ``parts`` maps parts of the library's names to the release's, in order, or is a function of a name. ``flat`` lists released names
    that are stored without leading dimensions of size 1. Raises ValueError when two names become one.
    """
    def released(name: str) -> str:
        if callable(parts):
            return parts(name)
        for own, theirs in parts.items():
            name = name.replace(own, theirs)
        return name

    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    names = {own: released(own) for own in shapes}
    if len(set(names.values())) < len(names):
        raise ValueError(f"{type(module).__name__}: two parameters have one released name")

    def save(_: nn.Module, state: dict[str, Tensor], prefix: str, __: Any) -> None:
        found = [(name, state.pop(prefix + own)) for own, name in names.items() if prefix + own in state]
        state.update((prefix + name, tensor.view(_without_ones(tensor)) if name in flat else tensor) for name, tensor in found)

    def load(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
        found = [(own, state.pop(prefix + name)) for own, name in names.items() if prefix + name in state]
        for own, tensor in found:
            fits = names[own] in flat and tensor.numel() == shapes[own].numel()
            state[prefix + own] = tensor.view(shapes[own]) if fits else tensor

    module.register_state_dict_post_hook(save)
    module.register_load_state_dict_pre_hook(load)


def _without_ones(tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape

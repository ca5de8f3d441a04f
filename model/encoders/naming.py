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
        for part, released_part in parts.items():
            name = name.replace(part, released_part)
        return name

    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    released_names = {name: released(name) for name in shapes}
    if len(set(released_names.values())) < len(released_names):
        raise ValueError(f"{type(module).__name__}: two parameters have one released name")

    def save(_: nn.Module, state: dict[str, Tensor], prefix: str, __: Any) -> None:
        renamed = [(to, state.pop(prefix + name)) for name, to in released_names.items() if prefix + name in state]
        state.update((prefix + to, tensor.view(_without_ones(tensor)) if to in flat else tensor) for to, tensor in renamed)

    def load(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
        renamed = [(name, state.pop(prefix + to)) for name, to in released_names.items() if prefix + to in state]
        for name, tensor in renamed:
            fits = released_names[name] in flat and tensor.numel() == shapes[name].numel()
            state[prefix + name] = tensor.view(shapes[name]) if fits else tensor

    module.register_state_dict_post_hook(save)
    module.register_load_state_dict_pre_hook(load)


def _without_ones(tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape

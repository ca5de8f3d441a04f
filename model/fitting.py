"""A model larger than the machine's memory is refused before it is made: what the system does then is to end the process without a word,
or some other one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from omnivast.config.schema import ModelConfig
from omnivast.utils.machine import free_memory, memory

FACTORIES = frozenset([torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn])
"""How the layers of torch and of model libraries make their parameters."""
NAMED = 3
LAYERS = 10_000
"""The most layers a model may have. More would take minutes to build before memory is full; the deepest published models have hundreds."""


class TooLarge(ValueError):  # noqa: N818 (named for what the user meets)
    """The model does not fit; the message names its largest sizes and the memory."""


class Fitting(TorchFunctionMode):
    """Inside this context, parameters are made on the CPU. Raises TooLarge before they take more than the free memory, or than half of
    all memory where that is more, since other programs may yet give some back."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """``sizes``: the settings, by name, that may be the cause. Raises TooLarge for absurdly many layers, however small each."""
        super().__init__()
        for name, size in sizes.items():
            if name.endswith(("layers", "depth")) and size > LAYERS:
                raise TooLarge(f"{name} {size:,}: a model may have {LAYERS:,} layers")
        self.sizes, self.limit, self.bytes = sizes, max(free_memory(), memory() // 2), 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            self._add(kwargs.get("size", args[0] if args and isinstance(args[0], Sequence) else args), kwargs.get("dtype"))
        return func(*args, **kwargs)

    def _add(self, shape: Sequence[int], dtype: torch.dtype | None) -> None:
        self.bytes += math.prod(shape) * (dtype or torch.get_default_dtype()).itemsize
        if self.bytes > self.limit:
            largest = sorted(self.sizes.items(), key=lambda item: -item[1])[:NAMED]
            raise TooLarge(f"the model does not fit into memory: its parameters need {self.bytes / 1e9:,.1f} GB or more, and this process "
                           f"may have {self.limit / 1e9:,.1f} GB. The largest sizes: "
                           + ", ".join(f"{name} {size:,}" for name, size in largest))


def sizes_of(cfg: ModelConfig) -> dict[str, int]:
    """The whole numbers by which a model's size is set, by the names of their settings."""
    parts = {"model_cfg": dataclasses.asdict(cfg), "model_cfg.text_encoder_cfg": cfg.text_encoder_cfg,
             "model_cfg.vision_encoder_cfg": cfg.vision_encoder_cfg, "model_cfg.audio_encoder_cfg": cfg.audio_encoder_cfg}
    return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items() if type(value) is int}

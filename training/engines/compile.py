"""``run_cfg.compile``: the units of the model that say so, the repeated layers of towers, through ``torch.compile``, in training.

Each layer is compiled for itself, in place: equal layers share what was compiled for the first, parameters keep their names, hooks and
FSDP2's gathering stay around the compiled part. Without gradients, in evaluation, a layer runs as ever; so does one that cannot be
compiled, after one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from omnivast.model.interface import Model

logger = logging.getLogger("omnivast")
VARIANTS = 64
"""Kinds of layers and of inputs for which torch may compile the same code, before it leaves further ones as they are."""
OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Inductor's: draws come from torch's generators, as without compilation."""


def compile_layers(model: Model) -> int:
    """Compile the trainable units of ``model`` that compile, each when it is first called with gradients. Returns how many."""
    _configure()
    names = {module: name for name, module in model.named_modules()}
    units = [unit.module for unit in model.units() if unit.compiles]
    layers = [layer for layer in units if any(parameter.requires_grad for parameter in layer.parameters())]
    _share_rates(layers)
    given_up: set[type] = set()
    for layer in layers:
        vars(layer)["forward"] = _Compiled(names[layer], type(layer), layer.forward, given_up)
    return len(layers)


def leave_uncompiled(model: nn.Module) -> None:
    """Undo ``compile_layers``."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), _Compiled):
            del vars(module)["forward"]


def _configure() -> None:
    """torch's settings for compiling that this version of torch has."""
    import torch._dynamo as dynamo
    import torch._functorch.config as functorch

    wanted = ((dynamo.config, "recompile_limit", VARIANTS),
              # DistributedDataParallel would have torch split each layer where its buckets of gradients end.
              (dynamo.config, "optimize_ddp", False),
              # A backward pass that is compiled when it first runs fails too late to do without.
              (functorch, "force_non_lazy_backward_lowering", True))
    for module, key, value in wanted:
        if hasattr(module, key):
            setattr(module, key, value)


class _Compiled:
    """Replaces the ``forward`` of a layer.

    Every batch size is compiled separately. A corpus has one batch size; torch takes minutes to compile windowed attention (Swin's) for
    unknown sizes; and where code for any size followed code for one size, the backward pass might recompute activations by other code
    than had computed them (github.com/pytorch/pytorch/issues/166926).
    """

    def __init__(self, name: str, kind: type, forward: Callable[..., Any], given_up: set[type]) -> None:
        self.name, self.kind, self.forward, self.given_up = name, kind, forward, given_up
        self.compiled: Callable[..., Any] | None = None
        self.worked, self.failed = False, False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and not self.failed and (self.worked or self.kind not in self.given_up):
            try:
                self.compiled = self.compiled or torch.compile(self.forward, dynamic=False, options=OPTIONS)
                result = self.compiled(*arguments, **named)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler fails with; a fault of the layer itself is raised again below
                # Once compiled, a layer may also raise what is none: torch's checkpoints end a recomputation so.
                if self.worked and not isinstance(error, torch._dynamo.exc.TorchDynamoException):
                    raise
                self._give_up(error)
            else:
                self.worked = True
                return result
        return self.forward(*arguments, **named)

    def _give_up(self, error: Exception) -> None:
        """Run this layer uncompiled from now on, and also the layers of its kind that were not compiled yet. Layers that are compiled
        stay so, because what they computed must be recomputed by the same code."""
        self.failed = True
        if self.kind not in self.given_up:
            self.given_up.add(self.kind)
            cause = getattr(error, "inner_exception", None) or error  # torch's errors tell first which of its parts raised another
            reason = next((line for line in str(cause).splitlines() if line.strip()), "")
            logger.warning("run_cfg.compile: %s (%s) could not be compiled and runs as it is, as will others of its kind. %s: %s",
                           self.name, self.kind.__name__, type(cause).__name__, reason)


class StochasticDepth(nn.Module):
    """Leaves a residual branch (N, …) out for each of N samples with probability ``rate``, and scales it up otherwise, as timm's DropPath
    (Huang et al., Deep Networks with Stochastic Depth, arXiv:1603.09382). torch compiles anew for every number that a module holds:
    here the rate is a tensor, so that layers with different rates are compiled once."""

    def __init__(self, rate: float, device: torch.device) -> None:
        super().__init__()
        self.rate = torch.tensor(rate, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → (N, …)."""
        if not self.training:
            return x
        kept = torch.rand((x.shape[0], *[1] * (x.ndim - 1)), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


def _share_rates(layers: list[nn.Module]) -> None:
    """Replace the modules that drop branches by ``StochasticDepth``, in all layers of a kind, also in those whose rate is 0."""
    places = {(type(layer), name): None for layer in layers for name, module in layer.named_modules() if _rate(module) is not None}
    for layer in layers:
        for name in [name for kind, name in places if kind is type(layer)]:
            owner, _, attribute = name.rpartition(".")
            parent, device = layer.get_submodule(owner), next(layer.parameters()).device
            before = getattr(parent, attribute)
            setattr(parent, attribute, StochasticDepth(_rate(before) or 0.0, device).train(before.training))


def _rate(module: Any) -> float | None:
    """The drop rate of a stochastic-depth module (timm's DropPath, its copies in transformers, torchvision's StochasticDepth); None for
    any other module."""
    kind = type(module).__name__
    if kind == "StochasticDepth" and getattr(module, "mode", None) == "row":
        return float(module.p)
    return float(module.drop_prob or 0.0) if kind.endswith("DropPath") and hasattr(module, "drop_prob") else None

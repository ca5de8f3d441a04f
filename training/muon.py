"""Muon: AdamW in which the updates of hidden matrices are orthogonalised.

The momentum of a weight matrix is replaced by the nearest matrix with orthonormal rows or columns, so that a step moves all directions of
the matrix alike, weak ones too (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon). Updates are scaled to the size of AdamW's
(Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982, section 2.2), so that learning rate and weight decay mean the same.
Embeddings, classifiers, biases and norms are left to AdamW. torch has a Muon too, which takes matrices alone and computes in
bfloat16, which most CPUs only emulate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

MOMENTUM = 0.95
SMALLEST = 16
"""Rows and columns below which a matrix is a classifier or a projection of a few numbers, and not orthogonalised."""
SIZE_OF_ADAMW = 0.2
"""Root mean square of an update of AdamW, by which one of Muon is as large."""
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton–Schulz iteration, which brings all singular values into 0.7 to 1.2 in five rounds."""


class Muon(AdamW):
    """Groups with ``"orthogonal": True`` hold the matrices (see :func:`hidden_matrices`); the others are AdamW's."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        # Fused kernels take the scale of fp16 gradients into the step itself, where the matrices' step would not know of an overflow.
        super().__init__(groups, lr=lr, betas=betas, foreach=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["orthogonal"]]
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """Matrices of one shape are orthogonalised together."""
        alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[tuple(parameter.flatten(1).shape)].append(parameter)
        for shape, parameters in alike.items():
            updates = orthogonal(torch.stack([self._momentum(parameter).flatten(1) for parameter in parameters]))
            size = SIZE_OF_ADAMW * max(shape) ** 0.5
            for parameter, update in zip(parameters, updates):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * size)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """The running mean of the gradients, with Nesterov's look ahead."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it in whatever state it loads
            state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["exp_avg"], MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """(k, m, n) float32 → (k, m, n): of each the matrix with the same singular vectors, and singular values near 1."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT).mT
    a, b, c = QUINTIC
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


def hidden_matrices(model: nn.Module) -> set[int]:
    """Ids of the weights of linear and convolution layers of ``model`` that map hidden states to hidden states."""
    modules = list(model.modules())
    embeddings = {id(module.weight) for module in modules if isinstance(module, nn.Embedding)}
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = [module.weight for module in modules if isinstance(module, kinds)]
    return {id(w) for w in weights if id(w) not in embeddings and min(w.flatten(1).shape) >= SMALLEST}

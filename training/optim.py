"""The optimiser and its parameter groups: one learning rate per role, weight decay on matrices only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from omnivast.config.schema import RunConfig
from omnivast.model.interface import Model
from omnivast.training.muon import Muon, hidden_matrices
from omnivast.training.schedule import lr_factor

FUSED_DEVICES = ("cpu", "cuda")
"""Device types on which torch has fused optimiser steps."""
APEX_DEVICES = ("cuda",)


def build_optimizer(model: Model, run_cfg: RunConfig) -> Optimizer:
    """The optimiser that ``run_cfg.optim`` names, over the trainable parameters of ``model``.

    A group is one role (vision, audio, text, head, or ``new`` for ``new_params_name``) with or without weight decay, and with muon of
    hidden matrices or of what AdamW trains; it carries ``role`` and ``peak_lr`` beside the keys of torch. Frozen parameters are left
    out. SGD's momentum is the first of ``betas``.
    Raises ValueError when a part of ``new_params_name`` matches no trainable parameter, or when nothing is trainable.
    """
    roles = list(model.parameter_roles())
    _check_coverage(model, roles)
    trainable = [(name, parameter, role) for name, parameter, role in roles if parameter.requires_grad]
    if not trainable:
        raise ValueError("no parameter is trainable: unfreeze a part of the model (frozen_vision, frozen_audio)")
    _check_new_names(run_cfg.new_params_name, [name for name, _, _ in trainable])
    matrices = hidden_matrices(model) if run_cfg.optim == "muon" else set()
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for name, parameter, model_role in trainable:
        role = "new" if any(part in name for part in run_cfg.new_params_name) else model_role
        decays, orthogonal = model.decays(name, parameter), id(parameter) in matrices
        lr = peak_lr(role, run_cfg)
        group: dict[str, Any] = {"params": [], "role": role, "peak_lr": lr, "lr": lr,
                                 "weight_decay": run_cfg.weight_decay if decays else 0.0}
        if run_cfg.optim == "muon":
            group["orthogonal"] = orthogonal
        groups.setdefault((role, decays, orthogonal), group)["params"].append((name, parameter))
    fused = all(parameter.device.type in FUSED_DEVICES for _, parameter, _ in trainable)
    return _make(run_cfg, list(groups.values()), fused)


def peak_lr(role: str, run_cfg: RunConfig) -> float:
    """The peak learning rate of a role: ``clip_lr`` for vision, ``clip_lr_text`` for the rest of CLIP, ``new_lr`` for new, where set; else
    ``learning_rate``."""
    rate = {"vision": run_cfg.clip_lr, "clip": run_cfg.clip_lr_text, "new": run_cfg.new_lr}.get(role)
    return run_cfg.learning_rate if rate is None else rate


def set_learning_rate(optimizer: Optimizer, step: int, total: int, run_cfg: RunConfig) -> dict[str, float]:
    """Set the learning rates of optimiser step ``step`` (1 to ``total``) and return them by role.

    The schedule reaches 0 one step after the last, so that the last step, and a run of a single step, still learn.
    """
    factor = lr_factor(step, total + 1, run_cfg.warmup_ratio, run_cfg.scheduler)
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = rates[group["role"]] = group["peak_lr"] * factor
    return rates


def _make(run_cfg: RunConfig, groups: list[dict[str, Any]], fused: bool) -> Optimizer:
    first, second = run_cfg.betas
    if run_cfg.optim == "sgd":
        # torch's fused SGD, unlike its fused Adam, does not know shared out parameters.
        fused = fused and not any(isinstance(p, DTensor) for group in groups for _, p in group["params"])
        return SGD(groups, lr=run_cfg.learning_rate, momentum=first, fused=fused)
    if run_cfg.optim == "adam":
        return Adam(groups, lr=run_cfg.learning_rate, betas=(first, second), fused=fused)
    if run_cfg.optim == "adamw":
        return AdamW(groups, lr=run_cfg.learning_rate, betas=(first, second), fused=fused)
    if run_cfg.optim == "muon":
        if any(isinstance(p, DTensor) for group in groups for _, p in group["params"]):
            raise ValueError("run_cfg.optim muon needs whole matrices on every process: set \"parallel\": \"ddp\", or \"optim\": \"adamw\"")
        return Muon(groups, lr=run_cfg.learning_rate, betas=(first, second))
    if run_cfg.optim == "apex_fused_adam":
        return _apex_fused_adam(run_cfg, groups)
    raise ValueError(f"unknown optim '{run_cfg.optim}'; valid are adamw, adam, muon, sgd, apex_fused_adam")


def _apex_fused_adam(run_cfg: RunConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """AdamW by NVIDIA Apex. Raises ValueError for parameters that are not on a GPU, and where Apex or its CUDA extensions are absent."""
    instead = '"optim": "adamw" is the same mathematics, fused by torch itself'
    elsewhere = {p.device.type for group in groups for _, p in group["params"]} - {*APEX_DEVICES}
    if elsewhere:
        raise ValueError(f"run_cfg.optim apex_fused_adam works on NVIDIA GPUs, and parameters are on: {', '.join(elsewhere)}. {instead}")
    try:
        from apex.optimizers import FusedAdam

        class ApexFusedAdam(FusedAdam):
            """Apex's optimiser with the ``zero_grad`` of torch's optimisers; Apex's always sets gradients to None."""

            def zero_grad(self, set_to_none: bool = True) -> None:
                super().zero_grad()

        return ApexFusedAdam(groups, lr=run_cfg.learning_rate, betas=tuple(run_cfg.betas), adam_w_mode=True)
    except (ImportError, RuntimeError) as error:  # Apex raises RuntimeError where it was built without CUDA extensions
        raise ValueError(f"run_cfg.optim apex_fused_adam: {error}. It needs NVIDIA Apex, built with its CUDA extensions from "
                         f"https://github.com/NVIDIA/apex (the 'apex' that pip finds is another package). {instead}") from error


def _check_coverage(model: nn.Module, roles: Iterable[tuple[str, nn.Parameter, str]]) -> None:
    known = {id(parameter) for _, parameter, _ in roles}
    forgotten = [name for name, parameter in model.named_parameters() if parameter.requires_grad and id(parameter) not in known]
    if forgotten:
        raise ValueError(f"parameter_roles() of {type(model).__name__} leaves out {', '.join(forgotten[:5])}: they would not be trained")


def _check_new_names(parts: list[str], names: list[str]) -> None:
    for part in parts:
        if any(part in name for name in names):
            continue
        pieces = {piece for name in names for piece in (name, *name.split("."))}
        near = difflib.get_close_matches(part, sorted(pieces), n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else f"; parameters begin with {', '.join(sorted({n.split('.')[0] for n in names}))}"
        raise ValueError(f"run_cfg.new_params_name: no trainable parameter has '{part}' in its name{hint}")


def gradient_norm(optimizer: Optimizer, max_norm: float | None) -> torch.Tensor:
    """The norm of all gradients together (a scalar), which are scaled down to ``max_norm`` where larger; None or ≤ 0: never."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if max_norm is not None and max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm

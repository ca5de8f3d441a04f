"""Apex's FusedAdam, by a stand-in with its interface that, as it does, keeps its steps in the groups: how it is built, what is refused."""

import copy
import dataclasses
import sys
import types

import pytest
import torch

from omnivast.config.load import ConfigError, load_config
from omnivast.config.schema import RunConfig
from omnivast.training import optim
from omnivast.training.optim import build_optimizer, set_learning_rate
from tests.training.toy import Toy

RUN = RunConfig(optim="apex_fused_adam", learning_rate=1e-2, clip_lr=1e-3, weight_decay=0.1)


class FusedAdam(torch.optim.Optimizer):
    """AdamW in plain torch."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=False, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        assert adam_w_mode

    def zero_grad(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            first, second = group["betas"]
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                for name in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(name, torch.zeros_like(parameter))
                state["exp_avg"].lerp_(parameter.grad, 1 - first)
                state["exp_avg_sq"].lerp_(parameter.grad**2, 1 - second)
                corrected = state["exp_avg"] / (1 - first ** group["step"])
                scale = (state["exp_avg_sq"] / (1 - second ** group["step"])).sqrt() + group["eps"]
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * corrected / scale)


@pytest.fixture
def apex(monkeypatch):
    """An Apex that works on the CPU."""
    module = types.ModuleType("apex.optimizers")
    module.FusedAdam = FusedAdam
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", module)
    monkeypatch.setattr(optim, "APEX_DEVICES", ("cpu",))


def train(model, optimizer, run_cfg, steps):
    for step in steps:
        set_learning_rate(optimizer, step, 6, run_cfg)
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        model.text_encoder(model.vision_encoder(x)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_it_trains_as_adamw_does_and_goes_on_from_its_state(apex):
    ours, theirs = Toy(dropout=0.0, batch_norm=False), Toy(dropout=0.0, batch_norm=False)
    adamw = dataclasses.replace(RUN, optim="adamw")
    train(ours, build_optimizer(ours, adamw), adamw, range(1, 7))
    optimizer = build_optimizer(theirs, RUN)
    assert isinstance(optimizer, FusedAdam)
    train(theirs, optimizer, RUN, range(1, 4))
    again = Toy(dropout=0.0, batch_norm=False)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    resumed = build_optimizer(again, RUN)
    resumed.load_state_dict(optimizer.state_dict())
    train(again, resumed, RUN, range(4, 7))
    assert not torch.equal(again.text_encoder.weight, Toy(batch_norm=False).text_encoder.weight)
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter, again.get_parameter(name), atol=1e-6), name


def test_without_gpu():
    with pytest.raises(ValueError, match='works on NVIDIA GPUs, and parameters are on: cpu. "optim": "adamw" is the same'):
        build_optimizer(Toy(), RUN)


def test_without_apex(monkeypatch):
    monkeypatch.setattr(optim, "APEX_DEVICES", ("cpu",))
    monkeypatch.setitem(sys.modules, "apex", None)
    with pytest.raises(ValueError, match="apex_fused_adam: .*It needs NVIDIA Apex, built with its CUDA extensions from https://github.com"):
        build_optimizer(Toy(), RUN)


def test_apex_without_its_extensions(apex, monkeypatch):
    def refuse(self, *args, **settings):
        raise RuntimeError("apex.optimizers.FusedAdam requires cuda extensions")

    monkeypatch.setattr(FusedAdam, "__init__", refuse)
    with pytest.raises(ValueError, match="FusedAdam requires cuda extensions. It needs NVIDIA Apex, built with its CUDA extensions"):
        build_optimizer(Toy(), RUN)


@pytest.mark.parametrize("parallel", ["fsdp", "deepspeed"])
def test_shares_of_parameters_are_refused_by_the_config(parallel):
    with pytest.raises(ConfigError, match="apex_fused_adam does not know shares of parameters"):
        load_config(["--config", "config/debug/tiny.json", "--optim", "apex_fused_adam", "--parallel", parallel])

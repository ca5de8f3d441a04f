import dataclasses

import pytest
import torch
from torch import nn

from omnivast.config.schema import RunConfig
from omnivast.training.optim import build_optimizer, gradient_norm, set_learning_rate
from tests.training.toy import Toy

RUN = RunConfig(learning_rate=1e-3, clip_lr=1e-4, weight_decay=0.05)


def groups_by_name(optimizer):
    return {name: group for group in optimizer.param_groups for name in group["param_names"]}


def test_groups():
    groups = groups_by_name(build_optimizer(Toy(), RUN))
    assert not any(name.startswith("frozen") for name in groups)
    rates = {name: (g["role"], g["peak_lr"], g["weight_decay"]) for name, g in groups.items()}
    assert rates["vision_encoder.0.weight"] == ("vision", 1e-4, 0.05)
    assert rates["vision_encoder.0.bias"] == ("vision", 1e-4, 0.0)
    assert rates["vision_encoder.1.weight"] == ("vision", 1e-4, 0.0)
    assert rates["text_encoder.weight"] == ("text", 1e-3, 0.05)
    assert rates["contra_temp"] == ("head", 1e-3, 0.0)
    assert rates["type_embedding"] == ("head", 1e-3, 0.0)
    assert rates["caption_head.weight"] == ("head", 1e-3, 0.05)
    assert tuple(groups["contra_temp"]["betas"]) == (0.9, 0.98)


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = Toy()
    optimizer = build_optimizer(model, dataclasses.replace(RUN, new_params_name=["caption_head", "0.weight"], new_lr=0.1))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    groups = groups_by_name(optimizer)
    assert groups["vision_encoder.0.weight"]["peak_lr"] == groups["caption_head.bias"]["peak_lr"] == 0.1
    assert groups["caption_head.bias"]["role"] == "new"


def test_clip_lr_absent_means_learning_rate():
    groups = groups_by_name(build_optimizer(Toy(), dataclasses.replace(RUN, clip_lr=None)))
    assert groups["vision_encoder.0.weight"]["peak_lr"] == 1e-3


def test_unmatched_new_name_names_the_nearest():
    with pytest.raises(ValueError, match="'caption_hed'.*nearest: caption_head"):
        build_optimizer(Toy(), dataclasses.replace(RUN, new_params_name=["caption_hed"]))


def test_forgotten_parameter_is_an_error():
    model = Toy()
    model.parameter_roles = lambda: iter([("contra_temp", model.contra_temp, "head")])
    with pytest.raises(ValueError, match="leaves out"):
        build_optimizer(model, RUN)


def test_nothing_trainable():
    with pytest.raises(ValueError, match="no parameter is trainable"):
        build_optimizer(Toy().requires_grad_(False), RUN)


@pytest.mark.parametrize(("shape", "name", "expected"), [
    ((4, 4), "a.weight", True), ((1, 8), "head.weight", True), ((4,), "norm.weight", False), ((), "temp", False),
    ((1, 1, 8), "cls_token", False), ((1, 5, 8), "frame_embedding", True), ((4, 4), "a.q_bias", False)])
def test_decayed(shape, name, expected):
    assert Toy().decays(name, nn.Parameter(torch.zeros(shape))) is expected


@pytest.mark.parametrize(("optim", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_optimisers_step(optim, kind):
    model = Toy()
    optimizer = build_optimizer(model, dataclasses.replace(RUN, optim=optim))
    assert type(optimizer) is kind
    before = model.text_encoder.weight.clone()
    model.text_encoder(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.text_encoder.weight)


def test_learning_rates_of_the_steps():
    optimizer = build_optimizer(Toy(), dataclasses.replace(RUN, warmup_ratio=0.2))
    run = dataclasses.replace(RUN, warmup_ratio=0.2)
    rates = [set_learning_rate(optimizer, step, 9, run)["text"] for step in range(1, 10)]
    assert rates == pytest.approx([0.5e-3, 1e-3, *(1e-3 * (10 - step) / 8 for step in range(3, 10))])
    assert set_learning_rate(optimizer, 2, 9, run) == pytest.approx({"vision": 1e-4, "text": 1e-3, "head": 1e-3})
    assert groups_by_name(optimizer)["vision_encoder.0.weight"]["lr"] == pytest.approx(1e-4)


def test_gradient_norm_clips_all_groups_together():
    model = Toy()
    optimizer = build_optimizer(model, RUN)
    model.contra_temp.grad = torch.tensor(3.0)
    model.caption_head.bias.grad = torch.tensor([4.0, 0.0, 0.0])
    assert float(gradient_norm(optimizer, None)) == 5.0
    assert float(gradient_norm(optimizer, -1)) == 5.0
    assert float(model.contra_temp.grad) == 3.0
    assert float(gradient_norm(optimizer, 2.5)) == 5.0
    assert float(model.contra_temp.grad) == pytest.approx(1.5)
    assert model.caption_head.bias.grad.tolist() == pytest.approx([2.0, 0.0, 0.0])

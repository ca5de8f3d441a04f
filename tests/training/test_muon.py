import copy
import dataclasses

import pytest
import torch
from torch import nn

from omnivast.config.load import ConfigError, load_config
from omnivast.config.schema import RunConfig
from omnivast.model.interface import Model
from omnivast.training.muon import MOMENTUM, hidden_matrices, orthogonal
from omnivast.training.optim import build_optimizer
from tests.training.toy import Toy

RUN = RunConfig(optim="muon", learning_rate=1e-2, weight_decay=0.1)


class Net(Model):
    """A hidden matrix, a convolution, an embedding tied to its classifier, a classifier of two classes, a norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(32, 48)
        self.conv = nn.Conv2d(16, 24, 3)
        self.words = nn.Embedding(40, 32)
        self.decoder = nn.Linear(32, 40)
        self.decoder.weight = self.words.weight
        self.classes = nn.Linear(48, 2)
        self.norm = nn.LayerNorm(48)

    def parameter_roles(self):
        return ((name, parameter, "text") for name, parameter in self.named_parameters())


def with_gradients(net, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return net


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_an_orthogonalised_matrix_keeps_its_singular_vectors_and_has_values_near_one(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    result = orthogonal(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inner = left.mT @ result @ right.mT
    values = inner.diagonal(dim1=-2, dim2=-1)
    assert (values > 0.3).all() and (values < 1.3).all() and (values.mean() - 0.9).abs() < 0.2
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-3


def test_hidden_matrices_are_neither_embeddings_nor_classifiers():
    net = Net()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {names[number] for number in hidden_matrices(net)} == {"hidden.weight", "conv.weight"}


def test_a_step_of_a_matrix_by_hand():
    net = with_gradients(Net())
    weight, gradient = net.hidden.weight.detach().clone(), net.hidden.weight.grad.clone()
    build_optimizer(net, RUN).step()
    looked_ahead = gradient.lerp((1 - MOMENTUM) * gradient, MOMENTUM)
    update = 0.2 * 48 ** 0.5 * orthogonal(looked_ahead[None])[0]
    torch.testing.assert_close(net.hidden.weight.detach(), weight * (1 - 1e-2 * 0.1) - 1e-2 * update)
    rms = ((net.hidden.weight.detach() - weight * (1 - 1e-3)) / 1e-2).square().mean().sqrt()
    assert 0.1 < rms < 0.3, "as large as an update of AdamW"


def test_everything_else_is_stepped_as_by_adamw():
    ours, plain = with_gradients(Net()), with_gradients(Net())
    optimizers = [build_optimizer(ours, RUN), build_optimizer(plain, dataclasses.replace(RUN, optim="adamw"))]
    for number in range(3):
        for net, optimizer in zip((ours, plain), optimizers):
            with_gradients(net, number)
            optimizer.step()
    for (name, parameter), other in zip(ours.named_parameters(), plain.parameters()):
        if name in ("hidden.weight", "conv.weight"):
            assert (parameter - other).abs().max() > 1e-3
        else:
            torch.testing.assert_close(parameter, other, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_gradient_stays_as_it_is():
    net = with_gradients(Net())
    net.hidden.weight.grad = None
    before = net.hidden.weight.detach().clone()
    build_optimizer(net, RUN).step()
    assert torch.equal(net.hidden.weight, before)


def test_a_restored_state_goes_on_bit_for_bit():
    net = with_gradients(Net())
    optimizer = build_optimizer(net, RUN)
    optimizer.step()
    other = copy.deepcopy(net)
    restored = build_optimizer(other, RUN)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, own in ((net, optimizer), (other, restored)):
        with_gradients(model, 5)
        own.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_groups_keep_roles_rates_and_decay():
    groups = {name: group for group in build_optimizer(Toy(), RUN).param_groups for name in group["param_names"]}
    assert all({"role", "peak_lr", "orthogonal"} <= set(group) for group in groups.values())
    assert not any(group["orthogonal"] for name, group in groups.items() if name.endswith("bias"))


@pytest.mark.parametrize("parallel", ["fsdp", "deepspeed"])
def test_shared_out_matrices_are_refused_by_the_config(parallel):
    with pytest.raises(ConfigError, match="muon needs whole matrices"):
        load_config(["--config", "config/debug/tiny.json", "--optim", "muon", "--parallel", parallel])

"""What the backward pass makes again is not kept, and gradients are the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef

from config.tasks import Group
from model.layout import Layout, Packing
from model.memory import CrossPass
from model.recompute import all_kept, remade
from model.text import CrossAttention
from tests.model.tiny import memory, text_model, texts


def feed(made, weight, inner):
    """A linear map of GELU(inner); ``made`` counts how often that is made."""

    def make():
        made.append(1)
        return F.gelu(inner)

    with remade(make) as (active,):
        return (active @ weight).square().sum()


def inputs():
    noise = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, generator=noise).requires_grad_(), torch.randn(5, 4, generator=noise).requires_grad_()


def test_it_is_made_again_once_in_the_backward_pass_with_the_same_gradients():
    weight, inner = inputs()
    wanted = torch.autograd.grad((F.gelu(inner) @ weight).square().sum(), (weight, inner))
    made = []
    loss = feed(made, weight, inner)
    assert len(made) == 1
    found = torch.autograd.grad(loss, (weight, inner))
    assert len(made) == 2 and all(map(torch.equal, found, wanted))


def test_a_view_of_it_is_not_kept_either():
    weight, inner = inputs()
    wanted = torch.autograd.grad((F.gelu(inner).T[1:] @ inner).sum(), inner)
    made = []

    def make():
        made.append(1)
        return F.gelu(inner)

    with remade(make) as (active,):
        loss = (active.T[1:] @ inner).sum()
    torch.testing.assert_close(torch.autograd.grad(loss, inner), wanted)
    assert len(made) == 2


@pytest.mark.parametrize("quiet", [torch.no_grad, all_kept])
def test_it_is_made_once_without_gradient_and_where_all_is_kept(quiet):
    weight, inner = inputs()
    made = []
    with quiet():
        loss = feed(made, weight, inner)
    if loss.requires_grad:
        loss.backward()
    assert len(made) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_keeps_what_it_must(checkpointing, monkeypatch):
    """Of every block before GELU, not after it; nor what attention gave once more as packed rows, nor gathered keys. A block that is
    recomputed as a whole keeps its inputs alone."""
    model, clips = text_model().train(), memory(2)
    model.checkpointing = checkpointing
    kept: dict[str, list[StorageWeakRef]] = {}
    for block in model.blocks:
        for name, linear in (("grown", block.intermediate["dense"]), ("active", block.output.dense),
                             ("packed", block.crossattention.output.dense)):
            linear.register_forward_hook(lambda _, inputs, out, name=name: kept.setdefault(name, []).append(
                StorageWeakRef((out if name == "grown" else inputs[0]).untyped_storage())))
    def attend(*arguments, attend=CrossAttention.attend):
        kept.setdefault("gathered", []).extend(StorageWeakRef(x.untyped_storage()) for x in arguments[2:4])
        return attend(*arguments)

    monkeypatch.setattr(CrossAttention, "attend", attend)
    words = texts(["a red car", "two dogs running", "a man"], 12)
    rows = CrossPass(0, 3, clips, Group.parse("tvas"), torch.tensor([1, 0, 1]))
    loss = model(Layout.of(words.ids, words.mask), [rows]).hidden.square().sum()
    assert {name: [not ref.expired() for ref in refs] for name, refs in kept.items()} == {
        "grown": [not checkpointing] * 2, "active": [False] * 2, "packed": [False] * 2, "gathered": [False] * 4}
    loss.backward()
    assert len(kept["grown"]) == 2 + 2 * checkpointing


def test_moving_rows_gives_the_gradients_of_indexing():
    rows = torch.arange(6.0).view(3, 2).requires_grad_()
    index = torch.tensor([4, 0, 3])
    factors = torch.arange(12.0).view(6, 2)
    padded = Packing((3, 2), index).pad(rows)
    assert padded.view(6, 2)[index].equal(rows) and padded.view(6, 2)[[1, 2, 5]].abs().sum() == 0
    (gradient,) = torch.autograd.grad((padded.view(6, 2) * factors).sum(), rows)
    assert gradient.equal(factors[index])
    grid = torch.arange(12.0).view(3, 2, 2).requires_grad_()
    packed = Packing((3, 2), index).pack(grid)
    (gradient,) = torch.autograd.grad((packed * rows.detach()).sum(), grid)
    assert packed.equal(grid.view(6, 2)[index])
    assert gradient.view(6, 2).equal(torch.zeros(6, 2).index_put((index,), rows.detach()))

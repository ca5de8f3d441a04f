"""What the backward pass makes again is not kept, and gradients are the same."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omnivast.config.tasks import Group, Modality
from omnivast.model.recompute import GELU, LayerNorm, QuickGELU, all_kept, keeping_less, remade, remaking
from omnivast.model.text.bert import CrossAttention, SelfAttention
from omnivast.model.text.layout import Layout
from omnivast.model.text.packing import Packing
from omnivast.model.text.plan import CrossPass
from omnivast.utils.random import StepRandom
from tests.model.tiny import VALOR, batch, memory, task, text_model, text_sizes, texts, valor, vast


def feed(made, weight, inner):
    """A linear map of GELU(inner); ``made`` counts how often that is made."""

    def make():
        made.append(1)
        return F.gelu(inner)

    with remaking():
        active = remade(make)
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

    with remaking():
        active = remade(make)
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
    """Of every block before GELU, not after it; nor normalised states, nor what attention gave once more as packed rows, nor padded
    queries, keys and values, nor gathered ones. A block that is recomputed as a whole keeps its inputs alone."""
    model, clips = text_model().train(), memory(2)
    model.checkpointing = checkpointing
    kept: dict[str, list[StorageWeakRef]] = {}

    def note(name, *tensors):
        kept.setdefault(name, []).extend(StorageWeakRef(x.untyped_storage()) for x in tensors)

    for block in model.blocks:
        own = {"active": block.output.dense, "packed": block.crossattention.output.dense,
               "normalised": block.crossattention.projections.query, "twice": block.intermediate["dense"]}
        for name, linear in own.items():
            linear.register_forward_hook(lambda _, inputs, out, name=name: note(name, inputs[0]))
        block.intermediate["dense"].register_forward_hook(lambda _, inputs, out: note("grown", out))
    for kind, name in ((SelfAttention, "padded"), (CrossAttention, "gathered")):
        def attend(*arguments, attend=kind.attend, name=name):
            note(name, *arguments[1:4])
            return attend(*arguments)

        monkeypatch.setattr(kind, "attend", attend)
    words = texts(["a red car", "two dogs running", "a man"], 12)
    rows = CrossPass(0, 3, clips, Group.parse("tvas"), torch.tensor([1, 0, 1]))
    with remaking():
        loss = model.encode(Layout.of(words.ids, words.mask), [rows]).hidden.square().sum()
    assert {name: [not ref.expired() for ref in refs] for name, refs in kept.items()} == {
        "padded": [False] * 6, "gathered": [False] * 6, "packed": [False] * 2, "normalised": [False] * 2, "twice": [False] * 2,
        "active": [False] * 2, "grown": [not checkpointing] * 2}
    loss.backward()
    assert len(kept["grown"]) == 2 + 2 * checkpointing


class Alive(TorchDispatchMode):
    """Bytes of what operations made and is still there."""

    def __init__(self, model):
        super().__init__()
        self.made, self.parameters = {}, {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                ref = StorageWeakRef(x.untyped_storage())
                if ref.cdata not in self.parameters:
                    self.made[ref.cdata] = ref, x.untyped_storage().nbytes()
        return out

    def bytes(self):
        return sum(size for ref, size in self.made.values() if not ref.expired())


@pytest.mark.parametrize(("context", "least", "most"), [(remaking, 13, 14), (all_kept, 21, 22)])
def test_what_a_block_keeps_of_every_token(context, least, most):
    """In widths: query, key and value, what each attention gave, another query, three sums, four before GELU; and a little for masks,
    statistics and the memory. Plain autograd keeps three normalised states, four after GELU, and once more what texts of one memory got
    from it. (Of padding, which it keeps too, there is none here.)"""
    found = []
    for layers in (2, 3):
        model, clips, width = text_model(num_hidden_layers=layers, hidden_size=64, intermediate_size=256).train(), memory(16, width=64), 64
        ids = torch.randint(106, 186, (64, 32), generator=torch.Generator().manual_seed(0))
        layout = Layout.of(ids, torch.ones_like(ids, dtype=torch.bool))
        with Alive(model) as alive, context():
            out = model.encode(layout, [CrossPass(0, 64, clips, Group.parse("tv"))])
        found.append(alive.bytes() / (4 * width * ids.numel()))
        out.hidden.sum().backward()
    assert least <= found[1] - found[0] <= most


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("vision", ["vit_small_scratch", "evaclip01_giant"])
def test_a_step_has_the_gradients_of_plain_autograd(vision, precision):
    """With dropout, every objective, captions of several lengths."""
    size = {"vision_encoder_type": vision, "vision_encoder_cfg": {"width": 16, "layers": 2, "head_width": 8, "patch_size": 8}}
    gradients = []
    for context in (nullcontext, all_kept):
        model = vast(0, text_sizes(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1), **(size if vision[0] == "e" else {})).train()
        model.precision = precision
        torch.manual_seed(1)
        with context():
            losses = model(batch(), task("ret%tvas%tva%ts_cap%tvas%tv_qa%tvs"), StepRandom(0, 0))
        losses["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 100 and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("module", [GELU(), QuickGELU(), LayerNorm(4)], ids=["gelu", "quick gelu", "norm"])
def test_modules_whose_output_is_not_kept(module):
    weight, inner = inputs()
    wanted = torch.autograd.grad((module(inner) @ weight).square().sum(), (weight, inner))
    with remaking():
        made = module(inner)
        place, loss = StorageWeakRef(made.untyped_storage()), (made @ weight).square().sum()
    del made
    assert place.expired()
    assert all(map(torch.equal, torch.autograd.grad(loss, (weight, inner)), wanted))


def test_quick_gelu_is_what_autograd_makes_of_it():
    weight, inner = inputs()
    wanted = torch.autograd.grad(((inner * torch.sigmoid(1.702 * inner)) @ weight).square().sum(), (weight, inner))
    found = torch.autograd.grad((QuickGELU()(inner) @ weight).square().sum(), (weight, inner))
    assert all(map(torch.equal, found, wanted))


def test_norms_are_replaced_where_asked_for_with_their_weights():
    tower = torch.nn.Sequential(torch.nn.LayerNorm(4, eps=1e-3), torch.nn.GELU())
    before = dict(tower.named_parameters())
    assert type(keeping_less(tower)[0]) is torch.nn.LayerNorm and type(tower[1]) is GELU
    norm = keeping_less(tower, norms=True)[0]
    assert type(norm) is LayerNorm and norm.eps == 1e-3
    assert all(p is before[name] for name, p in tower.named_parameters()) and len(before) == 2


def test_towers_of_valor_are_built_so():
    """CLIP's and AST's: neither normalised states nor what their GELUs give are kept."""
    model = valor().train()
    read: list[StorageWeakRef] = []
    for module in (*model.vision_encoder.modules(), *model.audio_encoder.modules()):
        if isinstance(module, LayerNorm | GELU | QuickGELU):
            module.register_forward_hook(lambda _, __, out: read.append(StorageWeakRef(out.untyped_storage())))
        assert type(module) not in (torch.nn.LayerNorm, torch.nn.GELU)
    with remaking():
        features = model.encode(batch(VALOR), (Modality.VISION, Modality.AUDIO))
    assert len(read) == 5 + 4
    assert sum(not ref.expired() for ref in read) == 3  # what the towers give, and what CLIP's blocks begin with
    sum(x.sum() for x in features.slots.values()).backward()


def test_towers_are_built_so():
    """Neither normalised states nor what GELU gives are kept, however towers of other libraries are put together."""
    model = vast(vision_encoder_type="evaclip01_giant", vision_encoder_cfg={
        "width": 16, "layers": 2, "head_width": 8, "patch_size": 8, "mlp_ratio": 4.0}).train()
    read: list[StorageWeakRef] = []
    for block in model.vision_encoder.visual.blocks:
        for part in (block.norm1, block.norm2, block.mlp.act):
            part.register_forward_hook(lambda _, __, out: read.append(StorageWeakRef(out.untyped_storage())))
    for layer in model.audio_encoder.encoder.layers:
        for part in (layer.fc1, layer.fc2):
            part.register_forward_hook(lambda _, inputs, __: read.append(StorageWeakRef(inputs[0].untyped_storage())))
    with remaking():
        features = model.encode(batch(), tuple(Modality))
    assert len(read) == 8 and all(ref.expired() for ref in read)
    sum(x.sum() for x in features.pooled.values()).backward()


def test_several_that_read_it_share_what_is_made_again():
    weight, inner = inputs()
    made = []

    def loss():
        def make():
            made.append(1)
            return inner * 2

        with remaking():
            doubled = remade(make)
            return ((doubled @ weight) + (doubled.exp() @ weight)).sum() + (doubled * doubled).sum()

    total = loss()
    for _ in range(2):
        torch.autograd.grad(total, (weight, inner), retain_graph=True)
    assert len(made) == 3


def test_what_stands_at_the_address_of_one_that_is_gone_is_kept():
    weight, inner = inputs()
    with remaking():
        remade(F.gelu, inner)
        others = [inner.detach() * 2 for _ in range(50)]
        total = sum((other @ weight).sum() for other in others)
    (gradient,) = torch.autograd.grad(total, weight)
    torch.testing.assert_close(gradient, 100 * inner.detach().sum(0)[:, None].expand_as(weight))


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


@pytest.mark.parametrize("index", [None, torch.tensor([4, 0, 3])], ids=["full", "padded"])
def test_parts_that_stand_beside_each_other_have_the_gradients_of_slices(index):
    noise = torch.Generator().manual_seed(0)
    rows = torch.randn(6 if index is None else 3, 6, generator=noise).requires_grad_()
    packing = Packing((3, 2), index)
    for used in ((0, 1, 2), (0, 2)):
        ways = packing.pad_parts(rows, 2), packing.pad(rows).split(2, -1)
        sums = [sum(parts[i].square().sum() * (i + 1) for i in used) for parts in ways]
        found, wanted = (torch.autograd.grad(total, rows)[0] for total in sums)
        assert found.equal(wanted)
        assert sums[0].equal(sums[1])

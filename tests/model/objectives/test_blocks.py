"""Tables of similarities that are made block by block give what whole ones give, in memory that does not grow with their size."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from omnivast.config.tasks import Group
from omnivast.model.objectives import blocks
from omnivast.model.objectives.blocks import TABLE, mean_over_blocks, row_blocks
from omnivast.model.vast.contrast import Contrasted, Vectors, group_loss
from omnivast.utils.fake import LiveBytes
from omnivast.utils.random import StepRandom
from tests.model.tiny import batch, gram, relative, task, vast
from tests.processes import mean_over_processes, together

TASK = "ret%tvas%tva%tvs%tv%ta"
GROUP = Group.parse("tva")
ROWS = 600
SETTINGS = {
    "softmax": (vast, {}),
    "sigmoid": (vast, {"contrastive_loss": "sigmoid"}),
    "all that can be added": (vast, {"fused_teaches": 0.5, "matryoshka_dims": [4, 8], "clip_pairs": {"va": 0.5, "as": 0.25},
                                     "missing_modality": "mask", "temperature_per_group": True}),
    "volume": (gram, {"gram_cosine": 0.5}),
}

SHARED = ("all that can be added", "sigmoid")
"""Those that are tried with several processes, too."""


@pytest.mark.parametrize(("rows", "columns", "sizes"), [
    (4, 10, [4]), (2048, 2048, [2048]), (4096, 4096, [1024] * 4), (5, TABLE // 2, [1, 2, 2]), (3, 10 * TABLE, [1, 1, 1])])
def test_blocks_cover_the_rows_and_are_no_larger_than_the_table(rows, columns, sizes):
    found = row_blocks(rows, columns)
    assert [part.stop - part.start for part in found] == sizes
    assert [row for part in found for row in range(rows)[part]] == list(range(rows))


def test_the_mean_counts_every_row_once():
    values = torch.arange(7.0)
    loss, kept = mean_over_blocks(lambda rows: (values[rows].mean(), values[rows]), 7, TABLE // 3)
    assert loss.item() == pytest.approx(3.0) and torch.equal(kept, values)


def contrasted(make, rows, **changes):
    """A model, and vectors of pairs of which each text is near its clip."""
    model = make(**changes)
    draws = torch.Generator().manual_seed(0)
    texts = torch.randn(rows, model.config.contra_dim, generator=draws)
    clips = [texts + torch.randn(texts.shape, generator=draws) for _ in range(1 if make is vast else 2)]
    own, clips = (torch.nn.functional.normalize(x, dim=-1) for x in (texts, torch.stack(clips, 1)))
    own, clips = (x.flatten(1).requires_grad_() for x in (own, clips))
    vectors = Vectors({GROUP.caption_kind: own}, {GROUP: clips})
    return model, Contrasted(vectors, vectors, torch.arange(rows), (GROUP,))


@pytest.mark.parametrize(("make", "loss"), [(vast, "softmax"), (vast, "sigmoid"), (gram, "softmax")])
def test_a_large_batch_in_blocks(make, loss, monkeypatch):
    """Loss, gradients of vectors and of what is learnt, to 1e-6; and the same negatives."""
    draw = torch.rand(ROWS, 2, generator=torch.Generator().manual_seed(1))
    found = []
    for table in (TABLE, 37 * ROWS):
        monkeypatch.setattr(blocks, "TABLE", table)
        model, own = contrasted(make, ROWS, contrastive_loss=loss)
        value, negatives = group_loss(model, own, GROUP, draw)
        value.backward()
        learnt = [model.get_parameter(name).grad for name in model.contrast.learnt]
        found.append(([value, *learnt, own.own.texts[GROUP.caption_kind].grad, own.own.clips[GROUP].grad], negatives))
    (whole, drawn), (parts, also_drawn) = found
    for one, other in zip(parts, whole):
        assert relative(one, other.detach()) <= 1e-6
    assert torch.equal(drawn.clip_of_caption, also_drawn.clip_of_caption)
    assert torch.equal(drawn.caption_of_clip, also_drawn.caption_of_clip)
    assert (drawn.clip_of_caption != torch.arange(ROWS)).all()


def step(make, changes, rank=0, processes=1):
    share = 4 // processes
    rows = slice(rank * share, (rank + 1) * share)
    model, own = make(**changes).train(), batch(rows=rows)
    losses = model(own, task(TASK), StepRandom(7, 3, rank * share, 4))
    losses["loss"].backward()
    return {n: v.detach() for n, v in losses.items()}, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_equal_steps(one, other):
    assert one[0].keys() == other[0].keys() and one[1].keys() == other[1].keys()
    for name, value in other[0].items():
        assert one[0][name].item() == pytest.approx(value.item(), rel=1e-6), name
    for name, gradient in other[1].items():
        assert (one[1][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_in_blocks(name, monkeypatch):
    """Of one row each, with all that the model makes of it."""
    whole = step(*SETTINGS[name])
    monkeypatch.setattr(blocks, "TABLE", 4)
    assert_equal_steps(step(*SETTINGS[name]), whole)


def in_blocks(rank, processes):
    blocks.TABLE = 4  # one row
    results = {name: step(*SETTINGS[name], rank, processes) for name in SHARED}
    for own in results.values():
        mean_over_processes(own)
    return results


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_in_blocks_equal_one(processes):
    found = together(in_blocks, processes, processes)[0]
    for name in SHARED:
        assert_equal_steps(found[name], step(*SETTINGS[name]))


def test_memory_does_not_grow_with_the_square(monkeypatch):
    """Counted on tensors without numbers: four times the pairs are 16 times the table."""
    table = 2**16
    monkeypatch.setattr(blocks, "TABLE", table)

    def peak(rows):
        with FakeTensorMode():
            texts, clips, temperature = (torch.empty(size, requires_grad=True) for size in ((rows, 16), (rows, 16), ()))
            model.contrast_scalars = lambda group: [temperature]
            vectors = Vectors({GROUP.caption_kind: texts}, {GROUP: clips})
            own = Contrasted(vectors, vectors, torch.arange(rows), (GROUP,))
            draw = torch.empty(rows, 2)
            with LiveBytes([texts, clips]) as live:
                group_loss(model, own, GROUP, draw)[0].backward()
        return live.peak

    model = vast()
    small, large = peak(512), peak(2048)
    at_once = 50 * table  # softmax, its gradient, and the double precision in which negatives are drawn
    assert 8 * table < small < at_once
    assert large < small + 10 * 4 * 16 * 2048

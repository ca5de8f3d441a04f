"""Who sees whom: nothing leaks from the future, from answers to questions, or from padding; packing changes nothing."""

import pytest
import torch

from omnivast.config.tasks import Group
from omnivast.model.text.bert import attention_mask
from omnivast.model.text.layout import Layout
from omnivast.model.text.packing import Packing
from omnivast.model.text.plan import CrossPass
from omnivast.utils.random import StepRandom
from tests.model.tiny import MODALITIES, batch, memory, task, text_model, text_sizes, vast

VAS = Group(MODALITIES)


@pytest.fixture(scope="module")
def model():
    return text_model()


def rows(lengths, longest, seed=0):
    """Random words in rows of these lengths: ids and mask."""
    ids = torch.randint(106, 186, (len(lengths), longest), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 101
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, 0), mask


@torch.no_grad()
def outputs(model, layout):
    """Every token's output (N, L, D) when all rows attend to one clip each."""
    return model.encode(layout, [CrossPass(0, len(layout.ids), memory(len(layout.ids)), VAS)]).padded()


@pytest.mark.parametrize("place", range(1, 6))
def test_a_changed_token_never_changes_an_earlier_prediction(model, place):
    ids, mask = rows([6, 6], 6)
    other = ids.clone()
    other[:, place] = 5  # a word that no row has
    before, after = (outputs(model, Layout.of(x, mask, causal=True)) for x in (ids, other))
    torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-6)
    assert (before[:, place:] - after[:, place:]).abs().amax(-1).min() > 1e-3  # and every later one is changed
    before, after = (outputs(model, Layout.of(x, mask)) for x in (ids, other))
    assert (before - after).abs().amax(-1).min() > 1e-3  # bidirectional: all of them


def test_question_tokens_do_not_see_the_answer(model):
    (question, seen), (answer, own) = rows([5, 3], 5), rows([4, 4], 4, seed=1)
    other = answer.clone()
    other[:, 2] = 5  # a word that no row has
    before, after = (outputs(model, Layout.question_answer(question, seen, x, own, 12)) for x in (answer, other))
    torch.testing.assert_close(before[:, :5][seen], after[:, :5][seen], rtol=0, atol=1e-6)
    torch.testing.assert_close(before[:, 5:7], after[:, 5:7], rtol=0, atol=1e-6)  # nor do earlier answer tokens
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-3


def test_answer_tokens_see_the_whole_question_but_not_its_padding(model):
    (question, seen), (answer, own) = rows([5, 3], 5), rows([4, 4], 4, seed=1)
    base = outputs(model, Layout.question_answer(question, seen, answer, own, 12))
    last, padding = question.clone(), question.clone()
    last[0, 4], padding[1, 4] = 5, 5
    assert (base[0, 5:] - outputs(model, Layout.question_answer(last, seen, answer, own, 12))[0, 5:]).abs().amax(-1).min() > 1e-3
    torch.testing.assert_close(base, outputs(model, Layout.question_answer(padding, seen, answer, own, 12)))


def test_the_answer_starts_at_its_offset_whatever_the_padding_of_the_question():
    (question, seen), (answer, own) = rows([3], 5), rows([4], 4)
    layout = Layout.question_answer(question, seen, answer, own, 12)
    assert layout.positions.tolist() == [[0, 1, 2, 3, 4, 12, 13, 14, 15]]
    shorter = Layout.question_answer(question[:, :3], seen[:, :3], answer, own, 12)
    assert shorter.positions.tolist() == [[0, 1, 2, 12, 13, 14, 15]]


@pytest.mark.parametrize("causal", [False, True])
def test_padding_has_no_influence(model, causal):
    ids, mask = rows([6, 3, 4], 6)
    base = outputs(model, Layout.of(ids, mask, causal))
    noisy = torch.where(mask, ids, 177)
    torch.testing.assert_close(outputs(model, Layout.of(noisy, mask, causal))[mask], base[mask])
    wider = outputs(model, Layout.of(*(torch.nn.functional.pad(x, (0, 3)) for x in (ids, mask)), causal))
    torch.testing.assert_close(wider[:, :6][mask], base[mask])


@pytest.mark.parametrize("causal", [False, True])
def test_packed_equals_padded(model, causal):
    ids, mask = rows([6, 3, 4], 6)
    packed = outputs(model, Layout.of(ids, mask, causal))
    unpacked = outputs(model, Layout.of(ids, mask, causal, compute_padding=True))
    torch.testing.assert_close(packed[mask], unpacked[mask])
    assert not packed[~mask].any() and unpacked[~mask].any()


def test_rows_of_a_stack_equal_the_rows_alone(model):
    clips = memory(2)
    parts = [Layout.of(*rows([4, 3], 4)), Layout.of(*rows([7, 2], 7, 1), causal=True),
             Layout.question_answer(*rows([3, 4], 4, 2), *rows([3, 2], 3, 3), 12)]
    passes = [CrossPass(2 * i, 2 * i + 2, clips, VAS) for i in range(3)]
    with torch.no_grad():
        together = model.encode(Layout.stack(parts), passes)
        for i, part in enumerate(parts):
            alone = model.encode(part, [CrossPass(0, 2, clips, VAS)])
            length = part.ids.shape[1]
            torch.testing.assert_close(together.padded()[2 * i:2 * i + 2, :length][part.real], alone.padded()[part.real])
            torch.testing.assert_close(together.cls()[2 * i:2 * i + 2], alone.cls())
        without = model.encode(Layout.stack(parts[:2]))
        torch.testing.assert_close(without.padded()[:2, :4][parts[0].real], model.encode(parts[0]).padded()[parts[0].real])


def test_every_query_of_a_stack_sees_something():
    stacked = Layout.stack([Layout.of(*rows([2], 2)), Layout.of(*rows([6, 1], 6), causal=True)])
    attend = attention_mask(torch.tensor(stacked.visible), torch.tensor(stacked.reach))
    assert attend.shape == (3, 1, 6, 6) and attend.any(-1).all() and stacked.ids.shape == (3, 6)
    assert Layout.stack([stacked]) is stacked


def test_packing_there_and_back():
    full = torch.arange(1.0, 25).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    packing = Packing((2, 4), mask.flatten().nonzero().squeeze(1))
    assert torch.equal(packing.pack(full), full[mask]) and torch.equal(packing.pad(packing.pack(full)), full * mask[..., None])
    whole = Packing((2, 4), None)
    assert torch.equal(whole.pad(whole.pack(full)), full)


def test_cls_and_chosen_tokens_of_packed_rows(model):
    ids, mask = rows([6, 3, 4], 6)
    chosen = torch.zeros_like(mask)
    chosen[0, 5] = chosen[1, 1] = chosen[2, 0] = True
    with torch.no_grad():
        out = model.encode(Layout.of(ids, mask))
        full = model.encode(Layout.of(ids, mask, compute_padding=True))
    torch.testing.assert_close(out.cls(), out.padded()[:, 0])
    torch.testing.assert_close(out.at(chosen), torch.stack([out.padded()[0, 5], out.padded()[1, 1], out.padded()[2, 0]]))
    torch.testing.assert_close(full.cls(), out.cls())
    torch.testing.assert_close(full.at(chosen), out.at(chosen))


def test_no_nan_with_padded_rows_in_bfloat16():
    """Rows of very different lengths in one stack, trained in bfloat16 on the CPU: the plain attention path."""
    model = vast(sizes=text_sizes(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)).train()
    model.precision = torch.bfloat16
    losses = model(batch(), task("ret%tvas%tv%ta_cap%tvas%tv%ta_qa%tvas%tv"), StepRandom(0, 0))
    losses["loss"].backward()
    assert all(value.isfinite() for value in losses.values()) and losses["loss"].dtype is torch.float32
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) > 50 and all(g.isfinite().all() for g in gradients.values())


def test_no_nan_in_a_layout_with_padded_queries_in_bfloat16():
    model = text_model().train()
    layout = Layout.stack([Layout.of(*rows([2, 2], 2)), Layout.of(*rows([9, 3], 9), causal=True)])
    with torch.autocast("cpu", torch.bfloat16):
        out = model.encode(layout, [CrossPass(0, 2, memory(2), VAS, None, 2), CrossPass(2, 4, memory(2), VAS)])
        loss = model.logits(out.hidden).float().logsumexp(-1).mean()
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

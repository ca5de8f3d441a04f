"""The objectives against numbers worked out with plain Python."""

import math

import pytest
import torch

from omnivast.model.objectives import generation
from omnivast.model.objectives.contrastive import (
    CONTRASTS,
    cosines,
    hard_negatives,
    over_temperature,
    prefix,
    scaled,
    teaching_loss,
)
from omnivast.model.objectives.generation import FIRST_WORD, IGNORED, MaskTokens, mask_tokens, vocabulary_loss
from omnivast.model.objectives.matching import matching_loss

SOFTMAX, SIGMOID = (CONTRASTS.find(name) for name in ("softmax", "sigmoid"))
SPECIAL = MaskTokens(pad=0, cls=101, mask=103, vocab_size=186)


def cross_entropy(scores, target, smoothing=0.0):
    """−Σ q log p, with the target's share 1 − smoothing and the smoothing spread over all."""
    log_total = math.log(sum(math.exp(s) for s in scores))
    shares = [smoothing / len(scores) + (1 - smoothing) * (i == target) for i in range(len(scores))]
    return sum(q * (log_total - s) for q, s in zip(shares, scores))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_contrastive_loss_of_two_pairs(smoothing):
    """Texts at 0° and 90°, clips at 30° and 90°, temperature 0.5: cosines 0.866, 0, 0.5, 1, doubled."""
    half = math.sqrt(0.75)
    texts, clips = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[half, 0.5], [0.0, 1.0]])
    by_text, by_clip = (over_temperature(scores, torch.tensor(0.5)) for scores in cosines(texts, clips, texts, clips))
    torch.testing.assert_close(by_text, torch.tensor([[2 * half, 0.0], [1.0, 2.0]]))
    torch.testing.assert_close(by_clip, by_text.T)
    rows, columns = [[2 * half, 0.0], [1.0, 2.0]], [[2 * half, 1.0], [0.0, 2.0]]
    wanted = sum(cross_entropy(own[i], i, smoothing) for own in (rows, columns) for i in range(2)) / 4
    assert SOFTMAX.loss(by_text, by_clip, torch.arange(2), smoothing).item() == pytest.approx(wanted, rel=1e-6)
    if not smoothing:  # log(1 + e^−√3), log(1 + e^−1), log(1 + e^(1−√3)), log(1 + e^−2)
        assert wanted == pytest.approx((0.16267 + 0.31326 + 0.39254 + 0.12693) / 4, abs=1e-4)


def test_contrastive_loss_of_one_process_of_several():
    """Pairs 2 and 3 of a global batch of three: their targets are global rows."""
    by_text, by_clip = torch.tensor([[0.1, 2.0, 0.3], [1.0, 0.0, 3.0]]), torch.tensor([[0.5, 1.5, 0.0], [0.2, 0.4, 1.0]])
    wanted = sum(cross_entropy(own[i].tolist(), i + 1) for own in (by_text, by_clip) for i in range(2)) / 4
    assert SOFTMAX.loss(by_text, by_clip, torch.tensor([1, 2])).item() == pytest.approx(wanted, rel=1e-6)


def test_equal_similarities_cost_the_logarithm_of_the_batch():
    same = torch.full((3, 3), 0.7)
    assert SOFTMAX.loss(same, same, torch.arange(3), 0.1).item() == pytest.approx(math.log(3))


def test_sigmoid_loss_of_two_pairs():
    """Texts at 0° and 90°, clips at 60° and 90°, scale 10 and bias -10, as at the start: logits -5, -10 and 10·√¾ - 10, 0."""
    assert dict(CONTRASTS.find("sigmoid").learnt) == {"contra_scale": math.log(10), "contra_bias": -10.0}
    texts, clips = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, math.sqrt(0.75)], [0.0, 1.0]])
    learnt = [torch.tensor(value, requires_grad=True) for value in CONTRASTS.find("sigmoid").learnt.values()]
    by_text, by_clip = (scaled(scores, *learnt) for scores in cosines(texts, clips, texts, clips))
    torch.testing.assert_close(by_text, torch.tensor([[-5.0, -10.0], [10 * math.sqrt(0.75) - 10, 0.0]]))
    torch.testing.assert_close(by_clip, by_text.T)
    # True pairs log(1 + e^5), log 2; the others log(1 + e^-10), log(1 + e^-1.33975); over two rows.
    loss = SIGMOID.loss(by_text, by_clip, torch.arange(2))
    assert loss.item() == pytest.approx((5.006715 + 0.693147 + 0.0000454 + 0.232628) / 2, abs=1e-5)
    loss.backward()
    # Of the bias: minus the mistaken part of each true pair, plus that of each other: (-σ(5) - σ(0) + σ(-10) + σ(-1.33975)) / 2.
    assert learnt[1].grad.item() == pytest.approx((-0.993307 - 0.5 + 0.0000454 + 0.207551) / 2, abs=1e-5)


def test_sigmoid_loss_of_one_process_of_several():
    """Pairs 2 and 3 of a global batch of three."""
    by_text, by_clip = torch.tensor([[0.1, 2.0, 0.3], [1.0, 0.0, 3.0]]), torch.tensor([[0.5, 1.5, 0.0], [0.2, 0.4, 1.0]])
    wanted = sum(math.log1p(math.exp(-x if column == row + 1 else x)) for own in (by_text, by_clip)
                 for row, values in enumerate(own.tolist()) for column, x in enumerate(values)) / 4
    assert SIGMOID.loss(by_text, by_clip, torch.tensor([1, 2])).item() == pytest.approx(wanted, rel=1e-6)


def test_a_prefix_is_cut_and_has_length_1():
    torch.testing.assert_close(prefix(torch.tensor([[3.0, 4.0, 12.0], [0.0, -2.0, 5.0]]), 2), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))


def test_what_a_teacher_has_to_tell():
    """The teacher gives two candidates 3/4 and 1/4, the student 1/2 each: ¾ log 1.5 + ¼ log 0.5. On the second row they agree."""
    teacher = torch.tensor([[math.log(3.0), 0.0], [1.0, 5.0]], requires_grad=True)
    student = torch.tensor([[2.0, 2.0], [0.0, 4.0]], requires_grad=True)
    loss = teaching_loss(student, teacher)
    assert loss.item() == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2, rel=1e-5)
    loss.backward()
    assert teacher.grad is None
    # What the student gives minus what the teacher gives, half of it since there are two rows.
    torch.testing.assert_close(student.grad, torch.tensor([[-0.125, 0.125], [0.0, 0.0]]))


WEIGHTS = [[1.0, 0.01, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
"""A clip with a rejected caption, the third column, and one without."""


def test_weighted_choice_among_own_rejected_and_other_captions():
    by_text = torch.tensor([[1.0, 0.5], [0.2, 2.0]])
    by_clip = torch.tensor([[1.0, 0.3, 2.0, 9.0], [0.1, 2.0, 7.0, 8.0]])
    targets, weights = torch.arange(2), torch.tensor(WEIGHTS)
    for smoothing in (0.0, 0.1):
        rows = []
        for own, counted, target in zip(by_clip.tolist(), WEIGHTS, range(2)):
            shares = [w * math.exp(x) for w, x in zip(counted, own)]
            wanted = [smoothing * w / sum(counted) + (1 - smoothing) * (i == target) for i, w in enumerate(counted)]
            rows.append(-sum(q * math.log(p / sum(shares)) for q, p in zip(wanted, shares) if q))
        other = (cross_entropy([1.0, 0.5], 0, smoothing) + cross_entropy([0.2, 2.0], 1, smoothing)) / 2
        assert SOFTMAX.loss(by_text, by_clip, targets, smoothing, weights).item() == pytest.approx((other + sum(rows) / 2) / 2, rel=1e-6)


def test_weights_of_one_change_nothing_but_rounding():
    scores, targets = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 4, 2])
    for loss in (SOFTMAX, SIGMOID):
        plain, weighted = (loss.rows(scores, targets, 0.1, weights) for weights in (None, torch.ones(3, 5)))
        assert weighted.item() == pytest.approx(plain.item(), rel=1e-6)
    half = torch.full((3, 5), 0.5)
    assert SIGMOID.rows(scores, targets, 0.0, half).item() == pytest.approx(SIGMOID.rows(scores, targets).item() / 2, rel=1e-6)


def test_a_candidate_of_weight_0_has_no_gradient_and_breaks_none():
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    SOFTMAX.rows(scores, torch.arange(2), 0.1, torch.tensor(WEIGHTS)).backward()
    assert scores.grad.isfinite().all() and (scores.grad != 0).tolist() == [[w > 0 for w in own] for own in WEIGHTS]


def test_hard_negatives_that_do_not_count_are_never_drawn():
    weights = torch.tensor(WEIGHTS)
    logits = torch.tensor([[1.0, 0.3, 2.0, 9.0], [0.1, 2.0, 7.0, 8.0]]) + weights.log()
    drawn = [hard_negatives(logits, torch.arange(2), torch.full((2,), draw), weights > 0).tolist() for draw in (0.0, 0.5, 0.9999)]
    assert drawn == [[1, 0], [2, 0], [2, 0]]
    none = torch.tensor([[1.0, 0.0]])
    assert hard_negatives(none.log(), torch.tensor([0]), torch.tensor([0.5]), none > 0).tolist() == [0]


def test_hard_negatives_follow_their_weights_and_are_never_the_target():
    similarity = torch.tensor([[3.0, 2.0, 1.0, -9.0], [0.0, 5.0, 0.0, 0.0]])
    targets, count = torch.tensor([0, 1]), 20000
    draws = torch.rand(2 * count, generator=torch.Generator().manual_seed(0))
    drawn = hard_negatives(similarity.repeat(count, 1), targets.repeat(count), draws).view(count, 2)
    for row, target in enumerate(targets.tolist()):
        weights = [0.0 if i == target else math.exp(s) / sum(map(math.exp, similarity[row].tolist())) + 1e-4
                   for i, s in enumerate(similarity[row].tolist())]
        expected = [count * w / sum(weights) for w in weights]
        counted = torch.bincount(drawn[:, row], minlength=4).tolist()
        assert counted[target] == 0
        assert sum((c - e) ** 2 / e for c, e in zip(counted, expected) if e) < 16.3  # chi-square, 2 degrees: one in 3,500


def test_extreme_draws_and_similarities_still_give_a_negative():
    similarity = torch.tensor([[50.0, -50.0, -50.0], [-50.0, 50.0, -50.0], [-50.0, -50.0, 50.0], [90.0, 0.0, 0.0]])
    targets = torch.tensor([0, 1, 2, 2])
    last_below_one = torch.full((4,), 1 - 2**-24)
    assert hard_negatives(similarity, targets, torch.zeros(4)).tolist() == [1, 0, 0, 0]
    assert hard_negatives(similarity, targets, last_below_one).tolist()[:3] == [2, 2, 1]
    assert hard_negatives(similarity, targets, last_below_one)[3] != 2
    assert hard_negatives(similarity, targets, torch.full((4,), 0.5))[3] == 0


def test_a_batch_of_one_has_no_negative():
    assert hard_negatives(torch.tensor([[2.0]]), torch.tensor([0]), torch.tensor([0.7])).tolist() == [0]


def test_negatives_do_not_carry_gradient():
    similarity = torch.randn(3, 3, requires_grad=True)
    assert not hard_negatives(similarity, torch.arange(3), torch.rand(3)).requires_grad


def words(rows, length=10):
    """[CLS], words, [SEP], padding from the eighth on."""
    ids = torch.randint(FIRST_WORD, 186, (rows, length), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, 6], ids[:, 7:] = 101, 102, 0
    return ids


def draws_for(rows, length=10, seed=0):
    return torch.rand(rows, length, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("probability", [0.6, 0.99])
def test_masking_chooses_and_disguises_in_the_stated_shares(probability):
    ids = words(5000)
    hidden, labels = mask_tokens(ids, SPECIAL, probability, draws_for(5000))
    chosen = labels != IGNORED
    assert not chosen[:, 0].any() and not chosen[:, 7:].any() and chosen.any(1).all()
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(hidden[~chosen], ids[~chosen])
    assert chosen[:, 1:7].float().mean().item() == pytest.approx(probability, abs=0.01)  # the [SEP] is predicted too
    assert chosen[:, 6].float().mean().item() == pytest.approx(probability, abs=0.02)
    masked, kept = hidden[chosen] == SPECIAL.mask, hidden[chosen] == ids[chosen]
    replaced = hidden[chosen][~masked & ~kept]
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert kept.float().mean().item() == pytest.approx(0.1 + 0.1 / 80, abs=0.01)
    assert replaced.min() >= FIRST_WORD and replaced.max() < 186 and len(replaced.unique()) == 80
    assert torch.bincount(replaced - FIRST_WORD).float().std() < 0.35 * len(replaced) / 80  # evenly over the words


def test_at_least_one_token_of_every_row_is_chosen():
    ids = words(500)
    _, labels = mask_tokens(ids, SPECIAL, 0.0, draws_for(500))
    assert ((labels != IGNORED).sum(1) == 1).all() and not (labels[:, 0] != IGNORED).any()
    assert len((labels != IGNORED).nonzero()[:, 1].unique()) == 6  # any of the candidates
    shortest, labels = mask_tokens(torch.tensor([[101, 102, 0]]), SPECIAL, 0.0, draws_for(1))
    assert labels.tolist() == [[IGNORED, 102, IGNORED]]
    _, empty = mask_tokens(torch.tensor([[101, 0, 0]]), SPECIAL, 0.5, draws_for(1))
    assert (empty == IGNORED).all()


def test_masking_is_a_function_of_its_draws_and_not_of_the_padding():
    ids, draws = words(50), draws_for(50)
    first, second = mask_tokens(ids, SPECIAL, 0.6, draws), mask_tokens(ids, SPECIAL, 0.6, draws)
    narrow = mask_tokens(ids[:, :7], SPECIAL, 0.6, draws)
    other = mask_tokens(ids, SPECIAL, 0.6, draws_for(50, seed=1))
    for one, same, short, different in zip(first, second, narrow, other):
        assert torch.equal(one, same) and torch.equal(one[:, :7], short) and not torch.equal(one, different)


def test_masking_by_hand():
    """Choice, fate and word draws per token: masked; left as it is and not chosen; a random word; chosen and kept."""
    ids = torch.tensor([[101, 110, 120, 130, 140]])
    draws = torch.tensor([[[0.0, 0.0, 0.0], [0.1, 0.5, 0.0], [0.7, 0.5, 0.0], [0.3, 0.85, 0.5], [0.59, 0.95, 0.0]]])
    hidden, labels = mask_tokens(ids, SPECIAL, 0.6, draws)
    assert hidden.tolist() == [[101, 103, 120, 146, 140]] and labels.tolist() == [[IGNORED, 110, IGNORED, 130, 140]]


def test_matching_loss_by_hand():
    positives, first, second = (torch.tensor([x]) for x in ([0.0, 2.0], [0.0, 2.0], [1.0, 0.0]))
    wanted = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2)) + math.log(1 + math.exp(-1))) / 3
    assert matching_loss(positives, first, second).item() == pytest.approx(wanted)
    undecided = torch.zeros(4, 2)
    assert matching_loss(undecided, undecided, undecided).item() == pytest.approx(math.log(2))


def test_vocabulary_loss_by_hand():
    """A vocabulary of three words whose logits are the hidden states themselves."""
    logits, labels = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), torch.tensor([2, 0])
    first, second = cross_entropy([0, 1, 2], 2), math.log(3)
    total, each = vocabulary_loss(logits, torch.eye(3), torch.zeros(3), labels, torch.tensor([0.5, 0.25]))
    assert each.tolist() == pytest.approx([first, second]) and total.item() == pytest.approx(first / 2 + second / 4)
    shifted = vocabulary_loss(logits, torch.eye(3), torch.tensor([0.0, 0.0, 1.0]), labels, torch.ones(2))[1]
    assert shifted.tolist() == pytest.approx([cross_entropy([0, 1, 3], 2), cross_entropy([1, 1, 2], 0)])


def prediction(dtype=torch.float32):
    """Seven hidden states of width 4, eleven words, their biases; labels and shares."""
    noise = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=noise) for shape in ((7, 4), (11, 4), (11,))]
    tensors[0] = tensors[0].to(dtype)
    return [x.requires_grad_() for x in tensors], torch.randint(0, 11, (7,), generator=noise), torch.rand(7, generator=noise)


@pytest.mark.parametrize("at_once", [1, 3, 100], ids="{} rows".format)
def test_vocabulary_loss_and_gradients_are_those_of_all_logits_at_once(monkeypatch, at_once):
    monkeypatch.setitem(generation.LOGITS, "cpu", at_once * 11)
    (hidden, weight, bias), labels, shares = prediction()
    each = torch.nn.functional.cross_entropy(hidden @ weight.T + bias, labels, reduction="none")
    wanted = torch.autograd.grad(3 * (each * shares).sum(), (hidden, weight, bias))
    total, found = vocabulary_loss(hidden, weight, bias, labels, shares)
    torch.testing.assert_close(found, each.detach())
    assert not found.requires_grad and total.item() == pytest.approx((each * shares).sum().item())
    for _ in range(2):  # what was made in the forward pass serves any number of backward passes
        got = torch.autograd.grad(3 * total, (hidden, weight, bias), retain_graph=True)
        for one, other in zip(got, wanted):
            torch.testing.assert_close(one, other)


def test_vocabulary_loss_in_half_precision_keeps_small_gradients():
    """In float16, shares of a millionth would leave no gradient where they stood in the products; types are those of the tensors."""
    (hidden, weight, bias), labels, _ = prediction(torch.bfloat16)
    shares = torch.full((7,), 1e-6)
    exact = torch.autograd.grad(vocabulary_loss(hidden.float(), weight, bias, labels, shares)[0], (hidden, weight, bias))
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            total, _ = vocabulary_loss(hidden, weight, bias, labels, shares)
        assert total.dtype is torch.float32
        found = torch.autograd.grad(total, (hidden, weight, bias))
        assert [x.dtype for x in found] == [torch.bfloat16, torch.float32, torch.float32]
        for one, other in zip(found, exact):
            assert (one.float() - other.float()).norm() < 0.02 * other.float().norm()


def test_vocabulary_loss_without_gradient_or_without_tokens():
    (hidden, weight, bias), labels, shares = prediction()
    with torch.no_grad():
        assert not vocabulary_loss(hidden, weight, bias, labels, shares)[0].requires_grad
    weight.requires_grad_(False)
    total, each = vocabulary_loss(hidden[:0], weight, bias, labels[:0], shares[:0])
    total.backward()
    assert total.item() == 0 and each.shape == (0,) and hidden.grad.abs().sum() == 0

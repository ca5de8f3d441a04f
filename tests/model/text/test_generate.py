"""Generation over the cache equals recomputing everything; beams against exhaustive search; sampling among the top k."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.model.text.generate import beam_search, best_texts, log_likelihoods, sample
from omnivast.model.text.layout import Layout
from omnivast.model.text.plan import CrossPass
from tests.model.tiny import MODALITIES, copy_of, memory, text_model

GROUP = Group(MODALITIES)
WORDS = SimpleNamespace(pad=0, cls=1, sep=2, mask=3)
"""A vocabulary of which [SEP] and the ids from 4 on are real words."""


def small_model(seed: int = 0, vocabulary: int = 12, ends: float = 0.0):
    """A decoder over few words; ``ends`` raises [SEP], so that texts end at different lengths."""
    model = text_model(seed, vocab_size=vocabulary)
    with torch.no_grad():
        model.cls["predictions"].bias[:] = torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed))
        model.cls["predictions"].bias[[0, 1, 3]] = -100.0
        model.cls["predictions"].bias[WORDS.sep] = ends
    return model


@torch.no_grad()
def recomputed(model, clips, row, ids, prompt=None, offset=0):
    """Logits at the [MASK] after ``ids`` of one clip, with nothing cached."""
    own = copy_of(clips, slice(row, row + 1))
    text = torch.tensor([[WORDS.cls, *ids, WORDS.mask]])
    seen = torch.ones_like(text, dtype=torch.bool)
    if prompt is None:
        layout = Layout.of(text, seen, causal=True)
    else:
        layout = Layout.question_answer(prompt[0][row:row + 1], prompt[1][row:row + 1], text, seen, offset)
    out = model.encode(layout, [CrossPass(0, 1, own, GROUP)])
    return model.logits(out.hidden[-1:])[0]


def questions():
    ids = torch.tensor([[1, 5, 6, 7, 2], [1, 8, 2, 0, 0], [1, 9, 9, 2, 0]])
    return ids, ids != 0


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("masked", [(), (Modality.SUBTITLE, Modality.VISION)], ids=len)
@torch.no_grad()
def test_cached_steps_equal_recomputing_everything(asked, masked):
    model, clips = small_model(), memory(3, masked=masked)
    prompt, offset = (questions(), 8) if asked else (None, 0)
    state = model.start(copy_of(clips), GROUP, prompt, offset)
    words = torch.randint(4, 12, (3, 6), generator=torch.Generator().manual_seed(1))
    tokens = torch.full((3,), WORDS.cls)
    for step in range(6):
        logits = model.step(state, tokens, WORDS.mask)
        for row in range(3):
            wanted = recomputed(model, clips, row, words[row, :step].tolist(), prompt, offset)
            torch.testing.assert_close(logits[row], wanted, rtol=1e-4, atol=1e-5)
        tokens = words[:, step]


@torch.no_grad()
def test_reordered_rows_continue_their_own_texts():
    """Two texts per clip from the second word on; then one of them is kept, and one clip dropped."""
    model, clips = small_model(), memory(3)
    state = model.start(copy_of(clips), GROUP)
    model.step(state, torch.full((3,), WORDS.cls), WORDS.mask)
    state.reorder(torch.arange(3).repeat_interleave(2))
    model.step(state, torch.tensor([4, 5, 6, 7, 8, 9]), WORDS.mask)
    state.reorder(torch.tensor([5, 1]), torch.tensor([2, 0]))
    logits = model.step(state, torch.tensor([10, 11]), WORDS.mask)
    torch.testing.assert_close(logits[0], recomputed(model, clips, 2, [9, 10]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[1], recomputed(model, clips, 0, [5, 11]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", [False, True])
@torch.no_grad()
def test_greedy_takes_the_likeliest_word_each_time(asked):
    model, clips = small_model(ends=2.0), memory(3)
    prompt, offset = (questions(), 8) if asked else (None, 0)
    got = beam_search(model, model.start(copy_of(clips), GROUP, prompt, offset), WORDS, 1, 6, 0.6)
    for row in range(3):
        ids: list[int] = []
        while len(ids) < 6 and (word := int(recomputed(model, clips, row, ids, prompt, offset).argmax())) != WORDS.sep:
            ids.append(word)
        assert got[row] == ids


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_questions_about_one_clip_share_its_memory_and_find_what_each_finds_alone(beams):
    """Three questions for each of three clips; texts end at different lengths, so that clips are dropped on the way."""
    model, clips = small_model(ends=1.5), memory(3, masked=(Modality.AUDIO,))
    ids = torch.randint(4, 12, (9, 5), generator=torch.Generator().manual_seed(2))
    seen = torch.arange(5) < torch.tensor([5, 3, 4, 2, 5, 3, 5, 4, 4])[:, None]
    state = model.start(copy_of(clips), GROUP, (ids, seen), 8)
    assert state.rows == 9 and len(state.memory) == 3
    together = best_texts(model, state, WORDS, beams, 6, 1.0)
    assert len({len(ids) for own in together for ids in own}) > 1
    for row in range(9):
        clip = slice(row // 3, row // 3 + 1)
        alone = model.start(copy_of(clips, clip), GROUP, (ids[row:row + 1], seen[row:row + 1]), 8)
        assert best_texts(model, alone, WORDS, beams, 6, 1.0) == together[row:row + 1]


@torch.no_grad()
def total(model, clips, row, ids, ended):
    """Summed log-probability of a text, with its [SEP] when it ended."""
    return sum(float(recomputed(model, clips, row, ids[:i]).log_softmax(-1)[word])
               for i, word in enumerate([*ids, WORDS.sep] if ended else ids))


@pytest.mark.parametrize("seed", range(3))
def test_beams_find_the_best_of_all_texts(seed):
    """Of at most two words, with so many beams that no first word is pruned; the [SEP] at the end is not needed."""
    model, clips = small_model(seed, vocabulary=10, ends=1.0), memory(2, seed=seed)
    words = range(4, 10)
    for penalty in (0.0, 0.6, 2.0):
        got = beam_search(model, model.start(copy_of(clips), GROUP), WORDS, 5, 2, penalty)
        for row in range(2):
            ended = [(ids, True) for n in (0, 1) for ids in itertools.product(words, repeat=n)]
            texts = [*ended, *((ids, False) for ids in itertools.product(words, repeat=2))]
            first = recomputed(model, clips, row, []).topk(6).indices.tolist()
            kept = [word for word in first if word != WORDS.sep][:5]
            scores = {ids: total(model, clips, row, list(ids), end) / (1 + len(ids)) ** penalty for ids, end in texts
                      if not ids or ids[0] in kept}
            best = max(scores, key=scores.__getitem__)
            assert got[row] == list(best) or scores[tuple(got[row])] == pytest.approx(scores[best], rel=1e-5)


def test_more_beams_never_give_a_less_likely_text():
    model, clips = small_model(4), memory(3)
    likelihood = []
    for beams in (1, 2, 4):
        ids = beam_search(model, model.start(copy_of(clips), GROUP), WORDS, beams, 4, 0.0)
        likelihood.append([total(model, clips, row, own, len(own) < 4) for row, own in enumerate(ids)])
    assert all(b >= a - 1e-5 for one, more in itertools.pairwise(likelihood) for a, b in zip(one, more))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("asked", [False, True])
def test_a_clip_gets_the_same_text_alone_and_among_others(beams, asked):
    """Clips end at different lengths, and those that ended are dropped on the way."""
    model, clips = small_model(2, ends=1.0), memory(12)
    ids, seen = questions()
    prompt, offset = ((ids.repeat(4, 1), seen.repeat(4, 1)), 8) if asked else (None, 0)
    together = beam_search(model, model.start(copy_of(clips), GROUP, prompt, offset), WORDS, beams, 10, 0.6)
    for row in range(12):
        own = None if prompt is None else tuple(x[row:row + 1] for x in prompt)
        alone = beam_search(model, model.start(copy_of(clips, slice(row, row + 1)), GROUP, own, offset), WORDS, beams, 10, 0.6)
        assert together[row] == alone[0]
    assert len({len(text) for text in together}) > 2


def test_sampling_is_reproducible_and_draws_among_the_top_k_alone():
    model, clips = small_model(ends=0.5), memory(3)

    def draw(seed, top_k=3):
        draws = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed))
        return sample(model, model.start(copy_of(clips), GROUP), WORDS, draws, top_k)

    texts = draw(0)
    assert texts == draw(0) and texts != draw(1)
    assert [len(own) for own in texts] == [4, 4, 4] and len({tuple(t) for t in texts[0]}) > 1
    for row, own in enumerate(texts):
        for ids in own:
            for step, word in enumerate([*ids, WORDS.sep] if len(ids) < 5 else ids):
                assert word in recomputed(model, clips, row, ids[:step]).topk(3).indices
    greedy = beam_search(model, model.start(copy_of(clips), GROUP), WORDS, 1, 5, 0.6)
    assert draw(7, top_k=1) == [[ids] * 4 for ids in greedy]


@pytest.mark.parametrize("top_k", [4, None])
def test_sampling_follows_the_probabilities(top_k):
    model, clips = small_model(), memory(1)
    draws = torch.rand(1, 4000, 1, generator=torch.Generator().manual_seed(0))
    drawn = sample(model, model.start(copy_of(clips), GROUP), WORDS, draws, top_k)[0]
    values, words = recomputed(model, clips, 0, []).topk(top_k or 12)
    for word, share in zip(words.tolist(), values.softmax(0).tolist()):
        counted = sum(text == ([] if word == WORDS.sep else [word]) for text in drawn) / 4000
        assert counted == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5 + 1e-3)


def test_a_clip_is_sampled_alike_alone_and_among_others():
    model, clips = small_model(2, ends=1.0), memory(6)
    draws = torch.rand(6, 3, 8, generator=torch.Generator().manual_seed(1))
    together = sample(model, model.start(copy_of(clips), GROUP), WORDS, draws, 5)
    for row in range(6):
        alone = sample(model, model.start(copy_of(clips, slice(row, row + 1)), GROUP), WORDS, draws[row:row + 1], 5)
        assert together[row] == alone[0]
    assert len({tuple(text) for own in together for text in own}) > 9


def test_the_best_texts_of_beam_search_are_different_and_in_order():
    model, clips = small_model(3, ends=1.0), memory(4)
    found = best_texts(model, model.start(copy_of(clips), GROUP), WORDS, 4, 5, 0.6)
    assert [own[0] for own in found] == beam_search(model, model.start(copy_of(clips), GROUP), WORDS, 4, 5, 0.6)
    for row, own in enumerate(found):
        assert len(own) == 4 and len(set(map(tuple, own))) == 4
        # A hypothesis that ends at the last place scores without its [SEP], as in the transformers library.
        scores = [total(model, clips, row, ids, len(ids) < 5) / (1 + len(ids)) ** 0.6 for ids in own]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("asked", [False, True])
@torch.no_grad()
def test_the_likelihood_of_given_texts_is_that_of_their_words_one_after_the_other(asked):
    """Two texts of every clip; one fills the most words there may be, so that its end is not predicted, and one has none."""
    model, clips = small_model(ends=1.0), memory(3)
    prompt, offset = (questions(), 8) if asked else (None, 0)
    texts = [[[5, 6], [7, 8, 9, 10]], [[4], []], [[11, 5, 4], [9, 9]]]
    found = log_likelihoods(model, model.start(copy_of(clips), GROUP, prompt, offset), WORDS, texts, 4)
    for row, own in enumerate(texts):
        for ids, likelihood in zip(own, found[row]):
            words = [*ids, WORDS.sep][:4]
            wanted = sum(float(recomputed(model, clips, row, ids[:n], prompt, offset).log_softmax(-1)[word])
                         for n, word in enumerate(words))
            assert likelihood == pytest.approx(wanted, abs=1e-4)

"""Log-probabilities of captions are those that generation finds; the loss moves the model towards what is rewarded."""

from __future__ import annotations

import pytest
import torch

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.evaluation.captions.reward import CiderReward
from omnivast.model.objectives.self_critical import SelfCritical, advantages, self_critical_loss
from omnivast.model.text.generate import beam_search, sample
from omnivast.model.text.layout import Layout
from omnivast.model.text.plan import CrossPass
from omnivast.model.text.self_critical import learn_from_reward, log_probs
from omnivast.utils.random import StepRandom
from tests.model.test_overfit import overfit
from tests.model.text.test_generate import WORDS, small_model
from tests.model.tiny import CAPTIONS, MODALITIES, batch, copy_of, memory, task, text_sizes, vast

VAS, V = Group(MODALITIES), Group((Modality.VISION,))
LONGEST = 7
TEXTS = {VAS: [[[4, 5, 6], []], [[7], [8, 9, 4, 5, 6, 7, 8]], [[10, 11], [5, 5]]], V: [[[4]], [[6, 5, 4, 11, 9, 8, 7]], [[]]]}
"""Two texts per clip on one group and one on the other, among them empty ones and ones without an end."""


def stepwise(model, clips, row, group, ids):
    """Sum of the log-probabilities of generation's own steps."""
    state, total = model.start(copy_of(clips, slice(row, row + 1)), group), torch.zeros(())
    tokens = torch.tensor([WORDS.cls])
    for word in [*ids, WORDS.sep][:LONGEST]:
        total = total + model.step(state, tokens, WORDS.mask).log_softmax(-1)[0, word]
        tokens = torch.tensor([word])
    return total


def plain(model, clips, row, group, ids):
    """The same with a forward of its own for every prefix."""
    total = torch.zeros(())
    wanted = [*ids, WORDS.sep][:LONGEST]
    for place, word in enumerate(wanted):
        text = torch.tensor([[WORDS.cls, *wanted[:place], WORDS.mask]])
        layout = Layout.of(text, torch.ones_like(text, dtype=torch.bool), causal=True)
        hidden = model.encode(layout, [CrossPass(0, 1, copy_of(clips, slice(row, row + 1)), group)]).hidden[-1:]
        total = total + model.logits(hidden).log_softmax(-1)[0, word]
    return total


@pytest.mark.parametrize("masked", [(), (Modality.SUBTITLE, Modality.VISION)], ids=len)
def test_log_probs_are_those_of_generation_step_by_step(masked):
    model, clips = small_model(ends=1.0), memory(3, masked=masked)
    with torch.no_grad():
        found = log_probs(model, WORDS, copy_of(clips), TEXTS, LONGEST)
        for group, texts in TEXTS.items():
            wanted = torch.stack([torch.stack([stepwise(model, clips, row, group, ids) for ids in own]) for row, own in enumerate(texts)])
            assert found[group].shape == wanted.shape
            torch.testing.assert_close(found[group], wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_a_forward_per_prefix():
    model, clips = small_model(ends=1.0), memory(3)
    weights = {VAS: torch.tensor([[1.0, -0.5], [2.0, 0.3], [-1.0, 0.7]]), V: torch.tensor([[0.4], [-1.5], [1.0]])}
    found = log_probs(model, WORDS, copy_of(clips), TEXTS, LONGEST)
    sum((found[group] * weights[group]).sum() for group in TEXTS).backward()
    fast = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sum(weights[group][row, i] * plain(model, clips, row, group, ids)
        for group, texts in TEXTS.items() for row, own in enumerate(texts) for i, ids in enumerate(own)).backward()
    slow = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert fast.keys() == slow.keys() and len(slow) > 40
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-4, atol=1e-5 * max(1.0, gradient.abs().max().item()), msg=name)


def test_the_loss_by_hand():
    rewards = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    assert advantages(rewards, torch.tensor([2.0, 1.0])).tolist() == [[-1.0, 1.0], [-1.0, -1.0]]
    assert advantages(rewards).tolist() == [[-2.0, 2.0], [0.0, 0.0]]
    assert advantages(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[-3.0, -1.5, 4.5]]
    log_p = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    loss = self_critical_loss(log_p, advantages(rewards, torch.tensor([2.0, 1.0])))
    assert loss.item() == pytest.approx((-1.0 + 2.0 - 3.0 - 4.0) / 4)
    loss.backward()
    assert log_p.grad.tolist() == [[0.25, -0.25], [0.25, 0.25]]


def length(corpus, kind, clip_ids, captions):
    """A reward that grows with the words, and differs by clip."""
    assert corpus == "clips" and len(clip_ids) == len(captions)
    return [[len(caption.split()) + 0.1 * int(clip_id[-1]) for caption in own] for clip_id, own in zip(clip_ids, captions)]


def learner(reward=length, seed=0, **settings):
    model = vast(seed).train()
    learn_from_reward(model, SelfCritical(reward, **settings))
    return model


@pytest.mark.parametrize(("search", "baseline"), [("sample", "greedy"), ("sample", "mean"), ("beam", "greedy"), ("beam", "mean")])
def test_the_loss_of_a_step_is_put_together_from_its_captions(search, baseline):
    model, draws = learner(search=search, baseline=baseline, candidates=3), StepRandom(3, 1)
    outputs = model(batch(), task("cap%tvas"), draws)
    text = model.multimodal_encoder
    with torch.no_grad():
        clips = model.memory(model.encode(batch(), MODALITIES))
        if search == "sample":
            tried = sample(text, text.start(clips, VAS), model.tokenizer, draws.uniform("candidates.tvas", 4, 3, 12))
        else:
            tried = [[model.tokenizer.encode([caption], 13)[0][1:-1] for caption in own]
                     for own in model.best_captions(clips, VAS, beam_size=3, max_length=12)]
        greedy = beam_search(text, text.start(clips, VAS), model.tokenizer, 1, 12, 0.6)
        words = torch.tensor([[len(model.tokenizer.decode(ids).split()) for ids in own] for own in tried], dtype=torch.float32)
        best = torch.tensor([float(len(model.tokenizer.decode(ids).split())) for ids in greedy])
        log_p = log_probs(text, model.tokenizer, clips, {VAS: tried}, 12)[VAS]
    gains = words - best[:, None] if baseline == "greedy" else (3 * words - words.sum(1, keepdim=True)) / 2
    if search == "sample":
        assert outputs["loss"].item() == pytest.approx(-(gains * log_p).mean().item(), rel=1e-4)
        assert gains.abs().max() > 0
        assert outputs["reward"].item() == pytest.approx(words.mean().item() + 0.15, abs=1e-5)
    assert outputs["loss"].item() == outputs["cap"].item() == outputs["cap.tvas"].item()
    assert ("baseline.tvas" in outputs) == (baseline == "greedy")


def test_other_objectives_keep_their_losses():
    own, objectives = batch(), task("ret%tvas%tv_cap%tvas%tv%ta_qa%tvas")
    ordinary, other = vast().train()(own, objectives, StepRandom(0, 0)), learner()(own, objectives, StepRandom(0, 0))
    for name in ("itc", "itm", "qa"):
        torch.testing.assert_close(other[name], ordinary[name])
    assert {"cap.tvas", "cap.tv", "cap.ta", "reward.ta", "baseline.ta"} <= other.keys()
    parts = other["itc"] + 0.5 * other["itm"] + other["cap"] + other["qa"]
    torch.testing.assert_close(other["loss"], parts)


def test_there_is_no_dropout_in_the_captions_that_are_scored():
    from omnivast.model.vast.model import VAST
    from tests.model.tiny import CONFIG, tokenizer

    model = VAST(CONFIG, tokenizer(), text_sizes(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)).train()
    learn_from_reward(model, SelfCritical(length))
    losses = [model(batch(), task("cap%ts"), StepRandom(0, 0))["cap"].item() for _ in range(2)]
    assert losses[0] == losses[1]


def test_in_bfloat16_every_weight_learns():
    """Autocast keeps casts; one made without gradient while generating must not serve the pass with gradient."""
    found = {}
    for precision in (None, torch.bfloat16):
        model = learner()
        model.precision = precision
        model(batch(), task("cap%tvas"), StepRandom(0, 0))["loss"].backward()
        found[precision] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found[None].keys() == found[torch.bfloat16].keys()
    assert all(any(part in name for name in found[None]) for part in ("cls.predictions", "crossattention.self.key", "vision_encoder",
                                                                      "audio_encoder", "hidden_trans_subtitle"))
    assert all(bool(gradient.isfinite().all()) for gradient in found[torch.bfloat16].values())


@pytest.mark.parametrize(("search", "baseline", "learnt"), [("sample", "greedy", 150), ("sample", "mean", 90), ("beam", "mean", 60)])
def test_the_reward_rises(search, baseline, learnt):
    """CIDEr, 10 at best, of captions drawn from a half learnt model, or of its greedy ones, before and after."""
    model = vast()
    overfit(model, batch(), task("cap%tvas"), learnt, 4e-3)
    reward = CiderReward({("clips", CaptionKind.OMNI): {f"clip{n}": [caption] for n, caption in enumerate(CAPTIONS)}})
    learn_from_reward(model, SelfCritical(reward, 20 if baseline == "greedy" else 5, search, baseline))
    draws = torch.rand(4, 64, 12, generator=torch.Generator().manual_seed(1))

    def expected():
        with torch.no_grad():
            clips = model.memory(model.encode(batch(), MODALITIES))
            captions = (model.sample_captions(clips, VAS, draws=draws, top_k=100) if search == "sample"
                        else model.best_captions(clips, VAS, beam_size=1, max_length=12))
        scores = reward("clips", CaptionKind.OMNI, [f"clip{n}" for n in range(4)], captions)
        return sum(map(sum, scores)) / sum(map(len, scores))

    before = expected()
    overfit(model, batch(), task("cap%tvas"), 60, 2e-3)
    assert expected() > before + 0.5, (before, expected())

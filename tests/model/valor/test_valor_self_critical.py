"""VALOR learns captions from a reward: it draws them, log-probabilities are those of its own steps, and the reward rises."""

from __future__ import annotations

import pytest
import torch

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.evaluation.captions.reward import CiderReward
from omnivast.model.objectives.self_critical import SelfCritical
from omnivast.model.text.generate import sample
from omnivast.model.text.self_critical import learn_from_reward, log_probs
from omnivast.utils.random import StepRandom
from tests.model.test_overfit import overfit
from tests.model.tiny import CAPTIONS, batch, task
from tests.model.valor.test_valor_processes import CONFIG, valor

TV = Group((Modality.VISION,))
KINDS = {"masked": {}, "no prompt": {"use_task_prompt": False}, "lm": {"caption_type": "lm"},
         "merged": {"multimodal_use_cross_attn": False}}


def drawn(model, clips, number=2, seed=0):
    uniform = torch.rand(len(clips), number, model.caption_words, generator=torch.Generator().manual_seed(seed))
    state = model.multimodal_encoder.start(clips, TV, model.caption_prompt(len(clips)))
    return sample(model.multimodal_encoder, state, model.tokenizer, uniform, mask=model.masks)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_are_those_of_generation_step_by_step(kind):
    model = valor(**KINDS[kind]).eval()
    clips = model.memory(model.encode(batch(CONFIG), (Modality.VISION,)))
    tried = [[own[0], own[1][:3]] for own in drawn(model, clips)]
    assert len({tuple(ids) for own in tried for ids in own}) == 8, "captions are drawn, not always the same"
    found = log_probs(model.multimodal_encoder, model.tokenizer, clips, {TV: tried}, model.caption_words, model.caption_prompt, model.masks)
    for n in range(2):
        state = model.multimodal_encoder.start(clips, TV, model.caption_prompt(4))
        texts = [[*own[n], model.tokenizer.sep][:model.caption_words] for own in tried]
        total, tokens = torch.zeros(4), torch.full((4,), model.tokenizer.cls)
        for place in range(model.caption_words):
            steps = model.multimodal_encoder.step(state, tokens, model.tokenizer.mask if model.masks else None).log_softmax(-1)
            tokens = torch.tensor([text[place] if place < len(text) else model.tokenizer.sep for text in texts])
            total += torch.tensor([place < len(text) for text in texts]) * steps.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(found[TV][:, n], total, rtol=1e-4, atol=1e-4)


def test_the_other_objectives_keep_their_losses():
    objectives, model = task("ret%tva_cap%tva%tv_qa%tv"), valor()
    ordinary = model(batch(CONFIG), objectives, StepRandom(0, 0))
    learn_from_reward(model, SelfCritical(lambda corpus, kind, ids, captions: [[float(len(c)) for c in own] for own in captions], 2))
    other = model(batch(CONFIG), objectives, StepRandom(0, 0))
    for name in ("ret", "qa"):
        torch.testing.assert_close(other[name], ordinary[name])
    assert {"cap.tva", "cap.tv", "reward.tv", "baseline.tva", "reward"} <= other.keys() and other["cap"] != ordinary["cap"]
    torch.testing.assert_close(other["loss"], 1.5 * other["ret"] + other["cap"] + other["qa"])


def test_the_reward_rises():
    """CIDEr, 10 at best, of captions drawn from a half learnt model, before and after."""
    model = valor()
    overfit(model, batch(CONFIG), task("cap%tv"), 60, 4e-3)
    reward = CiderReward({("clips", CaptionKind.VISION): {f"clip{n}": [caption] for n, caption in enumerate(CAPTIONS)}})

    def expected():
        with torch.no_grad():
            clips = model.memory(model.encode(batch(CONFIG), (Modality.VISION,)))
            captions = [[model.tokenizer.decode(ids) for ids in own] for own in drawn(model, clips, 48, 1)]
        scores = reward("clips", CaptionKind.VISION, [f"clip{n}" for n in range(4)], captions)
        return sum(map(sum, scores)) / 4 / 48

    learn_from_reward(model, SelfCritical(reward, 8, baseline="mean"))
    before = expected()
    overfit(model, batch(CONFIG), task("cap%tv"), 60, 2e-3)
    assert expected() > 1.2 * before > 0.1

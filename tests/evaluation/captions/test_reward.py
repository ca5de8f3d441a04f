"""The reward of self-critical training is CIDEr over the training captions, ends included, found quickly and once per caption."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import pytest

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import CaptionKind
from omnivast.evaluation.captions.reward import CiderReward, set_reward
from omnivast.evaluation.metrics.bleu import bleu
from omnivast.evaluation.metrics.cider import Cider, cider
from omnivast.evaluation.metrics.tokenizer import tokenize
from tests.evaluation.metrics.test_caption_metrics import corpus
from tests.model.tiny import vast

KEY = ("clips", CaptionKind.OMNI)


def reward_of(references):
    return CiderReward({KEY: {f"clip{n}": own for n, own in enumerate(references)}})


def test_the_reward_is_the_metric():
    candidates, references = corpus(60)
    ended = [[f"{text} end" for text in own] for own in references]
    scores = reward_of(references)(*KEY, [f"clip{n}" for n in range(60)], [[own, "the dog runs"] for own in candidates])
    assert [own[0] for own in scores] == pytest.approx(cider([f"{tokenize(c)} end" for c in candidates], ended)[1])
    assert [own[1] for own in scores] == pytest.approx(cider(["the dog runs end"] * 60, ended)[1])


def test_captions_and_references_are_tokenised_and_clips_found_by_id():
    reward = reward_of([["A man runs."], ["Two dogs, barking!"]])
    assert reward(*KEY, ["clip1", "clip0"], [["two dogs barking", "A man runs"], ["a man runs!", ""]]) == [
        [pytest.approx(10.0), 0.0], [pytest.approx(10.0), 0.0]]


def test_a_caption_that_breaks_off_is_worth_less_than_in_the_metric():
    references = [["they tell us about a red car", "somebody speaks about a red car"], ["they tell us about an old house"], ["a dog"]]
    texts = ["they tell us about a red car", "they tell us about a", "they tell us about a dog"]
    ended, plain = reward_of(references)(*KEY, ["clip0"], [texts])[0], Cider(references).scores(0, texts)
    assert ended[1] / ended[0] < 0.95 * plain[1] / plain[0]
    assert ended[1] / ended[2] < 0.95 * plain[1] / plain[2]


def test_equal_captions_are_scored_once(monkeypatch):
    reward, asked = reward_of([["a man runs"], ["two dogs"]]), []
    scores = Cider.scores
    monkeypatch.setattr(Cider, "scores", lambda self, clip, captions: asked.append(list(captions)) or scores(self, clip, captions))
    found = reward(*KEY, ["clip0"], [["a man", "two", "a man", "a man"]])
    assert asked == [["a man [SEP]", "two [SEP]"]] and found[0][0] == found[0][2] == found[0][3] > found[0][1] == 0.0


def test_each_corpus_and_kind_of_caption_has_references_of_its_own():
    both = {"a": ["a man runs"], "b": ["two dogs"]}
    reward = CiderReward({("one", CaptionKind.VISION): both, ("two", CaptionKind.VISION): {"a": ["a cat sits"], "b": ["a bird"]}})
    assert reward("one", CaptionKind.VISION, ["a"], [["a man runs"]])[0][0] > 5
    assert reward("two", CaptionKind.VISION, ["a"], [["a man runs"]])[0][0] == 0.0
    with pytest.raises(KeyError):
        reward("one", CaptionKind.AUDIO, ["a"], [["a man runs"]])


def test_bleu_4_of_each_caption_may_be_part_of_it():
    references = [["a man runs on the beach", "somebody runs"], ["two dogs bark"]]
    texts = ["a man runs on the beach", "a man runs on the sand", "two dogs bark", ""]
    by_clip = {KEY: {f"clip{n}": own for n, own in enumerate(references)}}
    plain, both = (CiderReward(by_clip, with_bleu)(*KEY, ["clip0"], [[*texts, texts[0]]])[0] for with_bleu in (False, True))
    found = [one - other for one, other in zip(both, plain)]
    assert found[0] == found[4] == pytest.approx(1.0) and found[2] == pytest.approx(0.0, abs=1e-3) and found[3] < 1e-3
    alone = bleu(["a man runs on the sand end"], [[f"{text} end" for text in references[0]]])[3]  # 6 of 7, 4 of 6, 3 of 5, 2 of 4
    assert found[1] == pytest.approx(alone) == pytest.approx((6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)


def test_it_keeps_up_with_training():
    """64 clips with 20 references each, 5 captions tried and the greedy one, twice: far below a training step."""
    rng = random.Random(0)
    words = [f"w{n}" for n in range(200)]
    clips = [[" ".join(rng.choices(words, k=11)) for _ in range(20)] for _ in range(256)]
    reward, chosen = reward_of(clips), [f"clip{n}" for n in rng.sample(range(256), 64)]
    start = time.process_time()
    for _ in range(2):
        reward(*KEY, chosen, [[" ".join(rng.choices(words, k=11)) for _ in range(6)] for _ in chosen])
    assert time.process_time() - start < 2


def test_a_model_gets_its_reward_only_when_asked():
    loader = SimpleNamespace(references=lambda: {KEY: {"clip0": ["a man"], "clip1": ["two dogs"]}})
    for run, own in ((RunConfig(), loader), (RunConfig(scst_finetuning=True), None)):
        model = vast()
        set_reward(model, run, own)
        assert model.self_critical is None
    set_reward(model, RunConfig(scst_finetuning=True, scst_candidates=3, scst_search="beam", scst_baseline="mean"), loader)
    settings = model.self_critical
    assert settings.reward(*KEY, ["clip0"], [["a man"]])[0][0] < 11
    set_reward(model, RunConfig(scst_finetuning=True, scst_reward="cider_bleu4"), loader)
    assert model.self_critical.reward(*KEY, ["clip0"], [["a man"]])[0][0] > settings.reward(*KEY, ["clip0"], [["a man"]])[0][0]
    assert (settings.candidates, settings.search, settings.baseline) == (3, "beam", "mean")
    assert settings.reward(*KEY, ["clip0"], [["a man"]])[0][0] > 2

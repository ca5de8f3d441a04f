"""Rejected captions of clips as hard negatives."""

from __future__ import annotations

import torch

from omnivast.config.tasks import Group
from omnivast.model.vast import negatives as wrong
from omnivast.model.vast.negatives import Negatives
from omnivast.model.vast.rejected import rejected_of
from omnivast.utils.random import StepRandom
from tests.model.tiny import CONFIG, NEGATIVES, batch, gram, negatives, task, texts, tokenizer, vast

VAS = Group.parse("vas")


def losses(model, own, text="ret%tvas%tv", step=0):
    return {name: value.item() for name, value in model.eval()(own, task(text), StepRandom(0, step)).items()}


def with_negatives(rows=slice(0, 4)):
    own = batch(rows=rows)
    own.negatives = negatives(rows=rows)
    return own


def test_own_1_rejected_1_others_a_hundredth():
    own = negatives()
    found = rejected_of(own, torch.zeros(len(own), 2), torch.arange(4), CONFIG)
    little = 0.01
    assert torch.allclose(found.weights, torch.tensor([
        [1, little, little, little, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [little, little, 1, little, 0, 0, 1, 0, 0, 0],
        [little, little, little, 1, 0, 0, 0, 1, 1, 1]]))
    assert rejected_of(None, torch.zeros(0, 2), torch.arange(4), CONFIG) is None


def test_clips_are_compared_with_their_rejected_captions():
    for family in (vast, gram):
        model = family()
        plain, found = losses(model, batch()), losses(model, with_negatives())
        assert plain["itc"] != found["itc"] and plain["itm"] != found["itm"]
        other = with_negatives()
        changed = [["two dogs"] * len(texts) for texts in NEGATIVES]
        other.negatives = texts([text for own in changed for text in own], 14, other.negatives.clip.tolist())
        assert losses(model, other)["itc"] != found["itc"]


def test_a_rejected_caption_of_weight_0_among_equals_counts_for_nothing():
    model = vast(rejected_weight=0.0, others_weight=1.0)
    plain, found = losses(model, batch()), losses(model, with_negatives())
    assert abs(plain["itc"] - found["itc"]) < 1e-5 and abs(plain["itm"] - found["itm"]) < 1e-5


def test_the_order_of_rejected_captions_among_clips_does_not_matter():
    model, own = vast(), with_negatives()
    turned = with_negatives()
    order = torch.arange(len(own.negatives) - 1, -1, -1)
    turned.negatives.ids, turned.negatives.mask, turned.negatives.clip = (x[order] for x in (own.negatives.ids, own.negatives.mask,
                                                                                            own.negatives.clip))
    assert abs(losses(model, own)["itc"] - losses(model, turned)["itc"]) < 1e-5


def test_a_drawn_rejected_caption_is_the_wrong_caption_of_its_clip():
    """Columns behind those of the global batch are rejected captions, here the second, the third and the fifth."""
    model, own = vast(), with_negatives()
    memory = model.memory(model.encode(own, list(VAS)))
    drawn = {VAS: Negatives(torch.tensor([1, 0, 0, 0]), torch.tensor([5, 0, 6, 8]))}
    found = wrong.wrong_pairs(own, memory, (VAS,), drawn)[VAS].captions
    said = [tokenizer().decode([i for i, real in zip(ids, row) if real][1:-1]) for ids, row in zip(found.ids.tolist(), found.real.tolist())]
    assert said == ["a woman is singing while playing the piano", "a man is singing while playing the piano", "a red car in the kitchen",
                    "a man cutting onion"]


def test_gradients_reach_texts_and_clips_from_rejected_captions_alone():
    """A clip alone in its batch has no captions of others to learn from."""
    model = vast(itm_ratio=0.0, label_smoothing=0.0).eval()
    for own, wanted in ((with_negatives(slice(0, 1)), True), (batch(rows=slice(0, 1)), False)):
        model.zero_grad()
        model(own, task("ret%tvas"), StepRandom(0, 0))["loss"].backward()
        for name in ("contra_head_t.linear.weight", "contra_head_vas.weight"):
            assert bool(model.get_parameter(name).grad.abs().sum() > 1e-6) == wanted, name

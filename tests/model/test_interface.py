"""What a model family gets for nothing, and what VAST says of itself where others used to look inside."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Task
from omnivast.model.build import build_model
from omnivast.model.interface import Model, ModelError, Rows
from omnivast.model.vast.model import VAST
from tests.model.tiny import ANSWERS, CONFIG, VALOR, batch, valor, vast


class Plain(Model):
    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2)))
        self.head = nn.Linear(2, 2)

    def towers(self):
        return {"vision": self.vision}


def test_towers_alone_give_roles_and_units():
    model = Plain()
    assert {name: role for name, _, role in model.parameter_roles()} == {
        "vision.0.0.weight": "vision", "vision.0.0.bias": "vision", "vision.1.0.weight": "vision", "vision.1.0.bias": "vision",
        "head.weight": "head", "head.bias": "head"}
    assert [(unit.module, unit.gathered, unit.compiles) for unit in model.units()] == [(block, "pass", True) for block in model.vision]


def test_what_a_model_lacks_is_said():
    model, group = Plain(), Group.parse("tv")
    scst = {"candidates": 1, "search": "beam", "baseline": "mean"}
    model.check_task(Task.parse("ret%tv"))
    assert not model.can_match and model.memory(3) == 3 and model.matching_features(4, ()) == 4
    for words, call in (("Plain cannot be tested for retrieval", lambda: model.index_clips(None, group)),
                        ("Plain does not write captions", lambda: model.caption(None, group, beam_size=1, max_length=3)),
                        ("set run_cfg.generate_by to beam", lambda: model.sample_captions(None, group, draws=torch.rand(1, 1, 1))),
                        ("Plain does not answer questions", lambda: model.answer(None, group, None, beam_size=1)),
                        ("scst_finetuning: Plain cannot", lambda: model.learn_from_reward(None, **scst))):
        with pytest.raises(ValueError, match=words):
            call()


def test_the_score_of_one_vector_each_is_their_product_in_both_directions():
    texts, clips = Rows({"vector": torch.randn(3, 4)}), Rows({"vector": torch.randn(5, 4)})
    model, group = Plain(), Group.parse("tv")
    assert torch.equal(model.similarity(group, texts, clips), texts["vector"] @ clips["vector"].T)
    assert torch.equal(model.similarity(group, texts, clips, by_clip=True), clips["vector"] @ texts["vector"].T)


def test_rows_move_together():
    rows = Rows({"words": torch.arange(12.0).view(3, 2, 2), "weights": torch.arange(6.0).view(3, 2)})
    chosen = rows.rows(torch.tensor([2, 0]))
    assert len(rows) == 3 and len(chosen) == 2 and rows.nbytes == 72 and rows.tokens == 2
    assert chosen["words"].tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]]] and chosen.to("cpu")["weights"].tolist() == [[4, 5], [0, 1]]


def test_vast_lists_its_parts():
    model = vast(vision_encoder_cfg={**CONFIG.vision_encoder_cfg, "depth": 3})
    text = {id(block) for block in model.multimodal_encoder.blocks}
    units = list(model.units())
    assert [unit.gathered for unit in units] == sorted((unit.gathered for unit in units), key=["pass", "step"].index)
    assert all(unit.compiles == (unit.gathered == "pass") for unit in units)
    towers = [id(unit.module) for unit in units if unit.gathered == "pass"]
    assert len(towers) == 3 and text <= {id(unit.module) for unit in units} - set(towers)
    for number, unit in enumerate(units):  # inner parts before outer ones
        inside = {id(part) for part in unit.module.modules()} - {id(unit.module)}
        assert not inside & {id(later.module) for later in units[number:]}
    model.learn_from_reward(lambda *_: [], candidates=1, search="sample", baseline="greedy")
    assert [id(unit.module) for unit in model.units()] == towers  # Generation runs parts of the text blocks by themselves.


def test_a_family_is_found_by_its_name():
    with pytest.raises(ModelError, match="model_cfg.model_type: unknown model 'vats'; valid are .*vast.* Did you mean 'vast'"):
        build_model(ModelConfig(model_type="vats"))
    with pytest.raises(ModelError, match="contrastive_loss: unknown loss 'sigmoidal'; valid are sigmoid, softmax. Did you mean 'sigmoid'"):
        vast(contrastive_loss="sigmoidal")
    assert isinstance(vast(), VAST)


def test_the_sigmoid_loss_brings_its_parameters():
    names = [{name for name, _ in vast(contrastive_loss=loss).named_parameters()} for loss in ("softmax", "sigmoid")]
    assert names[0] - names[1] == {"contra_temp"} and names[1] - names[0] == {"contra_scale", "contra_bias"}


@pytest.mark.parametrize("make", [vast, valor, partial(valor, caption_type="lm")], ids=["vast", "valor", "valor, lm"])
@torch.no_grad()
def test_captions_and_answers_have_scores(make):
    """Those of a search are in its order, and as likely as its texts are when they are predicted word by word."""
    model, own = make().eval(), batch(VALOR if make is not vast else CONFIG)
    group = Group.parse("tva")
    memory = model.memory(model.encode(own, group.modalities))
    asked = {"beam_size": 3, "max_length": 8, "length_penalty": model.length_penalty}
    found = model.scored_captions(memory, group, **asked)
    assert [[text for text, _ in clip] for clip in found] == model.best_captions(memory, group, **asked)
    for clip in found:
        scores = [score for _, score in clip]
        assert max(scores) < 0 and scores == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
    draws = torch.rand(4, 2, 8, generator=torch.Generator().manual_seed(0))
    drawn = model.scored_samples(memory, group, draws=draws)
    assert [[text for text, _ in clip] for clip in drawn] == model.sample_captions(memory, group, draws=draws)
    assert all(score < 0 for clip in drawn for _, score in clip)
    each = model.answer_scores(memory, group, own.questions, ANSWERS)
    assert max(each) < 0 and len({round(score, 3) for score in each}) == 4
    of_first = dataclasses.replace(own.questions, clip=torch.zeros(4, dtype=torch.int64))
    together = model.answer_scores(memory, group, of_first, ANSWERS)
    assert together[0] == pytest.approx(each[0], abs=1e-4) and together[1] != pytest.approx(each[1], abs=1e-4)


def test_a_family_that_does_not_say_has_no_scores():
    class Writes(Plain):
        def best_captions(self, memory, group, **settings):
            return [["a", "b"]]

        def sample_captions(self, memory, group, **settings):
            return [["c"]]

    model, group = Writes(), Group.parse("tv")
    assert model.scored_captions(None, group, beam_size=2, max_length=3, length_penalty=0.0) == [[("a", None), ("b", None)]]
    assert model.scored_samples(None, group, draws=torch.rand(1, 1, 1)) == [[("c", None)]]
    assert model.answer_scores(None, group, None, ["d"]) is None

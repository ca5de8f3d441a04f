"""What runs on a GPU makes no tensor elsewhere: with another default device than the model's, tensors made without saying where would
stand there, and every operation that meets one fails, as it would on a GPU."""

import pytest
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.utils.random import StepRandom
from tests.model.tiny import CAPTIONS, MODALITIES, VALOR, batch, task, texts, valor, vast

VAS = Group(MODALITIES)
EVERYTHING = "ret%tvas%tva%tvs%tv%ta%ts_cap%tvas%tv_qa%tvas%ts"


@pytest.fixture(scope="module")
def model():
    return vast()


@pytest.mark.parametrize("name", [EVERYTHING, "ret%tv", "cap%ta", "qa%tvas"])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step(name, silent, checkpointing):
    model = vast(missing_modality="mask", checkpointing=checkpointing).train()
    own = batch()
    if silent:
        own.present = {m: torch.tensor([True, m is not Modality.AUDIO, True, True]) for m in MODALITIES}
    with torch.device("meta"):
        torch.stack(list(model(own, task(name), StepRandom(0, 0)).values())).sum().backward()
    assert all(p.grad is None or p.grad.device.type == "cpu" for p in model.parameters())


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"contra_type": "coarse", "cross_attn_type": "video_audio"}],
                         ids=["fine", "checkpointing", "coarse"])
def test_a_training_step_of_valor(changes):
    model, own = valor(**changes).train(), batch(VALOR)
    with torch.device("meta"):
        losses = model(own, task("ret%tva%tv%ta_cap%tva%tv_mlm%ta_qa%tva"), StepRandom(0, 0))
        torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.device.type == "cpu" for p in model.parameters())


@torch.no_grad()
def test_uses_of_valor():
    model, own, both = valor().eval(), batch(VALOR), (Modality.VISION, Modality.AUDIO)
    with torch.device("meta"):
        features = model.encode(own, both)
        group, memory = Group(both), model.memory(features)
        scores = model.similarity(group, model.index_texts(own.captions.of(group.caption_kind)), model.index_clips(features, group))
        model.caption(memory, group, beam_size=3, max_length=8)
        model.answer(memory, group, QUESTIONS, beam_size=2)
        model.sample_captions(memory, group, draws=DRAWS, top_k=5)
    assert scores.device.type == "cpu"


CAPTION = texts(CAPTIONS, 14)
PAIRS = torch.arange(4).repeat_interleave(4)
QUESTIONS = texts(["what is the man doing ?", "who is running ?", "who is running ?"], 12, clip=[0, 1, 3])
DRAWS = torch.rand(4, 2, 12, generator=torch.Generator().manual_seed(0))
USES = {
    "embed": lambda model, memory: model.embed_texts(CAPTION),
    "match": lambda model, memory: model.match(memory, VAS, CAPTION.ids.repeat(4, 1), CAPTION.mask.repeat(4, 1), PAIRS),
    "match texts of one length": lambda model, memory: model.match(memory, VAS, CAPTION.ids[:, :4].repeat(4, 1),
                                                                   torch.ones(16, 4, dtype=torch.bool, device="cpu"), PAIRS),
    "match by index": lambda model, memory: model.match(memory, VAS, CAPTION.ids, CAPTION.mask, torch.tensor([0, 0, 0, 2], device="cpu")),
    "greedy": lambda model, memory: model.caption(memory, VAS, beam_size=1, max_length=8),
    "beams": lambda model, memory: model.caption(memory, VAS, beam_size=3, max_length=8),
    "sample": lambda model, memory: model.sample_captions(memory, VAS, draws=DRAWS, top_k=5),
    "answer": lambda model, memory: model.answer(memory, VAS, QUESTIONS, beam_size=2),
}


@pytest.mark.parametrize("use", USES)
@torch.no_grad()
def test_a_use(model, use):
    own = batch()
    with torch.device("meta"):
        memory = model.eval().memory(model.encode(own, MODALITIES))
        USES[use](model, memory)

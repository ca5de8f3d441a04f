"""What runs on a GPU makes no tensor elsewhere: as tests/model/test_devices.py, for a language model that sees and hears."""

import pytest
import torch

from omnivast.config.tasks import Group, Modality
from tests.model.avllm.test_avllm import loss_of
from tests.model.avllm.tiny import avllm, batch, make_llm

VA = Group((Modality.VISION, Modality.AUDIO))


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"))


@pytest.mark.parametrize("tune", ["projectors", "full"])
def test_a_training_step(llm, tune):
    model = avllm(llm, llm_tune=tune).train()
    own = batch(model)
    with torch.device("meta"):
        loss_of(model, own).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and {grad.device.type for grad in grads} == {"cpu"}


@torch.no_grad()
def test_replies(llm):
    model = avllm(llm).eval()
    own = batch(model)
    with torch.device("meta"):
        memory = model.encode(own, VA.modalities)
        for beams in (1, 2):
            assert len(model.reply(memory, own.chats.conversations, [0, 1, 2, 3], beam_size=beams, max_length=3)) == 4
        scores = model.reply_scores(memory, own.chats.conversations, [0, 1, 2, 3])
    assert len(scores) == 4

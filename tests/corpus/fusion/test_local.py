"""A language model in this process: a tiny one with random weights, whose replies are compared with transformers' own search."""

from __future__ import annotations

import pytest
import torch

from omnivast.corpus.engine.workers import StageError
from omnivast.corpus.fusion.local import LocalModel
from tests.model.avllm.tiny import make_llm

PROMPTS = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in ("a cow", "a very long text", "pig")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    local = LocalModel(make_llm(tmp_path_factory.mktemp("llm")), "cpu")
    local.llm.float()  # so that ties are broken alike
    return local


@torch.no_grad()
def alone(model, prompt, longest):
    ids = torch.tensor([model._ids(prompt)])
    end = model.tokenizer.eos_token_id
    made = model.llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False, eos_token_id=end,
                              pad_token_id=end)[0, ids.shape[1] :].tolist()
    return model.tokenizer.decode(made[: made.index(end)] if end in made else made, skip_special_tokens=True).strip()


def test_what_is_shared_and_what_is_padded_changes_nothing(model):
    together = model.write(PROMPTS, 1, 0, temperature=0.0, longest=12)
    assert [own[0].text for own in together] == [alone(model, prompt, 12) for prompt in PROMPTS]
    assert [own[0].text for own in model.write(PROMPTS[1:2], 1, 0, temperature=0.0, longest=12)] == [together[1][0].text]
    assert all(own[0].finish in ("stop", "length") and own[0].tokens > 12 for own in together)


def test_draws_are_many_and_the_same_again(model):
    first, again, other = (model.write(PROMPTS, 3, seed, temperature=1.0, longest=8) for seed in (1, 1, 2))
    texts = [[reply.text for reply in own] for own in first]
    assert texts == [[reply.text for reply in own] for own in again] != [[reply.text for reply in own] for own in other]
    assert [len(own) for own in first] == [3] * 3 and len(set(texts[0])) > 1


def test_a_model_that_cannot_be_used(tmp_path):
    with pytest.raises(StageError, match="--llm '.*absent': no such folder or file"):
        LocalModel(str(tmp_path / "absent"))

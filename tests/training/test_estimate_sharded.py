"""What each of several GPUs would need, counted without them, is what processes under FSDP hold and what a step on real tensors makes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import transformers.masking_utils

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.scripts.avllm import memory
from omnivast.training import estimate
from omnivast.training.engines.build import build_engine
from omnivast.training.estimate import needs, repeated
from omnivast.training.estimate_sharded import share_of_each
from omnivast.utils.fake import LiveBytes
from omnivast.utils.random import StepRandom
from tests.model.avllm.tiny import SAID, avllm, batch, make_llm
from tests.processes import together
from tests.training.toy import config

CHAT = Task.parse("chat%tva")
FLOAT = RunConfig(precision="float32")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("tune", "checkpointing"), [("projectors", False), ("lora", True), ("full", True), ("full", False)])
def test_a_step_needs_what_it_makes(llm, tune, checkpointing, sharded, monkeypatch):
    # Without numbers, transformers cannot see that each row is one sequence, and makes a mask; here it is to make that too.
    monkeypatch.setattr(transformers.masking_utils, "is_tracing", lambda *_: True)
    model = avllm(llm, llm_tune=tune, checkpointing=checkpointing).train()
    own = batch(model, said=[SAID[1]] * 4)
    found = needs(model, own, CHAT, FLOAT, 4, sharded)
    if sharded:
        estimate._as_gathered(model)
    with LiveBytes([*model.parameters(), *model.buffers(), own.frames, own.spectrograms]) as live:
        loss = model(own, CHAT, StepRandom(0, 0))["loss"]
        kept = live.now
        loss.backward()
    assert kept <= found.activations <= 1.05 * kept and 0.98 * live.peak <= found.peak <= 1.05 * live.peak


def held(rank: int, llm: str, tune: str) -> dict[str, int]:
    """Bytes that a process holds after the backward pass of a step, and after the step."""
    model = avllm(llm, llm_tune=tune)
    engine = build_engine(model, config("unused", parallel="fsdp").run_cfg, torch.device("cpu"))
    engine.backward(engine(batch(model, range(2 * rank, 2 * rank + 2)), CHAT, StepRandom(0, 0, 2 * rank, 4))["loss"])
    gradients = [p.grad.to_local() for p in engine.trained.parameters() if p.grad is not None]
    engine.update(torch.amp.GradScaler("cpu", enabled=False))
    weights = [*(p.to_local() for p in engine.trained.parameters()), *engine.trained.buffers()]
    moments = [value.to_local() for state in engine.optimizer.state.values() for value in state.values() if value.ndim]
    return {name: sum(x.nbytes for x in own) for name, own in (("weights", weights), ("gradients", gradients), ("moments", moments))}


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_processes_hold_what_is_counted(llm, tune):
    model = avllm(llm, llm_tune=tune)
    found = share_of_each(model, batch(model), CHAT, FLOAT, 2, processes=2)
    first, _ = together(held, 2, llm, tune)  # the first has the larger share
    assert first == {name: found[name] for name in first}
    assert found["together"] == sum(size for name, size in found.items() if name != "together")


def test_shapes_alone_count_the_same(llm):
    model = avllm(llm, llm_tune="full", checkpointing=True)
    shapes = avllm(llm, llm_tune="full", checkpointing=True).to("meta")
    own = batch(model)
    assert share_of_each(model, own, CHAT, RunConfig(), 8, 4) == share_of_each(shapes, own, CHAT, RunConfig(), 8, 4)


def test_conversations_are_repeated_with_their_clips(llm):
    own = batch(avllm(llm))
    own.chats = dataclasses.replace(own.chats, clip=torch.tensor([0, 0, 1, 3]))
    again = repeated(own, 6)
    assert again.chats.clip.tolist() == [0, 0, 1, 3, 4, 4, 5] and again.chats.ids[4:6] == own.chats.ids[:2]
    assert again.chats.learnt == own.chats.learnt + sum(map(sum, own.chats.supervised[:3])) and not again.chats.rows


def test_the_papers_size(capsys, monkeypatch):
    """With two layers in the place of 32: what they add is known, and all else stays."""
    monkeypatch.setitem(memory.SHAPES, "7b", {**memory.SHAPES["7b"], "num_hidden_layers": 2})
    config_file = "config/avllm/finetune_cfg/stage2.json"
    assert memory.main([config_file, "--processes", "8", "--clips", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    words = 2 * 32_000 * 4096 + 4096
    projectors = 2 * (1024 * 4096 + 4096) + 768 * 4096 + 4096 + 3 * 2 * 4096
    assert found["gradients"] == pytest.approx(4 * (2 * block + words + projectors) / 8, rel=1e-3)
    assert found["moments"] == 2 * found["gradients"] and found["weights"] > found["gradients"]
    assert found["gathered for a block"] == 2 * 2 * block + 4 * block
    assert found["together"] == sum(found.values()) - found["together"]

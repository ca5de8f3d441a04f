"""What a GPU would need, counted on fake tensors, is what a step on real ones makes."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from omnivast.config.schema import RunConfig
from omnivast.training.engines.compile import compile_layers
from omnivast.training.estimate import Need, estimate, largest, needs, repeated, step_flops
from omnivast.utils.fake import LiveBytes
from omnivast.utils.random import StepRandom
from tests.model.tiny import CONFIG, VALOR, batch, gram, task, valor, vast

EVERYTHING = "ret%tvas%tva_cap%tvas%tv_qa%tvas"


def test_bytes_that_are_alive():
    before = torch.zeros(4)
    with FakeTensorMode(), LiveBytes() as live:
        x = torch.empty(1000)
        y = (x * 2).exp()  # two new tensors at once beside x
        part = y.view(10, 100).T
        assert (live.now, live.peak) == (8000, 12000)
        del y
        assert live.now == 8000
        del part
        assert live.now == 4000
    with LiveBytes([before]) as live:
        view = before[1:]
        assert live.now == 0 and view.untyped_storage().nbytes() == 16


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("family", "text"), [(vast, EVERYTHING), (gram, EVERYTHING), (valor, "ret%tva%tv_cap%tva%tv_mlm%tv_qa%tva")])
def test_a_step_needs_what_it_makes(family, text, checkpointing):
    model, own = family(checkpointing=checkpointing), batch(VALOR if family is valor else CONFIG)
    found = needs(model, own, task(text), RunConfig(precision="float32"), len(own))
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    with LiveBytes([*model.parameters(), *model.buffers(), own.frames, own.spectrograms]) as live:
        loss = model.train()(own, task(text), StepRandom(0, 0))["loss"]
        kept = live.now
        loss.backward()
    # The estimate takes the first pair for every hard negative, whose caption is longer than others.
    assert kept <= found.activations <= 1.05 * kept and 0.98 * live.peak <= found.peak <= 1.05 * live.peak
    assert all(p.device.type == "cpu" and type(p) is torch.nn.Parameter for p in model.parameters())


def test_the_largest_batch_is_where_the_line_meets_the_memory():
    small, large = Need(4, 0, 100), Need(8, 0, 180)  # 20 bytes a clip
    assert largest(300, small, large, 1000) == 4 + (900 - 300 - 100) // 20
    assert largest(300, small, large, 200) == 0


def test_with_and_without_checkpointing():
    model, own = vast(checkpointing=True), batch()
    found = estimate(model, own, task("cap%tvas"), RunConfig(), 1000)
    assert set(found) == {"checkpointing", "no checkpointing"} and model.multimodal_encoder.checkpointing
    saving, plain = found.values()
    assert saving["activations"] < plain["activations"] and saving["batch in 32 GB"] > plain["batch in 32 GB"] > 100
    assert plain["batch in 32 GB"] < plain["batch in 80 GB"] < plain["batch in 141 GB"] and plain["peak"] > plain["activations"] + 1000


def test_clips_are_repeated_with_their_texts():
    own = repeated(batch(), 6)
    assert len(own) == 6 and own.clip_ids[4:] == ["clip0", "clip1"] and own.captions.keys() == batch().captions.keys()
    assert own.questions.clip.tolist() == list(range(6)) and own.questions.raw[4] == own.questions.raw[0]
    assert torch.equal(own.subtitles.ids[4:], own.subtitles.ids[:2])


def test_the_flops_of_a_step_are_counted_without_computing_it():
    """The same with layers compiled, whose rates of stochastic depth are tensors, and with recomputing."""
    model = vast(vision_encoder_cfg={**CONFIG.vision_encoder_cfg, "drop_path_rate": 0.2})
    own, run = batch(), RunConfig(precision="float32")
    found = step_flops(model, own, task(EVERYTHING), run)
    assert found > 6 * sum(p.numel() for p in model.vision_encoder.parameters() if p.ndim == 2)
    compile_layers(model)
    model.set_checkpointing(True)
    assert step_flops(model, own, task(EVERYTHING), run) == found
    assert all(parameter.grad is None for parameter in model.parameters())

"""Compiled towers: the losses and gradients of uncompiled ones, few compilations, and no run that a compiler ends."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import aot_eager

from omnivast.config.compare import config_hash
from omnivast.config.flags import help_text
from omnivast.config.tasks import Task
from omnivast.model.vast.model import VAST
from omnivast.training.engines import compile as compilation
from omnivast.training.engines.compile import StochasticDepth, compile_layers, leave_uncompiled
from omnivast.utils.random import StepRandom
from tests.model.encoders.test_encoders_audio import TINY as SOUND
from tests.model.encoders.test_encoders_vision import TINY as VISION
from tests.model.tiny import BEATS, CONFIG, batch, vast
from tests.processes import together
from tests.training.engines.test_parallel import RUNS, assert_same_training, settings

TASK = Task.parse("ret%tvas%tv_cap%tva")
DEEP = {"audio_encoder_cfg": {**BEATS, "encoder_layers": 2}, "vision_encoder_cfg": {**CONFIG.vision_encoder_cfg, "depth": 2}}
DROPPED = {**DEEP, "vision_encoder_cfg": {**DEEP["vision_encoder_cfg"], "drop_path_rate": 0.6}}
really_compile = torch.compile


class Graphs:
    """A backend without code generation, which takes seconds for each graph, and the graphs that it got."""

    def __init__(self, compiler: Callable[..., Any] = aot_eager) -> None:
        self.compiler, self.graphs = compiler, []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs.append(graph)
        return self.compiler(graph, inputs)

    def compile(self, forward: Callable[..., Any], dynamic: bool, options: dict[str, Any]) -> Callable[..., Any]:
        """In place of ``torch.compile``. Nothing of a layer is left to Python."""
        assert options == compilation.OPTIONS
        return really_compile(forward, dynamic=dynamic, backend=self, fullgraph=True)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What is compiled, and torch's settings, are of the whole process."""
    import torch._functorch.config as functorch

    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, optimize_ddp=True), functorch.patch(force_non_lazy_backward_lowering=False):
        yield
    torch._dynamo.reset()


@pytest.fixture
def graphs(monkeypatch) -> Graphs:
    graphs = Graphs()
    monkeypatch.setattr(torch, "compile", graphs.compile)
    return graphs


def step(model: VAST, clips: int = 4, task: Task = TASK) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients, always with the same draws."""
    torch.manual_seed(1)
    losses = model(batch(rows=slice(0, clips)), task, StepRandom(0, 0))
    losses["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {name: value.detach() for name, value in losses.items()}, gradients


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "precision", "sizes"), [(True, None, (4, 3, 4)), (False, torch.bfloat16, (4,))])
def test_losses_and_gradients_are_those_without(graphs, checkpointing, precision, sizes):
    """With layers that are dropped at different rates, batches of several sizes, and activations computed again."""
    model = vast(**DROPPED, checkpointing=checkpointing).train()
    model.precision = precision
    names = list(model.state_dict())
    assert compile_layers(model) == 4 and list(model.state_dict()) == names
    compiled = [step(model, clips) for clips in sizes]
    assert len(graphs.graphs) == 2 * len(set(sizes))  # one for each tower and size
    leave_uncompiled(model)
    for (losses, gradients), clips in zip(compiled, sizes):
        own_losses, own_gradients = step(model, clips)
        torch.testing.assert_close(losses, own_losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients, own_gradients, rtol=1e-4, atol=1e-6 if precision is None else 1e-3)


def test_evaluation_and_frozen_towers_are_not_compiled(graphs):
    model = vast(**DEEP, frozen_audio=True)
    assert compile_layers(model) == 2
    with torch.no_grad():
        model.eval().encode(batch(), TASK.modalities)
    assert not graphs.graphs
    step(model.train())
    assert len(graphs.graphs) == 1


def test_stochastic_depth_keeps_the_mean():
    layer, x = StochasticDepth(0.25, torch.device("cpu")), torch.randn(20_000, 1, 2)
    torch.manual_seed(0)
    kept = layer(x)
    share = (kept != 0).float().mean()
    assert share == pytest.approx(0.75, abs=0.02) and torch.equal((kept[:, :, 0] == 0), (kept[:, :, 1] == 0))
    assert torch.allclose(kept[kept != 0], x[kept != 0] / 0.75)
    assert torch.equal(StochasticDepth(0.0, torch.device("cpu"))(x), x) and layer.eval()(x) is x


@pytest.mark.parametrize("name", ["evaclip01_giant", "swin_base_22k_224", "videoswin_base_k600_22k", "hf:clap"])
def test_rates_become_tensors(name):
    """Whichever library drops the branches; a layer whose own rate is 0 gets them too."""
    dropped = {"drop_path_rate": 0.6}
    sizes = {"vision_encoder_cfg": {**VISION[name], **dropped}} if name in VISION else {"audio_encoder_cfg": {**SOUND[name], **dropped}}
    model = vast(**{"vision_encoder_type" if name in VISION else "audio_encoder_type": name}, **sizes)
    layers = compile_layers(model)
    rates = [float(module.rate) for module in model.modules() if isinstance(module, StochasticDepth)]
    assert layers >= 2 and rates[0] == 0 and rates[-1] == pytest.approx(0.6) and sorted(rates) == rates and len(rates) % layers == 0
    assert not [module for module in model.modules() if compilation._rate(module)]


def no_compiler(graph: Any, inputs: list[Any]) -> Callable[..., Any]:
    raise RuntimeError("\nno C++ compiler\nwas found")


def no_backward(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    return aot_autograd(fw_compiler=lambda g, _: g, bw_compiler=no_compiler)(graph, inputs)


@pytest.mark.parametrize("broken", [no_compiler, no_backward])
def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch, caplog, broken):
    """Also where only the backward pass cannot. One warning for each kind of layer, which names one and why."""
    tried = Graphs(broken)
    monkeypatch.setattr(torch, "compile", tried.compile)
    model = vast(**DEEP).train()
    expected = step(model)
    compile_layers(model)
    with caplog.at_level(logging.WARNING, "omnivast"):
        for _ in range(2):
            torch.testing.assert_close(step(model), expected, rtol=0, atol=0)
    assert len(tried.graphs) == 2 and len(caplog.messages) == 2
    assert all("no C++ compiler" in message and "could not be compiled and runs as it is" in message for message in caplog.messages)
    assert "vision_encoder.body.blocks.0 (Block)" in caplog.text and "audio_encoder.encoder.layers.0 (_Layer)" in caplog.text


def test_a_missing_compiler_is_a_warning(caplog):
    """With Inductor itself, and nothing that was compiled before."""
    from torch._functorch import config as functorch
    from torch._inductor import config as inductor

    model = vast(**DEEP).train()
    compile_layers(model)
    with (inductor.patch({"cpp.cxx": ("/nonexistent/g++",), "fx_graph_cache": False}), functorch.patch(enable_autograd_cache=False)):
        assert model.vision_tokens(batch().frames).requires_grad
    (message,) = [record.getMessage() for record in caplog.records if record.name == "omnivast"]
    assert "could not be compiled and runs as it is" in message and "C++ compiler" in message


def test_a_fault_of_the_layer_itself_is_raised(graphs):
    model = vast(**DEEP).train()
    compile_layers(model)
    model.vision_encoder.body.blocks[1].mlp.fc1 = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        step(model)


def test_after_a_failure_what_was_compiled_stays_so(graphs):
    """Activations that a compiled layer computed would not fit those that an uncompiled one computes again."""
    model, task = vast(**DEEP, checkpointing=True).train(), Task.parse("cap%tv")
    expected = step(model, 3, task)
    compile_layers(model)
    step(model, 4, task)
    assert len(graphs.graphs) == 1
    working, graphs.compiler = graphs.compiler, no_compiler
    torch.testing.assert_close(step(model, 3, task), expected, rtol=1e-5, atol=1e-6)
    assert len(graphs.graphs) > 1
    graphs.compiler = working
    step(model, 4, task)


def compiled_run(rank: int, folder: Path, **more: Any) -> None:
    """The training "mixed" of tests/training/engines/test_parallel.py, compiled."""
    torch.compile = Graphs().compile  # type: ignore[assignment]
    try:
        RUNS["mixed"](rank, folder, compile=True, **more)
    finally:
        torch.compile = really_compile


def two(rank: int, folder: Path) -> None:
    for engine in ("ddp", "fsdp"):
        compiled_run(rank, folder / engine, parallel=engine)


@pytest.mark.slow
def test_every_engine_trains_the_same_and_checkpoints_fit(tmp_path):
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    RUNS["mixed"](0, plain)
    compiled_run(0, compiled)
    assert_same_training(compiled, plain)
    for start, goes_on in ((compiled, RUNS["mixed"]), (plain, compiled_run)):
        folder = tmp_path / f"from {start.name}"
        (folder / "ckpt").mkdir(parents=True)
        (folder / "log").mkdir()
        for path in start.glob("ckpt/*_step_2.pt"):
            shutil.copy(path, folder / "ckpt")
        shutil.copy(start / "log" / "metrics.jsonl", folder / "log")
        goes_on(0, folder, resume=True)
        assert_same_training(folder, plain)
    together(two, 2, tmp_path)
    for engine in ("ddp", "fsdp"):
        assert_same_training(tmp_path / engine, plain)


def test_the_setting():
    assert "--compile" in help_text()
    without = settings(Path("out"))
    assert config_hash(dataclasses.replace(without, run_cfg=dataclasses.replace(without.run_cfg, compile=True))) == config_hash(without)

"""Does a GPU compute what the CPU does? Recorded values of the releases, one batch of OmniStamps, and short trainings of the debug config:
resumed, in float32, bf16 and fp16, compiled, with checkpoints written in the background.

Each check returns the fields of a row, with "ok".
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.recorded import ROOT, RecordedLoader, debug_config
from omnivast.config.schema import Config
from omnivast.model.build import model_of, set_precision
from omnivast.model.interface import Model
from omnivast.scripts.tools.parity import valor, vast
from omnivast.training.loop import train
from omnivast.utils.precision import DTYPES
from omnivast.utils.random import StepRandom

Fields = dict[str, Any]
GOLDENS = {"vast_tiny": vast.read, "valor_tiny/videoswin": valor.read}
LOOSE = 10.0
"""How many times the tolerances of a CPU recorded values may be off: sums are added in another order."""
NEAR = {"float32": 1e-4, "bf16": 0.03, "fp16": 0.01}
"""Largest relative difference of a loss from the CPU's in float32, by precision. Gradients: three times as much."""
STEPS, HALF = 12, 6


def checks(device: torch.device) -> dict[str, Callable[[], Fields]]:
    """By name, the quick and telling ones first."""
    return {
        **{f"one batch, {precision}": partial(one_batch, device, precision) for precision in precisions(device)},
        **{f"recorded values, {name}": partial(recorded_values, name, device) for name in GOLDENS},
        "resumed, float32": partial(resumed, device, "float32"),
        "trained, bf16, saved in the background": partial(trained, device, "bf16", async_save=True),
        "resumed, bf16, saved in the background": partial(resumed, device, "bf16", async_save=True),
        **({"trained, fp16": partial(trained, device, "fp16"), "resumed, fp16": partial(resumed, device, "fp16"),
            "overflows, fp16": partial(overflows, device)} if device.type == "cuda" else {}),
        "compiled": partial(compiled, device),
        "resumed, compiled, bf16": partial(resumed, device, "bf16", compile=True),
    }


def precisions(device: torch.device) -> tuple[str, ...]:
    return ("float32", "bf16", "fp16") if device.type == "cuda" else ("float32", "bf16")


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Products and convolutions of float32 are computed in float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def recorded_values(name: str, device: torch.device) -> Fields:
    """What the public releases computed (tests/goldens)."""
    with exactly():
        rows = list(GOLDENS[name](ROOT / "tests" / "goldens" / name, device)[1])
    wrong = [row for row in rows if not row.error <= LOOSE * row.tolerance]
    worst: dict[str, float] = {}
    for row in rows:
        worst[row.kind] = max(worst.get(row.kind, 0.0), row.error)
    return {"ok": not wrong, "compared": len(rows), "largest_error": worst,
            "wrong": [f"{row.name}: {row.error:.3g}, {row.note}"[:200] for row in wrong[:10]]}


def debug_model(config: Config) -> Model:
    """The model of the debug config, as its seed makes it."""
    return model_of(config, load_towers=False)


def loader_of(config: Config, model: Model, device: torch.device, steps: int = STEPS) -> RecordedLoader:
    """Two workers, page-locked batches: what a training on a GPU has."""
    cuda = device.type == "cuda"
    return RecordedLoader(config, model.tokenizer, model.audio_frontend, steps, workers=2 if cuda else 0, pin_memory=cuda)


def one_batch(device: torch.device, precision: str) -> Fields:
    """Losses and gradients of one batch of each corpus, in evaluation mode, beside the CPU's in float32."""
    with tempfile.TemporaryDirectory() as folder, exactly():
        config = debug_config(Path(folder))
        mine, theirs = debug_model(config), debug_model(config)
        mine.to(device)
        mine.precision = None if precision == "float32" else DTYPES[precision]
        differences: Fields = {}
        for batch in itertools.islice(RecordedLoader(config, theirs.tokenizer, theirs.audio_frontend, 2).batches(), 2):
            task = next(corpus.task for corpus in loader_of(config, theirs, torch.device("cpu")).corpora if corpus.name == batch.corpus)
            here, there = (_losses(model.eval(), batch, task) for model in (mine, theirs))
            differences[batch.corpus] = {"losses": max(_relative(here[name], there[name]) for name in there),
                                         "gradient": _gradient_difference(mine, theirs)}
    limit = NEAR[precision]
    return {"ok": all(found["losses"] <= limit and found["gradient"] <= 3 * limit for found in differences.values()), **differences}


def _losses(model: Any, batch: Any, task: Any) -> dict[str, float]:
    model.zero_grad(set_to_none=True)
    losses = model(batch.to(model.device), task, StepRandom(0, 0))
    losses["loss"].backward()
    return {name: float(value.detach()) for name, value in losses.items()}


def _gradient_difference(one: Model, other: Model) -> float:
    """The norm of the difference of all gradients over the norm of the other's."""
    difference = whole = 0.0
    for mine, theirs in zip(one.parameters(), other.parameters()):
        if theirs.grad is not None:
            missing = torch.zeros_like(theirs) if mine.grad is None else mine.grad.cpu().float()
            difference += float((missing - theirs.grad).norm()) ** 2
            whole += float(theirs.grad.norm()) ** 2
    return math.sqrt(difference / max(whole, 1e-30))


def _relative(one: float, other: float) -> float:
    return abs(one - other) / max(abs(other), 1e-6)


def run_of(folder: Path, device: torch.device, precision: str, steps: int = STEPS, **run: Any) -> tuple[list[Fields], dict[str, Tensor]]:
    """Train as a user does: the lines of metrics.jsonl, and the last weights."""
    flags = {"device": device.type, "precision": precision, "save_every": HALF, "valid_freq": 0, "tensorboard": False, "keep_last": 3,
             **run}
    config = debug_config(folder, **flags)
    model = debug_model(config)
    config, _ = set_precision(model, config, device)
    loader: Any = loader_of(config, model, device, steps)
    result = train(config, model, loader, device=device)
    lines = [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]
    return lines, torch.load(folder / "ckpt" / f"model_step_{result['step']}.pt", map_location="cpu", weights_only=True)


def trained(device: torch.device, precision: str, **run: Any) -> Fields:
    """All steps are finite, and the losses fall as they do on the CPU in float32."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        here, _ = run_of(Path(folder), device, precision, **run)
        there, _ = run_of(Path(other), torch.device("cpu"), "float32")
    losses, wanted = ([line["loss"] for line in lines] for lines in (here, there))
    skipped = [line["step"] for line in here if line.get("skipped")]
    finite = all(loss is not None for loss in losses)
    # Dropout is drawn by another generator, and a step left out moves all that follow: the first step and the course are compared.
    near = finite and _relative(losses[0], wanted[0]) < 0.05 and _relative(losses[-1], wanted[-1]) < 0.5
    return {"ok": finite and near, "losses": losses, "cpu_losses": wanted, "skipped": skipped,
            "nonfinite": here[-1]["nonfinite_steps"], "scale": here[-1].get("scale")}


def resumed(device: torch.device, precision: str, **run: Any) -> Fields:
    """Weights of a run that went on from its middle beside those of the unbroken one: how far they lie apart, as a share of how far
    training has moved them. On a GPU sums are added in no fixed order, and where a gradient is 0 but for rounding, Adam steps by what
    rounding says."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        lines, whole = run_of(Path(folder), device, precision, **run)
        again = Path(other) / "run"
        shutil.copytree(folder, again)
        _forget_after(again / "ckpt", HALF)
        lines_again, parts = run_of(again, device, precision, resume=True, **run)
        start = debug_model(debug_config(Path(folder))).state_dict()
    difference = _distance(whole, parts) / max(_distance(whole, start), 1e-30)
    steps = [line["step"] for line in lines_again]
    same = [one["loss"] == other["loss"] for one, other in zip(lines, lines_again)]
    limit = {"float32": 0.02, "bf16": 0.1, "fp16": 0.1}[precision] if device.type == "cuda" else 0.0
    return {"ok": steps == list(range(1, STEPS + 1)) and difference <= limit, "difference": difference, "same_losses": sum(same),
            "first_loss_difference": _relative(lines[HALF]["loss"], lines_again[HALF]["loss"])}


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((value.double() - other[name].double()).norm()) ** 2 for name, value in one.items()
                         if value.is_floating_point()))


def _forget_after(ckpt: Path, step: int) -> None:
    """Leave the checkpoint of ``step`` alone, as if the run had been killed after it."""
    latest = json.loads((ckpt / "latest.json").read_text())
    latest = {"step": step, "pairs": [pair for pair in latest["pairs"] if pair["step"] == step]}
    (ckpt / "latest.json").write_text(json.dumps(latest))
    for path in ckpt.glob("*_step_*"):
        if not path.stem.endswith(f"_{step}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def overflows(device: torch.device) -> Fields:
    """Steps whose scaled gradient overflows are left out, with weights unchanged, and the scale is halved."""
    from omnivast.config.schema import RunConfig
    from omnivast.training.engines.base import Engine

    with tempfile.TemporaryDirectory() as folder:
        config = debug_config(Path(folder))
        model = debug_model(config).to(device)
        model.precision = torch.float16
        loader = loader_of(config, model, torch.device("cpu"), 2)
        batch = next(iter(loader.batches()))
        engine = Engine(model.train(), dataclasses.replace(RunConfig(), learning_rate=1e-3), device)
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        scales, applied = [], []
        for step in range(2):
            engine.backward(scaler.scale(model(batch.to(device), loader.task(batch.corpus), StepRandom(0, step))["loss"]))
            applied.append(engine.update(scaler)[1])
            scales.append(scaler.get_scale())
        same = all(torch.equal(one, other) for one, other in zip(before, model.parameters()))
    return {"ok": applied == [False, False] and same and scales == [2.0**39, 2.0**38], "applied": applied, "scales": scales}


def compiled(device: torch.device) -> Fields:
    """Losses of compiled towers beside those of towers as they are, in float32 and without dropout."""
    from omnivast.training.engines.compile import compile_layers

    with tempfile.TemporaryDirectory() as folder, exactly():
        config = debug_config(Path(folder))
        model: Any = debug_model(config).to(device).eval()
        batch = next(iter(RecordedLoader(config, model.tokenizer, model.audio_frontend, 1).batches())).to(device)
        task = loader_of(config, model, torch.device("cpu")).task(batch.corpus)
        plain = _losses(model, batch, task)
        layers = compile_layers(model)
        found = _losses(model, batch, task)
        given_up = [layer.name for module in model.modules() if (layer := vars(module).get("forward")) is not None
                    and getattr(layer, "failed", False)]
    difference = max(_relative(found[name], plain[name]) for name in plain)
    return {"ok": difference < 1e-4 and not given_up, "layers": layers, "not_compiled": given_up, "largest_difference": difference}

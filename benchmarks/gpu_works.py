"""What benchmarks/gpu.py times: training steps, captions, re-ranking, scores; each gives the fields of a row."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_avllm, plain, plain_valor, workload
from benchmarks.measure import PLAIN
from benchmarks.released import Size, endless, make_batch, make_features
from benchmarks.scores import score_table
from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.evaluation.retrieval.matching import PairMatcher
from omnivast.training.engines.base import Engine
from omnivast.training.engines.compile import compile_layers, leave_uncompiled
from omnivast.training.estimate import needs
from omnivast.training.logs.profiling import profile_of, summary, table_of
from omnivast.utils.precision import DTYPES, Precision
from omnivast.utils.random import StepRandom

BEAMS, TEXTS_PER_VIDEO = 3, 50
MATRIX = {"cuda": 8192, "cpu": 512}
"""Side of the matrices whose product measures the rate that can be reached."""


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Mean seconds of a call, the device's work included; of several in a row, with one wait for the device at their end."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def warm_up(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the first call, which compiles, picks kernels and makes the optimiser's state. Two more follow on a GPU, whose memory
    is held anew then; peaks are counted from here."""
    first = seconds(work, device, 1)
    if device.type == "cuda":
        seconds(work, device, 2)
        torch.cuda.reset_peak_memory_stats(device)
    return first


def matrix_tflops(device: torch.device, precision: Precision) -> float:
    """The rate of matrix products in ``precision`` that this device reaches."""
    side = MATRIX[device.type]
    first, second = (torch.randn(side, side, device=device, dtype=DTYPES[precision.name]) for _ in range(2))
    seconds(lambda: first @ second, device, repeats=5)
    return 2 * side**3 / seconds(lambda: first @ second, device, repeats=50) / 1e12


def peak_gb(device: torch.device) -> float:
    """The most memory held since it was last reset; on a CPU since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def set_up(model: Any, checkpointing: bool, compiled: bool) -> None:
    """Recompute activations or not; compile the layers of the vision and audio towers or not."""
    for tower in (model.vision_encoder, model.audio_encoder):
        tower.set_checkpointing(checkpointing)
    model.multimodal_encoder.checkpointing = checkpointing
    leave_uncompiled(model)
    if compiled:
        compile_layers(model)


def step_flops(model: Any, size: Size, clips: int) -> float:
    """FLOPs per clip of a step's forward and backward pass, nothing recomputed."""
    set_up(model, checkpointing=False, compiled=False)
    batch = make_batch(size, clips, frames=size.frames, device=model.device)
    model.train()
    with FlopCounterMode(display=False) as counter:
        model(batch, size.task, StepRandom(0, 0))["loss"].backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / clips


class Stepper:
    """Calls are training steps on one batch that lies on the device: forward, backward, and what the training loop does to update the
    weights."""

    def __init__(self, model: Any, batch: Batch, task: Task, way: str = "ours", plainly: Any = None) -> None:
        self.model, self.batch, self.task, self.way, self.plainly = model, batch, task, way, plainly
        self.engine = Engine(model.train(), RunConfig(learning_rate=1e-5), model.device)
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.precision is torch.float16)
        self.losses: list[torch.Tensor] = []

    def __call__(self) -> None:
        draws = StepRandom(0, len(self.losses))
        if self.way == "ours":
            loss = self.model(self.batch, self.task, draws)["loss"]
        else:
            with self.model.mixed():
                loss = self.plainly.training_losses(self.model, self.batch, self.task, draws)["loss"]
        self.scaler.scale(loss).backward()
        self.engine.update(self.scaler)
        self.losses.append(loss.detach())

    def measure(self, steps: int) -> dict[str, Any]:
        device, clips = self.model.device, len(self.batch)
        try:
            first = warm_up(self, device)
            spent = seconds(self, device, steps)
        finally:
            self.model.zero_grad(set_to_none=True)
        return {"seconds": spent, "clips_per_s": clips / spent, "peak_gb": peak_gb(device), "first_s": first,
                "loss": self.losses[-1].item()}


def train_steps(model: Any, size: Size, clips: int, steps: int, way: str = "ours") -> dict[str, Any]:
    """Pretraining steps of a released size."""
    batch = make_batch(size, clips, frames=size.frames, device=model.device)
    return Stepper(model, batch, size.task, way, PLAIN[size.family]).measure(steps)


def chat_steps(model: Any, tiny: bool, clips: int, steps: int) -> dict[str, Any]:
    """Steps of the Audio-Visual LLM."""
    return Stepper(model, gpu_avllm.make_chats(model, clips, tiny), gpu_avllm.TASK).measure(steps)


def profile_step(model: Any, size: Size, clips: int, out: Path) -> dict[str, Any]:
    """Where a step spends its time: a trace for Perfetto and a table beside ``out``, and both in short."""
    device = model.device
    step = Stepper(model, make_batch(size, clips, frames=size.frames, device=device), size.task)
    warm_up(step, device)
    profiler = profile_of(device)
    with profiler:
        seconds(step, device, 2)
    out.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(out.with_suffix(".trace.json.gz")))
    out.with_suffix(".profile.txt").write_text(table_of(profiler, device))
    model.zero_grad(set_to_none=True)
    return summary(profiler, device)


def estimated_peak(model: Any, size: Size, clips: int) -> float:
    """GB that ``--dry_run`` would name for a step with so many clips: weights, two moments of each, and the step's own peak."""
    name = next(name for name, dtype in DTYPES.items() if dtype is (model.precision or torch.float32))
    batch = make_batch(size, 2, frames=size.frames, device=torch.device("cpu"))
    need = needs(model, batch, size.task, RunConfig(precision=name), clips)  # type: ignore[arg-type]
    moments = 2 * sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    fixed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())) + moments
    return (fixed + need.peak) / 1e9


@torch.no_grad()
def caption_clips(model: Any, size: Size, clips: int, repeats: int, way: str = "ours") -> dict[str, Any]:
    """Beam search over encoded clips; keys and values are projected each time."""
    features = make_features(model.eval(), size, clips)
    length = model.config.max_generation_len if size.family == "valor" else size.model["max_caption_len"]
    penalty = () if size.family == "valor" else (model.length_penalty,)

    def search() -> None:
        if way == "ours":
            model.caption(model.memory(features), size.group, beam_size=BEAMS, max_length=length)
        else:
            with model.mixed():
                PLAIN[size.family].beam_search(model, features, size.group, BEAMS, length, *penalty)

    with endless(model):
        warm_up(search, model.device)
        spent = seconds(search, model.device, repeats)
    return {"seconds": spent, "captions_per_s": clips / spent, "tokens": length, "condition_tokens": condition_tokens(features)}


@torch.no_grad()
def rerank_pairs(model: Any, size: Size, videos: int, repeats: int, way: str = "ours") -> dict[str, Any]:
    """Matching probabilities of ``TEXTS_PER_VIDEO`` texts for each video, ours as evaluation asks for them."""
    features = make_features(model.eval(), size, videos)
    longest = size.model["max_omni_caption_len"]
    texts = workload.texts(TEXTS_PER_VIDEO, size.caption, longest, size.vocabulary, torch.Generator().manual_seed(9))
    ids = [row[:length] for row, length in zip(texts.ids.tolist(), texts.mask.sum(1).tolist())]
    pairs = {size.group: (np.tile(np.arange(len(ids)), videos), np.repeat(np.arange(videos), len(ids)))}
    texts.ids, texts.mask = texts.ids.to(model.device), texts.mask.to(model.device)
    matcher = PairMatcher(model, [features], model.device)

    def match() -> torch.Tensor:
        if way == "ours":
            return torch.from_numpy(matcher.margins(pairs, {size.group: ids})[size.group]).sigmoid().view(videos, -1)
        with model.mixed():
            return plain.rerank(model, features, size.group, texts, longest)

    warm_up(match, model.device)
    spent = seconds(match, model.device, repeats)
    return {"seconds": spent, "pairs_per_s": videos * len(ids) / spent, "condition_tokens": condition_tokens(features),
            "mean_probability": match().float().mean().item()}


@torch.no_grad()
def score_pairs(model: Any, size: Size, videos: int, repeats: int, way: str = "ours") -> dict[str, Any]:
    """Scores of as many texts as videos, from what evaluation keeps of them on the host; the plain way has it on the device."""
    model.eval()
    clips = model.index_clips(make_features(model, size, 1), size.group).rows(torch.zeros(videos, dtype=torch.int64)).to("cpu")
    captions = workload.texts(videos, size.caption, size.model["max_omni_caption_len"], size.vocabulary, torch.Generator().manual_seed(9))
    texts = model.index_texts(captions).to("cpu")

    def score() -> torch.Tensor:
        if way == "ours":
            return score_table(model, size.group, texts, clips)
        return plain_valor.whole_scores(texts.to(model.device), clips.to(model.device), size.group.modalities)

    warm_up(score, model.device)
    spent = seconds(score, model.device, repeats)
    return {"seconds": spent, "pairs_per_s": videos**2 / spent, "peak_gb": peak_gb(model.device), "mean_score": score().mean().item()}


def condition_tokens(features: Any) -> int:
    """Tokens that a text attends to."""
    return sum(x.shape[1] for x in features.condition.values())

"""What one GPU would need for a step of a training, found out without one and without memory: a step on fake tensors, whose bytes are
counted as operations make them and as they go.

How far off it is: it counts what a step on a CPU makes to a few percent (``tests/training/test_estimate.py``), but not what an allocator
loses between blocks, nor the scratch memory of kernels, nor what CUDA itself takes (about half a GB). Resident memory of a CPU process,
173 MB of parameters in float32 (the default size of benchmarks/run.py): 1.42 GB estimated and 1.74 measured for 16 clips, 0.74 and 1.00
for 8; that is 9% too little per clip. No GPU has been asked yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch, Captions, Chats, Texts
from omnivast.model.device_kind import pretending
from omnivast.training.engines.compile import leave_uncompiled
from omnivast.utils.fake import LiveBytes, without_numbers
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import on_host

CARDS = (32, 80, 141)
"""Memory of the GPUs (in GB of 10^9 bytes) for which the largest batch is stated: V100, A100 and H100, H200."""
SPARE = 0.1
"""Share of a GPU's memory that is left for what is not counted."""
PRECISIONS = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16, "float32": None}


@dataclass(frozen=True)
class Need:
    """Bytes that a step needs beside weights and optimiser: what is kept for the backward pass, and the peak."""

    clips: int
    activations: int
    peak: int


def needs(model: nn.Module, batch: Batch, task: Task, run: RunConfig, clips: int, sharded: bool = False) -> Need:
    """A step of ``model`` with ``clips`` clips like those of ``batch``, in the precision that a GPU would take.

    ``model`` may lie on the device "meta". ``sharded``: as one of several processes under FSDP, whose blocks have the weights that they
    compute with in that precision already, and hand the gradient of each weight on as soon as it is there.

    Layers that may be skipped are all run. Attention keeps nothing but its inputs, as torch's fused kernels do.
    """
    sized = repeated(batch, clips)
    with FakeTensorMode(), pretending("cuda"):
        fake = _fake(model, run)
        sized = sized.map_media(lambda x: torch.empty((clips, *x.shape[1:]), dtype=x.dtype, device="cpu"))
        if sharded:
            _as_gathered(fake)
        media = [x for x in (sized.frames, sized.spectrograms, *sized.features.values()) if x is not None]
        with LiveBytes([*fake.parameters(), *fake.buffers(), *media]) as live:
            loss = fake(sized, task, StepRandom(0, 0))["loss"]
            activations = live.now
            loss.backward()
    return Need(clips, activations, live.peak)


def step_flops(model: nn.Module, batch: Batch, task: Task, run: RunConfig) -> float:
    """FLOPs of the forward and backward pass of a step with ``batch``, nothing recomputed; counted by operation, of products and attention
    alone, as MFU is. Raises what torch's fake tensors refuse (see dry_run.one_gpu)."""
    with FakeTensorMode(), pretending("cuda"):
        fake = _fake(model, run)
        if hasattr(fake, "set_checkpointing"):
            fake.set_checkpointing(False)
        empty = batch.map_media(lambda x: torch.empty(x.shape, dtype=x.dtype, device="cpu"))
        with FlopCounterMode(display=False) as counter:
            fake(empty, task, StepRandom(0, 0))["loss"].backward()
    return float(counter.get_total_flops())


def _fake(model: nn.Module, run: RunConfig) -> Any:
    """``model`` without numbers, as it trains on a GPU: in training mode, all layers run, none compiled."""
    fake: Any = without_numbers(model, "cpu").train()
    leave_uncompiled(fake)
    fake.precision = PRECISIONS[run.precision]
    for module in fake.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    return fake


def _as_gathered(model: Any) -> None:
    """What FSDP gathers for one pass alone has the type that is computed with, and no gradient that stays."""
    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    for unit in model.units():
        if unit.gathered == "step":
            continue
        for module in unit.module.modules():
            if not isinstance(module, nn.Linear) or model.precision is None:  # the rest is small, and of float32 for some kernels
                continue
            for name, own in list(module._parameters.items()):
                if own is not None:
                    module._parameters[name] = nn.Parameter(torch.empty_like(own, dtype=model.precision), own.requires_grad)
        for parameter in unit.module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(drop)


def repeated(batch: Batch, clips: int) -> Batch:
    """``batch`` repeated or cut to this many clips. Its texts are taken in turn, from the first again at the end; its media tensors stay
    as they are."""
    rows = torch.from_numpy(np.arange(clips) % len(batch))

    def again(texts: Texts) -> Texts:
        return Texts(texts.ids[rows], texts.mask[rows], torch.arange(clips, device="cpu"), [texts.raw[row] for row in rows])

    captions = Captions({kind: again(texts) for kind, texts in batch.captions.texts.items()}, batch.captions.sources)
    subtitles, told, questions, answers = (x and again(x) for x in (batch.subtitles, batch.told, batch.questions, batch.answers))
    negatives = batch.negatives and _negatives_again(batch.negatives, rows.tolist())
    chats = batch.chats and _chats_again(batch.chats, rows.tolist())
    return replace(batch, clip_ids=[batch.clip_ids[row] for row in rows], index=batch.index[rows], subtitles=subtitles, captions=captions,
                   negatives=negatives, told=told, questions=questions, answers=answers, chats=chats,
                   present={modality: torch.ones(clips, dtype=torch.bool, device="cpu") for modality in batch.present})


def _negatives_again(texts: Texts, rows: list[int]) -> Texts:
    """The rejected captions of clips ``rows`` of a batch, of which each has any number and may stand several times."""
    about = on_host(texts.clip).tolist()
    chosen = [(place, number) for place, row in enumerate(rows) for number, clip in enumerate(about) if clip == row]
    numbers = torch.tensor([number for _, number in chosen], dtype=torch.int64)
    return Texts(texts.ids[numbers], texts.mask[numbers], torch.tensor([place for place, _ in chosen], dtype=torch.int64),
                 [texts.raw[number] for number in numbers.tolist()])


def _chats_again(chats: Chats, rows: list[int]) -> Chats:
    """The conversations about clips ``rows`` of a batch, in which each may stand several times."""
    about = on_host(chats.clip).tolist()
    chosen = [(place, number) for place, row in enumerate(rows) for number, clip in enumerate(about) if clip == row]
    own = {name: [values[number] for _, number in chosen] for name in ("conversations", "rows", "subtitles", "ids", "supervised")
           if (values := getattr(chats, name))}
    return Chats(clip=torch.tensor([place for place, _ in chosen], dtype=torch.int64), **own)


def largest(fixed: int, small: Need, large: Need, memory: int) -> int:
    """The most clips whose step fits in ``memory`` bytes: what it needs grows by the same for every clip."""
    per_clip = max(1, (large.peak - small.peak) // (large.clips - small.clips))
    return max(0, small.clips + int(memory * (1 - SPARE) - fixed - small.peak) // per_clip)


def estimate(model: nn.Module, batch: Batch, task: Task, run: RunConfig, fixed: int) -> dict[str, dict[str, int]]:
    """By "checkpointing" and "no checkpointing": bytes of "activations" and of the "peak" of a step with the batch, with ``fixed`` bytes of
    weights and optimiser, and the largest batch that fits, "batch in 80 GB"."""
    switch: Callable[[bool], None] | None = getattr(model, "set_checkpointing", None)
    before = getattr(getattr(model, "config", None), "checkpointing", False)
    needed = {}
    for on in (True, False) if switch is not None else (before,):
        if switch is not None:
            switch(on)
        small, large = (needs(model, batch, task, run, clips) for clips in (len(batch), 2 * len(batch)))
        needed["checkpointing" if on else "no checkpointing"] = {
            "activations": small.activations, "peak": fixed + small.peak,
            **{f"batch in {card} GB": largest(fixed, small, large, card * 10**9) for card in CARDS}}
    if switch is not None:
        switch(before)
    return needed


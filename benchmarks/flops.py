"""Floating-point operations of a training step, counted from the sizes, and the share of this machine's matrix rate that it reaches.

    python benchmarks/flops.py [--size default|tiny|B=8,…] [--threads 1] [--repeats 3]

Counted are matrix products (two operations per multiply-add) of the forward pass, three times (the backward pass takes two). What
the count leaves out and the clock does not: normalisation, GELU, softmax, copies, the optimiser, attention over padded places.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import workload  # noqa: E402
from benchmarks.workload import Workload  # noqa: E402
from config.tasks import CaptionKind, Modality, Objective  # noqa: E402
from data.batch import Batch  # noqa: E402
from utils.random import StepRandom  # noqa: E402

log = logging.getLogger("omnivast")


def transformer(tokens: int, seen: int, width: int, layers: int) -> int:
    """Forward FLOPs of ``layers`` blocks (MLP four times the width) over ``tokens`` that each attend to ``seen``."""
    return layers * tokens * (24 * width * width + 4 * seen * width)


def memory_tokens(size: Workload) -> dict[Modality, int]:
    """Condition tokens of a clip by modality."""
    return {Modality.VISION: size.frames * ((size.resolution // 14) ** 2 + 1), Modality.AUDIO: size.mel_frames // 16 * 4,
            Modality.SUBTITLE: size.max_omni}


def towers(size: Workload) -> int:
    """Forward FLOPs of the vision, audio and subtitle encoders and of their projections to the text width."""
    d, tokens = size.width, memory_tokens(size)
    frame, sound, words = tokens[Modality.VISION] // size.frames, tokens[Modality.AUDIO], tokens[Modality.SUBTITLE]
    vision = size.frames * (transformer(frame, frame, d, size.vision_layers) + 2 * (frame - 1) * 3 * 14 * 14 * d)
    audio = transformer(sound, sound, d, size.audio_layers) + 2 * sound * (16 * 16 * 512 + 512 * d + 128 * d * d // 16)
    subtitle = transformer(words, words, d, size.text_layers)
    return size.clips * (vision + audio + subtitle + 2 * d * d * (size.frames * frame + sound + words))


def step_flops(size: Workload, batch: Batch) -> dict[str, int]:
    """FLOPs of a training step by part, forward and backward, for the texts of ``batch`` (masking at its mean rate)."""
    d, layers, task = size.width, size.text_layers, workload.task(size)
    kinds = {g.caption_kind for g in task.groups(Objective.RETRIEVAL)}
    lengths = {kind: int(texts.mask.sum()) for kind, texts in batch.captions.items()}
    parts = {"towers": towers(size), "memory": 0, "texts": 0, "vocabulary": 0}
    held = memory_tokens(size)
    parts["memory"] = size.clips * sum(held[m] for m in task.modalities) * layers * 4 * d * d
    for kind in kinds:
        parts["texts"] += _texts(lengths[kind], size.clips, _longest(batch, kind), 0, d, layers)
    for objective, copies in ((Objective.RETRIEVAL, 3), (Objective.CAPTION, 1)):
        for group in task.groups(objective):
            kind, seen = group.caption_kind, sum(held[m] for m in group)
            predicted = round(0.6 * (lengths[kind] - size.clips))
            asked = size.clips if objective is Objective.RETRIEVAL else predicted + size.clips
            parts["texts"] += copies * _texts(lengths[kind], asked, _longest(batch, kind), seen, d, layers)
            if objective is Objective.CAPTION:
                parts["vocabulary"] += 2 * predicted * d * (size.vocabulary + d)
    return {name: 3 * value for name, value in parts.items()}


def _longest(batch: Batch, kind: CaptionKind) -> int:
    return batch.captions[kind].ids.shape[1]


def _texts(tokens: int, asked: int, length: int, seen: int, d: int, layers: int) -> int:
    """Forward FLOPs of the text blocks; the last one computes keys and values of all tokens, the rest for the asked ones alone."""
    rest = 20 * d * d + 4 * length * d + (4 * d * d + 4 * seen * d if seen else 0)
    return layers * tokens * 4 * d * d + ((layers - 1) * tokens + asked) * rest


def matrix_rate(repeats: int = 5, side: int = 1536) -> float:
    """FLOP/s of a square float32 product on the threads that torch has, in processor time of this process (one thread) or wall time."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        a @ b
        times.append(clock() - start)
    return 2 * side**3 / min(times)


def main() -> None:
    """Print the count by part, the measured rates, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=workload.parse_size, default=Workload())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = options.size
    model, batch = workload.build(size), workload.batch(size)
    parts = step_flops(size, batch)
    optimizer, task = workload.our_optimizer(model), workload.task(size)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    times = []
    for number in range(options.repeats + 1):
        start = clock()
        model(batch, task, StepRandom(0, number))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(clock() - start)
    seconds, total, rate = statistics.median(times[1:]), sum(parts.values()), matrix_rate()
    for name, value in parts.items():
        log.info("%-12s %9.1f GFLOP  %5.1f %%", name, value / 1e9, 100 * value / total)
    log.info("step %.1f GFLOP in %.2f s: %.1f GFLOP/s, %.0f %% of the %.1f GFLOP/s of a square product",
             total / 1e9, seconds, total / seconds / 1e9, 100 * total / seconds / rate, rate / 1e9)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()

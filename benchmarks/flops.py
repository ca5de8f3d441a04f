"""Floating-point operations of a training step, counted from the sizes, and the share of this machine's matrix rate that it reaches.

    python benchmarks/flops.py [--model vast|valor|gram] [--size default|tiny|B=8,…] [--threads 1] [--repeats 3] [--profile]

Counted are matrix products (two operations per multiply-add) of the forward pass, three times (the backward pass takes two). What
the count leaves out and the clock does not: normalisation, GELU, softmax, copies, the optimiser, attention over padded places. With
``--profile`` one more step is profiled, and its time given by kind of operation.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import workload  # noqa: E402
from benchmarks.measure import Timer, train_step  # noqa: E402
from benchmarks.workload import Workload  # noqa: E402
from omnivast.config.tasks import CaptionKind, Modality, Objective  # noqa: E402
from omnivast.data.batch import Batch  # noqa: E402
from omnivast.model.valor.prompts import CAPTION, COMPARE  # noqa: E402

log = logging.getLogger("omnivast")


def transformer(tokens: int, seen: int, width: int, layers: int) -> int:
    """Forward FLOPs of ``layers`` blocks (MLP four times the width) over ``tokens`` that each attend to ``seen``."""
    return layers * tokens * (24 * width * width + 4 * seen * width)


def memory_tokens(size: Workload) -> dict[Modality, int]:
    """Condition tokens of a clip by modality; VALOR's AST has a [CLS] besides its patches, and there are no subtitles."""
    vision, patches = size.frames * ((size.resolution // 14) ** 2 + 1), size.mel_frames // 16 * 4
    if size.model == "valor":
        return {Modality.VISION: vision, Modality.AUDIO: patches + 1}
    return {Modality.VISION: vision, Modality.AUDIO: patches, Modality.SUBTITLE: size.max_omni}


def towers(size: Workload) -> int:
    """Forward FLOPs of the vision, audio and subtitle encoders and of their projections to the text width."""
    d, tokens = size.width, memory_tokens(size)
    frame, sound, words = tokens[Modality.VISION] // size.frames, tokens[Modality.AUDIO], tokens.get(Modality.SUBTITLE, 0)
    vision = size.frames * (transformer(frame, frame, d, size.vision_layers) + 2 * (frame - 1) * 3 * 14 * 14 * d)
    audio = transformer(sound, sound, d, size.audio_layers) + 2 * sound * (16 * 16 * 512 + 512 * d + 128 * d * d // 16)
    if size.model == "valor":  # its towers are as wide as its texts, which takes no projection
        return size.clips * (vision + transformer(sound, sound, d, size.audio_layers) + 2 * (sound - 1) * 16 * 16 * d)
    subtitle = transformer(words, words, d, size.text_layers)
    return size.clips * (vision + audio + subtitle + 2 * d * d * (size.frames * frame + sound + words))


def step_flops(size: Workload, batch: Batch) -> dict[str, int]:
    """FLOPs of a training step by part, forward and backward, for the texts of ``batch`` (masking at its mean rate)."""
    if size.model == "valor":
        return {name: 3 * value for name, value in _valor_parts(size, batch).items()}
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


def _valor_parts(size: Workload, batch: Batch) -> dict[str, int]:
    """Forward FLOPs of a step of VALOR by part: texts of one kind, each behind a prompt."""
    d, layers, task, held = size.width, size.text_layers, workload.task(size), memory_tokens(size)
    own, clips = batch.captions[CaptionKind.OMNI], size.clips
    words, longest = int(own.mask.sum()), own.ids.shape[1]
    compare, describe = (len(sentence.split()) + 2 for sentence in (COMPARE, CAPTION))  # no word is in the vocabulary
    slots, predicted = size.frames + 1, round(0.6 * (words - clips))
    parts = {"towers": towers(size), "memory": clips * sum(held[m] for m in task.modalities) * layers * 4 * d * d,
             "texts": _texts(words + compare * clips, words + compare * clips, longest + compare, 0, d, layers),
             "vocabulary": len(task.groups(Objective.CAPTION)) * 2 * predicted * d * (size.vocabulary + d),
             "alignment": 2 * min(512, d) * (clips * clips * size.max_caption * slots + (clips * size.max_caption + clips * slots) * 2 * d)}
    for group in task.groups(Objective.CAPTION):
        parts["texts"] += _texts(words + describe * clips, predicted + clips, longest + describe, sum(held[m] for m in group), d, layers)
    return parts


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


KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear", "convolution"),
    "attention": ("scaled_dot_product",),
    "normalisation": ("layer_norm",),
    "GELU": ("gelu",),
    "softmax and its like": ("softmax", "logsumexp", "exp", "nll_loss"),
    "copies and indexing": ("copy", "cat", "index", "gather", "scatter", "clone", "zero", "fill", "embedding", "pad"),
    "sums and other elementwise": ("add", "mul", "sub", "div", "sum", "tanh", "sigmoid", "erf", "pow"),
    "optimiser": ("adam",),
}
"""Kind of operation → parts of the names of torch's operations, the first that fits."""


def by_kind(times: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Times of torch's operations by name → times by kind, the largest first."""
    found: dict[str, float] = {}
    for name, spent in times:
        own = name.removeprefix("aten::").lstrip("_")
        exact = (kind for kind, names in KINDS.items() if own.rstrip("_") in names)
        within = (kind for kind in ("attention", "optimiser", "normalisation", "GELU", *KINDS)
                  if kind != "matrix products" and any(part in own for part in KINDS[kind]))
        kind = next(chain(exact, within), "matrix products" if "convolution" in own else "other")
        found[kind] = found.get(kind, 0.0) + spent
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def profiled(step: Callable[[], object]) -> dict[str, float]:
    """Seconds of a step by kind of operation, each without those that it calls."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return by_kind((event.key, event.self_cpu_time_total / 1e6) for event in profiler.key_averages() if event.key.startswith("aten::"))


def main() -> None:
    """Print the count by part, the measured rates, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=workload.FAMILIES, default="vast")
    parser.add_argument("--size", type=workload.parse_size, default=Workload())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also profile a step")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = workload.of_family(options.size, options.model)
    model, batch = workload.build(size), workload.batch(size)
    parts = step_flops(size, batch)
    step = train_step(model, "ours", size)
    (seconds,) = Timer("cpu" if options.threads == 1 else "wall", options.repeats).seconds(step)
    total, rate = sum(parts.values()), matrix_rate()
    for name, value in parts.items():
        log.info("%-12s %9.1f GFLOP  %5.1f %%", name, value / 1e9, 100 * value / total)
    log.info("step %.1f GFLOP in %.2f s: %.1f GFLOP/s, %.0f %% of the %.1f GFLOP/s of a square product",
             total / 1e9, seconds, total / seconds / 1e9, 100 * total / seconds / rate, rate / 1e9)
    if options.profile:
        kinds = profiled(step)
        for kind, spent in kinds.items():
            log.info("%-28s %7.2f s  %5.1f %%", kind, spent, 100 * spent / sum(kinds.values()))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()

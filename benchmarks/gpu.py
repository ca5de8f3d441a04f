"""A released model on one GPU with random data: pretraining steps, captions by beam search, re-ranking, scores; ours and the plain way.

    python benchmarks/gpu.py [--size released|valor|gram] [--batches 16 32 64 128 256] [--only step,decode,rerank,score] [--limit_s 540]
                             [--out benchmarks/results/gpu.json]
    python benchmarks/gpu.py --device cpu --size tiny --batches 2 4 --out output/gpu.json        # tries the script itself

Needs torch, timm and transformers, downloads nothing. Every row is written as soon as it is known; what does not fit into memory is a
row with that error, what does not fit into ``--limit_s`` is listed under "left_out". Rows, by "work":
step: seconds, clips_per_s, mfu (the FLOPs of the step without recomputation, over the card's rate in the precision), peak_gb, first_s (the
first step, in which what is compiled is compiled);
decode: captions_per_s, beam 3, every caption as long as may be; rerank: pairs_per_s, 50 texts for each video (VAST, GRAM); score:
pairs_per_s of as many texts as videos, by VALOR's slots or GRAM's volumes. "ratio_to_plain": the best rate of ours over the best of the
plain way (benchmarks/plain.py, plain_valor.py), by work. What the plain way gives is compared by benchmarks/run.py.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import logging
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import plain, plain_valor, workload  # noqa: E402
from benchmarks.measure import PLAIN  # noqa: E402
from benchmarks.released import SIZES, Size, endless, make_batch, make_features, make_model  # noqa: E402
from benchmarks.scores import score_table  # noqa: E402
from omnivast.config.schema import RunConfig  # noqa: E402
from omnivast.evaluation.retrieval.matching import PairMatcher  # noqa: E402
from omnivast.training.engines.base import Engine  # noqa: E402
from omnivast.training.engines.compile import compile_layers, leave_uncompiled  # noqa: E402
from omnivast.utils.files import write_atomically  # noqa: E402
from omnivast.utils.precision import DTYPES, Precision, resolve  # noqa: E402
from omnivast.utils.random import StepRandom  # noqa: E402

log = logging.getLogger("omnivast")

BEAMS, TEXTS_PER_VIDEO = 3, 50
WORKS = ("step", "decode", "rerank", "score")
OF_FAMILY = {"vast": WORKS[:3], "gram": WORKS, "valor": ("step", "decode", "score")}
"""What can be measured of each: VAST compares by one product, VALOR does not match pairs."""
HALF_TFLOPS = {"H100 PCIe": 756.5, "H100 NVL": 835.5, "H200 NVL": 835.5, "H200": 989.4, "H100": 989.4, "A100": 311.9, "V100": 125.0,
               "T4": 65.0}
"""Dense rate of a card (NVIDIA's data sheets) in the precision that auto takes, bf16, or fp16 up to T4, by a part of its name, the first
that fits; without a form it is SXM's. For others the measured rate of matrix products stands in, and the report says so."""
MATRIX = {"cuda": 8192, "cpu": 512}
"""Side of the matrices whose product measures the rate that can be reached."""


class TimeLimitError(BaseException):
    """The time given is used up. No Exception, which torch's compiler would take for one of its own."""


class Report:
    """What was measured so far, written after every row."""

    def __init__(self, out: Path, limit_s: float, facts: dict[str, Any]) -> None:
        self.out, self.end = out, time.monotonic() + limit_s
        self.content: dict[str, Any] = {**facts, "rows": [], "left_out": []}

    def run(self, row: dict[str, Any], work: Callable[[], dict[str, Any]], device: torch.device) -> bool:
        """Do ``work`` and add what it found to ``row``; False where it failed or there was no time left for it."""
        if time.monotonic() > self.end:
            self.content["left_out"].append(row)
            self.write()
            return False
        began = time.monotonic()
        try:
            with self._alarm():
                row |= work()
        except (torch.OutOfMemoryError, MemoryError):
            row["error"] = "out of memory"
        except (Exception, TimeLimitError) as error:  # a row that fails must not take the others with it
            log.error("%s", row, exc_info=error)
            first = str(error).partition("\n")[0]
            # cuBLAS needs memory, too, and says so in words of its own.
            row["error"] = "out of memory" if "ALLOC_FAILED" in first else f"{type(error).__name__}: {first}"
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        row["spent_s"] = round(time.monotonic() - began, 2)
        self.content["rows"].append(row)
        self.write()
        log.info("%s", "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
        return "error" not in row

    @contextmanager
    def _alarm(self) -> Iterator[None]:
        """Stop what runs when the time is used up."""

        def ring(*_: Any) -> None:
            raise TimeLimitError("stopped at the time limit")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.end - time.monotonic()))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def write(self) -> None:
        """Replace the file by what is known now."""
        self.content["ratio_to_plain"] = ratios(self.content["rows"])
        write_atomically(self.out, json.dumps(self.content, indent=1) + "\n")


# --------------------------------------------------------------------------------------------------------------- measuring


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


# ------------------------------------------------------------------------------------------------------------------ works


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


def train_steps(model: Any, size: Size, clips: int, steps: int, way: str = "ours") -> dict[str, Any]:
    """Forward, backward, and what the training loop does to update the weights, on one batch that lies on the device."""
    device = model.device
    batch = make_batch(size, clips, frames=size.frames, device=device)
    engine = Engine(model.train(), RunConfig(learning_rate=1e-5), device)
    scaler = torch.amp.GradScaler(device.type, enabled=model.precision is torch.float16)
    losses: list[torch.Tensor] = []

    def step() -> None:
        draws = StepRandom(0, len(losses))
        if way == "ours":
            loss = model(batch, size.task, draws)["loss"]
        else:
            with model.mixed():
                loss = PLAIN[size.family].training_losses(model, batch, size.task, draws)["loss"]
        scaler.scale(loss).backward()
        engine.update(scaler)
        losses.append(loss.detach())

    try:
        first = warm_up(step, device)
        spent = seconds(step, device, steps)
    finally:
        model.zero_grad(set_to_none=True)
    return {"seconds": spent, "clips_per_s": clips / spent, "peak_gb": peak_gb(device), "first_s": first, "loss": losses[-1].item()}


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


def trace_step(model: Any, size: Size, clips: int) -> str:
    """Where a step spends its time: torch's profile by operation."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if model.device.type == "cuda" else [])]
    set_up(model, checkpointing=False, compiled=False)
    train_steps(model, size, clips, steps=1)
    with profile(activities=kinds) as profiler:
        train_steps(model, size, clips, steps=1)
    order = "self_cuda_time_total" if model.device.type == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=80)


# -------------------------------------------------------------------------------------------------------------------- all


def run_steps(report: Report, model: Any, size: Size, batches: list[int], steps: int) -> None:
    """Batch sizes ascending; a way that ran out of memory is not tried with more. The plain way comes before what is compiled. FLOPs per
    clip are those of the smallest batch."""
    flops: dict[str, float] = {}

    def count() -> dict[str, Any]:
        flops["clip"] = step_flops(model, size, batches[0])
        return {"gflops_per_clip": flops["clip"] / 1e9}

    def step(way: str, clips: int, checkpointing: bool, compiled: bool) -> dict[str, Any]:
        set_up(model, checkpointing, compiled)
        found = train_steps(model, size, clips, steps, way)
        if flops:
            found["tflops"] = flops["clip"] * found["clips_per_s"] / 1e12
            found["mfu"] = found["tflops"] / report.content["peak_tflops"]
        return found

    report.run({"work": "flops", "clips": batches[0]}, count, model.device)
    for way, checkpointing, compiled in (("ours", False, False), ("plain", False, False), ("ours", True, False), ("ours", False, True),
                                         ("ours", True, True)):
        for clips in batches:
            row = {"work": "step", "way": way, "clips": clips, "checkpointing": checkpointing, "compiled": compiled}
            if not report.run(row, partial(step, way, clips, checkpointing, compiled), model.device):
                break
    set_up(model, checkpointing=False, compiled=False)


def run_others(report: Report, model: Any, size: Size, name: str, batches: list[int], repeats: int) -> None:
    """Captions, or pairs, at several numbers of clips; the plain way, which takes one clip after the other, at the smallest alone, and at
    all where it compares texts with clips; it does not know volumes."""
    work, unit = {"decode": (caption_clips, "clips"), "rerank": (rerank_pairs, "videos"), "score": (score_pairs, "videos")}[name]
    plainly = batches[:1] if name != "score" else batches if size.family == "valor" else []
    for way, numbers in (("ours", batches), ("plain", plainly)):
        for number in numbers:
            if not report.run({"work": name, "way": way, unit: number}, partial(work, model, size, number, repeats, way), model.device):
                break


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The best rate of ours over the best of the plain way, of each work."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        rate = next((row[key] for key in ("clips_per_s", "captions_per_s", "pairs_per_s") if key in row), 0.0)
        if "way" in row:
            best[row["work"], row["way"]] = max(rate, best.get((row["work"], row["way"]), 0.0))
    return {name: best[name, "ours"] / best[name, "plain"] for name in WORKS if best.get((name, "plain")) and (name, "ours") in best}


def describe(device: torch.device, size: str, precision: Precision) -> dict[str, Any]:
    """The machine, the versions, and the rates that results are held against."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    reached = matrix_tflops(device, precision)
    stated = next((rate for part, rate in HALF_TFLOPS.items() if part in name), None) if precision.autocast else None
    return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "device": name, "torch": torch.__version__,
            "cuda": torch.version.cuda, "python": platform.python_version(), "size": size, "precision": precision.name,
            "precision_reason": precision.reason,
            "matrix_tflops": reached, "peak_tflops": stated or reached, "peak_is": "data sheet" if stated else "measured matrix product"}


def main(arguments: list[str] | None = None) -> int:
    """Measure what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", default="released", choices=SIZES)
    parser.add_argument("--precision", default="auto", choices=("auto", *DTYPES))
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="clips per step")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 16, 64], help="clips captioned, and videos re-ranked, at once")
    parser.add_argument("--scored", type=int, nargs="+", default=[200, 1000], help="videos, and texts, that are compared")
    parser.add_argument("--steps", type=int, default=5, help="timed calls of each row")
    parser.add_argument("--only", help="a list of " + ", ".join(WORKS) + "; all that the family has unless given")
    parser.add_argument("--limit_s", type=float, default=540.0, help="after so many seconds the row in hand is stopped and no other begun")
    parser.add_argument("--profile", type=int, default=0, metavar="CLIPS", help="also write a profile of a step with so many clips")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    flags = parser.parse_args(arguments)
    valid = OF_FAMILY[SIZES[flags.size].family]
    wanted = flags.only.split(",") if flags.only else valid
    if unknown := [name for name in wanted if name not in valid]:
        parser.error(f"--only: unknown {', '.join(unknown)}; valid are {', '.join(valid)}")
    if flags.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; `--device cpu --size tiny` tries the script without one")
    device, size = torch.device(flags.device), SIZES[flags.size]
    model = make_model(size, device)
    precision = resolve(flags.precision, device, model.width)
    model.precision = precision.autocast
    report = Report(flags.out, flags.limit_s, describe(device, flags.size, precision))
    report.content["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("%s, %.2f B parameters", report.content["device"], report.content["parameters"] / 1e9)
    for name in WORKS[1:]:
        if name in wanted:
            run_others(report, model, size, name, sorted(flags.scored if name == "score" else flags.clips), flags.steps)
    if "step" in wanted:
        run_steps(report, model, size, sorted(flags.batches), flags.steps)
    if flags.profile:
        write_atomically(flags.out.with_suffix(".profile.txt"), trace_step(model, size, flags.profile))
    report.write()
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())

"""The first minutes with a GPU: whether it computes what the CPU does, and how fast; random weights and noise, nothing is downloaded.

    python benchmarks/gpu.py [--limit_s 480] [--out benchmarks/results/gpu.json]          # everything, most valuable first
    python benchmarks/gpu.py --size released|valor|gram|avllm [--only checks,step,…] [--batches 16 32 64] …     # one part of it
    python benchmarks/gpu.py --device cpu --tiny --out output/gpu.json                                          # tries the script itself

Needs torch ≥ 2.10, timm, transformers, numpy and pyarrow; peft for the Audio-Visual LLM. Without ``--size`` every part runs in a process of
its own (gpu_parts.py), so that one that fails, hangs or spoils the GPU's state takes no other with it, and within its own time. Every row
is written as soon as it is known. One that fails has its "error" and "traceback"; what there was no time for is listed under "left_out".
Rows, by "work":

check: gpu_checks.py, "ok" and what was compared;
step: seconds, clips_per_s, mfu (the FLOPs of the step without recomputation, over the card's rate in the precision), peak_gb, first_s (the
first step, in which what is compiled is compiled);
profile: the kernels that take most, the share of a step in which none ran ("gap_share"), the longest gaps;
estimate: peak_gb as --dry_run would name it, beside the measured one ("ratio");
decode: captions_per_s, beam 3, every caption as long as may be; rerank: pairs_per_s, 50 texts for each video (VAST, GRAM); score:
pairs_per_s of as many texts as videos, by VALOR's slots or GRAM's volumes.

"ratio_to_plain": the best rate of ours over the best of the plain way (plain.py, plain_valor.py), by work; that both give the same,
benchmarks/run.py checks.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import platform
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import gpu_avllm, gpu_checks, gpu_parts  # noqa: E402
from benchmarks.gpu_report import Report  # noqa: E402
from benchmarks.gpu_works import (  # noqa: E402
    caption_clips,
    chat_steps,
    estimated_peak,
    matrix_tflops,
    profile_step,
    rerank_pairs,
    score_pairs,
    set_up,
    step_flops,
    train_steps,
)
from benchmarks.released import SIZES, Size, make_model  # noqa: E402
from omnivast.utils.machine import half_tflops  # noqa: E402
from omnivast.utils.precision import DTYPES, Precision, resolve  # noqa: E402

log = logging.getLogger("omnivast")
WORKS = ("checks", "step", "profile", "estimate", "decode", "rerank", "score", "compiled")
WITHOUT = {"vast": {"score"}, "gram": set[str](), "valor": {"rerank"}, "avllm": {*WORKS} - {"step"}}
OF_FAMILY = {family: tuple(work for work in WORKS if work not in without) for family, without in WITHOUT.items()}
"""What can be measured of each: VAST compares by one product, VALOR does not match pairs."""
OF_TINY = {"released": "tiny", "valor": "valor_tiny", "gram": "gram_tiny", "avllm": "avllm_tiny"}
PLAIN_BATCHES, RECOMPUTED_BATCHES = 3, 2
"""The plain way is timed at the smallest batches, checkpointing at the largest."""


def run_checks(report: Report, device: torch.device, only: str | None = None) -> None:
    """Every check that has ``only`` in its name; all without it."""
    for name, check in gpu_checks.checks(device).items():
        if only is None or only in name:
            report.run({"work": "check", "check": name}, check, device)


def run_steps(report: Report, model: Any, size: Size, batches: list[int], steps: int) -> None:
    """Batch sizes ascending; a way that ran out of memory is not tried with more. FLOPs per clip are those of the smallest."""
    def count() -> dict[str, Any]:
        report.content["flops_per_clip"] = step_flops(model, size, batches[0])
        return {"gflops_per_clip": report.content["flops_per_clip"] / 1e9}

    report.run({"work": "flops", "clips": batches[0]}, count, model.device)
    for way, checkpointing, chosen in (("ours", False, batches), ("plain", False, batches[:PLAIN_BATCHES]),
                                       ("ours", True, batches[-RECOMPUTED_BATCHES:])):
        for clips in chosen:
            if not run_step(report, model, size, way, clips, steps, checkpointing):
                break
    set_up(model, checkpointing=False, compiled=False)


def run_step(report: Report, model: Any, size: Size, way: str, clips: int, steps: int, checkpointing: bool, compiled: bool = False) -> bool:
    """One row of steps; whether it was measured."""
    def step() -> dict[str, Any]:
        set_up(model, checkpointing, compiled)
        return with_mfu(train_steps(model, size, clips, steps, way), report)

    row = {"work": "step", "way": way, "clips": clips, "checkpointing": checkpointing, "compiled": compiled}
    return report.run(row, step, model.device)


def run_compiled(report: Report, model: Any, size: Size, batches: list[int], steps: int) -> None:
    """Towers alone are compiled, whose shapes depend on the batch: for the batch that was best as it is and, recomputing, for the best of
    those. Last, since compiling may take minutes."""
    best = best_batch(report, checkpointing=False) or batches[0]
    run_step(report, model, size, "ours", best, steps, checkpointing=False, compiled=True)
    run_step(report, model, size, "ours", best_batch(report, checkpointing=True) or best, steps, checkpointing=True, compiled=True)
    set_up(model, checkpointing=False, compiled=False)


def with_mfu(found: dict[str, Any], report: Report) -> dict[str, Any]:
    """What was found of a step, and the share of the card's rate, where the FLOPs are known."""
    if "flops_per_clip" in report.content:
        found["tflops"] = report.content["flops_per_clip"] * found["clips_per_s"] / 1e12
        found["mfu"] = found["tflops"] / report.content["peak_tflops"]
    return found


def best_batch(report: Report, checkpointing: bool) -> int | None:
    """The batch of our uncompiled steps with most clips per second."""
    rows = [row for row in report.content["rows"] if row["work"] == "step" and row["way"] == "ours" and "clips_per_s" in row
            and not row["compiled"] and row["checkpointing"] == checkpointing]
    return max(rows, key=lambda row: row["clips_per_s"])["clips"] if rows else None


def run_profile(report: Report, model: Any, size: Size, batches: list[int]) -> None:
    """Of the best batch, as it is."""
    clips = best_batch(report, checkpointing=False) or batches[0]
    set_up(model, checkpointing=False, compiled=False)
    report.run({"work": "profile", "clips": clips}, partial(profile_step, model, size, clips, report.out), model.device)


def run_estimates(report: Report, model: Any, size: Size) -> None:
    """For the largest measured steps of ours, as they are and recomputing."""
    rows = {row["checkpointing"]: row for row in report.content["rows"]
            if row["work"] == "step" and row["way"] == "ours" and "peak_gb" in row and not row["compiled"]}

    def compare(row: dict[str, Any]) -> dict[str, Any]:
        set_up(model, row["checkpointing"], compiled=False)
        estimated = estimated_peak(model, size, row["clips"])
        return {"estimated_gb": estimated, "peak_gb": row["peak_gb"], "ratio": estimated / row["peak_gb"]}

    for row in rows.values():
        told = {"work": "estimate", "clips": row["clips"], "checkpointing": row["checkpointing"]}
        report.run(told, partial(compare, row), model.device)
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


def run_avllm(report: Report, model: Any, tiny: bool, batches: list[int], steps: int) -> None:
    """Steps of the Audio-Visual LLM, activations kept and recomputed."""
    def count() -> dict[str, Any]:
        report.content["flops_per_clip"] = gpu_avllm.flops_of(model, tiny)
        return {"gflops_per_clip": report.content["flops_per_clip"] / 1e9}

    def step(clips: int, checkpointing: bool) -> dict[str, Any]:
        model.set_checkpointing(checkpointing)
        return with_mfu(chat_steps(model, tiny, clips, steps), report)

    report.run({"work": "flops", "clips": 1}, count, model.device)
    for checkpointing in (False, True):
        for clips in batches:
            row = {"work": "step", "way": "ours", "clips": clips, "checkpointing": checkpointing, "compiled": False}
            if not report.run(row, partial(step, clips, checkpointing), model.device):
                break


def describe(device: torch.device, size: str, precision: Precision) -> dict[str, Any]:
    """The machine, the versions, and the rates that results are held against."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    reached = matrix_tflops(device, precision)
    stated = half_tflops(name) if precision.autocast else None
    return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "device": name, "torch": torch.__version__,
            "cuda": torch.version.cuda, "python": platform.python_version(), "size": size, "precision": precision.name,
            "precision_reason": precision.reason,
            "matrix_tflops": reached, "peak_tflops": stated or reached, "peak_is": "data sheet" if stated else "measured matrix product"}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags; ends the program where they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", choices=[*SIZES, "avllm", "avllm_tiny"], help="one part, in this process; without it, everything")
    parser.add_argument("--tiny", action="store_true", help="everything, of models that are small enough for tests")
    parser.add_argument("--parts", help="everything, but these parts alone: a list of " + ", ".join(gpu_parts.NAMES))
    parser.add_argument("--precision", default="auto", choices=("auto", *DTYPES))
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="clips per step")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 16, 64], help="clips captioned, and videos re-ranked, at once")
    parser.add_argument("--scored", type=int, nargs="+", default=[200, 1000], help="videos, and texts, that are compared")
    parser.add_argument("--steps", type=int, default=5, help="timed calls of each row")
    parser.add_argument("--only", help="with --size: a list of " + ", ".join(WORKS) + "; all but checks that the family has unless given")
    parser.add_argument("--check", help="of the checks those alone that have this in their name")
    parser.add_argument("--limit_s", type=float, default=480.0, help="after so many seconds the row in hand is stopped and no other begun")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    flags = parser.parse_args(arguments)
    if flags.size is None and (flags.only or flags.check):
        parser.error("--only and --check belong to one --size")
    if unknown := [name for name in (flags.parts or "").split(",") if name and name not in gpu_parts.NAMES]:
        parser.error(f"--parts: unknown {', '.join(unknown)}; valid are {', '.join(gpu_parts.NAMES)}")
    valid = OF_FAMILY[family_of(flags.size or "released")]
    flags.works = flags.only.split(",") if flags.only else [name for name in valid if name != "checks"]
    if unknown := [name for name in flags.works if name not in valid]:
        parser.error(f"--only: unknown {', '.join(unknown)}; valid are {', '.join(valid)}")
    if flags.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; `--device cpu --tiny` tries the script without one")
    return flags


def family_of(size: str) -> str:
    return SIZES[size].family if size in SIZES else "avllm"


def main(arguments: list[str] | None = None) -> int:
    """Measure what the flags ask for."""
    began = time.monotonic()
    flags = parse(arguments)
    if flags.size is None:
        return gpu_parts.run_all(flags, OF_TINY if flags.tiny else {})
    device = torch.device(flags.device)
    avllm = flags.size.startswith("avllm")
    needed = flags.works != ["checks"]
    model: Any = None
    if needed:
        model = gpu_avllm.make_avllm(device, flags.size == "avllm_tiny") if avllm else make_model(SIZES[flags.size], device)
    precision = resolve(flags.precision, device, model.width if needed else 512)
    report = Report(flags.out, flags.limit_s - (time.monotonic() - began), describe(device, flags.size, precision))
    if "checks" in flags.works:
        run_checks(report, device, flags.check)
    if needed:
        model.precision = precision.autocast
        report.content["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        log.info("%s, %.2f B parameters", report.content["device"], report.content["parameters"] / 1e9)
    if needed and avllm:
        run_avllm(report, model, flags.size == "avllm_tiny", sorted(flags.batches), flags.steps)
    elif needed:
        run_works(report, model, SIZES[flags.size], flags)
    report.write()
    return 0


def run_works(report: Report, model: Any, size: Size, flags: argparse.Namespace) -> None:
    """In the order of the flags: steps come before what is read off them."""
    batches = sorted(flags.batches)
    for name in flags.works:
        if name == "step":
            run_steps(report, model, size, batches, flags.steps)
        elif name == "compiled":
            run_compiled(report, model, size, batches, flags.steps)
        elif name == "profile":
            run_profile(report, model, size, batches)
        elif name == "estimate":
            run_estimates(report, model, size)
        elif name != "checks":
            run_others(report, model, size, name, sorted(flags.scored if name == "score" else flags.clips), flags.steps)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())

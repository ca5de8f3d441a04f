"""Ours beside the plain way (benchmarks/plain.py), with the same weights in one run: times, their ratio, and whether results agree.

    python benchmarks/run.py [--model vast|valor|gram] [--only step,texts,decode,rerank,score,mask,media,memory,score_memory,cost]
                             [--size default|tiny|released|B=8,frames=4,…] [--threads 1] [--repeats 3] [--clock wall|cpu] [--json out.json]

Each measurement is the median of ``--repeats`` alternating runs after one that is not counted. ``--clock cpu`` counts processor
time, for machines on which other work shares the cores (with one thread it is the time the work would take alone).
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import platform
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import plain, plain_valor, workload  # noqa: E402
from benchmarks.cost import measure as measure_cost  # noqa: E402
from benchmarks.measure import CLOCKS, PLAIN, Timer, in_process, peak_bytes, train_step  # noqa: E402
from benchmarks.scores import score_table  # noqa: E402
from benchmarks.workload import Workload  # noqa: E402
from omnivast.config.tasks import Group, Modality, Objective  # noqa: E402
from omnivast.evaluation.retrieval.matching import PairMatcher  # noqa: E402
from omnivast.model.interface import Rows  # noqa: E402
from omnivast.model.objectives.generation import mask_tokens  # noqa: E402
from omnivast.model.text.generate import beam_search  # noqa: E402
from omnivast.model.valor.features import ClipFeatures  # noqa: E402
from omnivast.model.valor.generate import best_texts  # noqa: E402
from omnivast.model.valor.prompts import CAPTION  # noqa: E402
from omnivast.utils.files import write_atomically  # noqa: E402
from omnivast.utils.random import StepRandom  # noqa: E402

log = logging.getLogger("omnivast")
OMNI, BOTH = Group.parse("tvas"), Group.parse("tva")
LOSS_TOLERANCE = 1e-5
"""Largest relative difference of losses; probabilities may differ by as much absolutely."""


def same_losses(size: Workload) -> bool:
    """Losses and gradients of both ways on the same weights."""
    model, batch, task = workload.build(size), workload.batch(size), workload.task(size)
    found = []
    for way in (model, lambda *args: PLAIN[size.model].training_losses(model, *args)):
        model.zero_grad(set_to_none=True)
        losses = way(batch, task, StepRandom(0, 1))
        losses["loss"].backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        found.append({name: value.item() for name, value in losses.items()} | {"gradient": norm.item()})
    ours, wanted = found
    return ours.keys() == wanted.keys() and all(abs(ours[k] - v) <= LOSS_TOLERANCE * abs(v) for k, v in wanted.items())


def step(size: Workload, timer: Timer) -> dict[str, Any]:
    """One training step of the pretraining task."""
    equal = same_losses(size)
    theirs, ours = (train_step(workload.build(size), way, size) for way in ("plain", "ours"))
    return timer.compare(theirs, ours, equal)


def texts(size: Workload, timer: Timer) -> dict[str, Any]:
    """The step without its towers, whose tokens are given; what they take is the same in both ways."""
    theirs, ours = (train_step(workload.build(size), way, size, encoded=True) for way in ("plain", "ours"))
    (wanted, found) = (way()["loss"].item() for way in (theirs, ours))
    return timer.compare(theirs, ours, abs(found - wanted) <= LOSS_TOLERANCE * abs(wanted))


def decode(size: Workload, timer: Timer) -> dict[str, Any]:
    """Beam-3 captions of a batch of clips from all modalities; seconds per caption."""
    model, batch = workload.build(size).eval(), workload.batch(size)
    group = BOTH if size.model == "valor" else OMNI
    with torch.no_grad():
        features = model.encode(batch, list(group))

        def ours() -> list[list[int]]:
            text, memory = model.multimodal_encoder, model.memory(features)
            if size.model == "valor":
                state = text.start(memory, group, model.prompts.task(CAPTION, len(memory)))
                return [row[0] for row in best_texts(text, state, model.tokenizer, 3, size.new_tokens)]
            return beam_search(text, text.start(memory, group), model.tokenizer, 3, size.new_tokens, 0.6)

        def theirs() -> list[list[int]]:
            penalty = () if size.model == "valor" else (0.6,)
            return PLAIN[size.model].beam_search(model, features, group, 3, size.new_tokens, *penalty)

        return timer.compare(theirs, ours, ours() == theirs(), per=size.clips)


def rerank(size: Workload, timer: Timer) -> dict[str, Any]:
    """Matching scores of texts with each of two clips; seconds per clip."""
    model, clips = workload.build(size).eval(), min(2, size.clips)
    captions = workload.texts(size.rerank_texts, size.caption_tokens, size.max_caption, size.vocabulary, torch.Generator().manual_seed(1))
    ids = [row[:n] for row, n in zip(captions.ids.tolist(), captions.mask.sum(1).tolist())]
    with torch.no_grad():
        features = model.encode(workload.batch(size.with_value(clips=clips)), list(OMNI))
        pairs = {OMNI: (np.tile(np.arange(len(ids)), clips), np.repeat(np.arange(clips), len(ids)))}

        def ours() -> torch.Tensor:
            margins = PairMatcher(model, [features], "cpu").margins(pairs, {OMNI: ids})[OMNI]
            return torch.from_numpy(margins).sigmoid().view(clips, -1)

        def theirs() -> torch.Tensor:
            return plain.rerank(model, features, OMNI, captions, size.max_caption)

        equal = bool((ours() - theirs()).abs().max() <= LOSS_TOLERANCE)
        return timer.compare(theirs, ours, equal, per=clips)


@torch.no_grad()
def scored(size: Workload) -> tuple[Any, Rows, Rows]:
    """A VALOR, and what is kept of texts and clips to compare them."""
    model, noise = workload.build(size).eval(), torch.Generator().manual_seed(3)
    captions = workload.texts(size.scored, size.caption_tokens, size.max_caption, size.vocabulary, noise)
    slots = {m: torch.randn(size.scored, count, size.width, generator=noise)
             for m, count in ((Modality.VISION, size.scored_frames), (Modality.AUDIO, size.scored_slices))}
    return model, model.index_texts(captions), model.embed_clips(ClipFeatures({}, slots), [BOTH])


@torch.no_grad()
def score(size: Workload, timer: Timer) -> dict[str, Any]:
    """VALOR's fine-grained scores of texts and clips: "score" for one group (tva) as evaluation asks for it, "score_groups" for the groups
    of the task together, which share their products."""
    model, queries, clips = scored(size)
    groups = workload.task(size).groups(Objective.RETRIEVAL)

    def one() -> torch.Tensor:
        return plain_valor.whole_scores(queries, clips, BOTH.modalities)

    def each() -> list[torch.Tensor]:
        return plain_valor.scores(queries, clips, groups)

    def ours() -> torch.Tensor:
        return score_table(model, BOTH, queries, clips)

    def together() -> list[torch.Tensor]:
        return model.alignment.scores(groups, queries, clips)

    equal = bool((ours() - one()).abs().max() <= LOSS_TOLERANCE)
    all_equal = all(bool((x - y).abs().max() <= LOSS_TOLERANCE) for x, y in zip(together(), each()))
    return {"score": timer.compare(one, ours, equal), "score_groups": timer.compare(each, together, all_equal)}


@torch.no_grad()
def _score_peak(way: str, size: Workload) -> tuple[int, float]:
    model, queries, clips = scored(size)
    table = score_table(model, BOTH, queries, clips) if way == "ours" else plain_valor.whole_scores(queries, clips, BOTH.modalities)
    return peak_bytes(), table.mean().item()


def score_memory(size: Workload, timer: Timer) -> dict[str, Any]:
    """Peak resident memory of a process that makes the table of one group."""
    return peaks(_score_peak, size)


def mask(size: Workload, timer: Timer) -> dict[str, Any]:
    """Choosing and disguising the tokens to predict."""
    model = workload.build(workload.TINY)
    tokens = model.mask_ids
    captions = workload.texts(size.mask_rows, size.max_caption, size.max_caption, 400, torch.Generator().manual_seed(2))
    draws = StepRandom(0, 1).uniform("mask", size.mask_rows, size.max_caption, 3)

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        return mask_tokens(captions.ids, tokens, 0.6, draws)

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        return plain.masked(captions.ids, tokens.cls, tokens.mask, tokens.vocab_size, 0.6, draws)

    return timer.compare(theirs, ours, all(map(torch.equal, ours(), theirs())))


def _peak(way: str, size: Workload) -> tuple[int, float]:
    run = train_step(workload.build(size), way, size)
    losses = [run()["loss"].item() for _ in range(2)]
    return peak_bytes(), losses[0]


def memory(size: Workload, timer: Timer) -> dict[str, Any]:
    """Peak resident memory of a process that trains two steps."""
    return peaks(_peak, size)


def peaks(work: Callable[[str, Workload], tuple[int, float]], size: Workload) -> dict[str, Any]:
    """Peaks of both ways, each in a process of its own, and whether the numbers that they found agree."""
    (theirs, wanted), (ours, found) = (in_process(work, way, size) for way in ("plain", "ours"))
    return {"plain_bytes": theirs, "ours_bytes": ours, "ratio": ours / theirs, "equal": abs(found - wanted) <= LOSS_TOLERANCE * abs(wanted)}


def media(size: Workload, timer: Timer) -> dict[str, Any]:
    """Decoding and transforms (benchmarks/media.py): a dict of measurements by name."""
    return importlib.import_module("benchmarks.media").measure(repeats=timer.repeats)


def cost(size: Workload, timer: Timer) -> dict[str, Any]:
    """Seconds and memory against groups, frames and texts per memory (benchmarks/cost.py)."""
    return measure_cost(size, timer.name, timer.repeats)


MEASUREMENTS: dict[str, Callable[[Workload, Timer], dict[str, Any]]] = {
    "step": step, "texts": texts, "decode": decode, "rerank": rerank, "score": score, "mask": mask, "media": media, "memory": memory,
    "score_memory": score_memory, "cost": cost}
SEVERAL = ("score", "media")
"""Those that give several measurements by name."""
USUAL = {"vast": "step,decode,rerank,mask,media,memory", "valor": "step,texts,decode,score,mask,memory,score_memory",
         "gram": "step,decode,rerank,memory"}
"""What is measured of each family, unless something else is asked for."""
LACKING = {"vast": ("score", "score_memory"), "gram": ("score", "score_memory", "cost"), "valor": ("rerank", "cost")}
"""What does not exist for a family: VALOR has no matching, the others no fine-grained scores."""


def machine(threads: int, clock: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": name, "capability": torch.backends.cpu.get_cpu_capability(), "threads": threads, "clock": clock,
            "torch": torch.__version__, "python": platform.python_version(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the JSON. Returns 1 when results of the two ways differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=USUAL, default="vast", help="the family of the model")
    parser.add_argument("--only",
                        help=f"measurements, separated by commas: {', '.join(MEASUREMENTS)}; usually {USUAL['vast']}")
    parser.add_argument("--size", type=workload.parse_size, default=Workload(),
                        help="default, tiny, released (for rerank and decode); with changes: B=8,frames=4 or released,rerank_texts=8")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    names = (options.only or USUAL[options.model]).split(",")
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"--only: no measurement '{unknown[0]}'; there are {', '.join(MEASUREMENTS)}")
    if lacking := [name for name in names if name in LACKING[options.model]]:
        parser.error(f"--only: '{lacking[0]}' is not measured of {options.model}")
    options.size = workload.of_family(options.size, options.model)
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {"machine": machine(options.threads, options.clock), "size": vars(options.size)}
    rows: list[dict[str, Any]] = []
    for name in names:
        if name == "media" and not (ROOT / "benchmarks" / "media.py").is_file():
            continue
        found = MEASUREMENTS[name](options.size, Timer(options.clock, options.repeats))
        nested = found if name in SEVERAL else {name: found}
        results |= nested
        for key, values in nested.items():
            log.info("%s", line(key, values))
        rows += [values for values in nested.values() if "equal" in values]
        if options.json:  # after each, so that what is measured survives an interruption
            write_atomically(options.json, json.dumps(results, indent=1) + "\n")
    return 0 if all(row["equal"] for row in rows) else 1


def line(name: str, values: dict[str, Any]) -> str:
    """A row of the table."""
    if "equal" not in values:
        return "\n".join(f"{name} {axis}: " + ", ".join(f"{number} {row['seconds']:.3f} s" for number, row in own.items())
                         for axis, own in values.items())
    unit, scale = ("MB", 1e-6) if "plain_bytes" in values else ("ms", 1e3)
    keys = ("plain_bytes", "ours_bytes") if unit == "MB" else ("plain_s", "ours_s")
    theirs, ours = (values[key] * scale for key in keys)
    return (f"{name:12} plain {theirs:10.1f} {unit}   ours {ours:10.1f} {unit}   ratio {values['ratio']:8.2f}   "
            f"{'equal' if values['equal'] else 'DIFFERENT'}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    raise SystemExit(main())

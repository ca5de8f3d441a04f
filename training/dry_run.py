"""``--dry_run``: what a training would do, and what memory it needs, found out by one pass over one batch; nothing is trained."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnivast.config.schema import Config, RunConfig
from omnivast.model.build import pretrained_files
from omnivast.model.interface import Model
from omnivast.model.recompute import noting
from omnivast.training.checkpoints import checkpoint
from omnivast.training.cluster import lines, simulate
from omnivast.training.engines.zero import read_settings
from omnivast.training.estimate import estimate
from omnivast.training.loop import spread
from omnivast.training.optim import build_optimizer
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom, seed_everything

if TYPE_CHECKING:
    from omnivast.data.loader import EvalLoader, TrainLoader

logger = logging.getLogger("omnivast")
MOMENTS = {"adamw": 2, "adam": 2, "muon": 2, "sgd": 1, "apex_fused_adam": 2}
"""Numbers that each optimiser keeps per trainable parameter, at most."""
Row = tuple[str, ...]


def dry_run(config: Config, model: Model, loader: TrainLoader | None, eval_loaders: Sequence[EvalLoader],
            device: torch.device | str = "cpu") -> dict[str, Any]:
    """Log tables of parameters, memory and corpora, and return the numbers. Reads one training batch and passes it through the model.

    Raises what a training would raise before its first step: an output folder that cannot be written, a batch that cannot be read,
    a loss that is not finite.
    """
    run = config.run_cfg
    checkpoint.check_output_dir(run.output_dir, new_run=run.mode == "training" and not run.resume)
    model = model.to(device)
    report: dict[str, Any] = {"weights": _weights(config), "parameters": _parameters(model)}
    rows = [(role, f"{n['total']:,}", f"{n['trainable']:,}") for role, n in report["parameters"].items()]
    logger.info("%s", table(("parameters", "total", "trainable"), rows))
    for line in report["weights"]:
        logger.info("weights: %s", line)
    if loader is not None:
        build_optimizer(model, run)
        report["corpora"] = [{"name": c.name, "task": str(c.task), "rows": c.rows, "steps": c.steps, "batch_size": c.batch_size}
                             for c in loader.corpora]
        logger.info("%s", table(("training corpus", "task", "rows", "steps", "batch size"), [tuple(map(str, c.values()))
                                                                                              for c in report["corpora"]]))
        evaluations = len(set(spread(loader.total_steps, run.valid_freq))) if eval_loaders else 0
        logger.info("%d optimiser steps of %d batch(es) on %d process(es), %d evaluation(s)", loader.total_steps,
                    run.gradient_accumulation_steps, distributed.world_size(), evaluations)
        report["memory"] = memory(config, model, loader, torch.device(device))
        logger.info("%s", table(("memory per process", "GiB"), [(name, f"{size / 2**30:.3f}") for name, size in report["memory"].items()]))
        if distributed.world_size() == 1:
            report["gpu"] = one_gpu(config, model, loader)
        if run.simulate:
            report["cluster"] = cluster(config, model, loader)
    if eval_loaders:
        report["evaluation"] = [{"name": e.name, "task": str(e.task), "clips": e.clips} for e in eval_loaders]
        logger.info("%s", table(("evaluation set", "task", "clips"), [tuple(map(str, e.values())) for e in report["evaluation"]]))
    logger.info("dry run: all of this can be trained or tested; nothing was")
    return report


def memory(config: Config, model: Model, loader: TrainLoader, device: torch.device) -> dict[str, int]:
    """Bytes per process. Weights, gradients and optimiser are exact, and count this process's shard where they are sharded. With fsdp,
    the weights that a step gathers for its whole length are added. Activations are what a pass over the first batch keeps."""
    run = config.run_cfg
    parameters, trainable = size_of(model.parameters()), size_of(p for p in model.parameters() if p.requires_grad)
    sizes = {"weights": parameters, "gradients": trainable, "optimiser": MOMENTS[run.optim] * trainable}
    shared = shared_out(run)
    if run.ema_decay is not None:
        sizes["averaged weights"] = trainable
    sizes = {name: -(-size // distributed.world_size()) if name in shared else size for name, size in sizes.items()}
    sizes["weights"] += size_of(model.buffers())
    if run.parallel == "fsdp" and shared:
        apart = {id(p) for unit in model.units() if unit.gathered == "pass" for p in unit.module.parameters()}
        sizes["weights together in a step"] = size_of(p for p in model.parameters() if id(p) not in apart)
    sizes["activations of one batch"] = activations(config, model, loader, device)
    return {**sizes, "together, at least": sum(sizes.values())}


def one_gpu(config: Config, model: Model, loader: TrainLoader) -> dict[str, dict[str, int]]:
    """Log and return what one GPU would need for this training, and the largest batches that fit (see estimate.py): of the first
    corpus, whose first batch is looked at. Weights, gradients and optimiser lie there whole. Empty, with a warning, for a model that
    decides by what it computes, which cannot be followed without numbers."""
    run, batch = config.run_cfg, next(iter(loader.batches(0)))
    trainable = size_of(p for p in model.parameters() if p.requires_grad)
    kept = MOMENTS[run.optim] + (run.ema_decay is not None)
    fixed = size_of([*model.parameters(), *model.buffers()]) + kept * trainable
    try:
        estimates = estimate(model, batch, loader.task(batch.corpus), run, fixed)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # whatever torch's fake tensors refuse
        reason = next(iter(str(error).splitlines()), "")
        logger.warning("what one GPU would need cannot be told for this model: %s: %s", type(error).__name__, reason)
        return {}
    names = list(next(iter(estimates.values())))
    cells = [(name, *(f"{row[name]:,}" if name.startswith("batch") else f"{row[name] / 1e9:.3f} GB" for row in estimates.values()))
             for name in names]
    logger.info("%s", table((f"one GPU, {len(batch)} clips of '{batch.corpus}'", *estimates), cells))
    return estimates


def cluster(config: Config, model: Model, loader: TrainLoader) -> dict[str, Any]:
    """Log and return what each GPU of ``run_cfg.simulate`` would need for a step of the first corpus, and how fast it would be."""
    run, batch = config.run_cfg, next(iter(loader.batches(0)))
    clips = next(corpus.batch_size for corpus in loader.corpora if corpus.name == batch.corpus)
    found = simulate(model, batch, loader.task(batch.corpus), run, clips, MOMENTS[run.optim])
    logger.info("%s", "\n".join([f"corpus '{batch.corpus}':", *lines(found)]))
    return found


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def shared_out(run: RunConfig) -> Collection[str]:
    """Which of "weights", "gradients", "optimiser" and "averaged weights" are sharded over the processes."""
    if distributed.world_size() == 1 or run.parallel == "ddp":
        return ()
    if run.parallel == "deepspeed":
        stage = read_settings(run)["zero_optimization"]["stage"]
        return ("optimiser", "gradients", "weights")[:stage]
    # Until the last batch of a step, each process keeps the whole gradient of its clips.
    shared = ("optimiser", "weights", "averaged weights")
    return (*shared, "gradients") if run.gradient_accumulation_steps == 1 else shared


def activations(config: Config, model: Model, loader: TrainLoader, device: torch.device) -> int:
    """Bytes that the backward pass over the first training batch needs kept; runs that pass. Raises ValueError for a non-finite loss."""
    batch = next(iter(loader.batches(0)))
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()

    model.train()
    seed_everything(config.run_cfg.seed, "step", 0, distributed.rank())
    draws = StepRandom(config.run_cfg.seed, 0, distributed.rank() * len(batch), len(batch) * distributed.world_size())
    with noting(note):
        outputs = model(batch.to(device), loader.task(batch.corpus), draws)
    outputs["loss"].backward()
    model.zero_grad(set_to_none=True)
    broken = [name for name, value in outputs.items() if not bool(value.isfinite())]
    if broken:
        raise ValueError(f"the first batch of corpus {batch.corpus} gives a {', '.join(broken)} that is not finite; its clips: "
                         f"{', '.join(batch.clip_ids[:8])}")
    return sum(kept.values())


def table(head: Row, rows: Sequence[Row]) -> str:
    """Lines of a plain table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in [head, tuple("-" * w for w in widths), *rows]]
    return "\n".join(["", *lines])


def _parameters(model: Model) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    seen: set[int] = set()
    for _, parameter, role in model.parameter_roles():
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        for key in (role, "all"):
            count = counts.setdefault(key, {"total": 0, "trainable": 0})
            count["total"] += parameter.numel()
            count["trainable"] += parameter.numel() * parameter.requires_grad
    return {**{role: n for role, n in counts.items() if role != "all"}, "all": counts.get("all", {"total": 0, "trainable": 0})}


def _weights(config: Config) -> list[str]:
    run = config.run_cfg
    lines = []
    for key, value in (("checkpoint", run.checkpoint), ("pretrain_dir", run.pretrain_dir)):
        if value is None:
            continue
        lines.append(f"run_cfg.{key} '{value}': {_found(Path(value))}")
    if lines:
        return lines
    if not config.model_cfg.pretrained:
        return ["no checkpoint: the start is random (model_cfg.pretrained is false)"]
    return [f"no checkpoint: the {tower} encoder '{name}' starts from {file.place}: {_found(file.place)}"
            for tower, name, file in pretrained_files(config.model_cfg)]


def _found(path: Path) -> str:
    return f"found, {path.stat().st_size / 2**20:.1f} MiB" if path.is_file() else "found" if path.exists() else "NOT FOUND"

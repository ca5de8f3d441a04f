"""The training loop: the same for one process or many, and the same run however often it is interrupted.

Every draw is keyed by (seed, purpose, step), the data by position, and the learning rate by step, so a resumed run repeats an
unbroken one. Steps are counted from 1 when done: step N is in metrics.jsonl, model_step_N.pt and eval.jsonl alike.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from config.load import config_hash, resolved
from config.schema import Config
from data.batch import Batch
from training import checkpoint
from training.monitor import Monitor, check_unreadable, primary_metric
from training.optim import build_optimizer, gradient_norm, set_learning_rate
from training.stop import StopSignals
from utils import distributed
from utils.files import write_atomically
from utils.random import StepRandom, seed_everything

if TYPE_CHECKING:
    from data.loader import TrainLoader
    from model.vast import VAST

logger = logging.getLogger("omnivast")
Evaluate = Callable[[int], dict[str, float]]
SKIPS_IN_A_ROW = 30
"""fp16 steps that may overflow in a row before the run stops: the scale has then been halved so often that no step can follow."""


class NonFiniteLoss(RuntimeError):  # noqa: N818 (named for what the user meets)
    """A loss or gradient is NaN or infinite; the message names the file with the clips of the step."""


@dataclass
class Counters:
    """What is summed over the run; saved with each checkpoint."""

    clips: dict[str, int] = field(default_factory=dict)
    """Clips trained on, by corpus, over all processes."""
    unreadable: int = 0
    seconds: float = 0.0
    """Time spent training, evaluations and saving not counted."""


@dataclass
class StepResult:
    """One optimiser step, the same on every rank but for ``unreadable`` and ``waited``."""

    corpus: str
    losses: dict[str, float]
    lr: dict[str, float]
    grad_norm: float
    skipped: bool
    clips: int
    unreadable_total: int
    unreadable: list[tuple[str, str]]
    stop: bool
    waited: float


def train(config: Config, model: VAST, loader: TrainLoader, *, evaluate: Evaluate | None = None,
          device: torch.device | str = "cpu") -> dict[str, Any]:
    """Train ``model`` as ``config.run_cfg`` says; on every rank. ``evaluate(step)`` returns flat metrics, equal on all ranks.

    Returns {"step", "resumed_from", "seconds", "metrics" of the last evaluation, "best"}. Raises OutputDirError, CheckpointError,
    NonFiniteLoss, UnreadableShare, each with what to do; SystemExit with 128 + the signal's number when asked to stop, after saving.
    """
    run = config.run_cfg
    device = torch.device(device)
    if run.fp16 and device.type != "cuda":
        raise ValueError("run_cfg.fp16 needs a GPU: on the CPU use --fp16 false, with --bf16 true where half precision is wanted")
    checkpoint.check_output_dir(run.output_dir, new_run=not run.resume)
    with StopSignals() as stop:
        checkpoint.on_main(lambda: checkpoint.remove_leftovers(Path(run.output_dir) / "ckpt"))
        trainer = Trainer(config, model, loader, evaluate, device, stop)
        try:
            return trainer.run()
        finally:
            trainer.unwrap()


def spread(total: int, times: int) -> list[int]:
    """Steps of ``times`` evaluations spread evenly over the training, the last at its end; 0: at the end alone."""
    return sorted({max(1, round(total * k / times)) for k in range(1, times + 1)}) if times > 0 else [total]


class Trainer:
    """The state of one training."""

    def __init__(self, config: Config, model: VAST, loader: TrainLoader, evaluate: Evaluate | None, device: torch.device,
                 stop: StopSignals) -> None:
        self.config, self.run_cfg, self.loader, self.evaluator = config, config.run_cfg, loader, evaluate
        self.device, self.stop = device, stop
        self.folder = Path(self.run_cfg.output_dir)
        self.ckpt = self.folder / "ckpt"
        self.model = model.to(device)
        self.parallel: nn.Module = self.model
        self.optimizer = build_optimizer(self.model, self.run_cfg)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.run_cfg.fp16)
        self.total = loader.total_steps
        self.milestones = set(spread(self.total, self.run_cfg.valid_freq))
        self.start = 0
        self.counters = Counters()
        self.best: dict[str, Any] | None = None
        self.metrics: dict[str, float] = {}
        self.skips = 0
        self.window = [0.0, 0.0, 0.0]
        """Seconds, seconds waited for data, and clips since the last log line."""

    def run(self) -> dict[str, Any]:
        """Restore, train, evaluate, save. Returns the summary that ``train`` describes."""
        resumed = self.run_cfg.resume and self.restore()
        with Monitor(self.folder, self.start, self.total, resumed=resumed, tensorboard=self.run_cfg.tensorboard) as self.monitor:
            done = self.remember(self.monitor.evaluations())
            wanted = self.run_cfg.zero_shot or self.start in self.milestones or (self.run_cfg.first_eval and self.start == 0)
            if wanted and self.start not in done:
                self.evaluate(self.start)
            last = self.start if self.run_cfg.zero_shot else self.total
            if self.start < last:
                self.loop()
        return {"step": last, "resumed_from": self.start if resumed else None, "seconds": self.counters.seconds,
                "metrics": self.metrics, "best": self.best}

    def loop(self) -> None:
        """The steps that are left."""
        batches: Iterator[Batch] = iter(self.loader.batches(self.start))
        if distributed.world_size() > 1:
            batches = self.wrap(batches)
        self.model.train()
        for index in range(self.start, self.total):
            began = time.monotonic()
            result = self.step(index, batches)
            self.account(index + 1, result, time.monotonic() - began)
            step = index + 1
            if step in self.milestones or step == self.total or result.stop or self.periodic(step):
                self.save(step)
                self.leave_if_asked(step)
            if step in self.milestones:
                self.evaluate(step)
                self.leave_if_asked(step)

    def periodic(self, step: int) -> bool:
        return self.run_cfg.save_every > 0 and step % self.run_cfg.save_every == 0

    def step(self, index: int, batches: Iterator[Batch]) -> StepResult:
        """Optimiser step ``index`` (from 0): the mean loss of ``gradient_accumulation_steps`` batches, clipped, applied."""
        run, accumulation = self.run_cfg, self.run_cfg.gradient_accumulation_steps
        rank, world = distributed.rank(), distributed.world_size()
        rates = set_learning_rate(self.optimizer, index + 1, self.total, run)
        read: list[Batch] = []
        losses: dict[str, Tensor] = {}
        waited = 0.0
        for micro in range(accumulation):
            began = time.monotonic()
            batch = self.next_batch(batches, index)
            waited += time.monotonic() - began
            read.append(batch)
            # After the reading: opening the data may draw, and happens in the first step of a resumed run alone.
            seed_everything(run.seed, "step", index, micro, rank)
            draws = StepRandom(run.seed, index * accumulation + micro, rank * len(batch), len(batch) * world)
            postponed = isinstance(self.parallel, DistributedDataParallel) and micro < accumulation - 1
            with self.parallel.no_sync() if postponed else nullcontext():  # type: ignore[operator]
                outputs = self.parallel(batch.to(self.device), self.loader.task(batch.corpus), draws)
                self.scaler.scale(outputs["loss"] / accumulation).backward()
            for name, value in outputs.items():
                part = value.detach().float() / accumulation
                losses[name] = losses[name] + part if name in losses else part
        means, counts = self.reduce(losses, read)
        if not all(map(math.isfinite, means.values())):
            self.report_nonfinite(index + 1, "loss", read, means)
        norm, skipped = self.update(index + 1, read, means)
        return StepResult(read[0].corpus, means, rates, norm, skipped, counts["clips"], counts["unreadable"],
                          [entry for batch in read for entry in batch.unreadable], counts["stop"] > 0, waited)

    def update(self, step: int, read: list[Batch], losses: dict[str, float]) -> tuple[float, bool]:
        """Clip, apply and clear the gradients: (norm before clipping, whether fp16 overflowed and the step was left out)."""
        self.scaler.unscale_(self.optimizer)
        norm = float(gradient_norm(self.optimizer, self.run_cfg.grad_norm))
        overflow = not math.isfinite(norm)
        self.skips = self.skips + 1 if overflow else 0
        if overflow and (not self.scaler.is_enabled() or self.skips > SKIPS_IN_A_ROW):
            self.report_nonfinite(step, "gradient", read, losses)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, overflow

    def next_batch(self, batches: Iterator[Batch], index: int) -> Batch:
        try:
            return next(batches)
        except StopIteration:
            raise RuntimeError(f"the loader ended in step {index + 1} of {self.total}") from None

    def reduce(self, losses: dict[str, Tensor], read: list[Batch]) -> tuple[dict[str, float], dict[str, int]]:
        """Losses averaged, and counts summed, over the processes; one exchange. What is not finite on one is so on all."""
        names = sorted(losses)
        own = {"stop": float(self.stop.number is not None), "clips": float(sum(map(len, read))),
               "unreadable": float(sum(len(batch.unreadable) for batch in read))}
        values = torch.cat([torch.stack([losses[name] for name in names]), torch.tensor([*own.values()], device=self.device)])
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(values)
            values[:len(names)] /= distributed.world_size()
        numbers = values.tolist()
        return dict(zip(names, numbers)), {name: int(number) for name, number in zip(own, numbers[len(names):])}

    def account(self, step: int, result: StepResult, seconds: float) -> None:
        """Count, log and show a step; stop the run when too many clips are unreadable."""
        counters, corpus = self.counters, result.corpus
        counters.clips[corpus] = counters.clips.get(corpus, 0) + result.clips
        counters.seconds += seconds
        self.window = [self.window[0] + seconds, self.window[1] + result.waited, self.window[2] + result.clips]
        rate, wait = self.window[2] / max(self.window[0], 1e-9), self.window[1] / max(self.window[0], 1e-9)
        row = None
        if step % self.run_cfg.log_steps == 0 or step == self.total:
            rows = next(c.rows for c in self.loader.corpora if c.name == corpus)
            row = {"step": step, "corpus": corpus, "epoch": counters.clips[corpus] / max(rows, 1), "loss": result.losses["loss"],
                   "losses": result.losses, "lr": result.lr, "grad_norm": result.grad_norm, "clips_per_second": rate,
                   "data_wait": wait, "seconds": counters.seconds}
            if self.scaler.is_enabled():
                row |= {"scale": self.scaler.get_scale(), "skipped": result.skipped}
            self.window = [0.0, 0.0, 0.0]
        self.monitor.step(row, {"loss": f"{result.losses['loss']:.3f}", "clips/s": f"{rate:.1f}", "data wait": f"{100 * wait:.0f} %"})
        if result.unreadable_total:
            counters.unreadable += result.unreadable_total
            clips = [entry for part in distributed.all_gather_objects(result.unreadable) for entry in part]
            self.monitor.unreadable(step, corpus, clips, counters.unreadable)
            check_unreadable(counters.unreadable, sum(counters.clips.values()), self.run_cfg.max_unreadable, self.folder)

    def report_nonfinite(self, step: int, what: str, read: list[Batch], losses: dict[str, float]) -> None:
        """Save the clips of the step and raise NonFiniteLoss on every rank."""
        path = self.folder / "log" / f"nonfinite_step_{step}.json"
        ranks = distributed.all_gather_objects([batch.clip_ids for batch in read])
        details = {"step": step, "corpus": read[0].corpus, "not_finite": what, "losses": {k: str(v) for k, v in losses.items()},
                   "clip_ids": ranks, "clip_ids_are": "one list per process, of one list per accumulated batch"}
        checkpoint.on_main(lambda: write_atomically(path, json.dumps(details, indent=2, ensure_ascii=False) + "\n"))
        named = ", ".join(name for name, value in losses.items() if not math.isfinite(value)) if what == "loss" else "the gradient norm"
        raise NonFiniteLoss(f"step {step} (corpus {read[0].corpus}): {named} is not finite. The ids of its clips are in '{path}'. Look for "
                            "broken clips among them; otherwise lower --learning_rate, raise --warmup_ratio, set --grad_norm, or use bf16 "
                            "instead of fp16. Weights were not changed by this step; --resume true repeats from the last checkpoint")

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step``."""
        self.monitor.sync()
        state = {"step": step, "config_hash": config_hash(self.config), "config": resolved(self.config), "best": self.best,
                 "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "random": checkpoint.random_states(),
                 "counters": {**vars(self.counters), "clips": dict(self.counters.clips)}, "processes": distributed.world_size()}
        checkpoint.save(self.ckpt, step, self.model.state_dict(), state, remove_older=self.run_cfg.remove_before_ckpt)

    def restore(self) -> bool:
        """Continue from the newest good checkpoint; False where there is none. Raises CheckpointError."""
        loaded = checkpoint.load_latest(self.ckpt)
        if loaded is None:
            logger.info("nothing to resume in '%s': starting from the beginning", self.folder)
            return False
        state = loaded.state
        checkpoint.check_config(state, config_hash(self.config), resolved(self.config), self.ckpt)
        try:
            self.model.load_state_dict(loaded.model)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            where = f"the checkpoint of step {loaded.step} in '{self.ckpt}'"
            raise checkpoint.CheckpointError(f"{where} does not fit this model: {error}") from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        checkpoint.set_random_states(state["random"])
        self.start, self.best, self.counters = loaded.step, state["best"], Counters(**state["counters"])
        if state["processes"] != distributed.world_size():
            logger.warning("resuming on %d process(es) what ran on %s: dropout will differ", distributed.world_size(), state["processes"])
        logger.info("resuming after step %d of %d", self.start, self.total)
        return True

    def remember(self, rows: list[dict[str, Any]]) -> set[int]:
        """Take the best and the latest metrics from the lines of eval.jsonl; returns the steps evaluated."""
        for row in rows:
            self.metrics = {name: value for name, value in row.items() if name != "step"}
            self.improves(row["step"])
        return {row["step"] for row in rows}

    def improves(self, step: int) -> bool:
        """Whether ``self.metrics`` of ``step`` are the best so far; notes them when so. The start weights (step 0) are no candidate."""
        name = primary_metric(self.metrics)
        value = self.metrics.get(name) if name is not None else None
        if step == 0 or value is None or (self.best is not None and self.best["step"] != step and value <= self.best["value"]):
            return False
        self.best = {"step": step, "metric": name, "value": value}
        return True

    def evaluate(self, step: int) -> None:
        """Evaluate the saved weights of ``step``; the line in eval.jsonl comes last, so a kill before it repeats the evaluation."""
        if self.evaluator is None:
            return
        self.share_buffers()
        self.model.eval()
        with torch.no_grad(), self.stop.immediately():
            self.metrics = self.evaluator(step)
        self.model.train()
        if self.improves(step) and self.run_cfg.save_best:
            checkpoint.mark_best(self.ckpt, step, {**(self.best or {}), "metrics": self.metrics})
        self.monitor.evaluation(step, self.metrics)
        name = primary_metric(self.metrics)
        if name is not None:
            logger.info("step %d: %s %.2f%s", step, name, self.metrics[name], " (best)" if self.best and self.best["step"] == step else "")

    def share_buffers(self) -> None:
        """Give every process the main one's buffers, which it saved: each has updated its own running means in the last forward pass."""
        if distributed.world_size() > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def leave_if_asked(self, step: int) -> None:
        """End the process when some process got a signal; the checkpoint of ``step`` is saved."""
        numbers = [number for number in distributed.all_gather_objects(self.stop.number) if number is not None]
        if numbers:
            logger.info("stopped by %s after step %d of %d, which is saved; continue with --resume true",
                           signal.Signals(numbers[0]).name, step, self.total)
            raise SystemExit(128 + numbers[0])

    def wrap(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Put the model under DistributedDataParallel; returns the batches, of which the first was looked at.

        Parameters that take no part in a step have to be searched for in each, which costs a little: where all corpora have one task,
        a trial pass over the first batch tells whether there are any.
        """
        first = self.next_batch(batches, self.start)
        tasks = {self.loader.task(corpus.name) for corpus in self.loader.corpora}
        search = len(tasks) > 1 or distributed.any_process(self.leaves_unused(first), self.device)
        self.parallel = DistributedDataParallel(self.model, find_unused_parameters=search, gradient_as_bucket_view=True)
        return itertools.chain([first], batches)

    def unwrap(self) -> None:
        """Let go of DistributedDataParallel: one that outlives its process group can abort the process at exit and hide the exit code."""
        self.parallel = self.model
        if distributed.world_size() > 1:
            gc.collect()

    def leaves_unused(self, batch: Batch) -> bool:
        """Whether a pass over ``batch`` leaves trainable parameters without gradient; changes neither weights nor buffers."""
        self.model.train()
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        draws = StepRandom(self.run_cfg.seed, 0, distributed.rank() * len(batch), len(batch) * distributed.world_size())
        self.model(batch.to(self.device), self.loader.task(batch.corpus), draws)["loss"].backward()
        unused = any(parameter.grad is None for parameter in self.model.parameters() if parameter.requires_grad)
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        return unused

"""The training loop: the same for one process or many, and the same run however often it is interrupted.

Every draw is keyed by (seed, purpose, step), the data by position, and the learning rate by step, so a resumed run repeats an
unbroken one. Steps are counted from 1 when done: step N is in metrics.jsonl, model_step_N.pt and eval.jsonl alike.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omnivast.config.load import config_hash, resolved
from omnivast.config.schema import Config
from omnivast.data.batch import Batch, corpus_of
from omnivast.data.prefetch import on_device
from omnivast.model.interface import Model
from omnivast.training.averaging import WeightAverage
from omnivast.training.checkpoints import checkpoint
from omnivast.training.checkpoints.saving import Saver, best_kept
from omnivast.training.continuing import check_data, plan_of, tell_longer
from omnivast.training.engines.build import build_engine
from omnivast.training.estimate import step_flops
from omnivast.training.logs.data_report import DataReport
from omnivast.training.logs.monitor import Monitor, Ranking, check_unreadable, primary_metric
from omnivast.training.logs.nonfinite import ADVICE, NonFiniteLoss, report
from omnivast.training.logs.pace import Pace
from omnivast.training.logs.performance import Performance
from omnivast.training.logs.profiling import StepProfiler, steps_of
from omnivast.training.logs.spikes import LossSpikes
from omnivast.training.optim import set_learning_rate
from omnivast.training.result import Counters, StepResult
from omnivast.training.stop import StopSignals
from omnivast.utils import distributed
from omnivast.utils.files import write_atomically
from omnivast.utils.random import StepRandom, seed_everything
from omnivast.utils.watchdog import Watchdog

if TYPE_CHECKING:
    from omnivast.data.loader import TrainLoader

logger = logging.getLogger("omnivast")
Evaluate = Callable[[int], dict[str, float]]
SKIPS_IN_A_ROW = 30
"""fp16 steps that may overflow in a row before the run stops: the scale has then been halved so often that no step can follow."""


def train(config: Config, model: Model, loader: TrainLoader, *, evaluate: Evaluate | None = None,
          device: torch.device | str = "cpu") -> dict[str, Any]:
    """Train ``model`` as ``config.run_cfg`` says; on every rank. ``evaluate(step)`` returns flat metrics, equal on all ranks.

    Returns {"step", "resumed_from", "seconds", "metrics" of the last evaluation, "best"}. Raises OutputDirError, CheckpointError,
    NonFiniteLoss, UnreadableShare, each with what to do; SystemExit with 128 + the signal's number when asked to stop, after saving.
    """
    run = config.run_cfg
    device = torch.device(device)
    if run.precision == "fp16" and device.type == "cpu":
        raise ValueError("run_cfg.precision fp16 needs a GPU: on the CPU use auto, bf16 or float32")
    checkpoint.check_output_dir(run.output_dir, new_run=not run.resume)
    with StopSignals() as stop:
        checkpoint.on_main(lambda: checkpoint.remove_leftovers(Path(run.output_dir) / "ckpt"))
        trainer = Trainer(config, model, loader, evaluate, device, stop)
        try:
            return trainer.run()
        finally:
            trainer.engine.close()


def spread(total: int, times: int) -> list[int]:
    """Steps of ``times`` evaluations spread evenly over the training, the last at its end; 0: at the end alone."""
    return sorted({max(1, round(total * k / times)) for k in range(1, times + 1)}) if times > 0 else [total]


class Trainer:
    """The state of one training."""

    def __init__(self, config: Config, model: Model, loader: TrainLoader, evaluate: Evaluate | None, device: torch.device,
                 stop: StopSignals) -> None:
        self.config, self.run_cfg, self.loader, self.evaluator = config, config.run_cfg, loader, evaluate
        self.device, self.stop = device, stop
        self.folder = Path(self.run_cfg.output_dir)
        self.ckpt = self.folder / "ckpt"
        self.engine = build_engine(model.to(device), self.run_cfg, device)
        self.model, self.optimizer = self.engine.model, self.engine.optimizer
        self.average = None if self.run_cfg.ema_decay is None else WeightAverage(self.engine, self.run_cfg.ema_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.run_cfg.precision == "fp16")
        self.plan = [[corpus.steps for corpus in loader.corpora]]
        """Steps of each corpus, as planned at first and each time that the run was made longer."""
        self.follow_plan()
        self.start = 0
        self.counters = Counters()
        self.ranking = Ranking()
        self.metrics: dict[str, float] = {}
        self.watchdog = Watchdog(self.run_cfg.hang_minutes)
        self.spikes = LossSpikes(self.run_cfg.loss_spike_factor)
        self.profiler = StepProfiler(steps_of(self.run_cfg.profile), self.folder, device)
        self.performance = Performance(device, self.flops)
        self.window = [0.0, 0.0, 0.0]
        """Seconds, seconds waited for data, and clips since the last log line."""

    def run(self) -> dict[str, Any]:
        """Restore, train, evaluate, save. Returns the summary that ``train`` describes."""
        resumed = self.run_cfg.resume and self.restore()
        with (Monitor(self.folder, self.start, self.total, resumed=resumed, tensorboard=self.run_cfg.tensorboard) as self.monitor,
              Saver(self.ckpt, self.run_cfg, self.monitor.sync) as self.saver, self.watchdog,
              distributed.timed_exchanges() as self.exchanges):
            self.monitor.wall("start", self.start)
            done = self.remember(self.monitor.evaluations())
            wanted = self.run_cfg.zero_shot or self.start in self.milestones or (self.run_cfg.first_eval and self.start == 0)
            if wanted and self.start not in done:
                self.evaluate(self.start)
            last = self.start if self.run_cfg.zero_shot else self.total
            if self.start < last:
                self.loop()
            self.saver.wait()
            self.monitor.wall("end", last, trained=self.counters.seconds)
            self.monitor.goodput()
        return {"step": last, "resumed_from": self.start if resumed else None, "seconds": self.counters.seconds,
                "metrics": self.metrics, "best": self.ranking.best}

    def follow_plan(self) -> None:
        self.total = self.loader.total_steps
        self.milestones = set(spread(self.total, self.run_cfg.valid_freq))

    def loop(self) -> None:
        """The steps that are left."""
        batches = on_device(iter(self.loader.batches(self.start)), self.device)
        self.data = DataReport(self.loader.corpora, self.counters.clips)
        self.pace = Pace(self.loader.steps_by_corpora(self.start))
        if distributed.world_size() > 1:
            self.watchdog.at(self.start + 1, "preparing the first step")
            first = self.next_batch(batches, self.start)
            self.engine.begin(first, {self.loader.task(corpus.name) for corpus in self.loader.corpora})
            batches = itertools.chain([first], batches)
        self.engine.trained.train()
        self.monitor.wall("ready", self.start)
        for index in range(self.start, self.total):
            began = time.monotonic()
            with self.profiler.step(index + 1):
                result = self.step(index, batches)
            self.account(index + 1, result, time.monotonic() - began)
            step, done = index + 1, time.monotonic()
            if result.save_failed:
                self.saver.wait()
            if step in self.milestones or step == self.total or result.stop or result.save or self.periodic(step):
                self.save(step)
                self.leave_if_asked(step)
            if step in self.milestones:
                self.evaluate(step)
                self.pace.pause(time.monotonic() - done)
                self.leave_if_asked(step)
        self.profiler.close(self.total)

    def to_evaluate(self, step: int) -> int:
        """The evaluations that are still to come once ``step`` is done, counting the one of ``step``."""
        return sum(at >= step for at in self.milestones) if self.evaluator is not None else 0

    def periodic(self, step: int) -> bool:
        return self.run_cfg.save_every > 0 and step % self.run_cfg.save_every == 0

    def step(self, index: int, batches: Iterator[Batch]) -> StepResult:
        """Optimiser step ``index`` (from 0): the mean loss of ``gradient_accumulation_steps`` batches, clipped, applied."""
        run, accumulation = self.run_cfg, self.run_cfg.gradient_accumulation_steps
        rank, world = distributed.rank(), distributed.world_size()
        rates = set_learning_rate(self.optimizer, index + 1, self.total, run)
        read: list[Batch] = []
        counts_for = [1.0] * accumulation
        losses: dict[str, Tensor] = {}
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        waited = 0.0
        for micro in range(accumulation):
            if len(read) == micro:
                waited += self.read(batches, index, read)
            if micro == 0 and self.model.loss_weight(read[0]) is not None:
                waited += sum(self.read(batches, index, read) for _ in range(accumulation - 1))
                counts_for = self.shares(read)
            batch = read[micro]
            self.watchdog.at(index + 1, "forward and backward pass")
            # After the reading: opening the data may draw, and happens in the first step of a resumed run alone.
            seed_everything(run.seed, "step", index, micro, rank)
            draws = StepRandom(run.seed, index * accumulation + micro, rank * len(batch), len(batch) * world)
            with self.engine.micro_batch(last=micro == accumulation - 1):
                outputs = self.engine(batch.to(self.device), self.loader.task(batch.corpus), draws)
                self.engine.backward(self.scaler.scale(outputs["loss"] * counts_for[micro] / accumulation))
            for name, value in outputs.items():
                part = value.detach().float() * counts_for[micro] / accumulation
                losses[name] = losses[name] + part if name in losses else part
        self.watchdog.at(index + 1, "updating the weights")
        means, counts = self.reduce(losses, read)
        finite = all(map(math.isfinite, means.values()))
        norm, applied = self.engine.update(self.scaler) if finite else (math.nan, False)
        if applied and self.average is not None:
            self.average.update()
        overflow = finite and not applied and self.scaler.is_enabled()
        self.counters.overflows = self.counters.overflows + 1 if overflow else 0
        if not applied and (not overflow or self.counters.overflows > SKIPS_IN_A_ROW):
            self.leave_out(index + 1, "gradient" if finite else "loss", read, means, buffers)
        corpus, clips = corpus_of(read), Counter[str]()
        for batch in read:
            clips[batch.corpus] += len(batch) * world
        return StepResult(corpus, means, rates, norm, not applied, clips, counts["unreadable"],
                          [(batch.corpus, *entry) for batch in read for entry in batch.unreadable], [batch.clip_ids for batch in read],
                          self.spikes.judge(corpus, means["loss"]), counts["stop"] > 0, counts["save"] > 0,
                          counts["save_failed"] > 0, counts["tell"] > 0, waited)

    def read(self, batches: Iterator[Batch], index: int, read: list[Batch]) -> float:
        """Append the next batch of step ``index`` to those ``read``. Returns the seconds that it was waited for."""
        began = time.monotonic()
        self.watchdog.at(index + 1, "reading data")
        read.append(self.next_batch(batches, index))
        waited = time.monotonic() - began
        self.data.add(read[-1])
        self.performance.read(read[-1])
        return waited

    def shares(self, read: list[Batch]) -> list[float]:
        """How much each of a step's batches counts, by its weight (Model.loss_weight): 1 on the mean of all batches of all processes."""
        weights = torch.tensor([self.model.loss_weight(batch) or 0.0 for batch in read], dtype=torch.float64)
        total = weights.sum().to(self.device, torch.float32)
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(total)
        return (weights * (len(read) * distributed.world_size() / float(total))).tolist()

    def leave_out(self, step: int, what: str, read: list[Batch], losses: dict[str, float], buffers: list[Tensor]) -> None:
        """Report a step whose loss or gradient is not finite, and undo what it did. Raises NonFiniteLoss past their limit."""
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self.model.buffers(), buffers):
            buffer.copy_(before)
        self.counters.nonfinite += 1
        told, number, limit = report(self.folder, step, what, read, losses), self.counters.nonfinite, self.run_cfg.max_nonfinite_steps
        if self.counters.overflows:
            raise NonFiniteLoss(f"{told} Before it {SKIPS_IN_A_ROW} steps overflowed, and the scale was halved each time. {ADVICE}")
        if number > limit:
            counted = f" {limit} such step(s) before it were left out, as many as max_nonfinite_steps allows." if limit else ""
            raise NonFiniteLoss(f"{told}{counted} {ADVICE}")
        logger.warning("%s The step is left out, weights unchanged (%d of at most %d such steps, see max_nonfinite_steps)",
                       told, number, limit)

    def next_batch(self, batches: Iterator[Batch], index: int) -> Batch:
        try:
            with self.stop.waiting():
                return next(batches)
        except StopIteration:
            raise RuntimeError(f"the loader ended in step {index + 1} of {self.total}") from None

    def reduce(self, losses: dict[str, Tensor], read: list[Batch]) -> tuple[dict[str, float], dict[str, int]]:
        """Average the losses and sum the counts over all processes, in one exchange. A loss that is not finite on one process is so on
        all."""
        names = sorted(losses)
        flags = {"stop": float(self.stop.number is not None),
                 "unreadable": float(sum(len(batch.unreadable) for batch in read)),
                 "save": float(distributed.is_main() and self.saver.due()), "save_failed": float(self.saver.failed),
                 "tell": float(distributed.is_main() and self.performance.due())}
        values = torch.cat([torch.stack([losses[name] for name in names]), torch.tensor([*flags.values()], device=self.device)])
        if distributed.world_size() > 1:
            distributed.total(values)
            values[:len(names)] /= distributed.world_size()
        numbers = values.tolist()
        return dict(zip(names, numbers)), {name: int(number) for name, number in zip(flags, numbers[len(names):])}

    def account(self, step: int, result: StepResult, seconds: float) -> None:
        """Count, log and show a step; stop the run when too many clips are unreadable."""
        counters, corpus = self.counters, result.corpus
        for name, clips in result.clips.items():
            counters.clips[name] = counters.clips.get(name, 0) + clips
        counters.seconds += seconds
        self.window = [self.window[0] + seconds, self.window[1] + result.waited, self.window[2] + sum(result.clips.values())]
        rate, wait = self.window[2] / max(self.window[0], 1e-9), self.window[1] / max(self.window[0], 1e-9)
        row = None
        if step % self.run_cfg.log_steps == 0 or step == self.total:
            epochs = [counters.clips[c.name] / max(c.rows, 1) for c in self.loader.corpora if c.name in result.clips]
            row = {"step": step, "corpus": corpus, "epoch": max(epochs), "loss": result.losses["loss"],
                   "losses": result.losses, "lr": result.lr, "grad_norm": result.grad_norm, "clips_per_second": rate,
                   "data_wait": wait, "seconds": counters.seconds, "nonfinite_steps": counters.nonfinite}
            if self.scaler.is_enabled():
                row |= {"scale": self.scaler.get_scale(), "skipped": result.skipped}
            self.window = [0.0, 0.0, 0.0]
        self.pace.step(corpus, seconds)
        if self.device.type == "cpu" and distributed.is_main():
            self.pace.warn(self.to_evaluate(step))
        self.monitor.step(row, {"loss": f"{result.losses['loss']:.3f}", "clips/s": f"{rate:.1f}", "data wait": f"{100 * wait:.0f} %"},
                          self.pace.words(self.to_evaluate(step)))
        self.performance.step(seconds, result.waited, self.exchanges.take())
        if result.tell or step == self.total:
            self.monitor.performance(self.performance.report(step))
        self.monitor.data(self.data.step(step, seconds, result.waited, counters.clips, last=step == self.total))
        if result.spike is not None:
            self.monitor.spike(step, corpus, result.spike, result.losses, distributed.all_gather_objects(result.clip_ids))
        if result.unreadable_total:
            counters.unreadable += result.unreadable_total
            faults = [entry for part in distributed.all_gather_objects(result.unreadable) for entry in part]
            for name in result.clips:
                self.monitor.unreadable(step, name, [entry[1:] for entry in faults if entry[0] == name], counters.unreadable)
            check_unreadable(counters.unreadable, sum(counters.clips.values()), self.run_cfg.max_unreadable, self.folder)

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step``, or begin to."""
        self.watchdog.at(step, "saving")
        began = time.monotonic()
        self.saver.save(step, lambda: (self.engine.weights(), self.state(step)))
        self.monitor.wall("save", step, seconds=time.monotonic() - began, trained=self.counters.seconds)

    def flops(self, batch: Batch) -> float | None:
        """Of a step with ``batch``, as rank 0 counts them; None elsewhere, and for a model that cannot be followed without numbers."""
        if not distributed.is_main():
            return None
        try:
            return step_flops(self.model, batch, self.loader.task(batch.corpus), self.run_cfg)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # whatever torch's fake tensors refuse
            logger.info("the FLOPs of a step are not known, nor its MFU: %s", next(iter(str(error).splitlines()), type(error).__name__))
            return None

    def state(self, step: int) -> dict[str, Any]:
        """All but the weights that the checkpoint of ``step`` holds."""
        return {"step": step, "config_hash": config_hash(self.config), "config": resolved(self.config), "best": self.ranking.best,
                "optimizer": self.engine.save_optimizer(self.ckpt, step), "scaler": self.scaler.state_dict(),
                "random": checkpoint.random_states(), "spikes": self.spikes.state_dict(),
                "counters": {**vars(self.counters), "clips": dict(self.counters.clips)}, "processes": distributed.world_size(),
                **({} if self.average is None else {"averaged": self.average.state_dict(), "averaged_steps": self.average.updates}),
                "plan": self.plan, "data": {corpus.name: corpus.identity for corpus in self.loader.corpora}}

    def restore(self) -> bool:
        """Continue from the newest good checkpoint; False where there is none. Raises CheckpointError."""
        loaded = checkpoint.load_latest(self.ckpt)
        if loaded is None:
            logger.info("nothing to resume in '%s': starting from the beginning", self.folder)
            return False
        state = loaded.state
        longer = checkpoint.check_config(state, config_hash(self.config), resolved(self.config), self.ckpt)
        changed = check_data(state, self.loader.corpora, self.run_cfg.resume_changed_data, self.ckpt)
        self.plan = plan_of(state, self.loader.corpora, longer, self.ckpt)
        self.loader.follow(self.plan)
        self.follow_plan()
        try:
            self.engine.load(loaded.model, state["optimizer"], self.ckpt, loaded.step)
            if self.average is not None:
                self.average.load(loaded.averaged, state.get("averaged_steps", 0), loaded.model)
        except (RuntimeError, ValueError) as error:
            where = f"the checkpoint of step {loaded.step} in '{self.ckpt}'"
            raise checkpoint.CheckpointError(f"{where} does not fit this model: {error}") from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        checkpoint.set_random_states(state["random"])
        self.start, self.counters = loaded.step, Counters(**state["counters"])
        self.counters.unreadable = 0 if changed else self.counters.unreadable
        if longer:
            self.lengthen()
        self.spikes.load_state_dict(state.get("spikes", {}))
        if best := state["best"]:
            self.ranking.add(best["step"], {best["metric"]: best["value"]})
        if state["processes"] != distributed.world_size():
            logger.warning("resuming on %d process(es) what ran on %s: dropout will differ", distributed.world_size(), state["processes"])
        left = "" if self.start < self.total else (": nothing is left to train (more --num_train_steps, or 'steps' or 'epoch' of its "
                                                    "datasets, make it longer)")
        logger.info("resuming after step %d of %d%s", self.start, self.total, left)
        return True

    def lengthen(self) -> None:
        """Say what more steps mean, and keep the config that asks for them as that of the run."""
        if len(self.plan) > 1:
            tell_longer(self.plan, self.start, self.run_cfg)
        text = json.dumps(resolved(self.config), indent=2) + "\n"
        checkpoint.on_main(lambda: str(write_atomically(self.folder / "log" / "hps.json", text)))

    def remember(self, rows: list[dict[str, Any]]) -> set[int]:
        """Take the best and the latest metrics from the lines of eval.jsonl; returns the steps evaluated."""
        for row in rows:
            self.metrics = {name: value for name, value in row.items() if name != "step"}
            self.ranking.add(row["step"], self.metrics)
        return {row["step"] for row in rows}

    def evaluate(self, step: int) -> None:
        """Evaluate the saved weights of ``step``; the line in eval.jsonl comes last, so a kill before it repeats the evaluation."""
        if self.evaluator is None:
            return
        self.watchdog.at(step, "evaluating", uneven=True)
        self.saver.wait()
        began = time.monotonic()
        with self.tested_weights(), self.engine.whole(), torch.no_grad(), self.stop.immediately():
            self.model.eval()
            self.metrics = self.evaluator(step)
        self.engine.trained.train()
        self.ranking.add(step, self.metrics)
        best, keep, steps = self.ranking.best or {}, best_kept(self.run_cfg), self.ranking.steps()
        if keep and step in steps:
            checkpoint.mark_best(self.ckpt, step, steps, {**best, "metrics": self.ranking.evaluations[steps[0]]}, keep=keep,
                                 tested="ema" if self.run_cfg.ema_evaluate else "model")
        self.monitor.evaluation(step, self.metrics)
        self.monitor.wall("evaluation", step, seconds=time.monotonic() - began, trained=self.counters.seconds)
        name = primary_metric(self.metrics)
        if name is not None:
            logger.info("step %d: %s %.2f%s", step, name, self.metrics[name], " (best)" if best.get("step") == step else "")

    def tested_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that evaluations are of."""
        return self.average.swapped() if self.average is not None and self.run_cfg.ema_evaluate else nullcontext()

    def leave_if_asked(self, step: int) -> None:
        """End the process when some process got a signal; the checkpoint of ``step`` is saved."""
        numbers = [number for number in distributed.all_gather_objects(self.stop.number) if number is not None]
        if numbers:
            self.profiler.close(step)
            self.saver.wait()
            logger.info("stopped by %s after step %d of %d, which is saved; continue with --resume true",
                           signal.Signals(numbers[0]).name, step, self.total)
            raise SystemExit(128 + numbers[0])

"""Evaluation of a model on datasets: every objective of each dataset's task, one result file per dataset and objective."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import omnivast.evaluation.captions.evaluator
import omnivast.evaluation.chat.evaluator
import omnivast.evaluation.questions.evaluator
import omnivast.evaluation.retrieval.evaluator  # noqa: F401  (these enter their evaluators)
from omnivast.config.load import config_hash
from omnivast.config.tasks import Objective
from omnivast.data.loader import workers
from omnivast.data.spec import UnreadableError
from omnivast.evaluation import protocol
from omnivast.evaluation import published as benchmarks
from omnivast.evaluation.captions import labelling
from omnivast.evaluation.collect import EVALUATORS, Encoded, Evaluator, Outcome, flatten
from omnivast.evaluation.journal import Journal, precision_of_unfinished
from omnivast.evaluation.questions.people import write_submissions
from omnivast.model.interface import Model
from omnivast.utils import distributed
from omnivast.utils.files import write_atomically
from omnivast.utils.log import Progress, progress

if TYPE_CHECKING:
    from omnivast.config.schema import Config
    from omnivast.data.batch import Batch
    from omnivast.data.loader import EvalLoader
    from omnivast.model.weights import LoadReport
    from omnivast.utils.precision import Precision

logger = logging.getLogger("omnivast")


def evaluate_weights(model: Model, loaders: Sequence[EvalLoader], config: Config, weights: LoadReport | None,
                     precision: Precision) -> None:
    """Test the weights that were loaded, on every process: ``results/`` in the output folder, and the metrics in the log."""
    folder = Path(config.run_cfg.output_dir, "results")
    provenance = {**protocol.checkpoint_facts(weights), "config_hash": config_hash(config), "precision_reason": precision.reason}
    metrics = evaluate(model, loaders, config, folder=folder, provenance=provenance)
    logger.info("results in %s\n%s", folder, "\n".join(f"  {name:<48} {value:7.2f}" for name, value in metrics.items()))


def precision_begun(config: Config, loaders: Sequence[EvalLoader], weights: LoadReport | None) -> str | None:
    """In which precision an earlier run began the test or the labelling that this one goes on with; None where there is nothing to go on
    with."""
    folder = Path(config.run_cfg.output_dir, "results")
    if config.run_cfg.captioner_mode:
        return labelling.precision_begun(folder, loaders)
    return precision_of_unfinished(folder, loaders, config, protocol.checkpoint_facts(weights))


def evaluator(
    model: Model, loaders: Sequence[EvalLoader], config: Config, start: LoadReport | None, precision: Precision
) -> Callable[[int], dict[str, float]] | None:
    """The function by which a training tests the model after a step, into ``results/step_N``, called on every process; None where nothing
    is to be tested. It tests the weights saved as ``ckpt/model_step_N.pt`` (or ``ema_step_N.pt``, as ``ema_evaluate`` says) or, before the
    first step, those that the training started from."""
    output, kind = Path(config.run_cfg.output_dir), "ema" if config.run_cfg.ema_evaluate else "model"

    def evaluate_step(step: int) -> dict[str, float]:
        facts = protocol.saved_facts(output / "ckpt" / f"{kind}_step_{step}.pt") if step else protocol.checkpoint_facts(start)
        return evaluate(model, loaders, config, folder=output / "results" / f"step_{step}",
                        provenance={**facts, "config_hash": config_hash(config), "precision_reason": precision.reason,
                                    "step": step})

    return evaluate_step if loaders else None


def evaluate(
    model: Model, loaders: Sequence[EvalLoader], config: Config, *, folder: Path, provenance: dict[str, Any]
) -> dict[str, float]:
    """Test every objective of every loader's task.

    Writes ``<folder>/<dataset>.<objective>.json`` on the main process: ``{"protocol", "metrics" (by group), "not_computed" (metric →
    why), "intervals", "predictions"}``; for VQAv2, and for questions without answers, also ``submission/<dataset>.<group>.json``. In
    ``captioner_mode`` the clips are labelled instead, see :mod:`evaluation.captions.labelling`.

    Args:
        provenance: what the protocol says of the weights and the run, see :func:`evaluation.protocol.build`.

    Returns:
        Flat metrics in percent, equal on all processes: ``"<dataset>.ret.tvas.itm.r1"``, ``"<dataset>.cap.tvas.cider"``, … The first
        one of a dataset is its task's headline: R@1 after re-ranking (or without), CIDEr, or accuracy of the first group.

    Raises:
        ValueError: two loaders have one name, a clip occurs twice or lacks what its task needs, or the weights were loaded only in
            part and run_cfg.allow_missing does not say so.
    """
    names = [loader.name for loader in loaders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"data_cfg.val has more than one dataset named '{twice[0]}'; result files carry these names, so give each its own")
    protocol.refuse_partial(provenance, config)
    metrics: dict[str, float] = {}
    journals: list[Journal] = []
    with _evaluating(model):
        if config.run_cfg.captioner_mode:
            return labelling.label(model, loaders, config, folder=folder, provenance=provenance)
        for loader in loaders:
            data: dict[str, Any] = {}
            journals.append(Journal(Path(folder), loader, config, provenance))
            for objective, outcome, seconds in _outcomes(model, loader, config, journals[-1]):
                data = data or _data_facts(loader)
                result = protocol.build(objective, loader.config, config, data=data, facts=outcome.facts, provenance=provenance,
                                     device=model.device, seconds=seconds)
                if distributed.is_main():
                    _write(Path(folder) / f"{loader.name}.{objective.value}.json", result, outcome)
                    write_submissions(Path(folder) / "submission", loader.name, result["groups"], outcome.predictions)
                metrics.update(flatten(outcome.metrics, f"{loader.name}.{objective.value}."))
    distributed.barrier()
    for journal in journals:  # not before: broken off at the last dataset, the next run begins with the first
        journal.remove()
    return metrics


def _outcomes(model: Model, loader: EvalLoader, config: Config, journal: Journal) -> Iterator[tuple[Objective, Outcome, float]]:
    """One pass over the loader, then the outcome of each objective, with the seconds that the pass and the scoring of this objective
    took.

    The pass encodes each clip once for all objectives and groups, and projects its keys and values once.
    """
    start = time.monotonic()
    evaluators = {objective: EVALUATORS.find(objective.value)(model, loader, config, journal) for objective in loader.task.objectives}
    _pass(model, loader, evaluators, journal)
    pass_seconds = time.monotonic() - start
    for objective, evaluator in evaluators.items():
        start = time.monotonic()
        outcome = evaluator.finish()
        if journal.done:
            outcome.facts["clips_of_an_earlier_run"] = len(journal.done)
        yield objective, outcome, pass_seconds + time.monotonic() - start


def _pass(model: Model, loader: EvalLoader, evaluators: Mapping[Objective, Evaluator], journal: Journal) -> None:
    """Give the evaluators all clips: those that the journal does not know from the loader, noted as they come, then the journal's. Raises
    UnreadableError on every process where one has unreadable clips that are not to be skipped, after all others."""
    share = -(-(loader.clips - len(journal.done)) // distributed.world_size())
    bar: Progress[Any] = progress(share, f"testing {loader.name}", unit="clips")
    fault: str | None = None
    try:
        with bar:
            for batch, encoded in _encoded(model, loader, journal.done):
                scored = {objective.value: evaluator.add(batch, encoded) for objective, evaluator in evaluators.items()}
                journal.add(batch.index.tolist(), scored)
                bar.update(len(batch))
    except UnreadableError as error:
        fault = str(error)
    finally:
        journal.close()
    faults = [one for one in distributed.all_gather_objects(fault) if one is not None]
    if faults:
        kept = f"What was found of the other clips is kept in {journal.folder}; the same command goes on from there"
        raise UnreadableError("\n".join([*faults, kept] if journal.folder else faults))
    for found in journal.found:
        for objective, evaluator in evaluators.items():
            evaluator.take(found[objective.value])


def _encoded(model: Model, loader: EvalLoader, done: Collection[int]) -> Iterator[tuple[Batch, Encoded]]:
    """Batches of the clips that are not ``done``, on the device and encoded, with the seconds that reading and encoding each took.

    Reading counts as the time that the loop waited for it or, where the readers had read ahead, as the time that they needed.
    """
    readers, batches = max(1, workers(loader.config)), loader.read(done)
    while True:
        start = time.monotonic()
        on_host = next(batches, None)
        if on_host is None:
            return
        read = time.monotonic()
        batch = on_host.to(model.device)
        features = model.encode(batch, loader.task.modalities)
        if model.device.type != "cpu":
            torch.accelerator.synchronize(model.device)
        yield batch, Encoded(model, features, max(read - start, batch.read_seconds / readers) + time.monotonic() - read)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the former mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _data_facts(loader: EvalLoader) -> dict[str, Any]:
    """The loader's provenance with the unreadable clips of every process, which are known only after the pass."""
    facts = dict(loader.provenance)
    gathered = distributed.all_gather_objects(list(facts.get("unreadable", ())))
    unreadable: list[Any] = []
    for entry in (entry for part in gathered for entry in part):
        if entry not in unreadable:
            unreadable.append(entry)
    if unreadable:
        logger.warning("%s: %d unreadable clips were left out", loader.name, len(unreadable))
    check = benchmarks.split_check(loader)
    return {**facts, "unreadable": unreadable, **({"split_check": check} if check else {})}


def _write(path: Path, own_protocol: dict[str, Any], outcome: Outcome) -> None:
    content = {"protocol": own_protocol, "metrics": outcome.metrics, "not_computed": outcome.facts.get("not_computed", {}),
               "intervals": outcome.intervals, "predictions": outcome.predictions}
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    logger.info("wrote %s", path)

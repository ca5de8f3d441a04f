"""Evaluation of a model on datasets: every objective of each dataset's task, one result file per dataset and objective."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from config.tasks import Objective
from evaluation import benchmarks, protocol
from evaluation.captioning import CaptionEvaluator
from evaluation.collect import Outcome, flatten
from evaluation.labelling import label
from evaluation.qa import QAEvaluator
from evaluation.retrieval import RetrievalEvaluator
from utils import distributed
from utils.files import write_atomically
from utils.log import Progress, progress

if TYPE_CHECKING:
    from config.schema import Config
    from data.loader import EvalLoader
    from model.vast import VAST

logger = logging.getLogger("omnivast")


def evaluate(
    model: VAST, loaders: Sequence[EvalLoader], config: Config, *, folder: Path, provenance: dict[str, Any]
) -> dict[str, float]:
    """Test every objective of every loader's task.

    Writes ``<folder>/<dataset>.<objective>.json`` on the main process: ``{"protocol", "metrics" (by group), "intervals",
    "predictions"}``. In ``captioner_mode`` the clips are labelled instead, see :mod:`evaluation.labelling`.

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
    device = next(model.parameters()).device
    with _evaluating(model):
        if config.model_cfg.captioner_mode:
            return label(model, loaders, config, folder=folder, provenance=provenance)
        for loader in loaders:
            start = time.monotonic()
            outcomes = _evaluate_one(model, loader, config, device)
            seconds = time.monotonic() - start
            data = _data_facts(loader)
            for objective, outcome in outcomes.items():
                own = protocol.build(objective, loader.config, config, data=data, facts=outcome.facts, provenance=provenance,
                                     device=device, seconds=seconds)
                if distributed.is_main():
                    _write(Path(folder) / f"{loader.name}.{objective.value}.json", own, outcome)
                metrics.update(flatten(outcome.metrics, f"{loader.name}.{objective.value}."))
    distributed.barrier()
    return metrics


@dataclass
class _Evaluators:
    retrieval: RetrievalEvaluator | None
    captioning: CaptionEvaluator | None
    qa: QAEvaluator | None


def _evaluators(loader: EvalLoader, config: Config) -> _Evaluators:
    settings = config.model_cfg
    groups = {objective: loader.task.groups(objective) for objective in Objective}
    return _Evaluators(
        RetrievalEvaluator(groups[Objective.RETRIEVAL], rerank=settings.itm_rerank_num,
                           both_directions=settings.ret_bidirection_evaluation, dual_softmax=settings.dual_softmax_evaluation)
        if groups[Objective.RETRIEVAL] else None,
        CaptionEvaluator(groups[Objective.CAPTION], loader.references, beam_size=settings.beam_size, max_length=settings.max_caption_len,
                         java_seconds=settings.java_metrics_seconds)
        if groups[Objective.CAPTION] else None,
        QAEvaluator(groups[Objective.QA], beam_size=settings.beam_size) if groups[Objective.QA] else None,
    )


def _evaluate_one(model: VAST, loader: EvalLoader, config: Config, device: torch.device) -> dict[Objective, Outcome]:
    """One pass over the loader: each clip is encoded once for all objectives and groups, its keys and values projected once."""
    evaluators = _evaluators(loader, config)
    generating = evaluators.captioning is not None or evaluators.qa is not None
    own_clips = -(-loader.clips // distributed.world_size())
    bar: Progress[Any] = progress(own_clips, f"testing {loader.name}", unit="clips")
    with bar:
        for on_host in loader:
            batch = on_host.to(device)
            features = model.encode(batch, loader.task.modalities)
            memory = model.memory(features) if generating else None
            if evaluators.captioning:
                evaluators.captioning.add(model, batch, memory)
            if evaluators.qa:
                evaluators.qa.add(model, batch, memory)
            del memory
            if evaluators.retrieval:
                evaluators.retrieval.add(model, batch, features)
            bar.update(len(batch))
    outcomes: dict[Objective, Outcome] = {}
    for objective in loader.task.objectives:
        if objective is Objective.RETRIEVAL and evaluators.retrieval:
            outcomes[objective] = evaluators.retrieval.finish(model, device)
        elif objective is Objective.CAPTION and evaluators.captioning:
            outcomes[objective] = evaluators.captioning.finish()
        elif objective is Objective.QA and evaluators.qa:
            outcomes[objective] = evaluators.qa.finish()
    return outcomes


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
    content = {"protocol": own_protocol, "metrics": outcome.metrics, "intervals": outcome.intervals, "predictions": outcome.predictions}
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    logger.info("wrote %s", path)

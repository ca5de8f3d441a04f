"""What a resumed run goes on with: the same data, or others on purpose; the same number of steps, or more."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivast.config.schema import RunConfig
from omnivast.data.annotations.identity import changes
from omnivast.data.mixture import Corpus
from omnivast.data.shards.shard_set import expand
from omnivast.training.checkpoints.checkpoint import CheckpointError
from omnivast.training.schedule import lr_factor

logger = logging.getLogger("omnivast")
Plan = list[list[int]]
"""Steps of each corpus, as planned at first and each time that the run was made longer."""


def check_data(state: dict[str, Any], corpora: Sequence[Corpus], accepted: bool, folder: Path) -> bool:
    """Whether the training data differ from those of the checkpoint. If they do, logs how, where that is ``accepted``, and raises
    CheckpointError otherwise."""
    before = state.get("data")
    if before is None:
        logger.info("the checkpoint in '%s' is of an older version and does not say what its data were: they are not compared", folder)
        return False
    differences = []
    for corpus in corpora:
        paths = expand(corpus.name, corpus.config.shards) if corpus.identity.get("shards") else []
        differences += [f"dataset '{corpus.name}': {text}" for text in changes(before[corpus.name], corpus.identity, paths)]
    if not differences:
        return False
    told = "\n  ".join(differences)
    if not accepted:
        raise CheckpointError(f"the training data changed since the checkpoint in '{folder}' was written. Then → now:\n  {told}\nThe run "
                              "would go on with other clips at the same positions. Either put the old data back, or, where the change is "
                              "meant (as when unreadable clips were removed), add --resume_changed_data true: the run then goes on, from "
                              "the same step with the same number of steps, in a new order of the rows that there are now")
    logger.warning("the training data changed, which --resume_changed_data accepts:\n  %s\nThe order of the rows is drawn anew: in this "
                   "epoch some clips come twice and others not at all. Unreadable clips are counted from 0 again", told)
    return True


def plan_of(state: dict[str, Any], corpora: Sequence[Corpus], longer: bool, folder: Path) -> Plan:
    """The plan of the run that is continued; ``longer``: its config asks for another number of steps, which must not be smaller for any
    corpus. Otherwise what was planned counts, also where changed data have another number of rows. Raises CheckpointError."""
    now = [corpus.steps for corpus in corpora]
    plan: Plan = [list(steps) for steps in state.get("plan", [])]
    if not plan:
        if longer and len(now) > 1:
            raise CheckpointError(f"the checkpoint in '{folder}' is of an older version and does not say how its corpora were mixed: it "
                                  "can only be resumed with as many steps as before")
        plan = [[min(now[0], state["step"])]] if longer else [now]
    if not longer:
        return plan
    fewer = [f"'{corpus.name}' {before} → {corpus.steps}" for corpus, before in zip(corpora, plan[-1]) if corpus.steps < before]
    if sum(now) < state["step"]:
        fewer.append(f"{state['step']} steps are done, {sum(now)} asked for")
    if fewer:
        raise CheckpointError(f"the checkpoint in '{folder}' is of a longer run, and a resumed run may have more steps, not fewer of any "
                              f"corpus: {', '.join(fewer)}. Give at least as many "
                              "('steps', 'epoch', --num_train_steps)")
    return plan if now == plan[-1] else [*plan, now]


def tell_longer(plan: Plan, step: int, run: RunConfig) -> None:
    """Say what a run that is made longer after ``step`` does with its learning rate."""
    before, total = sum(plan[-2]), sum(plan[-1])
    old, new = (lr_factor(at, of + 1, run.warmup_ratio, run.scheduler) for at, of in ((step, before), (step + 1, total)))
    warm = run.warmup_ratio * (total + 1)
    rest = f"rises until step {warm:.0f} (warmup_ratio) and then falls" if step + 1 < warm else "falls"
    logger.warning("the run is made longer: %d steps instead of %d, %d of them done. Weights, optimiser and order of the data go on; the "
                   "schedule (%s) is now that of %d steps: the learning rate was %.3g of its peak at step %d, is %.3g at step %d, and "
                   "%s towards 0 until step %d", total, before, step, run.scheduler, total, old, step, new, step + 1, rest, total)

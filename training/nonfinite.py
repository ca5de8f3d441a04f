"""A step whose loss or gradient is NaN or infinite: what is told and kept of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.batch import Batch, corpus_of
from training.checkpoint import on_main
from utils import distributed
from utils.files import write_atomically

ADVICE = ("Look for broken clips among them; otherwise lower --learning_rate, raise --warmup_ratio, set --grad_norm, or use bf16 "
          "instead of fp16. Weights were not changed by this step; --resume true repeats from the last checkpoint")


class NonFiniteLoss(RuntimeError):  # noqa: N818 (named for what the user meets)
    """A loss or gradient is NaN or infinite; the message names the file with the clips of the step."""


def report(folder: Path, step: int, what: str, read: Sequence[Batch], losses: Mapping[str, float]) -> str:
    """Write the clips of the step to log/nonfinite_step_N.json in ``folder`` and return a sentence or two that name it.

    Called on every rank, with its own batches. ``what`` is not finite: "loss" or "gradient".
    """
    path = folder / "log" / f"nonfinite_step_{step}.json"
    ranks = distributed.all_gather_objects([batch.clip_ids for batch in read])
    details = {"step": step, "corpus": corpus_of(read), "not_finite": what, "losses": {name: str(value) for name, value in losses.items()},
               "clip_ids": ranks, "clip_ids_are": "one list per process, of one list per accumulated batch"}
    on_main(lambda: write_atomically(path, json.dumps(details, indent=2, ensure_ascii=False) + "\n"))
    named = ", ".join(name for name, value in losses.items() if not math.isfinite(value)) if what == "loss" else "the gradient norm"
    return f"step {step} (corpus {corpus_of(read)}): {named} is not finite. The ids of its clips are in '{path}'."

"""Reports of steps whose loss or gradient is NaN or infinite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from omnivast.data.batch import Batch, corpus_of
from omnivast.training.checkpoints.checkpoint import OutputDirError, on_main
from omnivast.utils import distributed
from omnivast.utils.files import write_atomically

REMEDIES = ("Look for broken clips among them; otherwise lower --learning_rate, raise --warmup_ratio, set --grad_norm, or use bf16 "
            "instead of fp16.")
ADVICE = f"{REMEDIES} Weights were not changed by this step; --resume true repeats from the last checkpoint"


class NonFiniteLoss(RuntimeError):  # noqa: N818 (named for what the user meets)
    """A loss or gradient is NaN or infinite; the message names the file with the clips of the step."""


def report(folder: Path, step: int, what: str, read: Sequence[Batch], losses: Mapping[str, float]) -> str:
    """Write the clips of the step to log/nonfinite_step_N.json in ``folder`` and return a sentence or two that name the file.

    Called on every rank, each with the batches that it has read. ``what`` is not finite: "loss" or "gradient". Raises OutputDirError when
    the disk refuses.
    """
    path = folder / "log" / f"nonfinite_step_{step}.json"
    ranks = distributed.all_gather_objects([batch.clip_ids for batch in read])
    details = {"step": step, "corpus": corpus_of(read), "not_finite": what, "losses": {name: str(value) for name, value in losses.items()},
               "clip_ids": ranks, "clip_ids_are": "one list per process, of one list per accumulated batch"}
    on_main(lambda: _write(path, details))
    named = ", ".join(name for name, value in losses.items() if not math.isfinite(value)) if what == "loss" else "the gradient norm"
    return f"step {step} (corpus {corpus_of(read)}): {named} is not finite. The ids of its clips are in '{path}'."


def _write(path: Path, details: Mapping[str, object]) -> None:
    try:
        write_atomically(path, json.dumps(details, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise OutputDirError(f"step {details['step']}: the {details['not_finite']} is not finite, and '{path}' with its clips cannot be "
                             f"written ({error.strerror or error}); the last checkpoint is intact. Free the disk or make the folder "
                             "writable, then continue with --resume true") from error

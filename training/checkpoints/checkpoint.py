"""Checkpoints that survive being killed at any moment, and refuse what was damaged, edited or made by another config.

A checkpoint is a pair: ``model_step_N.pt``, a plain state dict, and ``state_step_N.pt``, everything else. ``latest.json``, written
last, commits the pair: it holds the sizes and SHA-256 of every pair kept. Until then the previous pair counts; it is removed only
afterwards. ``best_<metric>.pt`` is a second name of the best step's model file, with its metrics in ``best.json``; where several are
kept, each is also ``best_<metric>_step_N.pt``.

The release has the same ``model_step_N.pt`` and ``best_<metric>.pt``. Its ``optimizer_step_N.pt`` holds the optimiser alone, from which
no run can go on as if it had not been stopped: here ``state_step_N.pt`` also holds scaler, generators, position, config and, for the
reader alone, the version of OmniVAST that wrote it. ``ema_step_N.pt`` is a third file where weights are averaged; the state marks it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import pickle
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch

from omnivast.config.compare import diff, precision_of, same_but_for_length
from omnivast.utils import distributed
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.version import VERSION

logger = logging.getLogger("omnivast")
PAIR = re.compile(r"(model|state|ema)_step_(\d+)\.pt")
STATE_KEYS = {"step", "config_hash", "config", "optimizer", "scaler", "random", "counters", "best", "processes", "model_file"}
T = TypeVar("T")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, is damaged, or belongs to another config; the message names the file and what to do."""


class OutputDirError(ValueError):
    """An output folder that cannot be written, or that holds another run."""


@dataclass(frozen=True)
class FileMark:
    """Size and SHA-256 of a file, as it was written."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pair:
    """The two files of a checkpoint; ``state`` is None for a pair that latest.json does not know."""

    step: int
    model: FileMark | None
    state: FileMark | None


@dataclass
class Loaded:
    """A checkpoint read back: the model's state dict, the rest, and the model with averaged weights, where they were."""

    step: int
    model: dict[str, torch.Tensor]
    state: dict[str, Any]
    averaged: dict[str, torch.Tensor] | None = None


def check_output_dir(path: str | Path, *, new_run: bool = False) -> None:
    """Make ``path`` with its ``log`` and ``ckpt`` and try to write there; with ``new_run``, refuse a folder that holds checkpoints.

    Raises OutputDirError with what to do. Meant to be called before anything slow.
    """
    path = Path(path)
    try:
        for folder in (path / "ckpt", path / "log"):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"writable")
    except OSError as error:
        raise OutputDirError(f"the output folder '{path}' cannot be written ({error.strerror or error}: {error.filename or path}); "
                             "choose another with --output_dir") from error
    if new_run and (steps := _steps_on_disk(path / "ckpt")):
        raise OutputDirError(f"the output folder '{path}' already holds a run (checkpoint of step {max(steps)}); "
                             "continue it with --resume true, or choose another --output_dir")


def holds_checkpoint(path: str | Path) -> bool:
    """Whether an output folder has a checkpoint to resume from."""
    return bool(_steps_on_disk(Path(path) / "ckpt"))


def on_main(action: Callable[[], T]) -> T:
    """The result of ``action`` (something small), run on rank 0 alone; its error is raised on every rank, so that none waits."""
    result, failure = None, None
    if distributed.is_main():
        try:
            result = action()
        except Exception as error:
            failure = error
    if distributed.world_size() > 1:
        result, told = distributed.all_gather_objects((result, None if failure is None else f"{type(failure).__name__}: {failure}"))[0]
        if told is not None and failure is None:
            raise CheckpointError(f"rank 0 failed: {told}")
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]


def save(folder: Path, step: int, model: dict[str, torch.Tensor], state: dict[str, Any], *, keep: int | None = 1) -> None:
    """Write the checkpoint of ``step`` into ``folder``, commit it, and remove all but the ``keep`` newest (None: remove none). For rank 0.

    ``state`` needs what ``STATE_KEYS`` lists, but for ``model_file``, in types that ``torch.load(weights_only=True)`` reads; "averaged" in
    it is the state dict of ema_step_N.pt. Raises CheckpointError when the disk refuses; the previous checkpoint is then intact.
    """
    try:
        kept = _write(folder, step, model, state, keep)
    except OSError as error:
        raise CheckpointError(f"the checkpoint of step {step} could not be written to '{folder}' ({error.strerror or error}); "
                              f"{_intact(folder)}. Free the disk or make the folder writable, then continue with --resume true") from error
    if keep is not None:
        _remove_all_but(folder, {pair.step for pair in kept})


def mark_best(folder: Path, step: int, ranked: Sequence[int], details: dict[str, Any], *, keep: int = 1, tested: str = "model") -> None:
    """Keep the models of the ``keep`` best steps. Called on every rank after the evaluation of the saved ``step``, of its file ``tested``.

    ``ranked``: all steps evaluated, the best first. That one is best_<metric>.pt, and ``details``, which hold the "metric", go with its
    step to best.json. With ``keep`` > 1 each is best_<metric>_step_N.pt as well, and best.json lists their steps as "kept"; steps
    whose model was not kept at the time are passed over.
    """
    on_main(lambda: _mark_best(folder, step, ranked, details, keep, tested))


def _mark_best(folder: Path, step: int, ranked: Sequence[int], details: dict[str, Any], keep: int, tested: str) -> None:
    name, model = "best_" + re.sub(r"[^\w.+-]", "_", details["metric"]), folder / f"{tested}_step_{step}.pt"
    of_step = {s: folder / f"{name}_step_{s}.pt" for s in ranked}
    kept = [s for s in ranked if s == step or of_step[s].exists()][:keep] if keep > 1 else []
    try:
        if step in kept:
            _link(model, of_step[step])
        if step == ranked[0]:
            _link(model, folder / f"{name}.pt")
        if step in kept or step == ranked[0]:
            record = {"step": ranked[0], **details, **({"kept": kept} if kept else {})}
            write_atomically(folder / "best.json", json.dumps(record, indent=2) + "\n")
        for other in set(of_step) - set(kept):
            of_step[other].unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"the best model could not be kept in '{folder}' ({error.strerror or error}); {_intact(folder)}. Free the "
                              "disk or make the folder writable, then continue with --resume true") from error


def _intact(folder: Path) -> str:
    kept = committed(folder)
    return f"the checkpoint of step {kept[0].step} is intact" if kept else "there was none before it"


def _write(folder: Path, step: int, model: dict[str, torch.Tensor], state: dict[str, Any], keep: int | None) -> list[Pair]:
    older = [pair for pair in committed(folder) if pair.step < step]
    model_mark = _save_file(folder / f"model_step_{step}.pt", model)
    rest = {key: value for key, value in state.items() if key != "averaged"}
    if "averaged" in state:
        rest["averaged_file"] = dataclasses.asdict(_save_file(folder / f"ema_step_{step}.pt", state["averaged"]))
    rest |= {"version": VERSION, "model_file": dataclasses.asdict(model_mark)}
    state_mark = _save_file(folder / f"state_step_{step}.pt", rest)
    pairs = [Pair(step, model_mark, state_mark), *older][:keep]
    write_atomically(folder / "latest.json", json.dumps({"step": step, "pairs": [dataclasses.asdict(p) for p in pairs]}, indent=2) + "\n")
    return pairs


def load_latest(folder: Path) -> Loaded | None:
    """The newest good checkpoint of ``folder``, or None when it has none. Called on every rank; rank 0 verifies and chooses.

    A damaged one is reported, and the one before it is used. Raises CheckpointError, naming every file and fault, when checkpoints
    are there but none is good.
    """
    chosen: list[Loaded] = []

    def choose() -> int | None:
        chosen.extend(_newest_good(folder))
        return chosen[0].step if chosen else None

    step = on_main(choose)
    if step is None or chosen:
        return chosen[0] if chosen else None
    return _loaded(folder, step, _read(folder / f"state_step_{step}.pt"))


def _loaded(folder: Path, step: int, state: dict[str, Any]) -> Loaded:
    averaged = _read(folder / f"ema_step_{step}.pt") if "averaged_file" in state else None
    return Loaded(step, _read(folder / f"model_step_{step}.pt"), state, averaged)


def _newest_good(folder: Path) -> list[Loaded]:
    """The newest good checkpoint as a list of one; an empty list where the folder has no checkpoint."""
    faults: list[str] = []
    try:
        known = committed(folder, strict=True)
    except CheckpointError as error:
        logger.error("%s", error)
        faults, known = [str(error)], []
    steps = {pair.step for pair in known}
    unknown = sorted(_steps_on_disk(folder) - steps, reverse=True)
    for pair in known + [Pair(step, None, None) for step in unknown]:
        try:
            loaded = _load(folder, pair)
        except CheckpointError as error:
            logger.error("%s", error)
            faults.append(str(error))
            continue
        if faults:
            logger.warning("using the checkpoint of step %d", pair.step)
        return [loaded]
    if faults:
        raise CheckpointError("no checkpoint can be used to resume: " + "; ".join(faults)
                              + f". Restore the files, or remove '{folder}' to start from scratch")
    return []


def _load(folder: Path, pair: Pair) -> Loaded:
    """Both files of a pair, verified. Raises CheckpointError."""
    state_path, model_path = folder / f"state_step_{pair.step}.pt", folder / f"model_step_{pair.step}.pt"
    if pair.state is not None:
        _verify(state_path, pair.state)
    state = _read(state_path)
    if missing := STATE_KEYS - state.keys():
        raise CheckpointError(f"'{state_path}' is not a training state: it lacks {', '.join(sorted(missing))}")
    _verify(model_path, pair.model or FileMark(**state["model_file"]))
    for mark in (*state["optimizer"].get("files", ()), *([state["averaged_file"]] if "averaged_file" in state else ())):
        _verify(folder / mark["name"], FileMark(**mark))
    return _loaded(folder, pair.step, state)


def kept_precision(output_dir: str | Path) -> str | None:
    """In which precision the run in ``output_dir`` computes, by the newest state that can be read; on every rank, read by rank 0."""
    return on_main(lambda: _kept_precision(Path(output_dir) / "ckpt"))


def _kept_precision(folder: Path) -> str | None:
    for step in sorted(_steps_on_disk(folder), reverse=True):
        try:
            state = torch.load(folder / f"state_step_{step}.pt", map_location="cpu", weights_only=True, mmap=True)
            return precision_of(state["config"]["run_cfg"])
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
            continue  # load_latest says what is wrong with it
    return None


def check_config(state: dict[str, Any], config_hash: str, resolved: dict[str, Any], folder: Path) -> bool:
    """Whether the config asks for more or fewer steps than the checkpoint's. Raises CheckpointError, which lists the differing keys,
    when another setting that decides the training differs."""
    if state["config_hash"] == config_hash:
        return False
    if same_but_for_length(state["config"], resolved) and diff(state["config"], resolved):
        return True
    differences = "\n  ".join(diff(state["config"], resolved)) or "(no key differs by name: the meaning of the keys changed)"
    raise CheckpointError(f"the checkpoint in '{folder}' was made with another config, so resuming would not continue the same run. "
                          f"Checkpoint → now:\n  {differences}\nUndo these changes, or choose another --output_dir (with "
                          "--checkpoint to start from the old weights)")


def committed(folder: Path, strict: bool = False) -> list[Pair]:
    """The pairs that latest.json lists, newest first. A damaged latest.json: none, or CheckpointError when ``strict``."""
    path = folder / "latest.json"
    if not path.exists():
        return []
    try:
        pairs = [Pair(int(p["step"]), FileMark(**p["model"]), FileMark(**p["state"])) for p in json.loads(path.read_text())["pairs"]]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        if strict:
            raise CheckpointError(f"'{path}' is damaged ({error})") from error
        return []
    return sorted(pairs, key=lambda pair: -pair.step)


def random_states() -> dict[str, Any]:
    """The states of every generator of this process, in types that ``weights_only`` reads."""
    numpy_state: Any = np.random.get_state()
    version, keys, position, has_gauss, cached = numpy_state
    python_version, python_keys, python_gauss = random.getstate()
    return {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [version, keys.tolist(), int(position), int(has_gauss), float(cached)],
            "python": [python_version, list(python_keys), python_gauss]}


def set_random_states(states: dict[str, Any]) -> None:
    """Set what ``random_states`` returned; GPU states only where the number of GPUs is the same."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((version, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    python_version, python_keys, python_gauss = states["python"]
    random.setstate((python_version, tuple(python_keys), python_gauss))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of saves that were killed."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    _remove_shards(folder, _steps_on_disk(folder))


class _Hashing:
    """A file that counts and hashes the bytes written to it, so that later damage on the disk is recognised."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save_file(path: Path, content: object) -> FileMark:
    marks: list[FileMark] = []

    def write(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        try:
            torch.save(content, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:
            # torch then fails to end its archive, and that error hides the disk's.
            if hashing.refused is not None:
                raise hashing.refused from error
            raise
        marks.append(FileMark(path.name, hashing.bytes, hashing.digest.hexdigest()))

    write_atomically(path, write)
    return marks[0]


def _verify(path: Path, mark: FileMark) -> None:
    if not path.exists():
        raise CheckpointError(f"'{path}' is missing")
    if (size := path.stat().st_size) != mark.bytes:
        raise CheckpointError(f"'{path}' is {'truncated' if size < mark.bytes else 'changed'}: {size} bytes, written were {mark.bytes}")
    if sha256_file(path) != mark.sha256:
        raise CheckpointError(f"'{path}' was changed after it was written (its SHA-256 differs)")


def _read(path: Path) -> dict[str, Any]:
    """A dict of tensors and plain values; code in the file is refused, not run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"'{path}' holds more than tensors and plain values, or is no checkpoint; it was refused and nothing in it "
                              f"was run ({str(error).splitlines()[0]})") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"'{path}' cannot be read: truncated, or no checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__} where a dict was expected")
    return content


def _steps_on_disk(folder: Path) -> set[int]:
    """Steps that have a state file; a model file alone may be someone's starting weights."""
    return {int(match[2]) for path in folder.glob("state_step_*.pt") if (match := PAIR.fullmatch(path.name))}


def _remove_all_but(folder: Path, steps: set[int]) -> None:
    for path in folder.glob("*_step_*.pt"):
        if (match := PAIR.fullmatch(path.name)) and int(match[2]) not in steps:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("an older checkpoint could not be removed: %s", error)
    # Those of a later step may be written while this one is committed in the background.
    _remove_shards(folder, steps, before=max(steps, default=0))


def _remove_shards(folder: Path, but: set[int], before: float = math.inf) -> None:
    """Remove the optimiser's shards (optimizer_shards.py) of other steps ``before`` one."""
    for path in folder.glob("optimizer_step_*"):
        number = path.name.rpartition("_")[2]
        if path.is_dir() and number.isdecimal() and int(number) not in but and int(number) < before:
            shutil.rmtree(path, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """Give ``source`` a second name, replacing what had it; a copy where the file system knows no links."""
    if target.exists() and target.samefile(source):
        return  # Renaming a second link of the same file would do nothing and leave the temporary one.
    temporary = target.with_name(f".{target.name}.link.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:
        write_atomically(target, lambda file: _copy(source, file))


def _copy(source: Path, file: BinaryIO) -> None:
    with open(source, "rb") as original:
        shutil.copyfileobj(original, file)

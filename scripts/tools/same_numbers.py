"""Proves that a change of the code changes no number: two commits run the same commands, and everything they compute is compared bit
by bit.

    python scripts/tools/same_numbers.py BASE          # a commit against the working tree as it stands
    python scripts/tools/same_numbers.py BASE HEAD     # a commit against another

Each commit is checked out into a temporary folder and trains and tests there as a user would: the debug config in float32 and in bf16,
a fine-tuning on OmniStamps with one process and with two, tests of their checkpoints (retrieval with re-ranking, captions, answers).
Compared are the losses, gradient norms and learning rates of every step, all metrics and predictions, and every tensor of the last
weights and of the state that a resumed run goes on from. Two to three minutes a commit on one core; results of commits are kept and
not computed again. Both must come from the same machine: another processor or another version of torch rounds differently.

Exit status: 0 all equal, 1 something differs, 2 a run failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT / "datasets" / "omnistamps" / "debug"
"""The clips of both commits: those that come with the tree in which this script stands."""
KEEP = Path("output", "same_numbers")
WORKING_TREE = "working_tree"
NOT_SHARED = {"clips_per_second", "data_wait", "seconds", "txt", "config", "config_hash", "model_file"}
"""Times, and what names a folder: keys in metrics.jsonl and in the state of a training that no two runs share."""
SHOWN = 12
"""Differences of a run that are written out; the others are counted."""

Numbers = dict[str, Any]
"""Values by what they are, for example ``{"step 3: losses.itc.tv": 2.19}``."""


class RunError(RuntimeError):
    """A commit that cannot be found, or a run that failed; the message shows the end of what it wrote."""


@dataclass(frozen=True)
class Run:
    """One call of run.py. ``lists``: the lists of data_cfg that it reads; ``tests``: the run whose weights it tests."""

    name: str
    config: str
    lists: tuple[str, ...]
    flags: tuple[str, ...]
    processes: int = 1
    tests: str = ""


TINY = "config/debug/tiny.json"
QUICK = "config/omnistamps/quick"
FLOAT32, BF16 = ("--precision", "float32"), ("--precision", "bf16")
BOTH = ("train", "val")
SMALL_TEST = (*FLOAT32, "--test_batch_size", "8")
# At this rate thirty steps are enough for captions of several words; both objectives, so that one checkpoint serves both tests.
FINETUNE = (*FLOAT32, "--data_cfg.val", "[]", "--data_cfg.train.0.task", "ret%tvas%tva%tvs%tv%ta%ts_cap%tvas%tv",
            "--learning_rate", "0.008", "--num_train_steps", "30", "--train_batch_size", "8")
RUNS = (
    Run("debug", TINY, BOTH, FLOAT32),
    Run("debug_test", TINY, BOTH, FLOAT32, tests="debug"),
    Run("debug_bf16", TINY, BOTH, BF16),
    Run("finetune", f"{QUICK}/finetune_ret.json", ("train",), FINETUNE),
    Run("finetune_2_processes", f"{QUICK}/finetune_ret.json", ("train",), FINETUNE, processes=2),
    Run("retrieval_test", f"{QUICK}/finetune_ret.json", BOTH, (*SMALL_TEST, "--itm_rerank_num", "6"), tests="finetune"),
    Run("captions_test", f"{QUICK}/finetune_cap.json", BOTH, SMALL_TEST, tests="finetune"),
    Run("captions_test_2_processes", f"{QUICK}/finetune_cap.json", BOTH, SMALL_TEST, processes=2, tests="finetune_2_processes"),
)


def command(run: Run, tree: Path, folder: Path) -> list[str]:
    """The command line of ``run`` in the checkout ``tree``; it writes to ``folder``/NAME."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(run.processes)] if run.processes > 1 else []
    words = [sys.executable, *launcher, "run.py", "--config", run.config, *_data_flags(tree / run.config, run.lists), *run.flags,
             "--device", "cpu", "--num_threads", "1", "--cache_dir", str(folder / "cache"), "--output_dir", str(folder / run.name)]
    if run.tests:
        words += ["--mode", "testing", "--checkpoint", str(_newest(folder / run.tests, "model"))]
    return words


def _data_flags(config: Path, lists: Sequence[str]) -> list[str]:
    """What makes a config for OmniStamps of any size read CLIPS."""
    flags = ["--model_cfg.tokenizer", str(CLIPS / "vocab.txt")]
    data = json.loads(config.read_text(encoding="utf-8"))["data_cfg"]
    for which in lists:
        for index, dataset in enumerate(data[which]):
            for key in ("txt", "vision", "annfile"):
                if key in dataset:
                    # datasets/omnistamps/SIZE/…
                    flags += [f"--data_cfg.{which}.{index}.{key}", str(CLIPS.joinpath(*Path(dataset[key]).parts[3:]))]
    return flags


def _newest(output: Path, kind: str) -> Path:
    """The last file of a training: of its weights (``model``) or of its optimiser (``state``)."""
    step = json.loads((output / "ckpt" / "latest.json").read_text(encoding="utf-8"))["step"]
    return output / "ckpt" / f"{kind}_step_{step}.pt"


def collect(output: Path) -> Numbers:
    """All that a run left in its output folder, but for times."""
    numbers: Numbers = {}
    log = output / "log" / "metrics.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        row = json.loads(line)
        numbers.update(_flat(f"step {row.pop('step')}", row))
    for path in sorted((output / "results").rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        name = path.relative_to(output).with_suffix("").as_posix()
        numbers.update(_flat(name, {key: content[key] for key in ("metrics", "predictions")}))
    if (output / "ckpt" / "latest.json").is_file():
        weights, state = (torch.load(_newest(output, kind), map_location="cpu", weights_only=True) for kind in ("model", "state"))
        numbers.update(_flat("weights", dict(weights)))
        numbers.update(_flat("state", state))
    return numbers


def _flat(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """("PLACE: key.key.0", leaf) of nested dicts and lists, without NOT_SHARED; tensors become a line of text that tells them apart."""

    def walk(keys: tuple[str, ...], value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, (dict, list, tuple)):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                if key not in NOT_SHARED:
                    yield from walk((*keys, str(key)), inner)
        else:
            yield f"{place}: {'.'.join(keys)}", _described(value) if isinstance(value, torch.Tensor) else value

    return walk((), value)


def _described(tensor: torch.Tensor) -> str:
    """Type, shape, the largest magnitude for the reader, and the hash of the bytes."""
    digest = hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    # Not the sum, whose last digits depend on where in memory the tensor lies.
    largest = tensor.double().abs().max().item() if tensor.numel() else 0.0
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}, largest {largest!r}, sha256 {digest[:16]}"


def differences(base: dict[str, Numbers], head: dict[str, Numbers]) -> dict[str, list[str]]:
    """For each run, a line for every value that is not the same in both, in the order of the run."""
    found: dict[str, list[str]] = {}
    for run in dict.fromkeys([*base, *head]):
        one, other = base.get(run, {}), head.get(run, {})
        lines = [f"{run}, {name}: {_shown(one, name)} != {_shown(other, name)}" for name in dict.fromkeys([*one, *other])
                 if _shown(one, name) != _shown(other, name)]
        if lines:
            found[run] = lines
    return found


def _shown(numbers: Numbers, name: str) -> str:
    # As text: equal for NaN and NaN, different for 0.0 and -0.0, 1 and 1.0; Python writes floats with all their bits.
    return repr(numbers[name]) if name in numbers else "absent"


def numbers_of(commit: str, keep: Path) -> dict[str, Numbers]:
    """Values by run: those kept of this commit on this machine, else computed now and kept. Raises RunError."""
    path = keep / f"{commit}.json"
    conditions = _conditions()
    if commit != WORKING_TREE and path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["conditions"] == conditions:
            print(f"{commit}: {path} has its numbers")
            return kept["runs"]
        print(f"{path}: made by another version of this script, on other clips or on another machine; once more")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="same_numbers_") as folder:
        runs = _all_runs(commit, Path(folder))
    record = {"commit": commit, "conditions": conditions, "seconds": round(time.monotonic() - began, 1), "runs": runs}
    keep.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return runs


def _all_runs(commit: str, folder: Path) -> dict[str, Numbers]:
    if commit == WORKING_TREE:
        return {run.name: _execute(commit, run, ROOT, folder) for run in RUNS}
    tree = folder / "tree"
    _git("worktree", "add", "--detach", str(tree), commit)
    try:
        return {run.name: _execute(commit, run, tree, folder) for run in RUNS}
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _execute(commit: str, run: Run, tree: Path, folder: Path) -> Numbers:
    # Without PYTHONPATH, so that the tree imports itself.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    began = time.monotonic()
    done = subprocess.run(command(run, tree, folder), cwd=tree, env=environment, text=True, encoding="utf-8", errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-30:])
        raise RunError(f"{commit}: {run.name} ended with status {done.returncode}:\n{end}")
    numbers = collect(folder / run.name)
    print(f"{commit}: {run.name}, {len(numbers)} values in {time.monotonic() - began:.0f} s", flush=True)
    return numbers


def _conditions() -> dict[str, str]:
    """What two results must share to be comparable, beside the code."""
    information = Path("/proc/cpuinfo")
    models = [line for line in information.read_text().splitlines() if line.startswith("model name")] if information.is_file() else []
    return {"script": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
            "clips": hashlib.sha256((CLIPS / "build.json").read_bytes()).hexdigest(),
            "processor": models[0].split(":", 1)[1].strip() if models else platform.processor(),
            "torch": str(torch.__version__), "python": platform.python_version()}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        raise RunError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _commit(name: str) -> str:
    return _git("rev-parse", "--verify", f"{name}^{{commit}}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python scripts/tools/same_numbers.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("base", metavar="BASE", help="the commit (or branch, or tag) whose numbers are right")
    result.add_argument("head", metavar="HEAD", nargs="?", help="the commit that must not change them (default: the working tree)")
    result.add_argument("--keep", type=Path, default=ROOT / KEEP, metavar="FOLDER",
                        help=f"where COMMIT.json with a commit's numbers is kept, and looked for (default {KEEP})")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    # Ends like Ctrl-C: the run is stopped, the checkout removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        commits = [_commit(options.base), _commit(options.head) if options.head else WORKING_TREE]
        base, head = (numbers_of(commit, options.keep) for commit in commits)
    except RunError as error:
        print(f"same_numbers: {error}", file=sys.stderr)
        return 2
    found = differences(base, head)
    for lines in found.values():
        print(*lines[:SHOWN], sep="\n")
        if len(lines) > SHOWN:
            print(f"  … and {len(lines) - SHOWN} more of this run")
    values = sum(len(numbers) for numbers in base.values())
    if found:
        print(f"DIFFERENT: {sum(map(len, found.values()))} of {values} values, in {', '.join(found)}")
        return 1
    print(f"equal to the bit: {values} values of {len(base)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())

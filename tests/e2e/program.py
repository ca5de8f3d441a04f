"""run.py as a user calls it: in this process or in others that have imported it already, which saves the imports, or by itself."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.processes import WARM

ROOT = Path(__file__).resolve().parents[2]
TINY = "config/debug/tiny.json"
LISTS = ("train", "val")
TIMEOUT = 600.0
"""Seconds that any run may take, on a machine that does ten other things at the same time."""


@dataclass
class Outcome:
    """The exit status, and all that was logged or written to stderr."""

    status: int
    text: str


@dataclass
class Clips:
    """A folder of OmniStamps."""

    folder: Path

    def flags(self, lists: tuple[str, ...] = LISTS, config: str = TINY) -> list[str]:
        """What makes a config in config/debug read these clips, in this process and on one thread."""
        flags = ["--model_cfg.tokenizer", str(self.folder / "vocab.txt")]
        datasets = json.loads((ROOT / config).read_text())["data_cfg"]
        for which in lists:
            for index, dataset in enumerate(datasets[which]):
                for key in ("txt", "vision", "annfile"):
                    if key in dataset:
                        value = self.folder / Path(dataset[key]).relative_to("datasets/omnistamps/debug")
                        flags += [f"--data_cfg.{which}.{index}.{key}", str(value)]
        return [*flags, "--n_workers", "0", "--num_threads", "1"]

    def train(self, output: Path, *more: str) -> list[str]:
        """The arguments of a training with evaluation."""
        return ["--config", TINY, *self.flags(), "--output_dir", str(output), *more]

    def only_train(self, output: Path, *more: str, config: str = TINY) -> list[str]:
        """The arguments of a training without evaluation."""
        return ["--config", config, *self.flags(("train",), config), "--n_workers", "0", "--data_cfg.val", "[]", "--save_best", "false",
                "--output_dir", str(output), *more]

    def test(self, weights: Path, output: Path, *more: str) -> list[str]:
        """The arguments of a test of ``weights``."""
        return [*self.train(output), "--mode", "testing", "--checkpoint", str(weights), *more]


PRECISIONS = {"--precision", "--bf16", "--fp16"}


def call(arguments: list[str], module: str = "") -> int:
    """The exit status of run.py, run in this process as ``python run.py``; or of ``python -m module``.

    What run.py computes is the same on every machine: in float32, where ``arguments`` name no precision."""
    before = sys.argv
    same = [] if module or PRECISIONS & set(arguments) else ["--precision", "float32"]
    sys.argv = [module or "run.py", *same, *arguments]
    try:
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


class Running:
    """``python run.py`` (or ``-m module``), or ``torchrun run.py`` with ``processes``, in processes of their own, forked where all is
    imported.

    ``first`` is called in each of them before: a function of a module, or a partial of one.
    """

    def __init__(self, arguments: list[str], processes: int = 1, first: Callable[[], None] | None = None,
                 module: str = "") -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.output = Path(self.folder.name) / "output.txt"
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            # As torchrun's agent does: it holds the store, on a port that the system chose.
            self.store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            variables |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost",
                          "MASTER_PORT": str(self.store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        self.processes = []
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            self.processes.append(WARM.Process(target=_run, args=(arguments, {**variables, **own}, self.output, first, module)))
            self.processes[-1].start()

    def finish(self, seconds: float = TIMEOUT) -> tuple[int, str]:
        """The exit status and all that was written. When one process fails, or ``seconds`` have passed, the others are killed."""
        deadline = time.monotonic() + seconds
        while running := [process for process in self.processes if process.exitcode is None]:
            left = deadline - time.monotonic()
            if any(process.exitcode for process in self.processes) or left <= 0:
                for process in running:
                    process.kill()
                    process.join()
            wait([process.sentinel for process in running], max(0.0, left))
        text = self.output.read_text()
        self.folder.cleanup()
        return next((process.exitcode for process in self.processes if process.exitcode), 0), text


def _run(arguments: list[str], variables: Mapping[str, str], output: Path, first: Callable[[], None] | None,
         module: str) -> None:
    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(ROOT)
    torch.set_num_threads(1)
    if first is not None:
        first()
    sys.exit(call(arguments, module))


def launch(arguments: list[str], launcher: tuple[str, ...] = (), script: tuple[str, ...] = ("run.py",)) -> subprocess.Popen[str]:
    """``python run.py`` by itself, behind ``launcher`` (``-m torch.distributed.run …``)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *launcher, *script, *arguments], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status of what was launched, and all that it wrote."""
    try:
        text, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, text


def results(folder: Path) -> dict[str, Any]:
    """Metrics and predictions by dataset and objective."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: {key: content[key] for key in ("metrics", "predictions")} for name, content in found.items()}


def flat(results: dict[str, Any]) -> dict[str, float]:
    """``{"omnistamps_ret.ret.tvas.itm.r1": …}``, as in eval.jsonl."""
    found: dict[str, float] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else key)
        else:
            found[name] = value

    walk({name: content["metrics"] for name, content in results.items()}, "")
    return found

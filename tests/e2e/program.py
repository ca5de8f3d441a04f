"""run.py as a user calls it: in this process, which saves the imports, or as processes of their own."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TINY = "config/debug/tiny.json"
LISTS = ("train", "val")


@dataclass
class Outcome:
    """The exit status, and all that was logged or written to stderr."""

    status: int
    text: str


@dataclass
class Clips:
    """A folder of OmniStamps."""

    folder: Path

    def flags(self, lists: tuple[str, ...] = LISTS) -> list[str]:
        """What makes config/debug/tiny.json read these clips, in this process and on one thread."""
        flags = ["--model_cfg.tokenizer", str(self.folder / "vocab.txt")]
        datasets = json.loads((ROOT / TINY).read_text())["data_cfg"]
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

    def only_train(self, output: Path, *more: str) -> list[str]:
        """The arguments of a training without evaluation."""
        return ["--config", TINY, *self.flags(("train",)), "--n_workers", "0", "--data_cfg.val", "[]", "--save_best", "false",
                "--output_dir", str(output), *more]

    def test(self, weights: Path, output: Path, *more: str) -> list[str]:
        """The arguments of a test of ``weights``."""
        return [*self.train(output), "--mode", "testing", "--checkpoint", str(weights), *more]


def call(arguments: list[str]) -> int:
    """The exit status of run.py, run in this process as ``python run.py``."""
    before = sys.argv
    sys.argv = ["run.py", *arguments]
    try:
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def start(arguments: list[str], launcher: tuple[str, ...] = (), **settings: Any) -> subprocess.Popen[str]:
    """``python run.py`` as a process, behind ``launcher`` (``-m torch.distributed.run …``)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *launcher, "run.py", *arguments], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)


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

"""SIGKILL at many random moments of a real run, and inside its saves: continued until done, it is the unbroken run to the bit.

OMNIVAST_KILLS sets how many times each way of saving is killed (by default a few, for their time).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from omnivast.training.checkpoints import checkpoint
from omnivast.utils.files import sha256_file
from omnivast.utils.log import read_jsonl
from tests.e2e.program import ROOT, TIMEOUT, TINY, Clips, Running, results

KILLS = int(os.environ.get("OMNIVAST_KILLS", "4"))
STEPS = 10
UNTIMED = ("step", "corpus", "epoch", "loss", "losses", "lr", "grad_norm", "nonfinite_steps")
# Calls within saves and other writing, and before which of them at the latest the kill comes: in about the first three saves.
PLACES = {"write": (checkpoint._Hashing, 12000), "fsync": (os, 33), "replace": (os, 10), "unlink": (Path, 6), "link": (os, 2)}


def config_of(clips: Clips) -> dict[str, Any]:
    """Worker processes, two corpora at random, accumulation, random crops; dropout and the masks of captioning are on anyway."""
    config = json.loads((ROOT / TINY).read_text())
    config["run_cfg"] |= {"gradient_accumulation_steps": 2, "num_train_steps": STEPS, "valid_freq": 2, "save_every": 1, "keep_last": 2,
                          "keep_best": 2, "loss_spike_factor": 0.01, "num_threads": 1, "tensorboard": False}
    config["model_cfg"] |= {"vision_resolution": 16, "tokenizer": str(clips.folder / "vocab.txt")}
    data = config["data_cfg"]
    data["val"] = data["val"][:2]
    data["train"][0]["vision_transforms"] = "crop_flip"
    for dataset in (*data["train"], *data["val"]):
        dataset |= {"n_workers": 2 if dataset["training"] else 0, "batch_size": 4}
        dataset |= {key: str(clips.folder / Path(dataset[key]).name) for key in ("txt", "vision", "annfile") if key in dataset}
    return config


def die_at(place: str, number: int) -> None:
    """SIGKILL just before the ``number``-th call of ``place``."""
    owner, calls = PLACES[place][0], iter(range(1, number))
    original = getattr(owner, place)

    def trap(*given, **named):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    setattr(owner, place, trap)


def trace(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for times."""
    rows = read_jsonl(folder / "log" / "metrics.jsonl")
    ckpt = folder / "ckpt"
    optimizer = torch.load(ckpt / f"state_step_{STEPS}.pt", weights_only=True)["optimizer"]
    return {"metrics": [{key: row[key] for key in UNTIMED} for row in rows], "eval": read_jsonl(folder / "log" / "eval.jsonl"),
            "results": {path.name: results(path) for path in sorted((folder / "results").iterdir())},
            "weights": {path.name: sha256_file(path) for path in sorted(ckpt.glob("*.pt")) if not path.name.startswith("state")},
            "optimizer": {(index, name): hashlib.sha256(value.numpy().tobytes()).hexdigest() for index, values in optimizer["state"].items()
                          for name, value in values.items()},
            "best": json.loads((ckpt / "best.json").read_text()), "latest": json.loads((ckpt / "latest.json").read_text())["step"],
            "unreadable": read_jsonl(folder / "log" / "unreadable.jsonl"), "spikes": read_jsonl(folder / "log" / "loss_spikes.jsonl")}


@pytest.fixture(scope="module")
def unbroken(clips, tmp_path_factory) -> tuple[Path, float]:
    """Its folder, and the seconds it took."""
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "config.json").write_text(json.dumps(config_of(clips)))
    arguments = ["--config", str(folder / "config.json"), "--output_dir", str(folder / "run")]
    assert Running(["--help"]).finish()[0] == 0  # what is imported once for all is not counted
    began = time.monotonic()
    status, text = Running(arguments).finish()
    assert status == 0, text
    seconds = time.monotonic() - began
    assert [row["step"] for row in read_jsonl(folder / "run" / "log" / "metrics.jsonl")] == list(range(1, STEPS + 1))
    return folder / "run", seconds


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_run_killed_at_random_moments_is_the_unbroken_run(unbroken, tmp_path, way):
    whole, duration = unbroken
    draws, kills, rounds = random.Random(way), [], 0
    while len(kills) < KILLS:
        rounds, broken, saved, status = rounds + 1, tmp_path / f"round{rounds}", 0, -1
        arguments = ["--config", str(whole.parent / "config.json"), "--output_dir", str(broken), "--resume", "true",
                     "--async_save", str(way == "async").lower()]
        while status:
            place, seconds, trap = draws.choice(["time", "time", "time", *PLACES]), TIMEOUT, None
            if len(kills) < KILLS and place == "time":
                seconds = draws.uniform(0.1, 1.0) * duration
            elif len(kills) < KILLS:
                trap = partial(die_at, place, draws.randint(1, PLACES[place][1]))
            status, text = Running(arguments, first=trap).finish(seconds)
            assert status in (0, -signal.SIGKILL), text
            before, saved = saved, next((pair.step for pair in checkpoint.committed(broken / "ckpt")), 0)
            assert saved >= before
            if status:
                kills.append(f"{place} at step {saved}")
        assert trace(broken) == trace(whole), kills
        assert not list((broken / "ckpt").glob(".*"))

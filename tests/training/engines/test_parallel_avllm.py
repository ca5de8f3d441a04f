"""Each engine on two processes (gloo) trains the Audio-Visual LLM as one process does: whatever of the language model is trained, with
conversations of all kinds, accumulation and gradient checkpointing; and a resumed run ends the same."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from omnivast.config.extras import not_installed
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.training.loop import train
from omnivast.utils import distributed
from tests.model.avllm.tiny import SAID, avllm, batch, make_llm
from tests.processes import together
from tests.training.engines.test_parallel import STEPS, distance, metrics, weights
from tests.training.toy import Corpus, InTurn, config

pytestmark = pytest.mark.slow
TUNES = ("projectors", "lora", "full")
RUNS: dict[str, dict[str, Any]] = {
    **{tune: {"llm_tune": tune} for tune in TUNES},
    "recomputed": {"llm_tune": "lora", "checkpointing": True},
    "dropout": {"llm_tune": "lora", "llm_lora_dropout": 0.2},
    "bfloat16": {"llm_tune": "full"}}
EXACT = ("projectors", "lora", "full", "recomputed")
MADE = [("va", SAID[1][1]), ("", SAID[3][1]), ("a", SAID[2][1]), ("v", SAID[0][1])]
"""The same conversations in another order: a process has the one without media beside that of both in one batch, sound alone and sight
alone in the other."""


class Loader(InTurn):
    """Four conversations in every batch, two batches a step, of other kinds for each process each time."""

    def __init__(self, model: Any) -> None:
        self.model, self.total_steps = model, STEPS
        self.corpora = [Corpus("chats", 100, STEPS, Task.parse("chat%tva"), 4)]

    def batches(self, start_step: int) -> Iterator[Batch]:
        share = 4 // distributed.world_size()
        rows = range(distributed.rank() * share, (distributed.rank() + 1) * share)
        for step in range(start_step, STEPS):
            for micro, said in enumerate((SAID, MADE)):
                yield dataclasses.replace(batch(self.model, rows, seed=2 * step + micro, said=said), corpus="chats")


def run(name: str, llm: str, folder: Path, **settings: Any) -> None:
    model = avllm(llm, **RUNS[name])
    bf16 = name == "bfloat16"
    model.precision = torch.bfloat16 if bf16 else None
    settings = {"save_every": 2, "remove_before_ckpt": False, "grad_norm": 0.5, "learning_rate": 1e-3,
                "precision": "bf16" if bf16 else "float32", **settings}
    train(config(folder, gradient_accumulation_steps=2, **settings), model, Loader(model))


def resume(name: str, llm: str, source: Path, folder: Path, **settings: Any) -> None:
    """Continue what ``source`` saved after step 2."""
    if distributed.is_main():
        (folder / "ckpt").mkdir(parents=True)
        (folder / "log").mkdir()
        for path in source.glob("ckpt/*_step_2*"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / "ckpt" / path.name)
        shutil.copy(source / "log" / "metrics.jsonl", folder / "log")
    distributed.barrier()
    run(name, llm, folder, resume=True, **settings)


def two(rank: int, llm: str, folder: Path) -> None:
    for engine in ("ddp", "fsdp"):
        for name in RUNS:
            run(name, llm, folder / engine / name, parallel=engine)
        for name in (*TUNES, "dropout"):
            resume(name, llm, folder / engine / name, folder / engine / f"{name} resumed", parallel=engine)
    resume("lora", llm, folder / "fsdp" / "lora", folder / "ddp" / "from fsdp", parallel="ddp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("avllm")
    llm = make_llm(folder / "llm")
    together(two, 2, llm, folder, seconds=900)
    for name in RUNS:
        run(name, llm, folder / "one" / name)
    for name in (*TUNES, "dropout"):
        resume(name, llm, folder / "one" / name, folder / "one" / f"{name} resumed")
    return folder


def assert_same_training(folder: Path, one: Path, rel: float = 1e-5, change: float = 0.01) -> None:
    """Losses agree to ``rel``, norms of gradients, which grow with what Adam makes of rounding, to ten times that; weights, see
    test_parallel.py, by how far training has moved them between steps 2 and 4."""
    mine, theirs = metrics(folder), metrics(one)
    assert len(mine) == len(theirs) == STEPS
    for own, wanted in zip(mine, theirs):
        assert own.pop("norm") == pytest.approx(wanted.pop("norm"), rel=10 * rel) and own == pytest.approx(wanted, rel=rel)
    mine, theirs, before = weights(folder), weights(one), weights(one, 2)
    assert list(mine) == list(theirs) and distance(mine, theirs) < change * distance(before, theirs)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", [*EXACT, "bfloat16"])
def test_two_processes_train_as_one(folder, engine, name):
    bf16 = {"rel": 2e-2, "change": 0.2} if name == "bfloat16" else {}
    assert_same_training(folder / engine / name, folder / "one" / name, **bf16)


def test_what_is_recomputed_trains_the_same(folder):
    assert_same_training(folder / "one" / "recomputed", folder / "one" / "lora")


@pytest.mark.parametrize("engine", ["one", "ddp", "fsdp"])
@pytest.mark.parametrize("name", [*TUNES, "dropout"])
def test_a_resumed_run_ends_the_same_to_the_bit(folder, engine, name):
    whole, resumed = folder / engine / name, folder / engine / f"{name} resumed"
    assert metrics(resumed) == metrics(whole)
    one, other = weights(whole), weights(resumed)
    assert list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_another_engine_continues(folder):
    assert_same_training(folder / "ddp" / "from fsdp", folder / "one" / "lora")


@pytest.mark.parametrize("tune", TUNES)
def test_each_kind_moves_what_it_trains_alone(folder, tune):
    before, after = weights(folder / "one" / tune, 2), weights(folder / "one" / tune)
    moved = {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert moved == ({"projectors"} if tune == "projectors" else {"projectors", "llm"})


# ---------------------------------------------------------------------------------------------------------------- DeepSpeed


def stages(rank: int, llm: str, folder: Path) -> None:
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__.clear()  # nothing is compiled
    for stage in (2, 3):
        path = folder / f"zero{stage}.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}))
        for tune in TUNES:
            run(tune, llm, folder / f"stage {stage}" / tune, parallel="deepspeed", deepspeed_config=str(path), weight_decay=0.0)


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Path:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip(not_installed("deepspeed"))
    folder = tmp_path_factory.mktemp("avllm_zero")
    llm = make_llm(folder / "llm")
    together(stages, 2, llm, folder, seconds=900)
    for tune in TUNES:
        run(tune, llm, folder / "one" / tune, weight_decay=0.0)
    return folder


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("tune", TUNES)
def test_zero_trains_as_one(staged, stage, tune):
    assert_same_training(staged / f"stage {stage}" / tune, staged / "one" / tune)

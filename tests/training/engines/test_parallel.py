"""Each engine on two processes (gloo, float32) trains what one process trains, and FSDP's checkpoints fit every engine."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from omnivast.config.tasks import Group, Modality, Task
from omnivast.data.batch import Batch
from omnivast.model.interface import blocks_of
from omnivast.model.objectives.self_critical import SelfCritical
from omnivast.model.text.self_critical import learn_from_reward
from omnivast.training.checkpoints import optimizer_shards as shards
from omnivast.training.checkpoints.checkpoint import CheckpointError, load_latest
from omnivast.training.engines.build import build_engine
from omnivast.training.loop import train
from omnivast.utils import distributed
from omnivast.utils.log import read_jsonl
from omnivast.utils.random import StepRandom
from tests.model.tiny import BEATS, CONFIG, batch, vast
from tests.processes import together
from tests.training.toy import Corpus, InTurn, config

pytestmark = pytest.mark.slow
STEPS = 4
EVERYTHING = "ret%tvas%tva%tvs%tv%ta_cap%tvas%tv_qa%tvas%tv"
LAYERS = {"audio_encoder_cfg": {**BEATS, "encoder_layers": 3}, "vision_encoder_cfg": {**CONFIG.vision_encoder_cfg, "depth": 2}}
SKIPPING = {"audio_encoder_cfg": {**BEATS, "encoder_layers": 3, "encoder_layerdrop": 0.5}}


class Loader(InTurn):
    """Four clips of noise in every batch, of the corpora in turn."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self.total_steps = STEPS
        self.corpora = [Corpus(f"corpus{i}", 100, STEPS // len(tasks), Task.parse(task), 4) for i, task in enumerate(tasks)]

    def batches(self, start_step: int) -> Iterator[Batch]:
        share = 4 // distributed.world_size()
        rows = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
        for step in range(start_step, STEPS):
            name = self.corpora[step % len(self.corpora)].name
            for micro in range(2):
                yield dataclasses.replace(batch(rows=rows, seed=2 * step + micro), corpus=name)


def settings(folder: Path, **run: Any):
    return config(folder, **{"save_every": 2, "remove_before_ckpt": False, "grad_norm": 0.5, **run})


def length(corpus: str, kind: Any, clip_ids: list[str], captions: list[list[str]]) -> list[list[float]]:
    """A reward that grows with the words, and differs by clip."""
    return [[len(caption.split()) + 0.1 * int(clip_id[-1]) for caption in own] for clip_id, own in zip(clip_ids, captions)]


@dataclasses.dataclass
class Run:
    """A training: settings, changes to the model, the corpora's tasks."""

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = (EVERYTHING, "cap%tv")
    precision: torch.dtype | None = None
    rewarded: bool = False

    def __call__(self, rank: int, folder: Path, **more: Any) -> None:
        model = vast(**{**LAYERS, **self.model})
        model.precision = self.precision
        if self.rewarded:
            learn_from_reward(model, SelfCritical(length))
        evaluate = more.pop("evaluate", None)
        train(settings(folder, **{**self.settings, **more}), model, Loader(self.tasks), evaluate=evaluate and evaluate(model))


RUNS = {
    "mixed": Run({"ema_decay": 0.8}),
    "one task": Run({"grad_norm": None}, tasks=("ret%tvas",)),
    "frozen, recomputed": Run({"optim": "sgd", "async_save": True, "remove_before_ckpt": True},
                              {"frozen_vision": True, "checkpointing": True}),
    "saved in the background": Run({"async_save": True}),
    "self-critical": Run(rewarded=True, tasks=("cap%tvas",)),
    "bfloat16": Run({"precision": "bf16"}, precision=torch.bfloat16),
}
ENGINES = {"ddp": ("mixed", "one task"), "fsdp": ("mixed", "frozen, recomputed", "saved in the background", "self-critical", "bfloat16")}


def metrics(folder: Path) -> list[dict[str, float]]:
    return [{"step": row["step"], "norm": row["grad_norm"], **row["losses"]} for row in read_jsonl(folder / "log" / "metrics.jsonl")]


def weights(folder: Path, step: int = STEPS, kind: str = "model") -> dict[str, torch.Tensor]:
    return torch.load(folder / "ckpt" / f"{kind}_step_{step}.pt", weights_only=True)


def assert_same_training(folder: Path, other: Path, rel: float = 1e-5, change: float = 0.01) -> None:
    """Losses and gradient norms agree to ``rel``. Where a gradient is 0 but for rounding, Adam steps by what rounding says: weights
    differ by at most ``change`` of how far training has moved them."""
    mine, theirs = metrics(folder), metrics(other)
    assert len(mine) == len(theirs) == STEPS
    for one, two in zip(mine, theirs):
        assert one == pytest.approx(two, rel=rel)
    one_state, two_state, start = weights(folder), weights(other), vast(**LAYERS).state_dict()
    assert list(one_state) == list(two_state)
    assert distance(one_state, two_state) < change * distance(start, two_state)


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([(one[name] - two[name]).float().flatten() for name in two]).norm())


def assert_identical(folder: Path, other: Path) -> None:
    assert metrics(folder) == metrics(other)
    one, two = weights(folder), weights(other)
    assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


def checksum(model: nn.Module) -> float:
    """Of what evaluation calls, on the same clips everywhere."""
    clips = model.encode(batch(), list(Modality))
    memory = model.memory(clips)
    words = " ".join(model.caption(memory, Group.parse("tvas"), beam_size=2, max_length=4))
    return float(model.embed_clips(clips, Group.parse("tva")).abs().sum()) + len(words)


def uneven(model: nn.Module):
    """An evaluation in which the processes have different numbers of batches."""
    def evaluate(step: int) -> dict[str, float]:
        for _ in range(2 * distributed.rank()):
            checksum(model)
        return {"r1": checksum(model)}
    return evaluate


def two(rank: int, folder: Path) -> tuple[int, int]:
    """Everything that two processes train; returns ``held``."""
    for engine, names in ENGINES.items():
        for name in names:
            RUNS[name](rank, folder / engine / name, parallel=engine, evaluate=uneven if name == "mixed" else None)
        Run(model=SKIPPING, tasks=(EVERYTHING,))(rank, folder / engine / "skipping", parallel=engine)
    return held()


def held() -> tuple[int, int]:
    """Numbers that a process holds in weights and moments after a step under FSDP; and those of the model."""
    model = vast()
    engine = build_engine(model, settings(Path("unused"), parallel="fsdp").run_cfg, torch.device("cpu"))
    own = next(Loader((EVERYTHING,)).batches(0))
    engine.backward(engine(own, Task.parse(EVERYTHING), StepRandom(0, 0, 2 * distributed.rank(), 4))["loss"])
    engine.update(torch.amp.GradScaler("cpu", enabled=False))
    moments = [value for state in engine.optimizer.state.values() for value in state.values() if value.ndim]
    kept = [*engine.trained.parameters(), *moments, *model.parameters()]
    return sum(x.to_local().numel() for x in kept if not x.is_meta), sum(p.numel() for p in vast().parameters())


def resume(rank: int, source: Path, folder: Path, engine: str) -> None:
    """Continue what ``source`` saved after step 2."""
    if rank == 0:
        (folder / "ckpt").mkdir(parents=True)
        for path in source.glob("ckpt/*_step_2*"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / "ckpt" / path.name)
        (folder / "log").mkdir()
        shutil.copy(source / "log" / "metrics.jsonl", folder / "log")
    distributed.barrier()
    RUNS["mixed"](rank, folder, parallel=engine, resume=True)


def resumes(rank: int, folder: Path) -> None:
    resume(rank, folder / "fsdp" / "mixed", folder / f"fsdp on {distributed.world_size()}", "fsdp")
    if distributed.world_size() == 2:
        resume(rank, folder / "fsdp" / "mixed", folder / "from fsdp to ddp", "ddp")
        resume(rank, folder / "ddp" / "mixed", folder / "from ddp to fsdp", "fsdp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    shares = together(two, 2, folder, seconds=900)
    torch.save(shares, folder / "shares.pt")
    for name, run in RUNS.items():
        run(0, folder / "one" / name)
    return folder


@pytest.fixture(scope="module")
def resumed(folder) -> Path:
    together(resumes, 2, folder, seconds=900)
    together(resumes, 4, folder, seconds=900)
    resume(0, folder / "fsdp" / "mixed", folder / "one process", "fsdp")
    return folder


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, names in ENGINES.items() for name in names])
def test_two_processes_train_as_one(folder, engine, name):
    exact = {"frozen, recomputed": {"change": 1e-5}, "bfloat16": {"rel": 1e-2, "change": 0.1}}
    assert_same_training(folder / engine / name, folder / "one" / name, **exact.get(name, {}))


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_averaged_weights_are_those_of_one_process(folder, engine):
    mine, one = (weights(folder / name / "mixed", kind="ema") for name in (engine, "one"))
    assert list(mine) == list(one) and distance(mine, one) < 0.01 * distance(vast(**LAYERS).state_dict(), one)
    assert distance(mine, weights(folder / engine / "mixed")) > 0


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_layers_skipped_at_random_hold_up_no_process(folder, engine):
    assert [row["step"] for row in metrics(folder / engine / "skipping")] == [1, 2, 3, 4]


def test_fsdp_holds_a_share_of_weights_and_moments(folder):
    for own, whole in torch.load(folder / "shares.pt", weights_only=True):
        assert own == pytest.approx(3 * whole / 2, rel=0.05)


def test_evaluation_sees_the_saved_weights(folder):
    rows = read_jsonl(folder / "fsdp" / "mixed" / "log" / "eval.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        model = vast(**LAYERS).eval()
        model.load_state_dict(weights(folder / "fsdp" / "mixed", row["step"]))
        with torch.no_grad():
            assert row["r1"] == checksum(model)


def test_saving_in_the_background_keeps_the_shards_of_the_last_step(folder):
    kept = sorted(path.name for path in (folder / "fsdp" / "frozen, recomputed" / "ckpt").iterdir())
    assert kept == ["latest.json", "model_step_4.pt", "optimizer_step_4", "state_step_4.pt"]


def test_what_is_saved_in_the_background_is_of_its_step(folder):
    """To the byte what is saved at once, though training has gone on."""
    for step in (2, 4):
        saved = [torch.load(folder / "fsdp" / name / "ckpt" / f"state_step_{step}.pt", weights_only=True)["optimizer"]
                 for name in ("mixed", "saved in the background")]
        shares = [[mark for mark in own["files"] if mark["name"].endswith(".distcp")] for own in saved]
        assert shares[0] == shares[1] and len(shares[0]) == 2 and saved[0]["param_groups"] == saved[1]["param_groups"]
    assert_identical(folder / "fsdp" / "saved in the background", folder / "fsdp" / "mixed")
    assert load_latest(folder / "fsdp" / "saved in the background" / "ckpt").step == 4


def test_resumed_on_as_many_processes_is_bit_identical(resumed):
    assert_identical(resumed / "fsdp on 2", resumed / "fsdp" / "mixed")
    one, two = (weights(resumed / name, kind="ema") for name in ("fsdp on 2", "fsdp/mixed"))
    assert all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.parametrize("name", ["fsdp on 4", "one process", "from fsdp to ddp", "from ddp to fsdp"])
def test_resumed_by_another_number_of_processes_or_another_engine(resumed, name):
    assert_same_training(resumed / name, resumed / "one" / "mixed")
    mine, one = (weights(resumed / own, kind="ema") for own in (name, "one/mixed"))
    assert distance(mine, one) < 0.01 * distance(vast(**LAYERS).state_dict(), one)


@pytest.fixture
def saved(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder / "fsdp" / "mixed" / "ckpt", tmp_path / "ckpt"))


@pytest.mark.parametrize("name", ["__1_0.distcp", ".metadata"])
def test_damaged_shards_are_refused_and_the_checkpoint_before_is_used(saved, name, caplog):
    path = saved / "optimizer_step_4" / name
    path.write_bytes(path.read_bytes()[:-10])
    assert load_latest(saved).step == 2
    assert f"optimizer_step_4/{name}' is truncated" in caplog.text


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_a_description_that_runs_code_is_refused(saved, tmp_path):
    (saved / "optimizer_step_4" / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    with pytest.raises(CheckpointError, match="optimizer_step_4' cannot be read.*refused"):
        shards.read(saved, 4, {}, {})
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.dcp, "save", full)
    with pytest.raises(CheckpointError, match="optimiser of step 4 could not be written.*No space left.*earlier checkpoints are intact"):
        shards.write(tmp_path, 4, torch.optim.Adam([("weight", nn.Parameter(torch.zeros(2)))]))


def test_blocks_are_the_innermost_repeated_parts():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2))

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.reduce = nn.ModuleList([Block(), Block()]), nn.Linear(2, 2)

    tower = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), nn.ModuleList([Stage(), Stage()]), nn.Sequential(Block()))
    assert [type(block) for block in blocks_of(tower)] == [Block] * 4
    model = vast(**LAYERS)
    assert blocks_of(model.vision_encoder) == list(model.vision_encoder.body.blocks)
    assert blocks_of(model.audio_encoder) == list(model.audio_encoder.encoder.layers)

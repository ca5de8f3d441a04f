"""DeepSpeed: its settings everywhere; and where it is installed, that two processes (gloo) train what one trains."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from omnivast.config.extras import not_installed
from omnivast.config.tasks import Task
from omnivast.training.checkpoints.checkpoint import CheckpointError
from omnivast.training.engines import zero
from omnivast.training.logs.nonfinite import NonFiniteLoss
from omnivast.utils import distributed
from omnivast.utils.log import read_jsonl
from omnivast.utils.random import StepRandom
from tests.model.tiny import batch, vast
from tests.processes import together
from tests.training.engines.test_parallel import EVERYTHING, LAYERS, Run, assert_same_training, checksum, uneven, weights
from tests.training.toy import config

INSTALLED = importlib.util.find_spec("deepspeed") is not None
# DeepSpeed gives parameters without a part in a step the gradient 0, so that weight decay would shrink them.
TRAINING = Run({"weight_decay": 0.0}, tasks=(EVERYTHING,))
STAGES = (1, 2, 3)


def run(folder: Path, content: object, **settings):
    path = folder / "zero.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return config(folder, parallel="deepspeed", deepspeed_config=str(path), **settings).run_cfg


def test_the_file_is_completed_by_the_run(tmp_path):
    own = {"zero_optimization": {"stage": 2, "overlap_comm": True}, "gradient_clipping": "auto", "wall_clock_breakdown": True}
    assert zero.read_settings(run(tmp_path, own, grad_norm=0.5, gradient_accumulation_steps=3)) == {
        "zero_optimization": {"stage": 2, "overlap_comm": True}, "wall_clock_breakdown": True, "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 3, "gradient_clipping": 0.5, "zero_allow_untested_optimizer": True}
    assert zero.read_settings(run(tmp_path, own, grad_norm=None))["gradient_clipping"] == 0.0


@pytest.mark.parametrize(("content", "message"), [
    ("{", r"zero.json: not JSON: .*\(named by run_cfg.deepspeed_config\)"),
    ([], "zero_optimization.stage must be 1, 2 or 3, got None"),
    ({"zero_optimization": {"stage": 0}}, "zero_optimization.stage must be 1, 2 or 3, got 0"),
    ({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}, "'gradient_clipping' is decided by grad_norm of the run's config"),
    ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}, "'optimizer' is decided by optim of the run's config"),
])
def test_files_that_do_not_do(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        zero.read_settings(run(tmp_path, content))


def test_what_to_install_where_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match=r'pip install "omnivast\[deepspeed\]".*--parallel fsdp'):
        zero.ZeRO(vast(), run(tmp_path, {"zero_optimization": {"stage": 2}}), torch.device("cpu"))


class Broken:
    """DeepSpeed's engine, as far as it goes until a gradient is not finite."""

    def __init__(self, **_):
        self.called = 0

    def __call__(self, *_):
        return {"loss": torch.tensor(float("nan") if self.called else 1.0)}

    def backward(self, loss, scale_wrt_gas):
        self.called += 1

    def step(self):
        assert self.called == 2

    def get_global_grad_norm(self):
        return float("inf")


def test_what_is_not_finite_stops_with_the_clips_saved(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(initialize=lambda **options: [Broken(**options)], __spec__=object()))
    settings = run(tmp_path, {"zero_optimization": {"stage": 2}}, gradient_accumulation_steps=2)
    engine = zero.ZeRO(vast(), settings, torch.device("cpu"))
    first, second = batch(seed=1), dataclasses.replace(batch(seed=2), clip_ids=["w", "x", "y", "z"])
    task = Task.parse("ret%tvas")
    engine.backward(engine(first, task, StepRandom(0, 6, 0, 4))["loss"])
    with pytest.raises(NonFiniteLoss, match="step 4 .*: loss is not finite.*no step can be left out. Look for broken clips"):
        engine.backward(engine(second, task, StepRandom(0, 7, 0, 4))["loss"])
    told = json.loads((tmp_path / "log" / "nonfinite_step_4.json").read_text())
    assert told["not_finite"] == "loss" and told["clip_ids"] == [[first.clip_ids, ["w", "x", "y", "z"]]]
    engine.backward(torch.tensor(1.0))
    with pytest.raises(NonFiniteLoss, match="step 4 .*: the gradient norm is not finite.*DeepSpeed has applied it.*--parallel fsdp"):
        engine.update(torch.amp.GradScaler("cpu", enabled=False))
    assert json.loads((tmp_path / "log" / "nonfinite_step_4.json").read_text())["not_finite"] == "gradient"


def stages(rank: int, folder: Path) -> None:
    """Train with every stage, and continue with another engine."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__.clear()  # nothing is compiled
    for stage in STAGES:
        path = folder / f"zero{stage}.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}))
        engine = {"parallel": "deepspeed", "deepspeed_config": str(path)}
        TRAINING(rank, folder / f"stage {stage}", evaluate=uneven, **engine)
        if rank == 0:
            resumed = folder / f"resumed {stage}"
            (resumed / "ckpt").mkdir(parents=True)
            for file in folder.glob(f"stage {stage}/ckpt/*_step_2.pt"):
                shutil.copy(file, resumed / "ckpt")
            shutil.copytree(folder / f"stage {stage}" / "log", resumed / "log")
        distributed.barrier()
        with pytest.raises(CheckpointError, match="resume with --parallel fsdp or ddp"):
            TRAINING(rank, folder / f"resumed {stage}", resume=True, **engine)
        TRAINING(rank, folder / f"resumed {stage}", resume=True, parallel="fsdp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    if not INSTALLED:
        pytest.skip(not_installed("deepspeed"))
    folder = tmp_path_factory.mktemp("deepspeed")
    together(stages, 2, folder, seconds=900)
    TRAINING(0, folder / "one")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_as_one(folder, stage):
    assert_same_training(folder / f"stage {stage}", folder / "one")
    for row in read_jsonl(folder / f"stage {stage}" / "log" / "eval.jsonl"):
        model = vast(**LAYERS).eval()
        model.load_state_dict(weights(folder / f"stage {stage}", row["step"]))
        with torch.no_grad():
            assert row["r1"] == checksum(model)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_fsdp_continues(folder, stage):
    assert_same_training(folder / f"resumed {stage}", folder / "one")

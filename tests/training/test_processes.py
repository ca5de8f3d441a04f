"""Two processes (gloo) train what one trains, and stop together."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from omnivast.training.checkpoints import checkpoint
from omnivast.training.checkpoints.checkpoint import CheckpointError
from omnivast.training.checkpoints.saving import Saver
from omnivast.training.engines.ddp import DataParallel
from omnivast.training.logs.nonfinite import NonFiniteLoss
from omnivast.training.loop import train
from omnivast.utils.log import read_jsonl
from tests.processes import together
from tests.training.toy import Loader, Toy, config

TASKS = {"mixed": ("ret%tv", "ret%tv_cap%tv"), "unused": ("ret%tv",), "whole": ("ret%tv_cap%tv",)}


def toy():
    return Toy(dropout=0.0, batch_norm=False)


def worker(rank, folder):
    searches, begin = {}, DataParallel.begin
    for name, tasks in TASKS.items():
        def noted(self, first, tasks, name=name):
            begin(self, first, tasks)
            searches[name] = self.wrapped.find_unused_parameters

        DataParallel.begin = noted
        train(config(folder / name), toy(), Loader(tasks=tasks), evaluate=lambda step: {"r1": float(step)})
    assert searches == {"mixed": True, "unused": False, "whole": False}
    DataParallel.begin = begin
    stops(rank, folder)
    fails(rank, folder)
    leaves_out(folder)
    saves(rank, folder)


def stops(rank, folder):
    """A signal to one process stops both after the same step; resumed, they continue."""
    loader = Loader()
    loader.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if rank == 1 and step == 2 else None
    with pytest.raises(SystemExit) as stopped:
        train(config(folder / "stopped"), Toy(), loader)
    assert stopped.value.code == 143
    assert train(config(folder / "stopped", resume=True), Toy(), Loader())["resumed_from"] == 3
    train(config(folder / "unbroken"), Toy(), Loader())


def fails(rank, folder):
    """A NaN on one process, and an error of rank 0 alone, are raised on both."""
    loader = Loader()
    loader.poison, loader.unreadable = {4}, {1: 2}
    with pytest.raises(NonFiniteLoss, match="step 5"):
        train(config(folder / "broken", max_nonfinite_steps=0), Toy(), loader)
    if rank == 0:
        (folder / "broken" / "ckpt" / "state_step_4.pt").write_bytes(b"damaged")
    dist.barrier()
    with pytest.raises(RuntimeError, match="state_step_4.pt"):
        train(config(folder / "broken", resume=True), Toy(), Loader())


def leaves_out(folder):
    """A NaN on one process is left out on both, by the same count."""
    loader = Loader()
    loader.poison = {4}
    train(config(folder / "left_out"), Toy(), loader)
    loader.poison = {1, 4}
    with pytest.raises(NonFiniteLoss, match="step 5 .*1 such step"):
        train(config(folder / "left_out_once", max_nonfinite_steps=1), Toy(), loader)


def saves(rank, folder):
    """Rank 0's clock decides; its failure to write in the background ends both."""
    due, save_file = Saver.due, checkpoint._save_file
    answers = iter([(rank, step) in ((0, 2), (1, 5)) for step in range(8)])
    Saver.due = lambda self: next(answers, False)
    settings = {"valid_freq": 0, "remove_before_ckpt": False, "async_save": True}
    train(config(folder / "clock", save_minutes=1.0, **settings), Toy(), Loader())
    Saver.due = due

    def full(path, content):
        if path.name == "state_step_4.pt":
            raise OSError(28, "No space left on device")
        return save_file(path, content)

    checkpoint._save_file = full
    with pytest.raises(CheckpointError, match="step 4 could not be written.*No space left.*step 2 is intact"):
        train(config(folder / "full", save_every=2, **settings), Toy(), Loader(total=40))
    checkpoint._save_file = save_file
    assert train(config(folder / "full", save_every=2, resume=True, **settings), Toy(), Loader(total=40))["resumed_from"] == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    together(worker, 2, folder)
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_weights_and_losses_equal_those_of_one_process(folder, tmp_path, name):
    model = toy()
    train(config(tmp_path), model, Loader(tasks=TASKS[name]))
    for key, value in torch.load(folder / name / "ckpt" / "model_step_8.pt").items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-5, atol=1e-6)
    many, one = (read_jsonl(f / "log" / "metrics.jsonl") for f in (folder / name, tmp_path))
    for row, other in zip(many, one):
        assert row["losses"] == pytest.approx(other["losses"], rel=1e-5)
        assert (row["step"], row["corpus"], row["epoch"]) == (other["step"], other["corpus"], other["epoch"])
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert len(many) == 8


def test_resumed_on_two_processes_is_bit_identical(folder):
    one, other = (torch.load(folder / name / "ckpt" / "model_step_8.pt") for name in ("stopped", "unbroken"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_step_left_out_is_counted_and_names_the_clips_of_all_processes(folder):
    assert [row["nonfinite_steps"] for row in read_jsonl(folder / "left_out" / "log" / "metrics.jsonl")] == [0] * 4 + [1] * 4
    weights = torch.load(folder / "left_out" / "ckpt" / "model_step_8.pt")
    assert all(value.isfinite().all() for value in weights.values())
    details = json.loads((folder / "left_out" / "log" / "nonfinite_step_5.json").read_text())
    assert details["clip_ids"] == [[[f"clip4.{m}.{i}" for i in rows] for m in range(2)] for rows in ((0, 1), (2, 3))]


def test_the_main_process_decides_when_to_save(folder):
    assert sorted(path.name for path in (folder / "clock" / "ckpt").glob("state*")) == ["state_step_3.pt", "state_step_8.pt"]


def test_the_failing_step_names_the_clips_of_all_processes(folder):
    details = json.loads((folder / "broken" / "log" / "nonfinite_step_5.json").read_text())
    assert details["clip_ids"] == [[[f"clip4.{m}.{i}" for i in rows] for m in range(2)] for rows in ((0, 1), (2, 3))]
    assert len(read_jsonl(folder / "broken" / "log" / "unreadable.jsonl")) == 2

"""Two processes (gloo) train what one trains, and stop together."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.training.toy import Loader, Toy, config
from training.loop import NonFiniteLoss, Trainer, train
from utils.log import read_jsonl

TASKS = {"mixed": ("ret%tv", "ret%tv_cap%tv"), "unused": ("ret%tv",), "whole": ("ret%tv_cap%tv",)}


def toy():
    return Toy(dropout=0.0, batch_norm=False)


def worker(rank, folder, processes):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=processes)
    searches, wrap = {}, Trainer.wrap
    for name, tasks in TASKS.items():
        def noted(self, batches, name=name):
            batches = wrap(self, batches)
            searches[name] = self.parallel.find_unused_parameters
            return batches

        Trainer.wrap = noted
        train(config(folder / name), toy(), Loader(tasks=tasks), evaluate=lambda step: {"r1": float(step)})
    assert searches == {"mixed": True, "unused": True, "whole": False}
    Trainer.wrap = wrap
    stops(rank, folder)
    fails(rank, folder)
    dist.destroy_process_group()


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
    loader.poison, loader.unreadable = 4, {1: 2}
    with pytest.raises(NonFiniteLoss, match="step 5"):
        train(config(folder / "broken"), Toy(), loader)
    if rank == 0:
        (folder / "broken" / "ckpt" / "state_step_4.pt").write_bytes(b"damaged")
    dist.barrier()
    with pytest.raises(RuntimeError, match="state_step_4.pt"):
        train(config(folder / "broken", resume=True), Toy(), Loader())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(worker, (folder, 2), 2)
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


def test_the_failing_step_names_the_clips_of_all_processes(folder):
    details = json.loads((folder / "broken" / "log" / "nonfinite_step_5.json").read_text())
    assert details["clip_ids"] == [[[f"clip4.{m}.{i}" for i in rows] for m in range(2)] for rows in ((0, 1), (2, 3))]
    assert len(read_jsonl(folder / "broken" / "log" / "unreadable.jsonl")) == 2

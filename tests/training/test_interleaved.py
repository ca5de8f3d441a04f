"""Steps whose batches are of several corpora: counted by corpus, and the same on two processes as on one."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from omnivast.data.batch import Batch
from omnivast.training.loop import train
from omnivast.utils import distributed
from omnivast.utils.log import read_jsonl
from tests.training.toy import Loader, Toy, config

TASKS = ("ret%tv_cap%tv", "ret%tv")
"""The caption head has a part in the first batch of each step alone, in which processes do not exchange gradients yet."""


class Interleaved(Loader):
    """One batch of each corpus in every step."""

    def steps_by_corpora(self, start: int) -> dict[str, int]:
        return {"+".join(corpus.name for corpus in self.corpora): self.total_steps - start}

    def batches(self, start_step: int) -> Iterator[Batch]:
        for number, batch in enumerate(super().batches(start_step)):
            yield replace(batch, corpus=self.corpora[number % 2].name)


def toy():
    return Toy(dropout=0.0, batch_norm=False)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    train(config(folder / "two"), toy(), Interleaved(tasks=TASKS))
    assert distributed.world_size() == 2
    dist.destroy_process_group()


def test_two_processes_train_what_one_trains(tmp_path):
    torch.multiprocessing.spawn(worker, (tmp_path,), 2)
    model = toy()
    loader = Interleaved(tasks=TASKS)
    loader.unreadable = {3: 2}
    train(config(tmp_path / "one", max_unreadable=1.0), model, loader)
    for key, value in torch.load(tmp_path / "two" / "ckpt" / "model_step_8.pt").items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-5, atol=1e-6)
    one, two = (read_jsonl(tmp_path / name / "log" / "metrics.jsonl") for name in ("one", "two"))
    for row, other in zip(one, two):
        assert row["losses"] == pytest.approx(other["losses"], rel=1e-5) and row["corpus"] == other["corpus"] == "corpus0+corpus1"
        assert row["epoch"] == other["epoch"] == row["step"] * 4 / 20
    untrained = Toy(dropout=0.0, batch_norm=False).state_dict()
    assert not torch.equal(untrained["caption_head.weight"], model.state_dict()["caption_head.weight"])
    assert torch.load(tmp_path / "two" / "ckpt" / "state_step_8.pt")["counters"]["clips"] == {"corpus0": 32, "corpus1": 32}
    [*lost] = read_jsonl(tmp_path / "one" / "log" / "unreadable.jsonl")
    assert [(row["step"], row["corpus"], row["clip_id"]) for row in lost] == [(4, "corpus0", "bad3.0"), (4, "corpus0", "bad3.1")]
    data = [{key: row[key] for key in ("step", "corpus", "epoch", "clips", "unreadable")}
            for row in read_jsonl(tmp_path / "one" / "log" / "data.jsonl")]
    assert data[0] == {"step": 5, "corpus": "corpus0", "epoch": 1.0, "clips": 20, "unreadable": {"not a video": 2}}
    assert [(row["step"], row["corpus"], row["clips"]) for row in data[1:]] == [(5, "corpus1", 20), (8, "corpus0", 12), (8, "corpus1", 12)]


def test_a_step_is_the_mean_over_its_corpora(tmp_path):
    """Each corpus's loss counts by its share of the step's batches."""
    looped = toy()
    train(config(tmp_path), looped, Interleaved(total=1, tasks=TASKS))
    losses = read_jsonl(tmp_path / "log" / "metrics.jsonl")[0]["losses"]
    assert losses["loss"] == pytest.approx(losses["itc"] + losses["cap"], rel=1e-6)
    both = Toy(dropout=0.0, batch_norm=False)
    train(config(tmp_path / "same"), both, Loader(total=1, tasks=("ret%tv_cap%tv",)))
    whole = read_jsonl(tmp_path / "same" / "log" / "metrics.jsonl")[0]["losses"]
    assert losses["itc"] == pytest.approx(whole["itc"], rel=1e-5) and 0 < losses["cap"] < whole["cap"]

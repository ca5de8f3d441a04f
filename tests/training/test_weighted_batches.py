"""Batches that count by their weight (Model.loss_weight): a step's loss is the mean over what all of them are the mean of."""

import pytest
import torch
import torch.distributed as dist

from omnivast.training.loop import train
from omnivast.utils.log import read_jsonl
from omnivast.utils.random import generator
from tests.training.toy import Loader, Toy, config


def words(batch):
    """Which numbers of each row count as words: more in some batches than in others."""
    return batch.spectrograms[:, 0, 0] > 0.6


class Weighted(Toy):
    """Learns the mean of its output over the words."""

    def __init__(self):
        super().__init__(dropout=0.0, batch_norm=False)

    def loss_weight(self, batch):
        return float(words(batch).sum())

    def forward(self, batch, task, draws):
        hidden = self.text_encoder(self.vision_encoder(batch.spectrograms[:, 0, 0]))[:, :6]
        return {"loss": hidden.square()[words(batch)].mean()}


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    train(config(folder / "two"), Weighted(), Loader(total=4, tasks=("ret%tv",)))
    dist.destroy_process_group()


def test_the_number_of_processes_and_batches_does_not_count(tmp_path):
    torch.multiprocessing.spawn(worker, (tmp_path,), 2)
    model, first = Weighted(), Weighted()
    train(config(tmp_path / "one"), model, Loader(total=4, tasks=("ret%tv",)))
    rows = {name: read_jsonl(tmp_path / name / "log" / "metrics.jsonl") for name in ("one", "two")}
    assert [row["loss"] for row in rows["one"]] == pytest.approx([row["loss"] for row in rows["two"]], rel=1e-5)
    for key, value in torch.load(tmp_path / "two" / "ckpt" / "model_step_4.pt").items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-5, atol=1e-6)
    both = torch.cat([torch.rand(4, 1, 1, 6, generator=generator("rows", 0, micro)) for micro in range(2)])[:, 0, 0]
    hidden = first.text_encoder(first.vision_encoder(both))[:, :6]
    assert rows["one"][0]["loss"] == pytest.approx(hidden.detach().square()[both > 0.6].mean().item(), rel=1e-5)

"""A small model and loader with the interfaces that the loop uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from omnivast.config.schema import Config, DataConfig, DatasetConfig, ModelConfig, RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.model.interface import Model
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom, generator


class Toy(Model):
    """Dropout, batch statistics, a draw, a frozen part, and a head that only captioning uses."""

    def __init__(self, dropout: float = 0.3, batch_norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(8) if batch_norm else nn.LayerNorm(8)
        self.vision_encoder = nn.Sequential(nn.Linear(6, 8), norm, nn.GELU(), nn.Dropout(dropout))
        self.text_encoder = nn.Linear(8, 8)
        self.contra_temp = nn.Parameter(torch.tensor(0.07))
        self.type_embedding = nn.Parameter(torch.zeros(1, 1, 8))
        self.caption_head = nn.Linear(8, 3)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def towers(self):
        return {"vision": self.vision_encoder, "text": self.text_encoder}

    def forward(self, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
        x = batch.spectrograms[:, 0, 0]
        hidden = self.text_encoder(self.vision_encoder(x)) + self.type_embedding[0]
        noise = draws.uniform("noise", len(batch), 8)
        losses = {"itc": ((self.frozen(hidden) - noise) ** 2).mean() * self.contra_temp}
        if "cap" in str(task):
            losses["cap"] = self.caption_head(hidden).square().mean()
        return {"loss": sum(losses.values()), **losses}


@dataclass
class Corpus:
    name: str
    rows: int
    steps: int
    task: Task
    batch_size: int
    identity: dict = dataclasses.field(default_factory=lambda: {"format": 1, "txt": "a.json", "rows": 20, "sha256": "a", "block": 4,
                                                                "marks": "0123456789abcdef" * 5})


class InTurn:
    """What the loop asks of a loader whose ``corpora`` take turns for ``total_steps``."""

    total_steps: int
    corpora: list[Corpus]

    def task(self, corpus: str) -> Task:
        return next(c.task for c in self.corpora if c.name == corpus)

    def follow(self, plan) -> None:
        for corpus, steps in zip(self.corpora, plan[-1]):
            self.total_steps += steps - corpus.steps
            corpus.steps = steps

    def steps_by_corpora(self, start: int) -> dict[str, int]:
        names = [self.corpora[step % len(self.corpora)].name for step in range(start, self.total_steps)]
        return {name: names.count(name) for name in names}


class Loader(InTurn):
    """Two corpora in turn; every row is a function of (seed, position)."""

    def __init__(self, total: int = 8, accumulation: int = 2, batch_size: int = 4, tasks=("ret%tv", "ret%tv_cap%tv")) -> None:
        self.total_steps, self.accumulation, self.batch_size = total, accumulation, batch_size
        self.corpora = [Corpus(f"corpus{i}", 20, total // len(tasks), Task.parse(t), batch_size) for i, t in enumerate(tasks)]
        self.unreadable: dict[int, int] = {}
        """Unreadable clips by step."""
        self.poison: set[int] = set()
        """Steps (from 0) with a NaN in their first row."""
        self.on_step = lambda step: None

    def batches(self, start_step: int) -> Iterator[Batch]:
        rank, local = distributed.rank(), self.batch_size // distributed.world_size()
        torch.rand(1)  # as torch's DataLoader draws a seed for its workers when it starts
        for step in range(start_step, self.total_steps):
            self.on_step(step)
            for micro in range(self.accumulation):
                rows = torch.rand(self.batch_size, 1, 1, 6, generator=generator("rows", step, micro))
                if step in self.poison:
                    rows[0, 0, 0, 0] = float("nan")
                own = slice(rank * local, (rank + 1) * local)
                ids = [f"clip{step}.{micro}.{i}" for i in range(self.batch_size)]
                bad = [(f"bad{step}.{i}", "not a video") for i in range(self.unreadable.get(step, 0))] if micro == 0 and rank == 0 else []
                name = self.corpora[step % len(self.corpora)].name
                yield Batch(name, ids[own], torch.arange(local), spectrograms=rows[own], unreadable=bad)


def config(folder: Path, **run: object) -> Config:
    """A config for the toy."""
    settings = RunConfig(output_dir=str(folder), tensorboard=False, gradient_accumulation_steps=2, valid_freq=2, learning_rate=0.01,
                         clip_lr=0.005)
    train = (DatasetConfig(name="corpus0", task="ret%tv", txt="a.json", vision="clips", vision_sample_num=1),)
    return Config(dataclasses.replace(settings, **run), ModelConfig(), DataConfig(train, ()))

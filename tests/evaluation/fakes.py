"""A small deterministic model and loader that keep to the evaluation API, without towers or files."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from omnivast.config.schema import Config, DataConfig, DatasetConfig, ModelConfig, RunConfig
from omnivast.config.tasks import CaptionKind, Group, Modality, Task
from omnivast.data.batch import Batch, Texts
from omnivast.model.interface import Model, Rows

VOCABULARY = 97


def texts_of(raw: list[str], clip: list[int]) -> Texts:
    """Texts with made-up ids: a [CLS], one id per word, a [SEP]."""
    ids = [[1, *(3 + sum(map(ord, word)) % (VOCABULARY - 3) for word in text.split()), 2] for text in raw]
    length = max(map(len, ids), default=0)
    padded = torch.zeros((len(ids), length), dtype=torch.long)
    mask = torch.zeros((len(ids), length), dtype=torch.bool)
    for row, own in enumerate(ids):
        padded[row, : len(own)] = torch.tensor(own)
        mask[row, : len(own)] = True
    return Texts(padded, mask, torch.tensor(clip, dtype=torch.long), raw)


@dataclass
class FakeFeatures:
    """Stands for ClipFeatures: (B, N, D) conditions per modality."""

    condition: dict[Modality, Tensor]
    condition_mask: dict[Modality, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.condition.values())))

    @property
    def nbytes(self) -> int:
        return sum(c.nbytes for c in self.condition.values())

    @property
    def tokens(self) -> int:
        return sum(c.shape[1] for c in self.condition.values())

    def to(self, device) -> FakeFeatures:
        return FakeFeatures({m: c.to(device) for m, c in self.condition.items()})

    def rows(self, index: Tensor) -> FakeFeatures:
        return FakeFeatures({m: c[index] for m, c in self.condition.items()})


class FakeModel(Model):
    """Scores that depend on the clip, the group and the text, on nothing else; counts what it was asked."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.words = nn.Parameter(torch.randn(VOCABULARY, width, generator=generator))
        self.pixels = nn.Parameter(torch.randn(8, width, generator=generator))
        self.calls: list[str] = []
        self.encoded_clips = 0
        self.largest_match = 0

    def encode(self, batch: Batch, modalities) -> FakeFeatures:
        self.calls.append("encode")
        self.encoded_clips += len(batch)
        assert not self.training and not torch.is_grad_enabled()
        base = batch.spectrograms[:, 0, 0] @ self.pixels
        return FakeFeatures({m: (base + 0.3 * n)[:, None].repeat(1, 2, 1) for n, m in enumerate(modalities)})

    can_match = True

    def index_clips(self, features: FakeFeatures, group: Group) -> Rows:
        return Rows({"vector": self.embed_clips(features, group)})

    def index_texts(self, texts: Texts) -> Rows:
        return Rows({"vector": self.embed_texts(texts)})

    def matching_features(self, features: FakeFeatures, modalities) -> FakeFeatures:
        return FakeFeatures({m: c for m, c in features.condition.items() if m in modalities})

    def embed_clips(self, features: FakeFeatures, group: Group) -> Tensor:
        pooled = sum(features.condition[m].mean(1) for m in group)
        return nn.functional.normalize(pooled, dim=-1)

    def embed_texts(self, texts: Texts) -> Tensor:
        self.calls.append("embed_texts")
        return nn.functional.normalize((self.words[texts.ids] * texts.mask[..., None]).sum(1), dim=-1)

    def memory(self, features: FakeFeatures) -> FakeFeatures:
        self.calls.append("memory")
        return features

    def match(self, memory: FakeFeatures, group: Group, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        assert bool((ids[~mask] == 0).all())
        self.largest_match = max(self.largest_match, ids.numel())
        clip = torch.stack([memory.condition[m].sum(1) for m in group]).prod(0)[rows]
        text = (self.words[ids] * mask[..., None]).double().sum(1)
        return torch.sin((clip * text).sum(-1)).float()

    def caption(self, memory: FakeFeatures, group: Group, *, beam_size, max_length, length_penalty) -> list[str]:
        strength = memory.condition[group.modalities[0]].sum((1, 2))
        return [f"a {'red' if value > 0 else 'blue'} boat , seen in {group.key}" for value in strength.tolist()]

    def answer(self, memory: FakeFeatures, group: Group, questions: Texts, *, beam_size) -> list[str]:
        strength = memory.condition[group.modalities[0]].sum((1, 2))[questions.clip]
        return [" Red" if value > 0 else "blue " for value in strength.tolist()]


class FakeLoader:
    """Clips with two captions each (one for some), two questions each, in batches of a given size."""

    def __init__(self, task: str, clips: int = 23, batch_size: int = 7, *, part: slice = slice(None), kinds: bool = False) -> None:
        name = "toy"
        self.name, self.task, self.clips, self.batch_size, self.kinds = name, Task.parse(task), clips, batch_size, kinds
        self.config = DatasetConfig(name=name, task=task, vision_sample_num=2, audio_sample_num=1)
        self.clip_ids = [f"clip{n}" for n in range(clips)]
        self.own = list(range(clips))[part]
        self.provenance = {"split_file": "toy.json", "split_sha256": "00", "clips": clips, "texts": 2 * clips, "unreadable": []}
        self.references = {c: [f"a red boat number {n}", "the boat is seen"] for n, c in enumerate(self.clip_ids)}
        self.sound = torch.randn(clips, 1, 1, 8, generator=torch.Generator().manual_seed(5))

    def captions_of(self, clip: int) -> list[str]:
        """One to three captions of different lengths."""
        return [f"caption {'very ' * ((clip * 5 + n) % 4)}{clip} {n}" for n in range(1 + clip % 3)]

    def __iter__(self):
        return self.read()

    def read(self, done=()):
        yield from self.batches([row for row in self.own if row not in done])

    def batches(self, rows: list[int]):
        for start in range(0, len(rows), self.batch_size):
            yield self.batch(rows[start : start + self.batch_size])

    def batch(self, rows: list[int]) -> Batch:
        raw = [(text, place) for place, row in enumerate(rows) for text in self.captions_of(row)]
        omni = texts_of([text for text, _ in raw], [place for _, place in raw])
        vision = texts_of([f"seen {row}" for row in rows], list(range(len(rows))))
        questions = [(f"what colour is number {n} of {row}", place) for place, row in enumerate(rows) for n in range(2)]
        return Batch(
            corpus=self.name,
            clip_ids=[self.clip_ids[row] for row in rows],
            index=torch.tensor(rows),
            spectrograms=self.sound[rows],
            captions={CaptionKind.OMNI: omni, CaptionKind.VISION: vision if self.kinds else omni, CaptionKind.AUDIO: omni},
            questions=texts_of([q for q, _ in questions], [place for _, place in questions]),
            answers=texts_of(["red", "blue"] * len(rows), [place for _, place in questions]),
            question_types=["seen", "heard"] * len(rows),
        )


def config_of(**run_cfg) -> Config:
    """Default settings with some of run_cfg changed."""
    return Config(RunConfig(**run_cfg), ModelConfig(), DataConfig())

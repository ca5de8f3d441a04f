"""The smallest model family that trains, is tested for retrieval and captions, and labels: frames' colours against words, each word
with the frame that it fits best, so that its similarity is none of one vector with one vector."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize, pad

from omnivast.config.tasks import Objective
from omnivast.model.interface import MODELS, Model, Rows
from omnivast.model.text.tokenizer import load_tokenizer

WORDS = 40


@MODELS.register("fake")
class Fake(Model):
    pair_numbers = 2 * WORDS
    objectives = (Objective.RETRIEVAL, Objective.CAPTION)

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer, self.pixels, self.words = tokenizer, nn.Linear(3, 8), nn.Embedding(tokenizer.vocab_size, 8)

    @classmethod
    def build(cls, cfg):
        return cls(load_tokenizer(cfg.tokenizer))

    def encode(self, batch, modalities):
        return Rows({"frames": normalize(self.pixels(batch.frames.float().mean((-1, -2)) / 255), dim=-1)})

    def index_clips(self, features, group):
        return features

    def index_texts(self, texts):
        ids = pad(texts.ids, (0, WORDS - texts.ids.shape[1]))
        return Rows({"words": normalize(self.words(ids), dim=-1) * (ids > 0)[..., None]})

    def similarity(self, group, texts, clips, by_clip=False):
        scores = torch.einsum("tld, cfd -> tclf", texts["words"], clips["frames"]).amax(3).mean(2)
        return scores.T if by_clip else scores

    def forward(self, batch, task, draws):
        losses = {}
        for group in task.groups(Objective.RETRIEVAL):
            scores = self.similarity(group, self.index_texts(batch.captions[group.caption_kind]), self.encode(batch, group.modalities))
            losses[f"itc.{group}"] = cross_entropy(100 * scores, torch.arange(len(batch), device=scores.device))
        return {"loss": sum(losses.values()), **{name: loss.detach() for name, loss in losses.items()}}

    def best_captions(self, memory, group, *, beam_size, max_length, length_penalty):
        ids = (memory["frames"].mean(1) @ self.words.weight.T).topk(beam_size).indices
        return [[self.tokenizer.decode([word]) for word in clip] for clip in ids.tolist()]

"""The table of scores of texts with clips, made as evaluation makes it."""

from __future__ import annotations

import torch
from torch import Tensor

from omnivast.config.tasks import Group
from omnivast.evaluation.metrics.recall import row_chunks
from omnivast.evaluation.retrieval.search import PARTS, score_rows
from omnivast.model.interface import Model, Rows


def score_table(model: Model, group: Group, queries: Rows, clips: Rows) -> Tensor:
    """(N, B) float32 on the CPU, of texts and clips that lie there, as between the parts of a test."""
    device = "cpu" if model.pair_numbers == 1 else model.device

    def score(texts: Rows, candidates: Rows) -> Tensor:
        return model.similarity(group, texts.to(device), candidates.to(device))

    parts = row_chunks(len(queries), -(-len(queries) // PARTS))
    return torch.cat([scores for part in parts
                      for _, scores in score_rows(queries.tensors, clips.tensors, score, None, part, model.pair_numbers)])

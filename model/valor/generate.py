"""VALOR's beam search: the best sum of log-probabilities wins, whatever the length; a finished text stays in its beam."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from omnivast.model.text.bert import DecoderState, TextModel
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.utils.transfer import send, to_host


@torch.no_grad()
def best_texts(model: TextModel, state: DecoderState, tokenizer: Tokenizer, beams: int, max_length: int,
               mask: bool = True) -> list[list[list[int]]]:
    """The ids of the ``beams`` texts in the beam of every row at the end, the best first, without [CLS] and [SEP].

    A finished text is carried on with [SEP] at no cost, so that it keeps its place until ``beams`` better ones are found. Greedy search
    is the beam of one. The next token is predicted at a [MASK] behind the text, or, without ``mask``, at its last token.
    """
    rows, device = state.rows, state.seen.device
    tokens = torch.full((rows,), tokenizer.cls, device=device)
    totals = torch.zeros(rows, 1, device=device)
    done = torch.zeros(rows, 1, dtype=torch.bool, device=device)
    texts = torch.zeros(rows, 1, 0, dtype=torch.int64, device=device)
    first = send(np.arange(rows), device)[:, None]
    for _ in range(max_length):
        log_probs = model.step(state, tokens, tokenizer.mask if mask else None).float().log_softmax(-1).unflatten(0, (rows, -1))
        totals, chosen = (totals[..., None] + _carried_on(log_probs, done, tokenizer.sep)).flatten(1).topk(beams, 1)
        parents, words = chosen // log_probs.shape[-1], chosen % log_probs.shape[-1]
        state.reorder((first * log_probs.shape[1] + parents).flatten())
        texts = torch.cat([texts.gather(1, parents[..., None].expand(-1, -1, texts.shape[2])), words[..., None]], 2)
        done, tokens = done.gather(1, parents) | (words == tokenizer.sep), words.flatten()
        if to_host(done.all()):
            break
    return [[_up_to(tokenizer.sep, ids) for ids in own] for own in to_host(texts).tolist()]


def _carried_on(log_probs: Tensor, done: Tensor, sep: int) -> Tensor:
    """log_probs (rows, beams, vocabulary) of the next word; of a finished text [SEP] is certain."""
    only_end = torch.full_like(log_probs[:1, :1], float("-inf"))
    only_end[..., sep] = 0.0
    return torch.where(done[..., None], only_end, log_probs)


def _up_to(sep: int, ids: list[int]) -> list[int]:
    return ids[:ids.index(sep)] if sep in ids else ids

"""Answers of the language model behind prompts with media, by transformers' own search: greedy, with beams, or by draws.

P prompts, R texts of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Embed = Callable[[list[int]], tuple[Tensor, Tensor]]
"""Numbers of prompts → their input (p, L, D), all ending at the last column, and where it is filled (p, L) bool."""
TOKENS_AT_ONCE = 16_384
"""Columns of all prompts, with their beams, that are searched together."""


def generate(llm: Any, lengths: Sequence[int], embed: Embed, *, end: int, longest: int, beams: int = 1, texts: int = 1,
             length_penalty: float = 1.0, draws: Tensor | None = None, top_k: int = 10) -> list[list[list[int]]]:
    """(P, R, tokens) ids of the best ``texts`` texts of each prompt, the best first, without what ends them.

    Prompts of like lengths are searched together, so that little of the input is empty.

    Args:
        lengths: (P) columns of each prompt.
        end: the id that ends a text.
        longest: tokens of a text at most.
        beams: beams of the search; 1: the likeliest token each time.
        texts: no more than beams, but with draws any number.
        length_penalty: the sum of log-probabilities is divided by the length to this power.
        draws: (P, R, tokens) uniform in [0, 1): each token is drawn among the ``top_k`` likeliest by one of them.
    """
    from transformers import GenerationConfig
    each = beams if draws is None else texts
    by_beams = {"num_beams": beams, "num_return_sequences": texts, "length_penalty": length_penalty} if beams > 1 else {}
    settings = GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=end, pad_token_id=end, use_cache=True, **by_beams)
    found: list[list[list[int]]] = [[] for _ in lengths]
    for numbers in _together(lengths, each):
        inputs, filled = embed(numbers)
        by_draws = []
        if draws is not None:
            inputs, filled = (x.repeat_interleave(texts, 0) for x in (inputs, filled))
            by_draws = [_ByDraws(draws[numbers].flatten(0, 1).to(inputs.device), top_k)]
        made = llm.generate(inputs_embeds=inputs, attention_mask=filled.long(), generation_config=settings, logits_processor=by_draws)
        for place, row in enumerate(made.tolist()):
            found[numbers[place // texts]].append(row[: row.index(end)] if end in row else row)
    return found


def _together(lengths: Sequence[int], each: int) -> list[list[int]]:
    """Numbers of prompts that are searched together, the longest first."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if batches and (len(batches[-1]) + 1) * each * lengths[batches[-1][0]] <= TOKENS_AT_ONCE:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


class _ByDraws:
    """Leaves the token that a draw picks among the likeliest as the only one, so that a greedy search takes it. Called once for each
    token, with what was generated before."""

    def __init__(self, draws: Tensor, top_k: int) -> None:
        self.draws, self.top_k = draws, top_k

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """ids (rows, tokens so far), scores (rows, words) → scores with one finite number in each row."""
        values, words = scores.float().topk(min(self.top_k, scores.shape[-1]))
        shares = values.softmax(-1).cumsum(-1)
        place = (shares < self.draws[:, ids.shape[1], None]).sum(-1, keepdim=True).clamp(max=words.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, words.gather(1, place), 0.0)

"""A language model in this process writes captions: many clips at once, what their prompts share is read once."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.corpus.engine.workers import StageError
from omnivast.corpus.fusion.prompt import Message
from omnivast.model.interface import ModelError
from omnivast.model.text.llm import load_llm
from omnivast.utils.endpoint import Reply
from omnivast.utils.precision import DTYPES, resolve
from omnivast.utils.random import generator

TOP_K = 20
"""Likeliest tokens among which one is drawn."""


class LocalModel:
    """Writes with a causal language model of transformers, from a folder or a GGUF file."""

    def __init__(self, path: str, device: str | None = None) -> None:
        """In bf16 where the device computes it. Raises StageError."""
        try:
            llm, self.tokenizer = load_llm(ModelConfig(model_type="avllm", llm=path))
        except ModelError as error:
            raise StageError(str(error).replace("model_cfg.llm", "--llm")) from None
        if not self.tokenizer.chat_template:
            raise StageError(f"--llm '{path}': its tokenizer has no chat template; expected a model trained to follow instructions")
        self.name = Path(path).name
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        width = llm.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        self.llm = llm.to(self.device, DTYPES[resolve("auto", self.device, width).name])
        self._cache_name = "cache" if "cache" in inspect.signature(llm.forward).parameters else "past_key_values"
        self._shared: tuple[list[int], Any] = ([], None)

    @torch.inference_mode()
    def write(self, prompts: Sequence[list[Message]], each: int, seed: int, *, temperature: float = 0.7,
              longest: int = 64) -> list[list[Reply]]:
        """``each`` replies to each prompt: where the temperature is 0 the likeliest, else drawn. ``longest``: tokens of a reply. The same
        arguments give the same replies on machines of one kind."""
        rows = [self._ids(prompt) for prompt in prompts]
        shared = len(os.path.commonprefix([row[:-1] for row in rows]))
        cache, logits, lengths, filled = self._read(rows, shared)
        cache.batch_repeat_interleave(each)
        logits, lengths, filled = (x.repeat_interleave(each, 0) for x in (logits, lengths, filled))
        draws = torch.rand(longest, len(logits), generator=generator(seed, "captions"))
        end = self.tokenizer.eos_token_id
        tokens: list[Tensor] = []
        ended = torch.zeros(len(logits), dtype=torch.bool, device=self.device)
        for place in range(longest):
            token = _drawn(logits, draws[place].to(self.device), temperature).where(~ended, end)
            tokens.append(token)
            ended |= token == end
            if ended.all() or place == longest - 1:
                break
            filled = torch.cat([filled, filled.new_ones(len(filled), 1)], 1)
            logits = self._step(token[:, None], (lengths + place)[:, None], filled, cache)
        return self._replies(torch.stack(tokens, 1).tolist(), [len(row) for row in rows], each, end)

    def _ids(self, prompt: list[Message]) -> list[int]:
        text = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _read(self, rows: list[list[int]], shared: int) -> tuple[Any, Tensor, Tensor, Tensor]:
        """The cache after the prompts, logits of what comes next (B, words), lengths (B) and which columns are filled (B, L)."""
        cache = self._after(rows[0][:shared])
        cache.batch_repeat_interleave(len(rows))
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max()) - shared
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        filled = torch.ones(len(rows), shared + width, dtype=torch.long)
        for number, row in enumerate(rows):  # empty columns between what is shared and what is not
            own = row[shared:]
            ids[number, width - len(own) :] = torch.tensor(own)
            filled[number, shared : shared + width - len(own)] = 0
        places = (filled.cumsum(1) - 1)[:, shared:]
        lengths, filled, ids, places = (x.to(self.device) for x in (lengths, filled, ids, places))
        return cache, self._step(ids, places, filled, cache), lengths, filled

    def _after(self, ids: list[int]) -> Any:
        """A cache after these tokens, one row; that of the call before where they are the same."""
        from transformers import DynamicCache
        if self._shared[0] != ids or self._shared[1] is None:
            cache = DynamicCache(config=self.llm.config)
            if ids:
                self._step(torch.tensor([ids], device=self.device), torch.arange(len(ids), device=self.device)[None], None, cache)
            self._shared = (ids, cache)
        return copy.deepcopy(self._shared[1])

    def _step(self, ids: Tensor, places: Tensor, filled: Tensor | None, cache: Any) -> Tensor:
        """Logits behind the last column; the cache grows."""
        found = self.llm(input_ids=ids, position_ids=places, attention_mask=filled, use_cache=True, logits_to_keep=1,
                         **{self._cache_name: cache})
        return found.logits[:, -1].float()

    def _replies(self, rows: list[list[int]], prompts: list[int], each: int, end: int) -> list[list[Reply]]:
        made = []
        for number, row in enumerate(rows):
            whole = end in row
            own = row[: row.index(end)] if whole else row
            text = self.tokenizer.decode(own, skip_special_tokens=True).strip()
            made.append(Reply(text, self.name, "stop" if whole else "length", prompts[number // each] + len(own)))
        return [made[first : first + each] for first in range(0, len(made), each)]


def _drawn(logits: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """(rows) tokens, of logits (rows, words) and numbers in [0, 1)."""
    if temperature == 0:
        return logits.argmax(-1)
    values, words = logits.topk(min(TOP_K, logits.shape[-1]))
    shares = (values / temperature).softmax(-1).cumsum(-1)
    place = (shares < draws[:, None]).sum(-1, keepdim=True).clamp(max=words.shape[-1] - 1)
    return words.gather(1, place)[:, 0]


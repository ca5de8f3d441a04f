"""The plain way, over the weights of a VALOR: what is timed beside ours and must give the same numbers.

It is the release's order of work. Towers run once per step, and attend by products and a softmax, as torch did then. Every group and
objective has its own text pass over the full length, text first and prompt behind it; keys and values are projected anew from the condition
features; the scores of each group are one tensor (texts, clips, tokens, slots); masks are drawn in two Python loops; a new
token takes the whole prefix, its prompt and the memory, expanded along the beams, again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import get_act_layer
from torch import Tensor

from benchmarks.plain import IGNORED, attention, condition, masked
from benchmarks.workload import padded
from omnivast.config.tasks import Group, Modality, Objective, Task
from omnivast.data.batch import Batch
from omnivast.model.interface import Rows
from omnivast.model.text.bert import Block
from omnivast.model.valor.features import ClipFeatures
from omnivast.model.valor.model import VALOR
from omnivast.model.valor.prompts import CAPTION, COMPARE
from omnivast.model.valor.step import CAPTION_MASK
from omnivast.utils.random import StepRandom


def as_released(model: Any) -> None:
    """Let the towers attend by plain products, and keep what QuickGELU makes on its way."""
    for block in model.vision_encoder.visual.blocks:
        block.attn.fused_attn, block.mlp.act = False, get_act_layer("quick_gelu")()
    model.audio_encoder.body.config._attn_implementation = "eager"


def text_pass(model: VALOR, sentence: str, ids: Tensor, mask: Tensor, memory: Tensor | None = None, causal: bool = False) -> Tensor:
    """ids, mask (n, L), memory (n, N, D) → hidden states (n, L, D) of the texts, with the prompt of a task behind them where the model
    has prompts; padding is computed too. A prompt does not see a causal text."""
    text = model.multimodal_encoder
    rows, length = ids.shape
    places = torch.arange(length, device=ids.device)
    x = text.bert.embeddings(ids, places.expand_as(ids))
    prompt = model.prompts.task(sentence, rows)
    if prompt is not None:
        words = torch.from_numpy(prompt[0]).to(ids.device)
        places = torch.arange(words.shape[1], device=ids.device)
        x = torch.cat([x, text.bert.embeddings(words, places.expand_as(words), torch.ones_like(words))], 1)
        mask = torch.cat([mask, torch.ones_like(words, dtype=torch.bool)], 1)
    seen = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
    if causal:
        order = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=ids.device)
        order[:length, :length] = order[:length, :length].tril()
        order[length:, :length] = False
        seen = seen & order
    block: Block
    for block in text.blocks:
        x = attention(block.attention, x, x, seen)
        if memory is not None:
            x = attention(block.crossattention, x, memory, None)
        x = block.feed(x)
    return x[:, :length]


def whole_scores(texts: Rows, clips: Rows, modalities: Sequence[Modality]) -> Tensor:
    """(N, B) scores of texts with clips, of the modalities side by side, from one tensor of all products."""
    mask = texts["text_mask"]
    slots = torch.cat([clips[m.word] for m in modalities], 1)
    products = torch.einsum("atd,bvd->abtv", texts["text"], slots)
    products = torch.einsum("abtv,at->abtv", products, mask)
    products = torch.einsum("abtv,bv->abtv", products, torch.ones_like(slots[..., 0]))
    to_clip, to_text = products.max(-1)[0], products.max(-2)[0]
    weights = texts["text_logits"].masked_fill(mask == 0, float("-inf")).softmax(-1)
    slot_weights = torch.cat([clips[f"{m.word}_logits"] for m in modalities], 1).softmax(-1)
    return (torch.einsum("abt,at->ab", to_clip, weights) + torch.einsum("abv,bv->ab", to_text, slot_weights)) / 2


def scores(texts: Rows, clips: Rows, groups: Sequence[Group]) -> list[Tensor]:
    """Those of several groups, one after the other."""
    return [whole_scores(texts, clips, group.modalities) for group in groups]


def embedded_texts(model: VALOR, ids: Tensor, mask: Tensor) -> Rows:
    """Of every token of texts (n, L): unit vector, logit of its weight, mask."""
    vectors = F.normalize(model.contra_head_t(text_pass(model, COMPARE, ids, mask)), dim=-1)
    return Rows({"text": vectors, "text_logits": model.text_fine_weight(vectors).squeeze(-1), "text_mask": mask.float()})


def training_losses(model: VALOR, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
    """The losses of ``VALOR.forward`` under the same names, from the same draws, for the objectives ret and cap of one kind of captions."""
    features = model.encode(batch, task.modalities)
    groups, tokens = task.groups(Objective.RETRIEVAL), model.mask_ids
    own = batch.captions.of(task.all_groups[0].caption_kind)
    ids, mask = (x.to(model.device) for x in padded(own, model.config.max_caption_len))
    losses: dict[str, Tensor] = {}
    texts, clips = embedded_texts(model, ids, mask), model.embed_clips(features, groups)
    targets = torch.arange(len(batch), device=model.device).repeat(2)
    for group in groups:
        table = whole_scores(texts, clips, group.modalities)
        losses[f"ret.{group}"] = F.cross_entropy(torch.cat([table, table.T]) / model.temperature, targets)
    for group in task.groups(Objective.CAPTION):
        drawn = draws.uniform(f"mask.cap.{group.caption_kind.value}", len(batch), model.config.max_caption_len, 3)
        disguised, labels = (x.to(model.device) for x in masked(ids.cpu(), tokens.cls, tokens.mask, tokens.vocab_size, CAPTION_MASK, drawn))
        hidden = text_pass(model, CAPTION, disguised, mask, condition(features, group), causal=True)
        chosen = labels != IGNORED
        losses[f"cap.{group}"] = F.cross_entropy(model.multimodal_encoder.logits(hidden[chosen]), labels[chosen])
    means = {name: torch.stack([losses[f"{name}.{g}"] for g in task.groups(objective)]).mean()
             for name, objective in (("ret", Objective.RETRIEVAL), ("cap", Objective.CAPTION)) if task.groups(objective)}
    ratios = {"ret": model.config.contra_loss_ratio}
    means["loss"] = torch.stack([ratios.get(name, 1.0) * value for name, value in means.items()]).sum()
    return means | {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def beam_search(model: VALOR, features: ClipFeatures, group: Group, beams: int, max_length: int) -> list[list[int]]:
    """Ids of the best text of every clip, all clips at once, no cache. The best sum of log-probabilities wins; a finished text stays in
    its beam at no cost."""
    memory, tokenizer, clips = condition(features, group), model.tokenizer, len(features)
    ids = torch.full((clips, 1, 1), tokenizer.cls, device=memory.device)
    totals, done = torch.zeros(clips, 1, device=memory.device), torch.zeros(clips, 1, dtype=torch.bool, device=memory.device)
    for _ in range(max_length):
        asked = F.pad(ids, (0, 1), value=tokenizer.mask).flatten(0, 1)
        seen, expanded = torch.ones_like(asked, dtype=torch.bool), memory.repeat_interleave(ids.shape[1], 0)
        hidden = text_pass(model, CAPTION, asked, seen, expanded, causal=True)
        log_probs = model.multimodal_encoder.logits(hidden[:, -1]).log_softmax(-1).unflatten(0, ids.shape[:2])
        log_probs[done] = float("-inf")
        log_probs[..., tokenizer.sep][done] = 0.0
        totals, flat = (totals[..., None] + log_probs).flatten(1).topk(beams, 1)
        parents, words = flat // log_probs.shape[-1], flat % log_probs.shape[-1]
        ids = torch.cat([ids.gather(1, parents[..., None].expand(-1, -1, ids.shape[2])), words[..., None]], 2)
        done = done.gather(1, parents) | (words == tokenizer.sep)
        if done.all():
            break
    best = [row[1:] for row in ids[:, 0].tolist()]
    return [row[:row.index(tokenizer.sep)] if tokenizer.sep in row else row for row in best]

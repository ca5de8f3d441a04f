"""The plain way, over the weights of a VAST: what is timed beside ours and must give the same numbers.

It is VAST as one would write it down first (and as the release does it): every group and objective has its own text pass,
padded to the full length; keys and values are projected from memories expanded along the texts; the vocabulary is projected
at every position; generation recomputes the whole prefix for each token; re-ranking takes one clip after another with its
memory repeated for each text; masking is two Python loops. The vision and audio towers run once per step in both ways.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.workload import padded
from omnivast.config.schema import label_smoothing
from omnivast.config.tasks import CaptionKind, Group, Objective, Task
from omnivast.data.batch import Batch, Texts
from omnivast.model.objectives.contrastive import hard_negatives
from omnivast.model.text.bert import Block, CrossAttention, SelfAttention
from omnivast.model.text.generate import _Finished
from omnivast.model.valor.features import ClipFeatures as ValorFeatures
from omnivast.model.vast.contrast import contrast_logits
from omnivast.model.vast.model import VAST, ClipFeatures
from omnivast.utils.random import StepRandom

IGNORED = -100


def full_length(model: VAST, kind: CaptionKind) -> int:
    return model.config.max_omni_caption_len if kind is CaptionKind.OMNI else model.config.max_caption_len


def condition(features: ClipFeatures | ValorFeatures, group: Group) -> Tensor:
    """(B, tokens, D): what cross-attention of a group sees."""
    return torch.cat([features.condition[m] for m in group], 1)


def attention(layer: SelfAttention | CrossAttention, x: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
    """x (n, L, D) attends to seen (n, N, D), whose keys and values are projected here."""
    p = layer.projections
    query, key, value = layer.split(p.query(x)), layer.split(p.key(seen)), layer.split(p.value(seen))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return layer.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2), x)


def text_pass(model: VAST, ids: Tensor, mask: Tensor, memory: Tensor | None = None, causal: bool = False) -> Tensor:
    """ids, mask (n, L), memory (n, N, D) → hidden states (n, L, D), padding computed too."""
    text = model.multimodal_encoder
    length = ids.shape[1]
    seen = mask[:, None, None, :].expand(-1, 1, length, length)
    if causal:
        seen = seen & torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    x = text.bert.embeddings(ids, torch.arange(length, device=ids.device).expand_as(ids))
    block: Block
    for block in text.blocks:
        x = attention(block.attention, x, x, seen)
        if memory is not None:
            x = attention(block.crossattention, x, memory, None)
        x = block.feed(x)
    return x


def masked(ids: Tensor, cls: int, mask: int, vocabulary: int, probability: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Masking by a loop over rows and tokens, from the same draws as ours: disguised ids and labels, each (N, L)."""
    ids, labels = ids.clone(), torch.full_like(ids, IGNORED)
    first = min(106, vocabulary - 1)
    for row in range(ids.shape[0]):
        lowest, chosen = -1, []
        for place in range(ids.shape[1]):
            if ids[row, place].item() in (0, cls):
                continue
            if lowest < 0 or draws[row, place, 0] < draws[row, lowest, 0]:
                lowest = place
            if draws[row, place, 0] < probability:
                chosen.append(place)
        for place in chosen or ([lowest] if lowest >= 0 else []):
            labels[row, place] = ids[row, place]
            if draws[row, place, 1] < 0.8:
                ids[row, place] = mask
            elif draws[row, place, 1] < 0.9:
                ids[row, place] = first + int(draws[row, place, 2] * (vocabulary - first))
    return ids, labels


def training_losses(model: VAST, batch: Batch, task: Task, draws: StepRandom) -> dict[str, Tensor]:
    """The losses of ``VAST.forward`` under the same names, from the same draws. GRAM's volumes are ours in both ways."""
    features = model.encode(batch, task.modalities)
    losses: dict[str, Tensor] = {}
    b = len(batch)
    targets = torch.arange(b, device=model.device)
    for group in task.groups(Objective.RETRIEVAL):
        texts = batch.captions[group.caption_kind]
        ids, mask = (x.to(model.device) for x in padded(texts, full_length(model, group.caption_kind)))
        text = model.embed_cls(text_pass(model, ids, mask)[:, 0])
        vectors = model.clip_vectors(features, group)
        scores, back = contrast_logits(model, group, slice(0, b), text, vectors, text, vectors)
        losses[f"itc.{group}"] = model.contrast.loss(scores, back, targets, label_smoothing(model.config))
        draw = draws.uniform(f"negatives.{group}", b, 2).to(model.device)
        clips, captions = hard_negatives(scores, targets, draw[:, 0]), hard_negatives(back, targets, draw[:, 1])
        memory = condition(features, group)
        hidden = text_pass(model, torch.cat([ids, ids[captions], ids]), torch.cat([mask, mask[captions], mask]),
                           torch.cat([memory, memory, memory[clips]]))
        labels = torch.cat([torch.ones(b), torch.zeros(2 * b)]).long().to(model.device)
        losses[f"itm.{group}"] = F.cross_entropy(model.itm_head(hidden[:, 0]), labels)
    for group in task.groups(Objective.CAPTION):
        kind = group.caption_kind
        ids, mask = (x.to(model.device) for x in padded(batch.captions[kind], full_length(model, kind)))
        longest = max(model.config.max_caption_len, model.config.max_omni_caption_len, model.config.max_answer_len)
        tokens = model.mask_ids
        drawn = draws.uniform(f"mask.cap.{kind.value}", b, longest, 3)
        disguised, labels = (x.to(model.device) for x in masked(ids.cpu(), tokens.cls, tokens.mask, tokens.vocab_size, 0.6, drawn))
        logits = model.multimodal_encoder.logits(text_pass(model, disguised, mask, condition(features, group), causal=True))
        losses[f"cap.{group}"] = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    means = {name: torch.stack([losses[f"{name}.{g}"] for g in task.groups(objective)]).mean()
             for name, objective in (("itc", Objective.RETRIEVAL), ("itm", Objective.RETRIEVAL), ("cap", Objective.CAPTION))
             if task.groups(objective)}
    means["loss"] = torch.stack([(model.config.itm_ratio if n == "itm" else 1.0) * value for n, value in means.items()]).sum()
    return means | {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def beam_search(model: VAST, features: ClipFeatures, group: Group, beams: int, max_length: int, length_penalty: float) -> list[list[int]]:
    """Ids of the best text of every clip: one clip after another, its memory expanded along the beams, no cache."""
    return [_beams(model, condition(features, group)[row], beams, max_length, length_penalty) for row in range(len(features))]


def _beams(model: VAST, memory: Tensor, beams: int, max_length: int, length_penalty: float) -> list[int]:
    tokenizer = model.tokenizer
    ids = torch.full((1, 1), tokenizer.cls, device=memory.device)
    scores, finished = torch.zeros(1, device=memory.device), _Finished(beams, length_penalty, 1)
    for length in range(max_length):
        asked = F.pad(ids, (0, 1), value=tokenizer.mask)
        hidden = text_pass(model, asked, torch.ones_like(asked, dtype=torch.bool), memory.expand(len(ids), *memory.shape), causal=True)
        log_probs = model.multimodal_encoder.logits(hidden)[:, -1].log_softmax(-1)
        top, flat = (scores[:, None] + log_probs).flatten().topk(2 * beams)
        running: list[tuple[float, list[int]]] = []
        for rank, (score, place) in enumerate(zip(top.tolist(), flat.tolist())):
            parent, word = divmod(place, log_probs.shape[1])
            text = ids[parent].tolist()
            if word != tokenizer.sep:
                running.append((score, [*text, word]))
            elif rank < beams:
                finished.add(score, text[1:])
        finished.close(top[0].item(), length)
        running = running[:beams]
        ids, scores = (torch.tensor(part, device=memory.device) for part in ([text for _, text in running], [own for own, _ in running]))
        if finished.done:
            break
    if not finished.done:
        for score, text in zip(scores.tolist(), ids.tolist()):
            finished.add(score, text[1:])
    return finished.scored[0][1]


@torch.no_grad()
def rerank(model: VAST, features: ClipFeatures, group: Group, texts: Texts, length: int) -> Tensor:
    """(clips, texts) matching probabilities: a loop over clips, each repeated for every text."""
    memory = condition(features, group)
    ids, mask = (x.to(memory.device) for x in padded(texts, length))
    rows = [model.itm_head(text_pass(model, ids, mask, own.expand(len(ids), *own.shape))[:, 0]).softmax(-1)[:, 1] for own in memory]
    return torch.stack(rows)


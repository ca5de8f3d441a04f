"""Text from a memory: greedy search, beam search, top-k sampling, and how likely a given text is, over the cached keys and values of
bert.py.

The text so far is followed by one [MASK], and the token predicted there is appended (released VAST). The cache makes each
step two positions long, whatever the length of the text. The device finds the best words, the host keeps the texts: it waits for the
device once per token, for all rows together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from omnivast.model.text.bert import DecoderState, TextModel
from omnivast.model.text.tokenizer import Tokenizer
from omnivast.utils.transfer import send, to_device, to_host

CAPTION_LENGTH_PENALTY, ANSWER_LENGTH_PENALTY = 0.6, 1.0
"""The length penalty of beam search, as released: above 0, of two texts with the same probability per token the longer one scores higher.
"""


@dataclass
class _Finished:
    """The best finished hypotheses of one clip, as in beam search of the transformers library.

    The score of a hypothesis is its summed log-probability divided by (tokens before + tokens) ** length_penalty. The tokens before are
    the [CLS] and, for answers, the question at its padded length.
    """

    beams: int
    length_penalty: float
    before: int
    scored: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def add(self, total: float, ids: list[int]) -> None:
        self.scored.append((total / (self.before + len(ids)) ** self.length_penalty, ids))
        self.scored.sort(key=lambda pair: -pair[0])
        del self.scored[self.beams:]

    def close(self, best_total: float, tokens: int) -> None:
        """Set ``done`` if no running beam can beat the worst hypothesis kept any more; ``best_total`` is the highest total of the running
        beams."""
        if len(self.scored) == self.beams and self.scored[-1][0] >= best_total / (self.before + tokens) ** self.length_penalty:
            self.done = True


@torch.no_grad()
def beam_search(model: TextModel, state: DecoderState, tokenizer: Tokenizer, beams: int, max_length: int,
                length_penalty: float) -> list[list[int]]:
    """The ids of the best text of every row of ``state``, without [CLS] and [SEP], at most ``max_length`` of them. One beam is greedy
    search."""
    return [texts[0] for texts in best_texts(model, state, tokenizer, beams, max_length, length_penalty)]


@torch.no_grad()
def best_texts(model: TextModel, state: DecoderState, tokenizer: Tokenizer, beams: int, max_length: int,
               length_penalty: float) -> list[list[list[int]]]:
    """The ``beams`` best texts that beam search ends with for every row, the best first, as ids like those of ``beam_search``. There is
    one row per clip or, for answers, the same number of rows (questions) for every clip."""
    if beams == 1:
        return [[text] for text in _greedy(model, state, tokenizer, max_length)]
    clips = np.arange(state.rows)
    finished = [_Finished(beams, length_penalty, 1 + state.next_position) for _ in clips]
    tokens = torch.full((len(clips),), tokenizer.cls, device=state.seen.device)
    scores = torch.zeros(len(clips), 1, device=state.seen.device)
    texts: list[list[int]] = [[] for _ in clips]
    totals = np.zeros((0, beams))
    for length in range(max_length):
        log_probs = model.step(state, tokens, tokenizer.mask).float().log_softmax(-1).view(len(clips), -1, model.sizes.vocab_size)
        candidates = (scores[..., None] + log_probs).flatten(1).topk(2 * beams, 1)
        top, flat = _numbers(candidates.values, candidates.indices)
        parents, words = flat // model.sizes.vocab_size, flat % model.sizes.vocab_size
        rows = np.arange(len(clips))[:, None] * log_probs.shape[1] + parents
        ends = words == tokenizer.sep
        _collect(finished, clips, ends[:, :beams], top, texts, rows)
        for clip, best in zip(clips, top[:, 0].tolist()):
            finished[clip].close(best, length)
        running = ends.argsort(axis=1, kind="stable")[:, :beams]
        totals, chosen, rows = (np.take_along_axis(x, running, 1) for x in (top, words, rows))
        texts = [[*texts[row], word] for row, word in zip(rows.flatten().tolist(), chosen.flatten().tolist())]
        active = _with_neighbours([not finished[clip].done for clip in clips], len(state.memory))
        if not active:
            clips = clips[:0]
            break
        kept, memories = np.arange(len(clips)), None
        if len(active) <= len(clips) // 2:  # dropping clips copies their memories: worth it once half are done
            kept, memories = np.array(active), _memories(active, len(clips) // len(state.memory))
        places = kept[:, None] * 2 * beams + running[kept]
        tokens, order, places = send((chosen[kept].flatten(), rows[kept].flatten(), places), tokens.device)
        scores = candidates.values.flatten()[places]
        state.reorder(order, memories)
        texts = [texts[row * beams + beam] for row in kept for beam in range(beams)]
        clips, totals = clips[kept], totals[kept]
    for i, clip in enumerate(clips):
        if not finished[clip].done:
            for beam in range(beams):
                finished[clip].add(float(totals[i, beam]), texts[i * beams + beam])
    return [[ids for _, ids in f.scored] for f in finished]


def _numbers(scores: Tensor, places: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """float32 scores and whole numbers below 2^31 of the same shape, in one copy."""
    both = to_host(torch.stack([scores.view(torch.int32), places.int()]))
    return both[0].view(np.float32), both[1].astype(np.int64)


def _collect(finished: list[_Finished], clips: np.ndarray, ends: np.ndarray, top: np.ndarray, texts: list[list[int]], rows: np.ndarray,
             ) -> None:
    """Candidates that are among the best ``beams`` of their clip and end at [SEP] become hypotheses."""
    for i, rank in zip(*ends.nonzero()):
        if not finished[clips[i]].done:
            finished[clips[i]].add(float(top[i, rank]), texts[rows[i, rank]])


def _with_neighbours(running: list[bool], memories: int) -> list[int]:
    """The rows whose search goes on, and those that share a memory row with one of them."""
    each = len(running) // memories
    return [i for i in range(len(running)) if any(running[i // each * each:(i // each + 1) * each])]


def _greedy(model: TextModel, state: DecoderState, tokenizer: Tokenizer, max_length: int) -> list[list[int]]:
    clips = np.arange(state.rows)
    tokens = torch.full((len(clips),), tokenizer.cls, device=state.seen.device)
    texts: list[list[int]] = [[] for _ in clips]
    done = np.zeros(len(clips), dtype=bool)
    for _ in range(max_length):
        tokens = model.step(state, tokens, tokenizer.mask).argmax(-1)
        words = to_host(tokens)
        done |= words == tokenizer.sep
        for clip, word in zip(clips[~done].tolist(), words[~done].tolist()):
            texts[clip].append(word)
        active = _with_neighbours((~done).tolist(), len(state.memory))
        if not active:
            break
        if len(active) <= len(done) // 2:
            kept = np.array(active)
            rows = send(kept, tokens.device)
            state.reorder(rows, _memories(active, len(done) // len(state.memory)))
            clips, tokens, done = clips[kept], tokens[rows], done[kept]
    return texts


def _memories(rows: list[int], each: int) -> np.ndarray:
    """The memory rows that belong to ``rows``, where every memory row serves a fixed number of neighbouring rows."""
    return np.array(rows)[::each] // each


@torch.no_grad()
def sample(model: TextModel, state: DecoderState, tokenizer: Tokenizer, draws: Tensor, top_k: int | None = None, mask: bool = True,
           ) -> list[list[list[int]]]:
    """Texts of every memory row, each token drawn among the ``top_k`` most likely (None: among all); labelling, paper section 3. The next
    token is predicted at a [MASK] behind the text, or, without ``mask``, at its last token.

    draws: (M, texts per memory row, most tokens) uniform in [0, 1), one number per token of each text. Since every clip comes with its
    numbers, its texts do not depend on the other clips of the batch. A text that does not end has as many ids as there are draws.
    """
    clips, number, max_length = draws.shape
    draws = to_device(draws.flatten(0, 1), state.seen.device)
    tokens = torch.full((clips,), tokenizer.cls, device=draws.device)
    texts: list[list[int]] = [[] for _ in range(clips * number)]
    done = [False] * len(texts)
    for step in range(max_length):
        logits = model.step(state, tokens, tokenizer.mask if mask else None).float()
        values, words = (logits, None) if top_k is None else logits.topk(top_k, -1)
        cumulative = values.softmax(-1).cumsum(-1)
        if step == 0:
            rows = send(np.repeat(np.arange(clips), number), draws.device)
            state.reorder(rows)
            cumulative, words = cumulative[rows], words if words is None else words[rows]
        drawn = torch.searchsorted(cumulative, draws[:, step, None] * cumulative[:, -1:], right=True).clamp(max=values.shape[-1] - 1)
        tokens = (drawn if words is None else words.gather(1, drawn)).squeeze(1)
        for i, token in enumerate(to_host(tokens).tolist()):
            done[i] = done[i] or token == tokenizer.sep
            if not done[i]:
                texts[i].append(token)
        if all(done):
            break
    return [texts[i * number:(i + 1) * number] for i in range(clips)]


@torch.no_grad()
def log_likelihoods(model: TextModel, state: DecoderState, tokenizer: Tokenizer, texts: Sequence[Sequence[Sequence[int]]], max_length: int,
                    mask: bool = True) -> list[list[float]]:
    """The log-probability of given texts, as ids without [CLS] and [SEP], when each token is predicted behind those before it (teacher
    forcing): of each row of ``state`` the same number of texts. That of [SEP] is included, unless a text is ``max_length`` long."""
    number, device = len(texts[0]), state.seen.device
    rows = [[*ids, tokenizer.sep][:max_length] for own in texts for ids in own]
    longest = max(map(len, rows))
    padded = np.array([row + [tokenizer.pad] * (longest - len(row)) for row in rows])
    targets, lengths = send((np.ascontiguousarray(padded.T), np.array(list(map(len, rows)))), device)
    tokens, totals = torch.full((state.rows,), tokenizer.cls, device=device), torch.zeros(len(rows), device=device)
    for step, target in enumerate(targets):
        log_probs = model.step(state, tokens, tokenizer.mask if mask else None).float().log_softmax(-1)
        if step == 0:
            repeated = send(np.repeat(np.arange(state.rows), number), device)
            state.reorder(repeated)
            log_probs = log_probs[repeated]
        totals += torch.where(step < lengths, log_probs.gather(1, target[:, None]).squeeze(1), 0.0)
        tokens = target
    found = to_host(totals).tolist()
    return [found[row * number : (row + 1) * number] for row in range(len(texts))]

"""BERT as text encoder, matcher and decoder in one set of weights (paper, section 4.1), with cross-attention to a Memory.

Encoding a sentence uses no cross-attention; matching and generation attend to the memory of a clip. All passes of a step
that can share a forward do: rows of different groups, masks and lengths stand in one Layout, whose real tokens are packed
(padding is never computed), and each CrossPass says which memory its rows attend to. All that is decided in plan.py, on the
host; a forward follows the plan. Parameter names are the release's.

Letters as in layout.py, plan.py and memory.py; H heads, d width of a head, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omnivast.config.tasks import Group
from omnivast.model.attention import attend
from omnivast.model.device_kind import device_kind
from omnivast.model.recompute import LayerNorm, all_kept, remade, remaking
from omnivast.model.text.layout import Grid, Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.packing import Packing, pick
from omnivast.model.text.plan import CrossPass, LastBlock, Outputs, TextPlan, place_queries, plan_texts
from omnivast.model.text.word_head import WordHead
from omnivast.utils.transfer import on_host, send


@dataclass(frozen=True)
class TextSizes:
    """The sizes of a BERT config that matter here, under their names in a Hugging Face ``config.json``."""

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02


@dataclass
class TextOutput:
    """Hidden states of the tokens that somebody reads, packed into one matrix; ``cls`` and ``at`` pick from them."""

    hidden: Tensor
    """(T, D)."""
    firsts: Tensor
    """(N,) numbers of the states of the rows' first tokens."""
    packing: Packing
    """Where the states stand in the grid."""
    outputs: Outputs

    def cls(self) -> Tensor:
        """(N, D): the first token of every row."""
        return self.hidden[self.firsts]

    def at(self, chosen: np.ndarray) -> Tensor:
        """Hidden states (k, D) of the tokens where ``chosen`` (N, L) bool is true, row by row. They must be among the tokens that are
        read."""
        return self.hidden[send(self.outputs.places(chosen), self.hidden.device)]

    def padded(self) -> Tensor:
        """(N, L, D), zeros at padding."""
        return self.packing.pad(self.hidden)


class Reading(NamedTuple):
    """One pass (see CrossPass) at one layer. It is a tuple because FSDP finds tensors in tuples."""

    queries: Packing
    """Where its tokens stand among the queries: (M, R · its length) where texts share memory rows, else (texts, its length)."""
    key: Tensor
    value: Tensor
    mask: Tensor | None
    rows: Tensor | None
    """The memory row of each text; None where texts share them."""


class _Projections(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)


class _Output(nn.Module):
    """Projection, dropout, residual, LayerNorm: the end of every BERT sub-layer."""

    def __init__(self, inputs: int, sizes: TextSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, sizes.hidden_size)
        self.LayerNorm = LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.dropout = nn.Dropout(sizes.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = self.dropout(self.dense(x))
        return self.LayerNorm(x.add_(residual) if x.dtype is residual.dtype else x + residual)


class _Attention(nn.Module):
    """The parameters are ``self.{query,key,value}`` and ``output``: the release's names, hence ``add_module``."""

    def __init__(self, sizes: TextSizes) -> None:
        super().__init__()
        self.add_module("self", _Projections(sizes.hidden_size))
        self.output = _Output(sizes.hidden_size, sizes)
        self.heads, self.dropout = sizes.num_attention_heads, sizes.attention_probs_dropout_prob
        self.width = sizes.hidden_size // self.heads

    @property
    def projections(self) -> _Projections:
        return cast(_Projections, self.self)

    def split(self, x: Tensor) -> Tensor:
        """(..., tokens, D) → (..., H, tokens, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return attend(query, key, value, mask, self.dropout if self.training else 0.0)


class SelfAttention(_Attention):
    """Self-attention over the packed tokens of a layout, or over cached ones."""

    def project(self, x: Tensor) -> Tensor:
        """(…, D) → query, key and value beside each other, (…, 3 D), in one matrix product."""
        p = self.projections
        return F.linear(x, torch.cat([p.query.weight, p.key.weight, p.value.weight]), torch.cat([p.query.bias, p.key.bias, p.value.bias]))

    def forward(self, x: Tensor, packing: Packing, attend: Tensor, last: LastBlock | None = None) -> Tensor:
        """x (T, D), attend (N, 1, L, L) bool → (T, D); in the last block, attend (N, 1, most, L) → (W, D) for its tokens alone."""
        if last is not None:
            return self._last(x, packing, attend, last)
        query, key, value = self.parts(self.project(x), packing)
        return self.finish(self.attend(query, key, value, attend), packing, x)

    def parts(self, packed: Tensor, packing: Packing) -> list[Tensor]:
        """(T, k · D) → k tensors (N, H, L, d), in one storage, which is made again."""
        first, *others = (self.split(part) for part in packing.pad_parts(packed, self.heads * self.width))
        return [remade(lambda _: first, packed, again=packing.pad), *others]

    def finish(self, attended: Tensor, packing: Packing, x: Tensor) -> Tensor:
        """attended (N, H, L, d), kept by attention itself, and the residual x (T, D) → (T, D)."""
        return self.output(remade(lambda heads: packing.pack(heads.transpose(1, 2).flatten(2)), attended), x)

    def _last(self, x: Tensor, packing: Packing, attend: Tensor, last: LastBlock) -> Tensor:
        """Keys and values of all tokens, queries of those that are read."""
        p, queried = self.projections, pick(x, last.index)
        weight, bias = torch.cat([p.key.weight, p.value.weight]), torch.cat([p.key.bias, p.value.bias])
        key, value = self.parts(F.linear(x, weight, bias), packing)
        (query,) = self.parts(p.query(queried), last.packing)
        return self.finish(self.attend(query, key, value, attend), last.packing, queried)


class CrossAttention(_Attention):
    """Attention from texts to memories; a memory is never expanded along its texts."""

    def project(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(M, tokens, D) → keys and values, each (M, H, tokens, d)."""
        return self.split(self.projections.key(condition)), self.split(self.projections.value(condition))

    @property
    def shared(self) -> list[nn.Module]:
        """What is called before the block, to project a memory that all texts share."""
        return [self.projections.key, self.projections.value]

    def reading(self, memory: Memory, layer: int, group: Group, queries: Packing, mask: Tensor | None, rows: Tensor | None) -> Any:
        """What ``forward`` takes of a pass; ``mask``: the group's, of the memory."""
        return Reading(queries, *memory.keys_values(layer, group, self.project), mask, rows)

    def step(self, x: Tensor, memory: Memory, layer: int, group: Group, mask: Tensor | None) -> Tensor:
        """x (M · beams · 2 or 1, D), of decoding: the beams of a memory row are one long query."""
        key, value = memory.keys_values(layer, group, self.project)
        query = self.split(self.projections.query(x).view(len(memory), -1, x.shape[-1]))
        attended = self.attend(query, key, value, mask)
        return self.output(attended.transpose(1, 2).flatten(2).flatten(0, 1), x)

    def forward(self, x: Tensor, passes: Sequence[Any]) -> Tensor:
        """x (T, D) → (T, D); the passes have the T tokens one after another."""
        parts = self.projections.query(x).split([p.queries.tokens for p in passes])
        attended = [self._one(query, p) for query, p in zip(parts, passes)]
        return self.output(remade(lambda *heads: torch.cat([p.queries.pack(y.transpose(1, 2).flatten(2)) for y, p in zip(heads, passes)]),
                                  *attended), x)

    def _one(self, query: Tensor, p: Reading) -> Tensor:
        """query (tokens of the pass, D) → (M, H, R · length, d), or (n, H, length, d) where each row names its memory."""
        placed = remade(lambda packed: self.split(p.queries.pad(packed)), query)
        if p.rows is None:
            return self.attend(placed, p.key, p.value, p.mask)
        key, value = (remade(partial(torch.index_select, dim=0, index=p.rows), x) for x in (p.key, p.value))
        return self.attend(placed, key, value, p.mask if p.mask is None else p.mask[p.rows])


CrossKind = Callable[[TextSizes], Any]
"""Makes a module with the methods of :class:`CrossAttention` that the text model calls: ``shared``, ``reading``, ``step``, ``forward``."""


class Block(nn.Module):
    """Self-attention, cross-attention where a memory is given, feed-forward; each with residual and LayerNorm after it."""

    def __init__(self, sizes: TextSizes, cross: CrossKind) -> None:
        super().__init__()
        self.attention = SelfAttention(sizes)
        self.crossattention = cross(sizes)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(sizes.hidden_size, sizes.intermediate_size)})
        self.output = _Output(sizes.intermediate_size, sizes)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward sub-layer."""
        inner = self.intermediate["dense"](x)
        with remaking():
            return self.output(remade(F.gelu, inner), x)

    def forward(self, x: Tensor, packing: Packing, attend: Tensor, passes: Sequence[Any] = (), last: LastBlock | None = None) -> Tensor:
        x = self.attention(x, packing, attend, last)
        if passes:
            x = self.crossattention(x, passes)
        return self.feed(x)


class _Embeddings(nn.Module):
    def __init__(self, sizes: TextSizes, prompts: bool) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocab_size, sizes.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(sizes.max_position_embeddings, sizes.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, sizes.hidden_size)
        self.prompt_embedding = nn.Embedding(1, sizes.hidden_size) if prompts else None
        self.LayerNorm = LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.dropout = nn.Dropout(sizes.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(sizes.max_position_embeddings)[None])

    def forward(self, ids: Tensor, positions: Tensor, prompt: Tensor | None = None) -> Tensor:
        """ids, positions (…) → (…, D). All tokens are of type 0, but for those where ``prompt`` (…) is true."""
        kind = self.token_type_embeddings.weight[0]
        if prompt is not None and self.prompt_embedding is not None:
            kind = torch.where(prompt[..., None].bool(), self.prompt_embedding.weight[0], kind)
        x = self.word_embeddings(ids) + self.position_embeddings(positions) + kind
        x = self.dropout(self.LayerNorm(x))
        # On CPUs, autocast leaves LayerNorm in its input's type: starting in bfloat16 halves the traffic of every residual.
        return x.to(torch.get_autocast_dtype("cpu")) if device_kind(x) == "cpu" and torch.is_autocast_enabled("cpu") else x


class _Bert(nn.Module):
    def __init__(self, sizes: TextSizes, prompts: bool, cross: CrossKind) -> None:
        super().__init__()
        self.embeddings = _Embeddings(sizes, prompts)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(sizes, cross) for _ in range(sizes.num_hidden_layers))})


@dataclass
class DecoderState:
    """Keys and values of the tokens decoded so far, per layer, and the memory they attend to.

    keys, values: per layer (rows, H, t, d). seen: (rows, t) bool, False at padding of a prompt. Rows are a whole multiple of
    the memory's; neighbours share a memory row, so a memory is never expanded along its beams.
    """

    memory: Memory
    group: Group
    next_position: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    seen: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.bool))

    @property
    def rows(self) -> int:
        return self.seen.shape[0]

    def reorder(self, rows: Tensor, memory_rows: np.ndarray | None = None) -> None:
        """Keep these rows, in this order; ``memory_rows``, on the host, when clips were dropped."""
        self.keys, self.values = [k[rows] for k in self.keys], [v[rows] for v in self.values]
        self.seen = self.seen[rows]
        if memory_rows is not None:
            self.memory = self.memory.rows(memory_rows)


class TextModel(nn.Module):
    """The text tower. ``forward`` runs a plan, ``encode`` plans and runs a layout; ``start`` and ``step`` decode with cached keys and
    values. With ``prompts`` it tells the tokens of a prompt from those of a text by an embedding of their own; ``cross`` makes the
    cross-attention of a block; without ``predicts`` it has no head that predicts words."""

    runs_whole_blocks = True
    """Whether ``forward`` calls the blocks, and not their parts."""

    def __init__(self, sizes: TextSizes, prompts: bool = False, cross: CrossKind = CrossAttention, predicts: bool = True) -> None:
        super().__init__()
        self.sizes, self.prompts = sizes, prompts
        self.bert = _Bert(sizes, prompts, cross)
        if predicts:
            self.cls = nn.ModuleDict({"predictions": WordHead(self.bert.embeddings.word_embeddings, sizes.layer_norm_eps)})
        self.checkpointing = False
        self.apply(partial(_initialise, std=sizes.initializer_range))

    @property
    def blocks(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.bert.encoder["layer"])

    def logits(self, hidden: Tensor) -> Tensor:
        """(k, D) → (k, vocabulary)."""
        return self.cls["predictions"](hidden)

    def prediction_loss(self, hidden: Tensor, labels: Tensor, shares: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the words ``labels`` (k,) at hidden (k, D), summed with weights ``shares`` (k,), and that of each alone
        (k,), without gradient."""
        return cast(WordHead, self.cls["predictions"]).loss(hidden, labels, shares, smoothing)

    @property
    def device(self) -> torch.device:
        return self.bert.embeddings.word_embeddings.weight.device

    def forward(self, plan: TextPlan) -> TextOutput:
        """Run a plan that was sent to the device. Nothing is decided here, and nothing asks the device for a number."""
        attend = attention_mask(plan.visible, plan.reach)
        x = self.bert.embeddings(plan.ids, plan.positions, plan.prompt)
        masks = [p.memory.group_mask(p.group) for p in plan.passes]
        queries, last = plan.queries, None
        for i, block in enumerate(self.blocks):
            if plan.last is not None and i == len(self.blocks) - 1:
                last, queries, attend = plan.last, plan.last.queries, _of_columns(attend, plan.last.columns)
            full = [block.crossattention.reading(p.memory, i, p.group, query, mask, p.index)
                    for p, query, mask in zip(plan.passes, queries, masks)]
            if self.checkpointing and self.training:
                x = checkpoint(partial(_whole, block), x, plan.packing, attend, full, last, use_reentrant=False)
            else:
                x = block(x, plan.packing, attend, full, last)
        return TextOutput(x, plan.firsts, plan.padded, plan.outputs)

    def encode(self, layout: Layout, passes: Sequence[CrossPass] = (), wanted: np.ndarray | None = None) -> TextOutput:
        """See :func:`omnivast.model.text.plan.plan_texts`."""
        return self(send(plan_texts(layout, passes, wanted), self.device))

    def sentences(self, layout: Layout, passes: Sequence[CrossPass] = ()) -> TextOutput:
        """Like ``encode``, for callers that read only the first token of every row (``cls``)."""
        return self.encode(layout, passes, np.zeros_like(layout.real))

    def start(self, memory: Memory, group: Group, prompt: tuple[Grid, Grid] | None = None, offset: int = 0) -> DecoderState:
        """Begin decoding for every memory row; a ``prompt`` (ids, mask), each (M · R, L) on the host, is read bidirectionally first,
        and the text then begins at position ``offset``. The R prompts of a memory row stand side by side."""
        state = DecoderState(memory, group, offset)
        rows, heads = len(memory), self.sizes.num_attention_heads
        width = self.sizes.hidden_size // heads
        reference = next(iter(memory.condition.values()))
        if prompt is None:
            empty = reference.new_zeros(rows, heads, 0, width)
            state.keys, state.values = [empty] * len(self.blocks), [empty] * len(self.blocks)
            state.seen = torch.zeros(rows, 0, dtype=torch.bool, device=reference.device)
            return state
        words, seen = on_host(prompt[0]), on_host(prompt[1]).astype(bool)
        # Passes want rows the other way round: the first prompt of every memory row, the second of every one.
        order = np.arange(len(words)).reshape(rows, -1).T.flatten()
        packing = Packing(words.shape, None)
        (queries,) = place_queries([CrossPass(0, len(words), memory, group)], packing)
        ids, back, mask, unordered, queries = send((words[order], order.argsort(), seen[order], seen, queries), reference.device)
        state.seen = unordered.bool()
        positions = torch.arange(words.shape[1], device=reference.device).expand_as(ids)
        x = self.bert.embeddings(ids, positions, torch.ones_like(ids) if self.prompts else None).flatten(0, 1)
        attend = mask.bool()[:, None, None, :]
        for i, block in enumerate(self.blocks):
            _, key, value = block.attention.parts(block.attention.project(x), packing)
            state.keys.append(key[back])
            state.values.append(value[back])
            cross = [block.crossattention.reading(memory, i, group, queries, memory.group_mask(group), None)]
            x = block(x, packing, attend, cross)
        return state

    def step(self, state: DecoderState, tokens: Tensor, mask_id: int | None) -> Tensor:
        """Append ``tokens`` (rows,) and read the prediction at a [MASK] after them, or, with ``mask_id`` None, at themselves: (rows,
        vocabulary) logits.

        With a [MASK] two positions are computed; only the token's keys and values stay in the cache.
        """
        rows, new = tokens.shape[0], 1 if mask_id is None else 2
        ids = tokens[:, None] if mask_id is None else torch.stack([tokens, torch.full_like(tokens, mask_id)], 1)
        positions = torch.arange(new, device=tokens.device) + state.next_position
        x = self.bert.embeddings(ids, positions.expand(rows, new)).flatten(0, 1)
        seen = torch.cat([state.seen, state.seen.new_ones(rows, new)], 1)
        attend = seen[:, None, None, :].repeat(1, 1, new, 1)
        kept = seen.shape[1] - (new - 1)
        attend[:, :, 0, kept:] = False
        packing = Packing((rows, new), None)
        memory_mask = state.memory.group_mask(state.group)
        for i, block in enumerate(self.blocks):
            query, key, value = block.attention.parts(block.attention.project(x), packing)
            keys, values = torch.cat([state.keys[i], key], 2), torch.cat([state.values[i], value], 2)
            if i == len(self.blocks) - 1:  # of the token, the last block needs its keys and values only
                query, attend, x = query[:, :, -1:], attend[:, :, -1:], x.view(rows, new, -1)[:, -1]
            attended = block.attention.attend(query, keys, values, attend)
            state.keys[i], state.values[i] = keys[:, :, :kept], values[:, :, :kept]
            x = block.attention.output(attended.transpose(1, 2).flatten(2).flatten(0, 1), x)
            x = block.crossattention.step(x, state.memory, i, state.group, memory_mask)
            x = block.feed(x)
        state.seen = seen[:, :kept]
        state.next_position += 1
        return self.logits(x)


def attention_mask(visible: Tensor, reach: Tensor) -> Tensor:
    """visible, reach (N, L), see Layout → (N, 1, L, L) bool, [n, 0, i, j] where token i sees token j."""
    columns = torch.arange(visible.shape[1], device=visible.device)
    return (((columns < reach[..., None]) | (columns == columns[:, None])) & visible.bool()[:, None])[:, None]


def _of_columns(attend: Tensor, columns: Tensor) -> Tensor:
    """attend (N, 1, L, L), columns (N, most) → (N, 1, most, L): the rows of the mask for these tokens."""
    return attend.gather(2, columns[:, None, :, None].expand(-1, 1, -1, attend.shape[-1]))


def _whole(block: Block, *arguments: Any) -> Tensor:
    """Runs a block that the backward pass recomputes as a whole."""
    with all_kept():
        return block(*arguments)


def _initialise(module: nn.Module, std: float) -> None:
    """BERT's initialisation: normal matrices, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)

"""Hard negatives of the matching loss: for each of the b pairs of this process a wrong clip and a wrong caption of the global batch.

Which they are is the only thing that the host learns from the device in a training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from omnivast.config.tasks import Group, Modality
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.utils import distributed
from omnivast.utils.distributed import Routes
from omnivast.utils.transfer import on_host, send, to_host

if TYPE_CHECKING:
    from omnivast.data.batch import Batch, Texts


@dataclass
class Negatives:
    """Global rows of the hard negatives of this process's pairs: a clip for each caption, a caption for each clip; (b,)."""

    clip_of_caption: Tensor
    caption_of_clip: Tensor
    """B, the clips of the global batch, and more stand for this process's rejected captions, in their order."""


@dataclass
class WrongPairs:
    """The wrong captions and wrong clips that complete the b true pairs of a group."""

    captions: Layout
    """b captions: a wrong one for each clip."""
    memory: Memory
    """The memory that holds the wrong clips."""
    clips: NDArray[np.int64] | None
    """(b,) rows of that memory, a wrong clip for each caption; None where they are its rows 0 to b − 1."""


def wrong_pairs(batch: Batch, memory: Memory, groups: tuple[Group, ...], drawn: dict[Group, Negatives]) -> dict[Group, WrongPairs]:
    """The negatives of every group, picked within this process or fetched from others.

    In a training step the host waits for the device only here: once to learn which rows were drawn, and a second time where captions come
    from other processes.
    """
    if distributed.world_size() > 1:
        return _fetched(batch, memory, groups, drawn)
    negatives = {}
    for group, (clips, captions) in zip(groups, to_host(_rows(memory, groups, drawn))):
        texts = batch.captions.of(group.caption_kind)
        rows = np.where(captions < len(batch), captions, 0)
        layout = _layout(on_host(texts.ids)[rows], on_host(texts.mask)[rows], captions - len(batch), batch.negatives)
        # The memory itself holds the clips, so that nothing is projected twice.
        negatives[group] = WrongPairs(layout, memory, clips)
    return negatives


def _rows(memory: Memory, groups: tuple[Group, ...], drawn: dict[Group, Negatives]) -> Tensor:
    """(groups, 2, b): clips and captions of each group, on the device."""
    pairs = [torch.stack([drawn[group].clip_of_caption, drawn[group].caption_of_clip]) for group in groups]
    return torch.stack([numbers.to(memory.device) for numbers in pairs])


def _layout(ids: NDArray[np.int64], mask: NDArray[np.bool_], numbers: NDArray[np.int64], rejected: Texts | None) -> Layout:
    """Makes a Layout of captions, padded to the longest of them; in place of those whose number (b,) is 0 or more stand the ``rejected``
    captions of these numbers."""
    if rejected is not None:
        width = max(ids.shape[1], rejected.ids.shape[1])
        ids, mask, other_ids, other_mask = (np.pad(x, ((0, 0), (0, width - x.shape[1])))
                                            for x in (ids, mask, on_host(rejected.ids), on_host(rejected.mask)))
        rows = np.flatnonzero(numbers >= 0)
        ids[rows], mask[rows] = other_ids[numbers[rows]], other_mask[numbers[rows]]
    width = int(mask.sum(1).max())
    return Layout.of(ids[:, :width], mask[:, :width])


def _fetched(batch: Batch, memory: Memory, groups: tuple[Group, ...], drawn: dict[Group, Negatives]) -> dict[Group, WrongPairs]:
    """The negatives of several processes. One exchange tells every process which rows all of them want, and to what lengths features are
    padded; then only these rows travel."""
    modalities = [m for m in memory.condition if any(m in group for group in groups)]
    kinds = list(dict.fromkeys(group.caption_kind for group in groups))
    texts = {kind: batch.captions.of(kind) for kind in kinds}
    facts = np.array([*(texts[kind].ids.shape[1] for kind in kinds), *(memory.condition[m].shape[1] for m in modalities),
                      *(memory.mask[m] is not None for m in modalities)])
    rows = _rows(memory, groups, drawn)
    everyone = len(batch) * distributed.world_size()
    numbers = distributed.gather_numbers(rows.flatten(), facts, everyone)
    drawn_rows = numbers[:, :rows.numel()].reshape(-1, *rows.shape)
    mine = drawn_rows[distributed.rank(), :, 1] - everyone
    own_rows = np.arange(everyone).reshape(-1, 1, 1, len(batch))
    asked = np.where(drawn_rows < everyone, drawn_rows, own_rows)  # a rejected caption is asked of nobody
    longest, tokens, masked = np.split(numbers[:, rows.numel():], [len(kinds), len(kinds) + len(modalities)], axis=1)
    clips, captions = (send({group: Routes.of(list(asked[:, i, direction]), len(batch)) for i, group in enumerate(groups)}, memory.device)
                       for direction in (0, 1))

    width = dict(zip(kinds, longest.max(0).tolist()))
    offered = {kind: np.stack([on_host(local.ids), on_host(local.mask)], -1) for kind, local in texts.items()}
    padded = {kind: np.pad(local, ((0, 0), (0, width[kind] - local.shape[1]), (0, 0))) for kind, local in offered.items()}
    fetched = distributed.fetch_host_rows([padded[group.caption_kind] for group in groups], list(captions.values()), memory.device)
    pairs = (np.moveaxis(rows, -1, 0) for rows in fetched)
    layouts = [_layout(ids, mask.astype(bool), own, batch.negatives) for (ids, mask), own in zip(pairs, mine)]

    uneven = (tokens != tokens[0]).any(0) | masked.any(0)
    whole = _padded(memory, dict(zip(modalities, tokens.max(0).tolist())), dict(zip(modalities, uneven.tolist())))
    return {group: WrongPairs(layout, _fetch_memory(whole, group, clips[group]), None) for group, layout in zip(groups, layouts)}


def _padded(memory: Memory, longest: dict[Modality, int], masked: dict[Modality, bool]) -> Memory:
    """The memory, padded to as many tokens of each modality as the process with the most has; with a mask where any process needs one."""
    condition: dict[Modality, Tensor] = {}
    masks: dict[Modality, Tensor | None] = {}
    for modality, length in longest.items():
        x, mask = memory.condition[modality], memory.mask[modality]
        spare = length - x.shape[1]
        condition[modality], masks[modality] = pad(x, (0, 0, 0, spare)), None
        if masked[modality]:
            masks[modality] = pad(_all_seen(x) if mask is None else mask, (0, spare))
    return Memory(condition, masks)


def _all_seen(condition: Tensor) -> Tensor:
    return torch.ones(condition.shape[:2], dtype=torch.bool, device=condition.device)


def _fetch_memory(offered: Memory, group: Group, routes: Routes) -> Memory:
    """The memory of the clips that ``routes`` bring here. Under autocast their features travel in half precision, in which keys and
    values are projected from them anyway."""
    kind = offered.device.type
    wire = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    tokens = [offered.condition[m] for m in group]
    sizes = [x.shape[1] for x in tokens]
    condition = dict(zip(group, distributed.fetch_rows(torch.cat(tokens, 1), routes, wire).split(sizes, 1)))
    seen = [offered.mask[m] for m in group]
    if all(mask is None for mask in seen):
        return Memory(condition, dict.fromkeys(group))
    full = torch.cat([_all_seen(x) if mask is None else mask for x, mask in zip(tokens, seen)], 1)
    masks = distributed.fetch_rows(full.byte(), routes).bool().split(sizes, 1)
    return Memory(condition, {m: None if kept is None else mask for m, kept, mask in zip(group, seen, masks)})

"""Scores of pairs of texts and clips by the matching head, as re-ranking needs them."""

from __future__ import annotations

from torch import Tensor

from omnivast.config.tasks import Group
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import CrossPass, shared_rows
from omnivast.model.vast.parts import Parts
from omnivast.utils.transfer import send, to_host


def match_pairs(model: Parts, memory: Memory, group: Group, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """Matching margin (P,) of texts (P, L) with memory rows (P,): the logit of "matched" minus that of "not matched". Its sigmoid is the
    probability, but in float32 those of sure pairs are all 1, and their order would be lost.

    Texts that share a memory row stand together as one long query, so that its keys and values are not copied per pair;
    where the numbers per row differ much, or are one, each pair reads its memory by index instead. Planned on the host: texts and rows
    that lie on the device cost a synchronisation.
    """
    used, grid, place = shared_rows(to_host(rows))
    texts = grid.flatten()
    cross = CrossPass(0, len(texts), memory, group, used) if len(grid) == 1 else CrossPass(0, len(texts), memory.rows(used), group)
    with model.mixed():
        output = model.multimodal_encoder.sentences(Layout.of(to_host(ids)[texts], to_host(mask)[texts]), [cross])
        return model.itm_head(output.cls()).float().diff(dim=-1)[send(place, model.device), 0]

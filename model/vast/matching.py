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
    """The matching margin (P,) of texts (P, L) with memory rows (P,): the logit of "matched" minus that of "not matched".

    Its sigmoid is the probability. The margin is returned because in float32 the probabilities of sure pairs are all 1, which would lose
    their order.

    Texts that share a memory row form one long query, so that keys and values are not copied for each pair. Where the rows have very
    different numbers of texts, or one each, every pair reads its memory row by index instead. All this is planned on the host: texts and
    rows that lie on the device cost a synchronisation.
    """
    memory = memory.alone
    used, grid, cell = shared_rows(to_host(rows))
    texts = grid.flatten()
    cross = CrossPass(0, len(texts), memory, group, used) if len(grid) == 1 else CrossPass(0, len(texts), memory.rows(used), group)
    with model.mixed():
        output = model.multimodal_encoder.sentences(Layout.of(to_host(ids)[texts], to_host(mask)[texts]), [cross])
        return model.itm_head(output.cls()).float().diff(dim=-1)[send(cell, model.device), 0]

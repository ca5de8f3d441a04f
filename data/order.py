"""In which order a training reads conversations about sight, about sound, and about both (Audio-Visual LLM, table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from omnivast.config.tasks import Modality
from omnivast.data.dataset import IndexedDataset
from omnivast.data.joined import JoinedDataset
from omnivast.data.spec import DataError

Order = Literal["mixed", "joint_first", "single_first"]


def phases_of_all(corpora: Sequence[IndexedDataset | JoinedDataset], order: Order) -> list[list[torch.Tensor]]:
    """:func:`phases_of` each corpus; none at all for mixed. Raises DataError where no corpus has rows of both kinds."""
    phases = [[] if order == "mixed" else phases_of(corpus, order) for corpus in corpora]
    if order != "mixed" and not any(phases):
        names = ", ".join(f"'{corpus.name}'" for corpus in corpora)
        raise DataError(f"run_cfg.modality_order {order} has nothing to order: no dataset ({names}) has both rows about sight and sound "
                        "together and others; datasets that are to be ordered together need one 'joined' name")
    return phases


def phases_of(corpus: IndexedDataset | JoinedDataset, order: Order) -> list[torch.Tensor]:
    """The rows of each phase (int64), first to last: those about both sight and sound, and the others; or the other way round; [] for a
    corpus of one of the two kinds alone. Raises DataError for a corpus of other rows than conversations."""
    spoken = list(corpus.row_conversations())
    if any(conversation is None for conversation in spoken):
        raise DataError(f"dataset '{corpus.name}': run_cfg.modality_order {order} needs rows of conversations, each about sight, sound or "
                        "both; of other corpora each clip is learnt with all groups of its task at once: set it to mixed")
    both = {Modality.VISION, Modality.AUDIO}
    joint = torch.tensor([conversation is not None and both <= conversation.modalities for conversation in spoken])
    if bool(joint.all()) or not bool(joint.any()):
        return []
    if corpus.shard_numbers() is not None:
        raise DataError(f"dataset '{corpus.name}': run_cfg.modality_order {order} reads rows in an order of its own: leave out "
                        "shuffle_shards")
    phases = [joint.nonzero().flatten(), (~joint).nonzero().flatten()]
    return phases if order == "joint_first" else phases[::-1]

"""What processes send in a training step: counted at 2 and 4 processes, beside the formulas of the README's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.traffic import FULL, HALF, VAST_27M, Step, ours, released, table
from omnivast.config.tasks import CaptionKind, Objective
from omnivast.data.batch import Batch, Captions
from omnivast.model.vast.negatives import Negatives
from omnivast.model.vast.step import training_losses
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from tests.model.tiny import CONFIG, task, texts, vast
from tests.model.tiny import batch as four_clips
from tests.processes import together

OWN = 2
"""Clips of each process."""
TASK = task("ret%tvas%tva%tvs%tv%ta_cap%tvas%tv")
CAPTION, LENGTH = "a red car in the street", 8
SMALL = 400
"""Bytes that agreeing on lengths and counts may take."""


def measured(rank: int) -> dict[str, Any]:
    """Bytes sent and loss, by what the step is like."""
    fetch = distributed.fetch_rows

    def in_full(rows: torch.Tensor, routes: distributed.Routes, wire: torch.dtype | None = None) -> torch.Tensor:
        return fetch(rows, routes)

    return {"float32": _step(rank, None, True), "bf16": _step(rank, torch.bfloat16, True),
            "bf16 sent in full": _step(rank, torch.bfloat16, True, in_full), "drawn": _step(rank, None, False)}


def _step(rank: int, precision: torch.dtype | None, far: bool, fetch: Callable[..., torch.Tensor] = distributed.fetch_rows,
          ) -> dict[str, Any]:
    """``far``: every negative is a clip of the next process."""
    world = distributed.world_size()
    model = vast().train()
    model.precision = precision
    rows = (torch.arange(OWN) + (rank + 1) * OWN) % (OWN * world)
    negatives = {group: Negatives(rows, rows) for group in TASK.groups(Objective.RETRIEVAL)} if far else None
    before, distributed.fetch_rows = distributed.fetch_rows, fetch
    try:
        with distributed.counted_traffic() as traffic:
            losses = training_losses(model, _batch(rank), TASK, StepRandom(1, 1, rank * OWN, world * OWN), negatives)
            losses["loss"].backward()
    finally:
        distributed.fetch_rows = before
    gradient = model.hidden_trans_vision_multimodal[0].weight.grad
    return {"sent": traffic.sent, "loss": losses["loss"].item(), "gradient": gradient}


def _batch(rank: int) -> Batch:
    """Captions of one length, so that the formula is exact; the clips differ."""
    made = four_clips(rows=slice(0, OWN), seed=rank)
    made.captions = Captions({kind: texts([CAPTION] * OWN, CONFIG.max_caption_len) for kind in CaptionKind})
    return made


def described(world: int) -> Step:
    model = vast()
    features = model.encode(_batch(0), TASK.modalities)
    tokens = {modality.value: condition.shape[1] for modality, condition in features.condition.items()}
    return Step(OWN * world, tuple(group.key for group in TASK.groups(Objective.RETRIEVAL)), tokens, 32, CONFIG.contra_dim, LENGTH, 3)


@pytest.fixture(scope="module")
def found() -> dict[int, list[dict[str, Any]]]:
    return {world: together(measured, world) for world in (2, 4)}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("precision, size", [("float32", FULL), ("bf16", HALF)])
def test_the_formula_is_what_is_sent(found, world, precision, size):
    wanted = ours(described(world), world, size, elsewhere=1.0)
    for part in found[world]:
        sent = part[precision]["sent"]
        assert {kind: sent[kind] for kind in wanted} == wanted
        assert set(sent) == {*wanted, "reduce"} and sent["reduce"] < SMALL


def test_bytes_do_not_grow_with_the_processes(found):
    """But for the contrastive features themselves, and the few bytes that say how many rows are asked of whom."""
    for precision in ("float32", "bf16"):
        two, four = (found[world][0][precision]["sent"] for world in (2, 4))
        assert four["fetch"] == two["fetch"]
        assert four["gather"] == 3 * two["gather"]
        assert four["reduce"] < SMALL and four["index"] - two["index"] < SMALL
    # Drawn at random, some negatives are at home.
    for world, parts in found.items():
        drawn = sum(part["drawn"]["sent"]["fetch"] for part in parts) / world
        assert 0 < drawn < found[2][0]["float32"]["sent"]["fetch"]


def test_half_precision_on_the_way_changes_nothing_but_the_bytes(found):
    for parts in found.values():
        for part in parts:
            half, full = part["bf16"], part["bf16 sent in full"]
            assert half["loss"] == full["loss"]
            assert half["loss"] == pytest.approx(part["float32"]["loss"], rel=0.05) and half["loss"] != part["float32"]["loss"]
            torch.testing.assert_close(half["gradient"], full["gradient"], rtol=0.02, atol=0.02 * full["gradient"].abs().max().item())
            assert half["sent"]["fetch"] < 0.6 * full["sent"]["fetch"]


def test_the_table_of_the_released_sizes():
    """The release sends the features of its clips of every group to everyone: for vas 1.3 GB in half precision, for any number of ranks."""
    vas = Step(1024, ("vas",), VAST_27M.tokens, 768, 512, 70, 1)
    assert [round(released(vas, world, HALF) / 1e9, 1) for world in (64, 1024)] == [1.3, 1.3]
    for world, times in ((8, 3.5), (64, 25), (1024, 90)):
        half = ours(VAST_27M, world, HALF)
        assert released(VAST_27M, world, HALF) > times * sum(half.values())
        assert half["gather"] < 35e6
    assert table(VAST_27M, (8, 64)).count("\n") == 3

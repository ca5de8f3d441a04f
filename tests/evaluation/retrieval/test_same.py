"""Rows that differ by rounding alone are found, wherever they stand, and no others."""

import numpy as np
import pytest
import torch

from omnivast.evaluation.retrieval.same import TOLERANCE, first_of_same, projections
from omnivast.model.interface import Rows


def unit(rows: int, seed: int = 0, width: int = 32) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def first_rows(features: torch.Tensor) -> np.ndarray:
    return first_of_same({"vector": features}, projections(Rows({"vector": features})))


def rounded_otherwise(rows: torch.Tensor, seed: int) -> torch.Tensor:
    return rows + 3e-8 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_many_of_a_kind_and_single_ones(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.concatenate([np.zeros(300, dtype=int), np.repeat(np.arange(1, 40), 3), np.arange(40, 400)]))
    features = rounded_otherwise(unit(400, seed)[torch.from_numpy(kinds)], seed + 1)
    wanted = np.array([int(np.argmax(kinds == kind)) for kind in kinds])
    monkeypatch.setattr("omnivast.evaluation.retrieval.same.PAIRS_AT_ONCE", 50)
    assert first_rows(features).tolist() == wanted.tolist()


def test_near_is_not_the_same():
    features = unit(2)
    features = torch.cat([features, features[:1] + 2 * TOLERANCE / 32**0.5])
    assert first_rows(features).tolist() == [0, 1, 2]


def test_few_rows():
    for rows, expected in ((unit(1), [0]), (unit(1).expand(2, -1), [0, 0]), (torch.empty(0, 8), [])):
        assert first_rows(rows).tolist() == expected


def test_rows_of_several_tensors_are_the_same_in_all_of_them():
    one, other = unit(5).view(5, 4, 8), unit(5, 1)
    whole = {"tokens": one[[0, 1, 2, 0, 0]], "weights": other[[0, 1, 2, 0, 3]]}
    assert first_of_same(whole, projections(Rows(whole))).tolist() == [0, 1, 2, 0, 4]

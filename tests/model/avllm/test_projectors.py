"""Tokens of the towers become as long as words, whatever the tower; or are projected as they are."""

from __future__ import annotations

import pytest
import torch

from omnivast.model.avllm.projectors import Projectors

WIDTHS = {"temporal": 32, "auditory": 48}


@torch.no_grad()
def tokens(projectors: Projectors, scale: float) -> torch.Tensor:
    """(24, D): of four clips with three tokens each, and the vectors around them."""
    torch.manual_seed(1)
    features = {part: scale * (torch.randn(4, 3, width) + 5) for part, width in WIDTHS.items()}
    found = projectors(features, dict.fromkeys(WIDTHS, torch.arange(4)))
    return torch.cat([x.flatten(0, 1) for x in found.values()])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_tokens_begin_as_long_as_words(kind, scale):
    torch.manual_seed(0)
    lengths = tokens(Projectors(WIDTHS, 256, kind, True, torch.tensor(3.0)), scale).norm(dim=1)
    assert lengths.mean() == pytest.approx(3.0, rel=0.1) and lengths.min() > 1.5 and lengths.max() < 6


def test_without_they_are_the_paper_s_equation_4():
    projectors = Projectors(WIDTHS, 256, "linear", False)
    given = torch.randn(2, 3, 48)
    found = projectors({"auditory": given}, {"temporal": torch.zeros(0, dtype=torch.int64), "auditory": torch.tensor([1, 0])})
    layer = projectors.project["auditory"]
    torch.testing.assert_close(found["auditory"], (given @ layer.weight.T + layer.bias)[[1, 0]])

import math

import pytest

from omnivast.training.schedule import lr_factor


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (1, 0.5), (2, 1.0), (6, 0.5), (10, 0.0), (12, 0.0)])
def test_linear(step, expected):
    assert lr_factor(step, 10, 0.2, "warmup_linear") == pytest.approx(expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (1, 0.5), (2, 1.0), (4, 0.5 + 0.5 * math.cos(math.pi / 4)), (6, 0.5), (10, 0.0)])
def test_cosine(step, expected):
    assert lr_factor(step, 10, 0.2, "warmup_cosine") == pytest.approx(expected)


def test_without_warmup_it_starts_at_the_peak():
    assert lr_factor(0, 10, 0.0, "warmup_linear") == 1.0


def test_warmup_all_the_way():
    assert [lr_factor(s, 4, 1.0, "warmup_linear") for s in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_unknown_kind():
    with pytest.raises(ValueError, match="warmup_linear, warmup_cosine"):
        lr_factor(5, 10, 0.1, "constant")

"""Draws are functions of their key, and of nothing else."""

import random

import numpy as np
import torch

from omnivast.utils.random import StepRandom, generator, seed_everything, stable_seed


def test_seeds_are_the_same_on_every_machine():
    assert stable_seed(50, "mask", 3) == stable_seed(50, "mask", 3) == 1_910_199_339_013_329_729
    assert len({stable_seed(*key) for key in ((1, 23), (12, 3), ("1", "2", "3"), (123,), ())}) == 5
    assert all(0 <= stable_seed(i) < 2**63 for i in range(100))


def test_generators_by_key():
    one, same, other = (torch.rand(3, generator=generator(*key)) for key in (("a", 1), ("a", 1), ("a", 2)))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_libraries_are_seeded_together():
    def draw(*key):
        seed_everything(*key)
        return torch.rand(1).item(), np.random.rand(), random.random()

    assert draw(1, "init") == draw(1, "init")
    assert all(a != b for a, b in zip(draw(1, "init"), draw(2, "init")))


def test_a_step_draws_by_purpose_and_step():
    step = StepRandom(5, 8)
    base = step.uniform("mask", 6, 2)
    assert base.shape == (6, 2) and base.min() >= 0 and base.max() < 1 and torch.equal(base, step.uniform("mask", 6, 2))
    for other in (step.uniform("negatives", 6, 2), StepRandom(5, 9).uniform("mask", 6, 2), StepRandom(6, 8).uniform("mask", 6, 2)):
        assert not torch.equal(base, other)


def test_the_draws_of_a_row_do_not_depend_on_the_number_of_processes():
    whole = StepRandom(5, 8).uniform("mask", 6, 4)
    for processes in (1, 2, 3, 6):
        share = 6 // processes
        parts = [StepRandom(5, 8, rank * share, 6).uniform("mask", share, 4) for rank in range(processes)]
        assert torch.equal(torch.cat(parts), whole)

import random

import pytest

from omnivast.training.logs.spikes import ENOUGH, WINDOW, LossSpikes


def judged(losses, factor=6.0, corpus="a"):
    spikes = LossSpikes(factor)
    return [step for step, loss in enumerate(losses) if spikes.judge(corpus, loss)]


def test_noise_and_falling_losses_are_none():
    draws = random.Random(0)
    assert judged([5.0 + draws.gauss(0, 0.3) for _ in range(1000)]) == []
    assert judged([8.0 * 0.99**step + draws.gauss(0, 0.05) for step in range(1000)]) == []


def test_what_stands_out_is_one_even_after_another():
    losses = [2.0 + 0.1 * (step % 5) for step in range(60)]
    losses[40], losses[41], losses[50] = 4.0, 9.0, 3.5
    assert judged(losses) == [40, 41, 50]
    assert judged(losses, factor=1000.0) == [] and judged(losses, factor=0.0) == []


def test_numbers():
    spikes = LossSpikes(6.0)
    for step in range(ENOUGH):
        assert spikes.judge("a", 1.0 + (step % 2)) is None
    spike = spikes.judge("a", 10.0)
    assert (spike.loss, spike.median) == (10.0, 1.5) and spike.threshold == pytest.approx(1.5 + 6 * 1.4826 * 0.5)


def test_equal_losses_leave_room_for_rounding():
    assert judged([3.0] * 50 + [3.1, 3.5]) == [51]


def test_no_judgement_before_enough_are_known_nor_of_what_is_not_finite():
    assert judged([1.0] * (ENOUGH - 1) + [50.0]) == []
    assert judged([1.0] * 30 + [float("nan"), float("inf"), 1.0, 5.0]) == [33]


def test_corpora_are_judged_apart():
    spikes = LossSpikes(6.0)
    found = [spikes.judge(corpus, loss) for _ in range(50) for corpus, loss in (("low", 1.0), ("high", 9.0))]
    assert not any(found)
    assert spikes.judge("low", 9.0) and not spikes.judge("high", 9.0)


def test_a_new_level_is_accepted_after_half_a_window():
    losses = [1.0] * WINDOW + [3.0] * WINDOW
    assert judged(losses) == list(range(WINDOW, WINDOW + WINDOW // 2))


def test_restored_it_goes_on():
    draws = random.Random(1)
    losses = [5.0 + draws.gauss(0, 0.3) for _ in range(300)]
    losses[250] = 9.0
    spikes, resumed = LossSpikes(6.0), LossSpikes(6.0)
    for loss in losses[:200]:
        spikes.judge("a", loss)
    resumed.load_state_dict(spikes.state_dict())
    assert [resumed.judge("a", loss) for loss in losses[200:]] == [spikes.judge("a", loss) for loss in losses[200:]]
    assert len(resumed.state_dict()["a"]) == WINDOW

"""The time that a training announces, for mixtures whose corpora differ in cost, and the word to who trains long on a CPU."""

import logging
import random

import pytest

from omnivast.training.logs.pace import OWN, SMALLER, Pace, kind
from omnivast.training.loop import train
from tests.training.toy import Loader, Toy, config

COSTS = {"long": 4.0, "short": 0.4, "mid": 1.0}


def after(order, steps, costs=COSTS, first=0.0, pace=None):
    """A training of these corpora in this order after some steps, and the seconds that the others take."""
    pace = pace or Pace({name: order.count(name) for name in order})
    seen = set()
    for name in order[:steps]:
        pace.step(name, costs[name] + (0.0 if name in seen else first))
        seen.add(name)
    return pace, sum(costs[name] for name in order[steps:])


@pytest.mark.parametrize("steps", [12, 40, 200, 999])
def test_a_mixture_is_estimated_by_corpus(steps):
    """The first steps cost several times as much, and the cheap corpus was seen more often than its share by chance."""
    order = ["short"] * 10 + ["long", "long"] + random.Random(1).sample(["long"] * 498 + ["short"] * 490, 988)
    pace, left = after(order, steps, first=3.0)
    assert pace.seconds_left(0) == pytest.approx(left, rel=0.05 if steps > 12 else 0.2)


def test_a_curriculum_is_right_once_each_corpus_was_seen():
    pace, left = after(["short"] * 50 + ["long"] * 50, 52)
    assert pace.seconds_left(0) == pytest.approx(left)
    pace, _ = after(["short"] * 50 + ["long"] * 50, 20)
    assert pace.seconds_left(0) == pytest.approx(80 * 0.4)


def test_interleaved_corpora_are_one_kind_in_any_order():
    assert kind("b+a") == kind("a+b") == "a+b"
    pace, _ = after(["b+a", "a+b", "b+a"], 2, costs={"a+b": 2.0, "b+a": 2.0}, pace=Pace({"a+b": 3}))
    assert pace.seconds_left(0) == 2.0


def test_evaluations_are_counted_once_one_is_known():
    pace, left = after(["mid"] * 10, 4)
    assert pace.words(2) == "0:06 and 2 evaluation(s) left"
    pace.pause(30.0)
    assert pace.seconds_left(2) == left + 60.0 and pace.words(2) == "1:06 left" and pace.words(0) == "0:06 left"


@pytest.mark.parametrize("steps, seconds, said", [(3, 10.0, False), (4, 10.0, True), (8, 2.0, False), (99, 1.7, False)])
def test_more_than_half_an_hour_is_said_after_the_first_steps(caplog, monkeypatch, steps, seconds, said):
    monkeypatch.delenv(SMALLER, raising=False)
    pace, _ = after(["mid"] * 1000, steps, costs={"mid": seconds}, first=seconds)
    for _ in range(2):
        pace.warn(0)
    assert len(caplog.messages) == said
    if said:
        assert "will take about 2:46:50 on this CPU (1000 steps, 10 s each on average)" in caplog.text and OWN in caplog.text


def test_a_script_names_its_own_ways(caplog, monkeypatch):
    monkeypatch.setenv(SMALLER, "`--size debug` tries it in minutes")
    after(["mid"] * 9999, 20)[0].warn(0)
    assert "`--size debug` tries it in minutes. It can be stopped" in caplog.text and OWN not in caplog.text


def test_a_training_announces_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="omnivast"):
        train(config(tmp_path), Toy(), Loader(), evaluate=lambda step: {"toy.cap.tv.cider": 1.0})
    lines = [message for message in caplog.messages if message.startswith("training: ")]
    assert "0:00 left" in lines[-1] and not any("will take about" in message for message in caplog.messages)

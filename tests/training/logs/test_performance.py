"""What each process tells of its speed, and who is named for being slow."""

import pytest
import torch

from omnivast.data.batch import Batch
from omnivast.training.logs import performance
from omnivast.training.logs.performance import CURVES, Performance, curves, stragglers, summary


def process(rank, *, seconds=100.0, exchange_wait=0.3, data_wait=0.0, clips_per_second=50.0, memory_gb=10.0):
    return {"rank": rank, "host": f"node{rank // 8}", "seconds": seconds, "clips": {"a": 10}, "clips_per_second": clips_per_second,
            "data_wait": data_wait, "exchange_wait": exchange_wait, "memory_gb": memory_gb}


def test_a_process_that_waits_for_nobody_is_the_straggler():
    row = summary(20, 5, [process(0), process(1), process(2, exchange_wait=0.1), process(3)], None, None)
    assert row["slowest"][0] == 2 and row["clips_per_second"] == 200.0 and row["mfu"] is None
    (words,) = row["stragglers"]
    assert words == "rank 2 on node0 takes 29 % longer than the median process, computing"


def test_one_that_waits_for_its_data_is_told_as_such():
    (words,) = stragglers([process(0), process(9, exchange_wait=0.0, data_wait=0.3), process(2)])
    assert words.startswith("rank 9 on node1") and words.endswith("waiting for its data")


def test_processes_that_are_alike_and_a_single_one_are_no_stragglers():
    assert stragglers([process(rank, exchange_wait=0.3 + 0.002 * rank) for rank in range(8)]) == []
    assert stragglers([process(0, exchange_wait=0.0)]) == []


def test_of_two_processes_the_slow_one_is_named():
    (words,) = stragglers([process(0, exchange_wait=0.0), process(1, exchange_wait=0.5)])
    assert words.startswith("rank 0")


def test_mfu_is_what_was_done_over_what_all_cards_could():
    row = summary(20, 5, [process(0, seconds=10.0), process(1, seconds=10.0)], tflop=4000.0, rate=1000.0)
    assert row["mfu"] == pytest.approx(0.2) and curves(row)["performance/mfu"] == pytest.approx(0.2)


def test_many_processes_have_the_curves_of_three():
    few, many = (summary(1, 1, [process(rank) for rank in range(count)], None, None) for count in (CURVES, CURVES + 1))
    named = [{name.partition("/")[2] for name in curves(row) if name.startswith("processes_")} for row in (few, many)]
    assert named == [{f"rank_{rank}" for rank in range(CURVES)}, {"fastest", "median", "slowest"}]
    assert not any(name.startswith("processes_") for name in curves(summary(1, 1, [process(0)], None, None)))


def test_a_report_covers_the_steps_since_the_last_one(monkeypatch):
    monkeypatch.setattr(performance, "half_tflops", lambda name: 2.0)
    counted = []
    speed = Performance(torch.device("cpu"), lambda batch: counted.append(batch.corpus) or 6e12)
    speed.rate = 2.0
    for corpus in ("a", "b", "a"):
        speed.read(Batch(corpus, ["one", "two"], torch.arange(2)))
        speed.step(4.0, 1.0, 0.5)
    row = speed.report(3)
    (own,) = row["processes"]
    assert counted == ["a", "b"]  # once for each corpus
    assert row["mfu"] == pytest.approx(3 * 6 / (12 * 2.0)) and row["steps"] == 3
    assert own["clips"] == {"a": 4, "b": 2} and own["clips_per_second"] == pytest.approx(0.5)
    assert own["data_wait"] == pytest.approx(0.25) and own["exchange_wait"] == pytest.approx(0.125) and own["memory_gb"] > 0
    assert speed.report(3) is None


def test_a_model_that_cannot_be_counted_has_no_mfu():
    speed = Performance(torch.device("cpu"), lambda batch: None)
    speed.rate = 2.0
    speed.read(Batch("a", ["one"], torch.arange(1)))
    speed.step(1.0, 0.0, 0.0)
    assert speed.report(1)["mfu"] is None

"""How long a step takes by the table of cards: worked out by hand, and what a user may write wrong."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest

from omnivast.config.schema import RunConfig
from omnivast.training.cards import CARDS, Card, find_cluster, product_seconds, step_seconds
from omnivast.training.cluster import lines, simulate
from omnivast.utils.collectives import Collective
from omnivast.utils.work import Phase, Product
from tests.model.tiny import batch, task, vast

CARD = Card(memory=10e9, half=100e12, single=10e12, bandwidth=1e12, units=100, inside=100e9, outside=10e9, per_machine=8, large=0.5,
            memory_share=0.5, network_share=0.5, host=1e-5, latency=1e-3)


def test_a_cluster_is_found():
    assert find_cluster("64xA100-80GB") == (64, "A100-80GB", CARDS["A100-80GB"])


@pytest.mark.parametrize(("text", "fault"), [
    ("A100-80GB", "expected a number of GPUs and a card, such as 64xA100-80GB"), ("0xA100-80GB", "expected a number"),
    ("8xA100-80", "no card 'A100-80' is known; known are V100-32GB.*A100-80GB.*did you mean")])
def test_one_that_is_not_says_what_is_valid(text, fault):
    with pytest.raises(ValueError, match=f"(?is)run_cfg.simulate '{text}': {fault}"):
        find_cluster(text)


def test_measured_constants_take_the_place_of_ours(tmp_path):
    file = tmp_path / "cards.json"
    new = {field.name: 2 for field in dataclasses.fields(Card) if field.default is dataclasses.MISSING}
    file.write_text(json.dumps({"A100-80GB": {"large": 0.6}, "B1": new}))
    assert find_cluster("8xA100-80GB", str(file))[2] == dataclasses.replace(CARDS["A100-80GB"], large=0.6)
    assert find_cluster("8xB1", str(file))[2] == Card(**new)
    for content, fault in (({"A100-80GB": {"larg": 1}}, "has no constant 'larg'"), ({"A100-80GB": {"large": -1}}, "number above 0"),
                           ({"B1": {"large": 1}}, "the new card 'B1' lacks memory"), ({"A100-80GB": 3}, "object of constants"),
                           ([], "object of cards")):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=fault) as error:
            find_cluster("8xA100-80GB", str(file))
        assert str(file) in str(error.value)


def test_products_by_their_shapes():
    """100 tiles keep 100 units at work; 101 take twice as long. Half-filled tiles halve the rate, as does an inner dimension of 64."""
    full = Product(100, 128, 128, 6400, 2, 0)
    seconds = full.flops / (100e12 * 0.5 * 6400 / 6464)
    assert product_seconds(CARD, full) == pytest.approx(seconds)
    assert product_seconds(CARD, full._replace(batch=101)) == pytest.approx(2 * seconds)
    assert product_seconds(CARD, full._replace(m=64)) == pytest.approx(seconds)
    assert product_seconds(CARD, full._replace(width=4)) == pytest.approx(10 * seconds)
    assert product_seconds(CARD, full._replace(k=64)) == pytest.approx(full.flops / 100 / (100e12 * 0.5 * 0.5))
    assert product_seconds(CARD, full._replace(moved=10**12)) == 2.0  # bytes take longer


def step(*collectives, processes=16):
    """One second of bytes forward, two backward, and an update of a tenth."""
    work = SimpleNamespace(forward=Phase(moved=5 * 10**11, others=10), backward=Phase(moved=10**12, others=300_000))
    return SimpleNamespace(work=work, collectives=SimpleNamespace(found=list(collectives)), processes=processes, trained=5 * 10**10 / 28)


def test_what_is_waited_for_and_what_is_not():
    times = step_seconds(CARD, step())
    assert times.compute == pytest.approx(1 + 3) and times.host == pytest.approx(1) and times.update == pytest.approx(0.1)
    latency = 4e-3  # of 16 processes
    alone = Collective("all-gather", "allgather_", 5e9, 5e9, False)  # a second between machines
    assert step_seconds(CARD, step(alone)).exchange == pytest.approx(1 + latency)
    assert step_seconds(CARD, step(alone, processes=8)).exchange == pytest.approx(0.1 + 3e-3)
    buckets = [Collective("all-reduce", "allreduce_", 5e9, 5e9, True)] * 3
    few = step_seconds(CARD, step(*buckets))  # the last of three is waited for
    assert few.exchange == pytest.approx(1 + latency) and few.hidden == pytest.approx(2 + 2 * latency)
    many = step_seconds(CARD, step(*buckets * 2))
    assert many.exchange == pytest.approx(3 + 6 * latency) and many.hidden == pytest.approx(3)  # the pass itself takes three
    assert many.step == pytest.approx(4 + 3 + 6 * latency + 0.1)


def test_a_cluster_for_a_training(tmp_path):
    file = tmp_path / "cards.json"
    run = RunConfig(simulate="2xA100-80GB", parallel="fsdp", precision="bf16", simulate_constants=str(file))
    own = task("ret%tva_cap%tv")
    file.write_text("{}")
    found = simulate(vast(), batch(), own, run, 4, 2)
    assert found["fits"] and found["clips of each"] == 2 and found["largest batch of each"] > 1000
    file.write_text('{"A100-80GB": {"memory": 1e6}}')
    tight = simulate(vast(), batch(), own, run, 4, 2)
    assert not tight["fits"] and tight["largest batch of each"] < 2 and tight["memory"] == found["memory"]
    assert 0 < found["mfu"] < 1 and found["clips per second"] == pytest.approx(4 / found["seconds"]["step"])
    said = "\n".join(lines(tight))
    assert "2 x A100-80GB, fsdp, 2 clips of each: DOES NOT FIT" in said and "not measured" in said and "reduce-scatter" in said
    with pytest.raises(ValueError, match="3 clips of a step cannot be shared out among 2 processes; take 2 or 4"):
        simulate(vast(), batch(), own, run, 3, 2)

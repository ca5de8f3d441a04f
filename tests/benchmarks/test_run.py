"""The benchmarks at a tiny size: both ways agree, the report has its keys, and the FLOP count is the one that torch counts."""

from __future__ import annotations

import json

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import run, workload
from benchmarks.flops import step_flops
from utils.random import StepRandom


def test_both_ways_agree_and_the_report_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "omnivast")
    assert run.main(["--only", "step,decode,rerank,mask", "--size", "tiny", "--repeats", "1", "--threads", "1",
                     "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    for name in ("step", "decode", "rerank", "mask"):
        assert set(found[name]) == {"plain_s", "ours_s", "ratio", "equal"}
        assert found[name]["equal"] is True
        assert found[name]["ratio"] == pytest.approx(found[name]["plain_s"] / found[name]["ours_s"])
        assert f"{name} " in caplog.text
    assert found["machine"]["threads"] == 1


def test_a_difference_is_found(monkeypatch, caplog):
    caplog.set_level("INFO", "omnivast")
    monkeypatch.setattr(run, "LOSS_TOLERANCE", -1.0)
    assert run.main(["--only", "rerank", "--size", "tiny", "--repeats", "1", "--threads", "1"]) == 1
    assert "DIFFERENT" in caplog.text


@pytest.mark.parametrize("text", ["huge", "B=", "colour=3", "task=1"])
def test_a_size_that_is_not_understood_is_named(text):
    with pytest.raises(ValueError, match="--size"):
        workload.parse_size(text)


def test_sizes_from_the_command_line():
    assert workload.parse_size("B=3,frames=5") == workload.Workload(clips=3, frames=5)


def test_the_flop_count_is_torchs():
    """Forward pass; what differs is attention, which torch counts on padded grids, and how many tokens were drawn to be predicted."""
    size = workload.TINY.with_value(width=192, caption_tokens=10, text_layers=3)
    model, batch = workload.build(size), workload.batch(size)
    with FlopCounterMode(display=False) as counter:
        model(batch, workload.task(size), StepRandom(0, 0))
    parts = step_flops(size, batch)
    assert counter.get_total_flops() == pytest.approx(sum(parts.values()) / 3, rel=0.03)

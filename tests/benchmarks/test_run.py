"""The benchmarks at a tiny size: both ways agree, the report has its keys, and the FLOP count is the one that torch counts."""

from __future__ import annotations

import json

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cost, flops, measure, run, workload
from benchmarks.flops import memory_tokens, step_flops
from omnivast.utils.random import StepRandom
from tests.processes import WARM


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


def test_valor_beside_the_releases_order_of_work(tmp_path):
    assert run.main(["--model", "valor", "--only", "step,texts,decode,score,mask", "--size", "tiny", "--repeats", "1", "--threads", "1",
                     "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    for name in ("step", "texts", "decode", "score", "score_groups", "mask"):
        assert found[name]["equal"] is True and found[name]["plain_s"] > 0
    assert found["size"]["model"] == "valor"


def test_gram_beside_the_plain_way():
    assert run.main(["--model", "gram", "--only", "step,rerank", "--size", "tiny", "--repeats", "1", "--threads", "1"]) == 0


def test_what_a_family_has_not_is_not_measured(capsys):
    with pytest.raises(SystemExit):
        run.main(["--model", "valor", "--only", "rerank"])
    assert "'rerank' is not measured of valor" in capsys.readouterr().err


def test_a_difference_is_found(monkeypatch, caplog):
    caplog.set_level("INFO", "omnivast")
    monkeypatch.setattr(run, "LOSS_TOLERANCE", -1.0)
    assert run.main(["--only", "rerank", "--size", "tiny", "--repeats", "1", "--threads", "1"]) == 1
    assert "DIFFERENT" in caplog.text


@pytest.mark.parametrize("text", ["huge", "B=", "colour=3", "task=1", "model=2"])
def test_a_size_that_is_not_understood_is_named(text):
    with pytest.raises(ValueError, match="--size"):
        workload.parse_size(text)


def test_sizes_from_the_command_line():
    assert workload.parse_size("B=3,frames=5") == workload.Workload(clips=3, frames=5)
    assert workload.parse_size("tiny,B=3") == workload.TINY.with_value(clips=3)
    assert workload.parse_size("released").text_layers == 12


def test_what_texts_meet_at_the_released_size_is_the_released_models():
    assert sum(memory_tokens(workload.RELEASED).values()) == 8 * 257 + 2 * 256 + 70


def test_cost_by_axis_in_processes_of_their_own(monkeypatch):
    monkeypatch.setattr(measure.multiprocessing, "get_context", lambda way: WARM)  # forked where all is imported, to save time
    found = cost.measure(workload.TINY, "wall", 1, {"groups": (1, 5), "texts_per_memory": (2,)})
    first, last = found["groups"][1], found["groups"][5]
    assert first["clip_gflop"] == last["clip_gflop"] and first["text_gflop"] < last["text_gflop"]
    assert all(row["seconds"] > 0 and row["bytes"] > 1e7 for own in found.values() for row in own.values())


def test_a_failure_in_another_process_is_an_error_here(capfd):
    with pytest.raises(RuntimeError, match="float.* ended without a result"):
        measure.in_process(float, "one")
    assert "could not convert" in capfd.readouterr().err


def test_operations_by_kind():
    names = {"aten::addmm": 4.0, "aten::_scaled_dot_product_flash_attention_for_cpu": 1.0, "aten::native_layer_norm": 0.5,
             "aten::gelu": 0.25, "aten::index_copy_": 0.125, "aten::copy_": 0.5, "aten::_fused_adamw_": 2.0, "aten::add_": 0.25,
             "aten::mm": 1.0, "aten::convolution_backward": 0.5, "aten::_log_softmax": 3.0, "aten::argsort": 0.125}
    assert flops.by_kind(names.items()) == {
        "matrix products": 5.5, "softmax and its like": 3.0, "optimiser": 2.0, "attention": 1.0, "copies and indexing": 0.625,
        "normalisation": 0.5, "GELU": 0.25, "sums and other elementwise": 0.25, "other": 0.125}


@pytest.mark.parametrize("family", workload.FAMILIES)
def test_the_flop_count_is_torchs(family):
    """What differs is attention, which torch counts on padded grids and, as the fused kernel makes its scores twice, with five
    products for four in the backward pass; and how many tokens were drawn to be predicted."""
    size = workload.of_family(workload.TINY.with_value(width=192, caption_tokens=10, text_layers=3), family)
    model, batch = workload.build(size), workload.batch(size)
    with FlopCounterMode(display=False) as counter:
        model(batch, workload.task(size), StepRandom(0, 0))["loss"].backward()
    assert counter.get_total_flops() == pytest.approx(sum(step_flops(size, batch).values()), rel=0.07)

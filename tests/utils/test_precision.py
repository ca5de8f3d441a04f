"""Which number format products are computed in: the decision as a table, and the measurement on this machine."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnivast.utils import precision
from omnivast.utils.precision import MARGIN, Machine, decide, measure, resolve

V100, T4, A100, H100, P100 = (("cuda", capability) for capability in ((7, 0), (7, 5), (8, 0), (9, 0), (6, 0)))
CPU, MAC, INTEL, AMD = (("cpu", None), ("mps", None), ("xpu", None), ("rocm", None))
FAST, EMULATED, TIE = {"bf16": 3.0, "fp16": 3.0}, {"bf16": 0.01, "fp16": 0.5}, {"bf16": MARGIN - 0.01, "fp16": 1.0}
WITHOUT = {"bf16": 0.0, "fp16": 1.1}


def machine(device, rates):
    kind, capability = device
    return Machine(kind, "it", capability, 256, {"float32": 1e9, **{name: 1e9 * times for name, times in rates.items()}})


@pytest.mark.parametrize("device, rates, wanted", [
    (A100, FAST, "bf16"), (H100, FAST, "bf16"), (V100, FAST, "fp16"), (T4, {"bf16": 2.0, "fp16": 4.0}, "fp16"), (P100, FAST, "float32"),
    # A card is judged by what it is: nothing that it does meanwhile changes that.
    (A100, EMULATED, "bf16"), (V100, EMULATED, "fp16"),
    (CPU, FAST, "bf16"), (CPU, EMULATED, "float32"), (CPU, TIE, "float32"), (CPU, {"bf16": MARGIN}, "bf16"), (CPU, {}, "float32"),
    (MAC, FAST, "bf16"), (MAC, WITHOUT, "float32"), (INTEL, FAST, "bf16"), (INTEL, TIE, "float32"), (AMD, FAST, "bf16"),
    (AMD, WITHOUT, "float32")])
def test_auto(device, rates, wanted):
    chosen = decide("auto", machine(device, rates))
    assert chosen.name == wanted and not chosen.warnings
    assert chosen.scaled is (wanted == "fp16")
    assert chosen.autocast == {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": None}[wanted]


def test_auto_takes_what_the_run_can_train_in():
    assert decide("auto", machine(V100, FAST), usable=("float32", "bf16")).name == "float32"


@pytest.mark.parametrize("asked, device, rates, wanted, warning", [
    ("float32", A100, FAST, "float32", None), ("fp16", A100, FAST, "fp16", None), ("bf16", CPU, FAST, "bf16", None),
    ("bf16", V100, {"bf16": 0.25, "fp16": 6}, "bf16",
     "bf16 is only emulated by it: products of width 256 take 4 times as long as in float32; --precision auto takes fp16 here"),
    ("bf16", CPU, EMULATED, "bf16", "products of width 256 take 100 times as long as in float32; --precision auto takes float32 here"),
    ("bf16", CPU, TIE, "bf16", None),
    ("fp16", CPU, FAST, "float32", "fp16 needs a GPU: this run on the CPU uses float32"),
    ("fp16", MAC, FAST, "fp16", None)])
def test_what_is_asked_for_is_taken_and_warned_of_where_it_is_only_emulated(asked, device, rates, wanted, warning):
    chosen = decide(asked, machine(device, rates))
    assert chosen.name == wanted
    assert [warning in given for given in chosen.warnings] == ([True] if warning else [])


def test_a_continued_run_keeps_what_it_began_with():
    same, other = (decide("auto", machine(CPU, rates), kept="bf16") for rates in (FAST, EMULATED))
    assert same.name == other.name == "bf16"
    assert same.reason.startswith("as the run began on it") and not same.warnings
    assert "as the run began, though this machine alone would take float32" in other.reason and "100 times as long" in other.warnings[0]
    assert decide("float32", machine(CPU, FAST), kept="bf16").name == "float32"


def test_the_reason_says_what_another_format_would_cost():
    reason = decide("auto", machine(CPU, {"bf16": 4.0})).reason
    assert reason == "chosen on it: products of width 256 run at 4 GFLOP/s of a thread; in float32 they take 4 times as long"
    on_mac = decide("auto", machine(MAC, WITHOUT)).reason
    assert on_mac.endswith("; bf16 is not possible; in fp16 they take 0.909 times as long")


def test_rank_0_decides_for_all(monkeypatch, caplog):
    told = decide("auto", machine(CPU, FAST))
    monkeypatch.setattr(precision, "look", lambda device, width: machine(CPU, EMULATED))
    monkeypatch.setattr("omnivast.utils.distributed.is_main", lambda: False)
    monkeypatch.setattr("omnivast.utils.distributed.all_gather_objects", lambda own: [told, own])
    with caplog.at_level(logging.INFO, logger="omnivast"):
        assert resolve("auto", torch.device("cpu"), 256) is told
    assert not caplog.messages


def test_measuring(monkeypatch):
    torch.set_num_threads(2)
    rates = measure(torch.device("cpu"), 64)
    assert set(rates) == {"float32", "bf16"} and all(rate > 0 for rate in rates.values()) and torch.get_num_threads() == 2
    linear = precision.F.linear

    def refuses(inputs, weights):
        if inputs.dtype is torch.bfloat16:
            raise TypeError("no bfloat16 here")
        return linear(inputs, weights)

    monkeypatch.setattr(precision.F, "linear", refuses)
    assert measure(torch.device("cpu"), 64)["bf16"] == 0


def test_one_glance_that_a_busy_machine_disturbed_is_not_believed(monkeypatch):
    slow, fair = {"float32": 100.0, "bf16": 40.0}, {"float32": 100.0, "bf16": 390.0}
    for told, wanted in (([slow, fair, fair], fair), ([slow] * 3, slow)):
        rates = iter(told)
        monkeypatch.setattr(precision, "_rates", lambda *_, rates=rates: next(rates))
        assert measure(torch.device("cpu"), 64) == wanted and next(rates, None) is None


@pytest.mark.parametrize("width", [1, 64, 256, 768, 2048, 8192])
def test_the_products_measured_stay_small_however_wide_the_model(monkeypatch, width):
    linear, seen = precision.F.linear, []

    def noting(inputs, weights):
        seen.append((len(inputs), *weights.shape))
        return linear(inputs, weights)

    monkeypatch.setattr(precision.F, "linear", noting)
    measure(torch.device("cpu"), width)
    assert all(own == width and columns >= min(32, 4 * width) for _, columns, own in seen)
    assert max(rows * columns * own for rows, columns, own in seen) <= 2**27 and max(columns * own for _, columns, own in seen) <= 2**18
    if width == 256:  # narrow ones are measured as the model computes them
        assert {size[1:] for size in seen} == {(1024, 256)}


def test_a_cpu_without_bf16_computes_in_float32():
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    code = ("import torch; from omnivast.utils.precision import resolve\n"
            "print(torch.ops.mkldnn._is_mkldnn_bf16_supported(), resolve('auto', torch.device('cpu'), 128).name)")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **limits}, cwd=Path(__file__).parents[2], capture_output=True,
                          text=True, check=True)
    native, name = done.stdout.split()
    if native == "True":
        pytest.skip("this build of torch does not take the limits")
    assert name == "float32"

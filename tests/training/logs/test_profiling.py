"""Profiles of steps on request."""

import gzip
import json

import pytest
import torch

from omnivast.training.logs.profiling import StepProfiler, idle, profile_of, steps_of, summary

CPU = torch.device("cpu")


def test_which_steps():
    assert list(steps_of("20-22")) == [20, 21, 22] and list(steps_of("7")) == [7] and not steps_of(None)
    for wrong in ("25-20", "0", "a", "1-", "1,2"):
        with pytest.raises(ValueError, match="expected the steps to profile"):
            steps_of(wrong)


def test_the_gaps_between_what_runs():
    assert idle([(0, 2), (1, 3), (5, 6), (5.5, 5.8), (9, 10)]) == (5, [(3, 5), (6, 9)])
    assert idle([]) == (0.0, [])


def test_the_trace_is_one_that_perfetto_opens(tmp_path):
    profiler = StepProfiler(steps_of("2-3"), tmp_path, CPU)
    for number in range(1, 5):
        with profiler.step(number):
            torch.ones(4, 4) @ torch.ones(4, 4)
    trace = json.loads(gzip.decompress((tmp_path / "log" / "profile" / "rank_0.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"]]
    assert "aten::mm" in names and "step 2" in names and "step 3" in names and not {"step 1", "step 4"} & set(names)
    assert "aten::mm" in (tmp_path / "log" / "profile" / "rank_0.txt").read_text()


def test_what_ends_within_the_steps_is_written(tmp_path):
    profiler = StepProfiler(steps_of("2-9"), tmp_path, CPU)
    with pytest.raises(ZeroDivisionError), profiler.step(2):
        raise ZeroDivisionError
    assert (tmp_path / "log" / "profile" / "rank_0.json.gz").is_file()
    profiler.close(3)  # nothing runs any more


def test_where_the_time_went():
    with profile_of(CPU) as profiler:
        torch.ones(64, 64) @ torch.ones(64, 64)
    found = summary(profiler, CPU)
    assert "aten::mm" in {kernel["name"] for kernel in found["kernels"]} and found["gap_share"] is None
    assert sum(kernel["share"] for kernel in found["kernels"]) <= 1.001


class Event:
    def __init__(self, name, start, end, gpu=True, mark=False):
        self.name, self.is_user_annotation = name, mark
        self.device_type = torch.autograd.DeviceType.CUDA if gpu else torch.autograd.DeviceType.CPU
        self.time_range = type("Range", (), {"start": start, "end": end, "elapsed_us": lambda range: range.end - range.start})()


def test_of_a_gpu_kernels_and_gaps_are_told():
    """As torch's profiler would give them: without marks around several kernels, and what the host does."""
    events = [Event("gemm", 0, 600), Event("add", 700, 800), Event("gemm", 800, 1000), Event("step 1", 0, 1000, mark=True),
              Event("aten::mm", 0, 50, gpu=False)]
    found = summary(type("Profiler", (), {"events": lambda self: events})(), torch.device("cuda"))
    assert [(kernel["name"], kernel["calls"]) for kernel in found["kernels"]] == [("gemm", 2), ("add", 1)]
    assert found["gap_share"] == pytest.approx(0.1) and found["window_ms"] == 1.0
    assert found["gaps"] == [{"ms": 0.1, "before": "add"}]

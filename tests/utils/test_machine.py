import pytest

from omnivast.utils import machine


@pytest.mark.parametrize(("content", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("9900000 100000", 4),
                                                   (None, 4)])
def test_cores_are_those_allowed(tmp_path, monkeypatch, content, expected):
    if content is not None:
        (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert machine.cores() == expected


@pytest.mark.parametrize(("content", "limited"), [("1048576", True), ("max", False), (None, False)])
def test_memory_is_that_of_the_container(tmp_path, monkeypatch, content, limited):
    if content is not None:
        (tmp_path / "memory.max").write_text(content)
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path / "memory.max")
    assert (machine.memory() == 1 << 20) is limited and machine.memory() >= 1 << 20

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

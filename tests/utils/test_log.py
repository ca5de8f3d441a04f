import json
import logging

import pytest

from omnivast.utils.log import JsonlWriter, Progress, duration, progress, read_jsonl, setup_logging, truncate_jsonl


@pytest.fixture(autouse=True)
def _restore():
    logger = logging.getLogger("omnivast")
    handlers, level = list(logger.handlers), logger.level
    yield
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:], logger.level = handlers, level


def test_console_is_concise_and_the_file_has_times(tmp_path, capsys):
    logger = setup_logging(tmp_path, 0)
    logger.info("hello %s", "there")
    logger.warning("careful")
    logger.debug("unseen")
    assert capsys.readouterr().err.splitlines() == ["hello there", "warning: careful"]
    lines = (tmp_path / "log" / "log.txt").read_text().splitlines()
    assert len(lines) == 2 and lines[0].endswith("INFO hello there") and lines[0][:2] == "20"


def test_called_twice_writes_once(tmp_path, capsys):
    setup_logging(None, 0)
    setup_logging(tmp_path, 0).info("once")
    assert capsys.readouterr().err == "once\n"


def test_other_ranks_only_warn_and_write_no_file(tmp_path, capsys):
    logger = setup_logging(tmp_path, 3)
    logger.info("hidden")
    logger.error("broken")
    assert capsys.readouterr().err == "[rank 3] error: broken\n"
    assert not (tmp_path / "log").exists()


def test_sparse_progress_tells_rate_and_time_left(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "omnivast")
    now = [0.0]
    monkeypatch.setattr("omnivast.utils.log.time.monotonic", lambda: now[0])
    bar = Progress(100, "training", unit="step", terminal=False)
    for _ in range(100):
        now[0] += 0.5
        bar.set_postfix(loss="1.5")
        bar.update()
    bar.close()
    lines = [record.message for record in caplog.records]
    assert len(lines) == 10
    assert lines[0] == "training: 10/100 (10 %), 2 step/s, 0:45 left, loss 1.5"
    assert lines[-1] == "training: 100/100 (100 %), 2 step/s, 0:00 left, loss 1.5"


def test_the_callers_time_left_is_shown_in_place_of_the_mean_rates(caplog, monkeypatch, capsys):
    caplog.set_level(logging.INFO, "omnivast")
    now = [0.0]
    monkeypatch.setattr("omnivast.utils.log.time.monotonic", lambda: now[0])
    lines, terminal = (Progress(10, "training", unit="step", terminal=terminal) for terminal in (False, True))
    for bar in (lines, terminal):
        now[0] += 5.0
        bar.set_left("1:00 left")
        bar.update()
    assert caplog.records[0].message == "training: 1/10 (10 %), 0.2 step/s, 1:00 left"
    terminal.bar.refresh()
    assert "1:00 left" in capsys.readouterr().err
    terminal.close()


def test_sparse_progress_of_slow_work_speaks_after_15_seconds(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "omnivast")
    now = [0.0]
    monkeypatch.setattr("omnivast.utils.log.time.monotonic", lambda: now[0])
    bar = Progress(1000, "building", initial=500, terminal=False)
    for _ in range(3):
        now[0] += 20.0
        bar.update()
    assert [record.message for record in caplog.records][0] == "building: 501/1000 (50 %), 20 s/it, 2:46:20 left"
    assert len(caplog.records) == 3


def test_progress_over_an_iterable(caplog):
    caplog.set_level(logging.INFO, "omnivast")
    assert list(progress(iter("abc"), "letters")) == ["a", "b", "c"]
    assert list(Progress([1, 2], "bar", terminal=True)) == [1, 2]
    assert caplog.records[-1].message.startswith("letters: 3")
    with pytest.raises(TypeError, match="iterable"):
        list(Progress(3, "total", terminal=False))


def test_duration():
    assert [duration(s) for s in (0, 75, 3700)] == ["0:00", "1:15", "1:01:40"]


def test_jsonl_is_valid_json_and_flushed(tmp_path):
    writer = JsonlWriter(tmp_path / "log" / "metrics.jsonl")
    writer.append({"step": 1, "losses": {"itc": float("nan")}, "ids": [float("inf"), "é"]})
    writer.sync()
    assert json.loads((tmp_path / "log" / "metrics.jsonl").read_text()) == {"step": 1, "losses": {"itc": None}, "ids": [None, "é"]}
    writer.close()


def test_jsonl_drops_a_line_that_a_kill_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    writer = JsonlWriter(path)
    writer.append({"step": 2})
    writer.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_truncate(tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate_jsonl(path, lambda row: True)
    assert read_jsonl(path) == []
    path.write_text("".join(f'{{"step": {n}}}\n' for n in range(1, 6)) + "garbage\n")
    truncate_jsonl(path, lambda row: row["step"] <= 3)
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}, {"step": 3}]
